//! How the payload of a frame is compressed: the registry of codecs, the probe, zstd.
//!
//! A codec is named by one byte on disk ([`Codec`]). Data that does not shrink is stored as it is, so
//! that incompressible files cost no more than the headers around them.

mod probe;

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

use crate::base::limits::FRAME_RAW_LEN_MAX;
use crate::base::{Error, Result};

pub use probe::worth_compressing;

/// A codec, as frames and records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The bytes as they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec of an id.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an id that this program does not know.
    pub fn from_id(id: u8) -> Result<Self> {
        match id {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            _ => Err(malformed("unknown codec")),
        }
    }

    /// The id on disk.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    /// The name that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zstd => "zstd",
        }
    }
}

fn malformed(detail: &'static str) -> Error {
    Error::Malformed {
        what: "compressed payload",
        detail,
    }
}

struct Context {
    level: i32,
    compressor: Compressor<'static>,
}

thread_local! {
    // A zstd context is some hundred kilobytes and expensive to set up: one per thread, kept.
    static COMPRESSOR: RefCell<Option<Context>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `raw` into `out`, which is cleared first, and returns the codec that was chosen.
///
/// [`Codec::Raw`] is chosen if the probe sees no gain or zstd saves less than 2 %; `out` then holds
/// `raw` itself, so it is never longer than `raw`.
///
/// # Errors
/// [`Error::Io`] if zstd cannot allocate its context.
pub fn compress(raw: &[u8], level: i32, out: &mut Vec<u8>) -> Result<Codec> {
    out.clear();
    if worth_compressing(raw) && try_zstd(raw, level, out)? {
        return Ok(Codec::Zstd);
    }
    out.clear();
    out.extend_from_slice(raw);
    Ok(Codec::Raw)
}

/// Runs zstd; true if the result is at least 2 % shorter than `raw`.
fn try_zstd(raw: &[u8], level: i32, out: &mut Vec<u8>) -> Result<bool> {
    let goal = raw.len() - raw.len().div_ceil(50).min(raw.len());
    out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    let written = with_compressor(level, |c| c.compress_to_buffer(raw, out))?;
    // An error can only say that the buffer is too small, which the bound above excludes; storing the
    // bytes as they are is right in any case.
    Ok(matches!(written, Ok(len) if len <= goal))
}

fn with_compressor<R>(level: i32, work: impl FnOnce(&mut Compressor<'static>) -> R) -> Result<R> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let ready = match slot.take() {
            Some(context) if context.level == level => context,
            _ => Context {
                level,
                compressor: Compressor::new(level).map_err(|e| Error::io("zstd context", e))?,
            },
        };
        let context = slot.insert(ready);
        Ok(work(&mut context.compressor))
    })
}

/// Decompresses `stored`, which must give exactly `raw_len` bytes, into `out`, which is cleared first.
///
/// Allocates no more than `raw_len` bytes, whatever `stored` claims (I10).
///
/// # Errors
/// [`Error::Malformed`] if `raw_len` is above [`FRAME_RAW_LEN_MAX`], the codec is unknown, or the bytes
/// do not decode to `raw_len` bytes.
pub fn decompress(codec: u8, stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    if raw_len > FRAME_RAW_LEN_MAX {
        return Err(malformed("decoded length above the limit"));
    }
    match Codec::from_id(codec)? {
        Codec::Raw if stored.len() == raw_len => out.extend_from_slice(stored),
        Codec::Raw => return Err(malformed("raw payload of another length")),
        Codec::Zstd => unzstd(stored, raw_len, out)?,
    }
    Ok(())
}

fn unzstd(stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<()> {
    out.reserve_exact(raw_len);
    let done = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(ready) => ready,
            None => slot.insert(Decompressor::new().map_err(|e| Error::io("zstd context", e))?),
        };
        Ok::<_, Error>(decompressor.decompress_to_buffer(stored, out))
    })?;
    match done {
        Ok(len) if len == raw_len => Ok(()),
        Ok(_) => Err(malformed("decodes to another length")),
        Err(_) => Err(malformed("zstd refuses it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dice::noise;

    fn check_round_trip(raw: &[u8], expected: Codec) {
        let (mut stored, mut back) = (Vec::new(), Vec::new());
        let codec = compress(raw, 1, &mut stored).unwrap();
        assert_eq!(codec, expected);
        assert!(stored.len() <= raw.len());
        decompress(codec.id(), &stored, raw.len(), &mut back).unwrap();
        assert_eq!(back, raw);
    }

    #[test]
    fn text_is_compressed_and_noise_is_stored_as_it_is() {
        check_round_trip(&b"the quick brown fox ".repeat(1000), Codec::Zstd);
        check_round_trip(&[7; 4096], Codec::Zstd);
        check_round_trip(&noise(0, 100_000), Codec::Raw);
        check_round_trip(b"", Codec::Raw);
        check_round_trip(b"x", Codec::Raw);
    }

    #[test]
    fn noise_that_repeats_is_compressed_although_its_bytes_are_evenly_spread() {
        let half = noise(0, 20_000);
        check_round_trip(&[half.clone(), half].concat(), Codec::Zstd);
    }

    #[test]
    fn a_compressed_payload_is_stored_as_it_is() {
        let words: Vec<u8> = noise(0, 400_000)
            .iter()
            .map(|b| b"abcdefgh"[usize::from(b & 7)])
            .collect();
        let mut once = Vec::new();
        compress(&words, 3, &mut once).unwrap();
        let mut twice = Vec::new();
        assert_eq!(compress(&once, 3, &mut twice).unwrap(), Codec::Raw);
    }

    #[test]
    fn a_payload_that_lies_about_its_length_is_refused() {
        let raw = b"abc".repeat(1000);
        let (mut stored, mut out) = (Vec::new(), Vec::new());
        assert_eq!(compress(&raw, 1, &mut stored).unwrap(), Codec::Zstd);
        for wrong in [
            0,
            raw.len() - 1,
            raw.len() + 1,
            FRAME_RAW_LEN_MAX,
            FRAME_RAW_LEN_MAX + 1,
        ] {
            assert!(decompress(1, &stored, wrong, &mut out).is_err(), "{wrong}");
            assert!(out.capacity() <= FRAME_RAW_LEN_MAX);
        }
        assert!(decompress(0, &stored, raw.len(), &mut out).is_err());
        assert!(decompress(2, &stored, raw.len(), &mut out).is_err());
        assert!(decompress(1, &stored[..stored.len() - 1], raw.len(), &mut out).is_err());
    }
}
