//! Bounds-checked reading and writing of fixed-width integers and byte strings.

use crate::base::{Digest, Error, Result, Timestamp};

/// The error for bytes that do not decode.
pub(super) const fn malformed(what: &'static str, detail: &'static str) -> Error {
    Error::Malformed { what, detail }
}

/// Fails with [`Error::Malformed`] unless `ok`.
pub(super) fn ensure(ok: bool, what: &'static str, detail: &'static str) -> Result<()> {
    if ok {
        Ok(())
    } else {
        Err(malformed(what, detail))
    }
}

/// Reads fields from the front of a byte slice; every read past the end is an error.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`; `what` names the record in errors.
    #[must_use]
    pub const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    /// The error of this record with the given detail.
    #[must_use]
    pub const fn error(&self, detail: &'static str) -> Error {
        malformed(self.what, detail)
    }

    /// Fails with [`Error::Malformed`] and `detail` unless `ok`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if not `ok`.
    pub fn ensure(&self, ok: bool, detail: &'static str) -> Result<()> {
        ensure(ok, self.what, detail)
    }

    /// Number of bytes not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(len) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(self.error("ends too early")),
        }
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(*head)
            }
            None => Err(self.error("ends too early")),
        }
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Error::Malformed`] at the end.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// A little-endian 16-bit number.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer than 2 bytes are left.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A little-endian 32-bit number.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer than 4 bytes are left.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian 64-bit number.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer than 8 bytes are left.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A big-endian 64-bit number, as keys have them.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer than 8 bytes are left.
    pub fn u64_be(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A digest of 32 bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer than 32 bytes are left.
    pub fn digest(&mut self) -> Result<Digest> {
        Ok(Digest::from_raw(self.array()?))
    }

    /// A timestamp: seconds as `i64`, nanoseconds as `u32`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer than 12 bytes are left or the nanoseconds are not below 10^9.
    pub fn timestamp(&mut self) -> Result<Timestamp> {
        let secs = i64::from_le_bytes(self.array()?);
        let nanos = self.u32()?;
        self.ensure(nanos < 1_000_000_000, "nanoseconds out of range")?;
        Ok(Timestamp { secs, nanos })
    }

    /// A count of 32 bits of items of at least `item_len_min` bytes each, refused unless that many
    /// bytes are left: so a caller may reserve memory for the count (I10).
    ///
    /// # Errors
    /// [`Error::Malformed`] if the count cannot be true.
    pub fn count_u32(&mut self, item_len_min: usize) -> Result<usize> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let fits = count
            .checked_mul(item_len_min)
            .is_some_and(|need| need <= self.rest.len());
        self.ensure(fits, "count exceeds the bytes that follow")?;
        Ok(count)
    }

    /// A count of 16 bits; otherwise as [`Reader::count_u32`].
    ///
    /// # Errors
    /// [`Error::Malformed`] if the count cannot be true.
    pub fn count_u16(&mut self, item_len_min: usize) -> Result<usize> {
        let count = usize::from(self.u16()?);
        let fits = count * item_len_min <= self.rest.len();
        self.ensure(fits, "count exceeds the bytes that follow")?;
        Ok(count)
    }

    /// Reads `len` bytes that must be zero.
    ///
    /// # Errors
    /// [`Error::Malformed`] if fewer are left or one is not zero.
    pub fn zeros(&mut self, len: usize) -> Result<()> {
        let bytes = self.bytes(len)?;
        self.ensure(bytes.iter().all(|b| *b == 0), "reserved bytes are not zero")
    }

    /// Ends the record.
    ///
    /// # Errors
    /// [`Error::Malformed`] if bytes are left.
    pub fn finish(self) -> Result<()> {
        self.ensure(self.rest.is_empty(), "trailing bytes")
    }
}

/// Appends fields to a growing byte string.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty writer with room for `len` bytes.
    #[must_use]
    pub fn with_capacity(len: usize) -> Self {
        Self(Vec::with_capacity(len))
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    /// Appends a little-endian 16-bit number.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a little-endian 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a little-endian 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a big-endian 64-bit number, as keys have them.
    pub fn u64_be(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a timestamp: seconds as `i64`, nanoseconds as `u32`.
    pub fn timestamp(&mut self, time: Timestamp) -> &mut Self {
        self.bytes(&time.secs.to_le_bytes()).u32(time.nanos)
    }

    /// Appends a length or count as 8 bits.
    ///
    /// # Panics
    /// If it does not fit: the caller has broken a limit, and going on would store a lie.
    pub fn len_u8(&mut self, len: usize) -> &mut Self {
        assert!(u8::try_from(len).is_ok(), "length {len} exceeds 8 bits");
        self.u8(u8::try_from(len).unwrap_or(u8::MAX))
    }

    /// Appends a length or count as 16 bits.
    ///
    /// # Panics
    /// If it does not fit: the caller has broken a limit, and going on would store a lie.
    pub fn len_u16(&mut self, len: usize) -> &mut Self {
        assert!(u16::try_from(len).is_ok(), "length {len} exceeds 16 bits");
        self.u16(u16::try_from(len).unwrap_or(u16::MAX))
    }

    /// Appends a length or count as 32 bits.
    ///
    /// # Panics
    /// If it does not fit: the caller has broken a limit, and going on would store a lie.
    pub fn len_u32(&mut self, len: usize) -> &mut Self {
        assert!(u32::try_from(len).is_ok(), "length {len} exceeds 32 bits");
        self.u32(u32::try_from(len).unwrap_or(u32::MAX))
    }

    /// Appends `len` zero bytes.
    pub fn zeros(&mut self, len: usize) -> &mut Self {
        self.0.resize(self.0.len() + len, 0);
        self
    }

    /// Appends zero bytes up to a multiple of `align`.
    pub fn pad_to(&mut self, align: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(align), 0);
        self
    }

    /// Number of bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
