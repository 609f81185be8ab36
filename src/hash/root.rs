//! The root record and the two names of a tree.

use super::domain::{Domain, digest};
use crate::base::Digest;

/// The record that a seed is the digest of: the two digests of the root directory and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RootRecord {
    /// Content digest of the root directory.
    pub content: Digest,
    /// Full digest of the root directory, without its own attributes.
    pub full: Digest,
}

impl RootRecord {
    /// Length of the encoding.
    pub const LEN: usize = 64;

    /// The content digest, then the full digest.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let bytes = self.content.as_bytes().iter().chain(self.full.as_bytes());
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
        out
    }

    /// The seed of the tree.
    #[must_use]
    pub fn seed(&self) -> Seed {
        Seed(*digest(Domain::Root, &[&self.encode()]).as_bytes())
    }

    /// The content digest under its own printed name.
    #[must_use]
    pub fn content_seed(&self) -> ContentSeed {
        ContentSeed(*self.content.as_bytes())
    }
}

/// The name of a whole tree: everything that counts in docs/seed.md. Printed as `mmh1…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed([u8; 32]);

/// The name of a tree's content: names, types, execute bits, bytes, link targets. Printed as `mmc1…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentSeed([u8; 32]);

impl Seed {
    /// Wraps the 32 bytes of a seed that was read from a store or from text.
    #[must_use]
    pub const fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ContentSeed {
    /// Wraps the content digest of a root directory.
    #[must_use]
    pub const fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The content digest of the root directory.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        Digest::from_raw(self.0)
    }
}
