//! Walks the records of one LOG pack and verifies each: its span, its chain, its number.

use std::ops::Range;

use super::types::Watermark;
use super::window::Window;
use super::writer::record_hash;
use crate::base::limits::{PACK_CAPACITY_MAX, TEAR_SEARCH_LEN_MAX};
use crate::base::{Error, Lsn, PackId, PackOff, Result, StoreId};
use crate::codec::decompress;
use crate::format::frame::{Address, FRAME_HEADER_LEN, peek_frame_len};
use crate::format::pack::{Cut, PACK_HEADER_LEN, Piece, piece_at};
use crate::format::record::{
    RECORD_HEADER_LEN, RECORD_MAGIC, RECORD_RAW_LEN_MAX, Record, decode_header, decode_record,
};
use crate::format::rows::Op;
use crate::format::{ALIGN, Hash};
use crate::hash::{Checksum, SpanHasher};

/// A record that has been verified.
pub(super) struct FoundRecord {
    /// Its header.
    pub(super) record: Record,
    /// Where it is in the pack.
    pub(super) place: Range<u64>,
    payload: Vec<u8>,
}

/// What comes next in a pack.
pub(super) enum Step {
    /// A record that verifies.
    Record(Box<FoundRecord>),
    /// The limit, or a footer, right after the last record or after frames that no record vouches for.
    End {
        /// Whether such frames were passed.
        loose_frames: bool,
    },
    /// Bytes that do not verify.
    Bad {
        /// Where.
        off: u64,
        /// Why.
        detail: &'static str,
    },
}

/// A place in a LOG pack and the state of the log there.
pub(super) struct Walk {
    store: StoreId,
    pack: PackId,
    window: Window,
    /// End of the last verified record.
    pub(super) off: u64,
    /// Its number.
    pub(super) lsn: Lsn,
    /// Its chain hash.
    pub(super) chain: Hash,
}

impl FoundRecord {
    /// The operations.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the payload does not decode.
    pub(super) fn ops(&self) -> Result<Vec<Op>> {
        let raw_len = usize::try_from(self.record.head.raw_len).unwrap_or(usize::MAX);
        let mut raw = Vec::new();
        decompress(self.record.head.codec, &self.payload, raw_len, &mut raw)?;
        self.record.decode_ops(&raw)
    }
}

impl Walk {
    /// Starts after the header of a pack whose cut is given.
    pub(super) fn new(store: StoreId, pack: PackId, cut: &Cut, window: Window) -> Self {
        Self {
            store,
            pack,
            window,
            off: PACK_HEADER_LEN as u64,
            lsn: cut.lsn,
            chain: cut.chain,
        }
    }

    /// Goes to a place between two commits of this pack.
    pub(super) fn go_to(&mut self, mark: &Watermark) {
        self.off = mark.off.raw();
        self.lsn = mark.lsn;
        self.chain = mark.chain;
    }

    /// The next record. After [`Step::Bad`] or [`Step::End`] the place does not move any more.
    ///
    /// # Errors
    /// Those of reading; what the bytes say is in the step.
    pub(super) fn next(&mut self) -> Result<Step> {
        let mut span = SpanHasher::new(Checksum::Span);
        let mut at = self.off;
        loop {
            if at >= self.window.limit() {
                return Ok(Step::End {
                    loose_frames: at > self.off,
                });
            }
            let head = self.window.bytes(at, RECORD_HEADER_LEN)?;
            match piece_at(head) {
                Ok(Piece::Record) => return self.record(at, &span),
                Ok(Piece::Footer) => {
                    return Ok(Step::End {
                        loose_frames: at > self.off,
                    });
                }
                Ok(Piece::Frame) => {
                    let claim = peek_frame_len(head.get(..FRAME_HEADER_LEN).unwrap_or(head));
                    let len = match claim.map(usize::try_from) {
                        Ok(Ok(len)) => len,
                        Ok(Err(_)) => return Ok(bad(at, "length of a frame")),
                        Err(error) => return bad_if_malformed(at, error),
                    };
                    let frame = self.window.bytes(at, len)?;
                    if frame.len() < len {
                        return Ok(bad(at, "a frame goes past the end"));
                    }
                    span.update(frame);
                    at += len as u64;
                }
                Err(error) => return bad_if_malformed(at, error),
            }
        }
    }

    fn record(&mut self, at: u64, span: &SpanHasher) -> Result<Step> {
        let expected = self.lsn.next();
        let (span_len, span_hash) = (span.len_bytes(), span.finish());
        let found = self.verify(at, &self.chain.clone(), span_len, &span_hash)?;
        match found {
            Ok(found) if found.record.head.lsn == expected => {
                self.off = found.place.end;
                self.lsn = expected;
                self.chain = found.record.chain;
                Ok(Step::Record(found))
            }
            Ok(_) => Ok(bad(at, "a record of another number")),
            // Where the span or the chain is to blame, the damage is between the records.
            Err(detail) => Ok(bad(self.off.min(at), detail)),
        }
    }

    fn verify(
        &mut self,
        at: u64,
        prev_chain: &Hash,
        span_len: u64,
        span_hash: &Hash,
    ) -> Result<std::result::Result<Box<FoundRecord>, &'static str>> {
        let address = Address {
            store: self.store,
            pack: self.pack,
            off: PackOff::from_raw(at),
        };
        let head = match decode_header(self.window.bytes(at, RECORD_HEADER_LEN)?) {
            Ok(head) => head,
            Err(error) => return detail_of(error).map(Err),
        };
        let len = usize::try_from(head.record_len()).unwrap_or(usize::MAX);
        if len > RECORD_HEADER_LEN + RECORD_RAW_LEN_MAX + ALIGN {
            return Ok(Err("length of a record"));
        }
        let bytes = self.window.bytes(at, len)?;
        match decode_record(
            bytes,
            prev_chain,
            span_len,
            span_hash,
            &record_hash(address),
        ) {
            Ok(record) => Ok(Ok(Box::new(FoundRecord {
                payload: bytes.get(record.payload()).unwrap_or(&[]).to_vec(),
                record,
                place: at..at + len as u64,
            }))),
            Err(error) => detail_of(error).map(Err),
        }
    }

    /// Whether a record of a later commit than the one that starts with number `commit` follows the bad
    /// bytes: proof that they were once durable, since its bytes were written only after the sync of the
    /// commit before it. The parts of one commit have one sync and prove nothing about one another.
    ///
    /// Spans do not overlap, and what has to be hashed is bounded: bytes that ask for more were made so, and are taken
    /// for damage.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) fn later_commit_follows(&mut self, commit: Lsn) -> Result<bool> {
        let mut at = self.off;
        let mut search = Search {
            spans: self.window.limit().saturating_sub(at),
            records: TEAR_SEARCH_LEN_MAX,
        };
        while at < self.window.limit().min(PACK_CAPACITY_MAX) {
            let starts = self.window.bytes(at, RECORD_MAGIC.len())? == RECORD_MAGIC;
            if starts && self.proves_later(at, commit, &mut search)? {
                return Ok(true);
            }
            at += ALIGN as u64;
        }
        Ok(false)
    }

    fn proves_later(&mut self, at: u64, commit: Lsn, search: &mut Search) -> Result<bool> {
        let Ok(claim) = decode_header(self.window.bytes(at, RECORD_HEADER_LEN)?) else {
            return Ok(false);
        };
        let head = claim.head;
        let first = head.lsn.raw().saturating_sub(u64::from(head.part));
        let Some(mut from) = at
            .checked_sub(head.span_len)
            .filter(|from| *from >= self.off)
        else {
            return Ok(false);
        };
        if first <= commit.raw() {
            return Ok(false);
        }
        let Some(records) = search.records.checked_sub(claim.record_len()) else {
            return Ok(true);
        };
        search.records = records;
        // Its own hash first: what only looks like a record costs no look at what it says comes before it.
        let found = self.verify(at, &head.prev_chain, head.span_len, &head.span_hash)?;
        if found.is_err() {
            return Ok(false);
        }
        let Some(spans) = search.spans.checked_sub(head.span_len) else {
            return Ok(true);
        };
        search.spans = spans;
        let mut span = SpanHasher::new(Checksum::Span);
        while from < at {
            let len = usize::try_from(at - from)
                .unwrap_or(usize::MAX)
                .min(1 << 20);
            let bytes = self.window.bytes(from, len)?;
            span.update(bytes);
            from += len as u64;
        }
        Ok(span.finish() == head.span_hash)
    }
}

/// What may still be hashed in the search for a later commit, in bytes.
struct Search {
    spans: u64,
    records: u64,
}

fn bad(off: u64, detail: &'static str) -> Step {
    Step::Bad { off, detail }
}

fn bad_if_malformed(off: u64, error: Error) -> Result<Step> {
    detail_of(error).map(|detail| bad(off, detail))
}

/// The words of a decoder that refused bytes; any other error is passed on.
pub(super) fn detail_of(error: Error) -> Result<&'static str> {
    match error {
        Error::Malformed { detail, .. } => Ok(detail),
        other => Err(other),
    }
}
