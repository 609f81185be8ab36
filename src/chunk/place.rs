//! Whether a watermark is a place of a LOG pack, even if what is before it is damaged.
//!
//! Any one of these tells, the cheap ones first:
//! 1. the record after it verifies with the watermark's chain hash as the one before it;
//! 2. the record that ends there carries the watermark's chain hash;
//! 3. the pack's footer does, as that of the last record;
//! 4. the records from the pack's header on verify, and lead to it or past it.
//!
//! Without any the index may belong to another history: then rot and a foreign index cannot be told apart, which
//! is an error.

use std::sync::Arc;

use super::files::read_exactly;
use super::replay::Link;
use super::types::Watermark;
use super::walk::{Step, Walk};
use super::window::Window;
use crate::base::{ByteLen, Error, PackOff, Result, StoreId};
use crate::format::ALIGN;
use crate::format::footer::{Footer, decode_footer};
use crate::format::pack::{Cut, PACK_HEADER_LEN};
use crate::format::record::{RECORD_HEADER_LEN, RECORD_RAW_LEN_MAX, decode_header};
use crate::hash::{Checksum, checksum};

/// Offset of the chain hash in a record (docs/format.md, "Commit record").
const CHAIN_OFF: usize = 128;
/// Length of the longest record in bytes.
const RECORD_LEN_MAX: u64 = (RECORD_HEADER_LEN + RECORD_RAW_LEN_MAX + ALIGN) as u64;

/// What is known of a watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a place of the pack.
    Found,
    /// It is none: the index belongs to another log.
    Foreign,
}

/// Whether `mark`, which names the pack of `link`, is a place of it; `next` is the cut that names the pack.
///
/// # Errors
/// [`Error::PackTruncated`] if the pack has become shorter, [`Error::LogDamaged`] if damage hides the answer.
pub(super) fn place_of(
    store: StoreId,
    link: &Link,
    next: Option<&Cut>,
    mark: &Watermark,
) -> Result<Place> {
    if mark.off > link.limit {
        let len = link.file.len()?;
        if mark.off.raw() > len.raw() {
            return Err(Error::PackTruncated {
                path: link.path.clone(),
                found_bytes: len.raw(),
                expected_bytes: mark.off.raw(),
            });
        }
        return Ok(Place::Foreign);
    }
    // The cut at its own place is the last word on it, and says something else: the chain has asked it.
    let contradicted = next.is_some_and(|cut| cut.len == mark.off);
    if contradicted || mark.off.raw() < PACK_HEADER_LEN as u64 {
        return Ok(Place::Foreign);
    }
    if is_followed(store, link, mark)? || is_after_record(link, mark) || is_last(link, mark)? {
        return Ok(Place::Found);
    }
    walk_to(store, link, mark)
}

fn walk_of(store: StoreId, link: &Link) -> Walk {
    let window = Window::new(Arc::clone(&link.file), link.path.clone(), link.limit);
    Walk::new(store, link.id, &link.cut, window)
}

fn is_followed(store: StoreId, link: &Link, mark: &Watermark) -> Result<bool> {
    if mark.off == link.limit {
        return Ok(false);
    }
    let mut walk = walk_of(store, link);
    walk.go_to(mark);
    Ok(matches!(walk.next()?, Step::Record(_)))
}

/// Whether a record with the watermark's chain hash ends there. Its header may be damaged beside that, and what
/// cannot be read is no answer.
fn is_after_record(link: &Link, mark: &Watermark) -> bool {
    let end = mark.off.raw();
    let start = end
        .saturating_sub(RECORD_LEN_MAX)
        .max(PACK_HEADER_LEN as u64)
        .min(end);
    let len = usize::try_from(end - start).unwrap_or(0);
    let bytes = read_exactly(link.file.as_ref(), PackOff::from_raw(start), len, || {
        link.path.clone()
    });
    let Ok(bytes) = bytes else {
        return false;
    };
    (0..bytes.len()).step_by(ALIGN).any(|at| {
        let record = bytes.get(at..).unwrap_or(&[]);
        let chain = record.get(CHAIN_OFF..CHAIN_OFF + mark.chain.len());
        chain == Some(mark.chain.as_slice())
            && decode_header(record).map_or(true, |found| {
                let number = found.head.lsn == mark.lsn;
                let length = found.record_len() == (bytes.len() - at) as u64;
                // One of them may be what is damaged, if nothing follows that would speak against the place.
                (number && length) || ((number || length) && mark.off == link.limit)
            })
    })
}

/// Whether the pack's footer says that the watermark's record is its last.
fn is_last(link: &Link, mark: &Watermark) -> Result<bool> {
    let Some(at) = link.sealed else {
        return Ok(false);
    };
    let footer = read_footer(link, at, link.file.len()?)?;
    Ok(footer.is_some_and(|footer| {
        footer.pack == link.id && footer.last_lsn == mark.lsn && footer.chain == mark.chain
    }))
}

fn read_footer(link: &Link, at: PackOff, end: ByteLen) -> Result<Option<Footer>> {
    let len = usize::try_from(end.raw().saturating_sub(at.raw())).unwrap_or(0);
    let bytes = read_exactly(link.file.as_ref(), at, len, || link.path.clone())?;
    Ok(decode_footer(&bytes, &|parts| checksum(Checksum::Footer, parts)).ok())
}

fn walk_to(store: StoreId, link: &Link, mark: &Watermark) -> Result<Place> {
    let mut walk = walk_of(store, link);
    loop {
        if walk.off >= mark.off.raw() {
            let same = walk.off == mark.off.raw() && walk.lsn == mark.lsn;
            return Ok(if same && walk.chain == mark.chain {
                Place::Found
            } else {
                Place::Foreign
            });
        }
        match walk.next()? {
            Step::Record(_) => {}
            Step::End { .. } => return Ok(Place::Foreign),
            Step::Bad { off, detail } => return Err(link.damaged(off, detail)),
        }
    }
}
