//! Domain separation: one BLAKE3 context string for every kind of input.

use std::sync::OnceLock;

use blake3::Hasher;

use crate::base::Digest;

macro_rules! domains {
    ($($(#[$doc:meta])* $name:ident = $context:literal,)*) => {
        /// What an input is. Digests of different domains never meet, whatever the bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Domain {
            $($(#[$doc])* $name,)*
        }

        impl Domain {
            /// A fresh hasher of this domain.
            ///
            /// Deriving the key costs a compression of the context string; the result is kept, so that
            /// hashing a 64-byte inner node does not pay for it.
            pub(super) fn hasher(self) -> Hasher {
                match self {
                    $(Self::$name => {
                        static START: OnceLock<Hasher> = OnceLock::new();
                        START.get_or_init(|| Hasher::new_derive_key($context)).clone()
                    })*
                }
            }

            #[cfg(test)]
            pub(super) const ALL: &'static [(Self, &'static str)] =
                &[$((Self::$name, $context),)*];
        }
    };
}

domains! {
    /// A leaf of a file's tree: at most 64 KiB of file bytes.
    Leaf = "mmhfs 2026-11 v1 seed leaf",
    /// An inner node of a file's tree.
    Inner = "mmhfs 2026-11 v1 seed inner",
    /// Content digest of a regular file.
    File = "mmhfs 2026-11 v1 seed file",
    /// Content digest of a symbolic link.
    Symlink = "mmhfs 2026-11 v1 seed symlink",
    /// Content digest of a fifo, a socket or a device.
    Special = "mmhfs 2026-11 v1 seed special",
    /// A leaf of a directory's content trie.
    DirLeaf = "mmhfs 2026-11 v1 seed dir leaf",
    /// An inner node of a directory's content trie.
    DirInner = "mmhfs 2026-11 v1 seed dir inner",
    /// Content digest of a directory.
    Dir = "mmhfs 2026-11 v1 seed dir",
    /// A leaf of a directory's full trie.
    FullDirLeaf = "mmhfs 2026-11 v1 seed full dir leaf",
    /// An inner node of a directory's full trie.
    FullDirInner = "mmhfs 2026-11 v1 seed full dir inner",
    /// Full digest of a directory.
    FullDir = "mmhfs 2026-11 v1 seed full dir",
    /// Full digest of anything but a directory.
    FullNode = "mmhfs 2026-11 v1 seed full node",
    /// Hard-link groups of a directory.
    Groups = "mmhfs 2026-11 v1 seed link groups",
    /// The root record.
    Root = "mmhfs 2026-11 v1 seed root",
    /// A chunk id. Not part of the seed.
    Chunk = "mmhfs 2026-11 v1 chunk",
    /// The id of a snapshot node in a store. Not part of the seed.
    Node = "mmhfs 2026-11 v1 node",
    /// Checksum of a frame.
    Frame = "mmhfs 2026-11 v1 frame",
    /// Checksum of the log bytes between two commit records.
    Span = "mmhfs 2026-11 v1 record span",
    /// Chain hash of a commit record.
    Chain = "mmhfs 2026-11 v1 record chain",
    /// Checksum of a pack footer.
    Footer = "mmhfs 2026-11 v1 footer",
    /// Checksum of a pack header.
    PackHeader = "mmhfs 2026-11 v1 pack header",
    /// Digest of a whole pack file.
    Pack = "mmhfs 2026-11 v1 pack",
    /// Checksum of the header, of a part and of the whole of a checkpoint.
    Checkpoint = "mmhfs 2026-11 v1 checkpoint",
    /// Checksum of the place that a scrub has got to.
    ScrubMark = "mmhfs 2026-11 v1 scrub mark",
    /// Checksum of the header of a parity file.
    ParityHeader = "mmhfs 2026-11 v1 parity header",
    /// Checksum of a page of a parity file's table.
    ParityTable = "mmhfs 2026-11 v1 parity table",
    /// Checksum of a symbol, source or repair.
    ParitySymbol = "mmhfs 2026-11 v1 parity symbol",
    /// Checksum of a superblock.
    Superblock = "mmhfs 2026-11 v1 superblock",
}

/// The digest of the concatenation of `parts` in a domain.
pub(super) fn digest(domain: Domain, parts: &[&[u8]]) -> Digest {
    let mut hasher = domain.hasher();
    for part in parts {
        hasher.update(part);
    }
    finish(&hasher)
}

/// The 32 bytes of a hasher.
pub(super) fn finish(hasher: &Hasher) -> Digest {
    Digest::from_raw(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_domain_gives_another_digest_of_the_same_bytes() {
        let mut seen: Vec<Digest> = Domain::ALL
            .iter()
            .map(|(domain, _)| digest(*domain, &[b"same"]))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), Domain::ALL.len());
    }

    #[test]
    fn a_domain_is_the_derive_key_mode_of_its_context_string() {
        for (domain, context) in Domain::ALL {
            assert_eq!(
                digest(*domain, &[b"ab", b"c"]).as_bytes(),
                &blake3::derive_key(context, b"abc")
            );
        }
    }
}
