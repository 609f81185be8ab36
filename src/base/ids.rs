//! Newtypes for every id, offset and length. Ids never convert into one another.

use std::fmt;

use super::error::{Error, Result};

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a number that was read from a store or given by the kernel.
            #[must_use]
            pub const fn from_raw(raw: u64) -> Self {
                Self(raw)
            }

            /// The plain number, for encoding and for the kernel.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The following id.
            ///
            /// # Panics
            /// Never in practice: 2^64 ids cannot be used up; the addition saturates.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id_u64! {
    /// An inode number. Never reused within a store (I4). The root directory is [`Ino::ROOT`].
    Ino
}
id_u64! {
    /// Number of a pack file. Never reused within a store (I4); the first pack is 1, 0 means "none".
    PackId
}
id_u64! {
    /// Number of a parity file. The first is 1, 0 means "none".
    ParityId
}
id_u64! {
    /// Log sequence number of a commit record; the first record is 1.
    Lsn
}
id_u64! {
    /// Byte offset within a pack file.
    PackOff
}
id_u64! {
    /// Position of an entry within its directory: 55 bits of the name's hash and an 8-bit
    /// discriminator. It is also the readdir cookie, so it fits in 63 bits and is at least 256.
    Slot
}
id_u64! {
    /// Byte offset within a file, at most 2^63 - 1.
    FileOff
}
id_u64! {
    /// A number of bytes.
    ByteLen
}

impl Ino {
    /// The root directory of every tree.
    pub const ROOT: Self = Self(1);
}

impl FileOff {
    /// The start of a file.
    pub const ZERO: Self = Self(0);
    /// The largest size of a file: the kernel's `loff_t` holds 63 bits.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// First offset after `len` bytes starting here.
    ///
    /// # Errors
    /// [`Error::FileTooLarge`] if the end does not fit in 63 bits (the kernel's `loff_t`).
    pub fn end(self, len: ByteLen) -> Result<Self> {
        match self.0.checked_add(len.0) {
            Some(end) if end <= Self::MAX.0 => Ok(Self(end)),
            _ => Err(Error::FileTooLarge),
        }
    }
}

macro_rules! id_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps bytes that were read from a store or computed by `hash`.
            #[must_use]
            pub const fn from_raw(raw: [u8; $len]) -> Self {
                Self(raw)
            }

            /// The plain bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Lower-case hexadecimal text.
            #[must_use]
            pub fn to_hex(&self) -> String {
                use fmt::Write as _;
                self.0.iter().fold(String::with_capacity(2 * $len), |mut s, b| {
                    let _ = write!(s, "{b:02x}");
                    s
                })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.to_hex())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }
    };
}

id_bytes! {
    /// Name of a chunk or of a snapshot node in a store: opaque 32 bytes to everything but `hash`.
    ChunkId, 32
}
id_bytes! {
    /// A digest of the seed's tree (docs/seed.md): leaf, inner node, file, directory, root record.
    Digest, 32
}
id_bytes! {
    /// Random identity of a store, chosen by `init`.
    StoreId, 16
}
