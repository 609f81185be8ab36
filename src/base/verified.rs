//! A wrapper that says that bytes were checked against their digest.

use std::ops::Deref;

/// Bytes whose digest was compared with the one they were stored under (I3).
///
/// Only code that has just compared a digest calls [`Verified::assert`]; readers take `Verified<B>`
/// so that unchecked bytes cannot reach the kernel by mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<B>(B);

impl<B> Verified<B> {
    /// Marks `bytes` as verified. The caller has compared their digest on the line above.
    #[must_use]
    pub fn assert(bytes: B) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn into_inner(self) -> B {
        self.0
    }
}

impl<B> Deref for Verified<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.0
    }
}
