//! Verifies a whole pack, for `check`: every frame, every chunk, every record, the footer.

use std::sync::Arc;

use super::files::{PackFiles, read_exactly};
use super::read::DecodedFrame;
use super::replay::sealed_at;
use super::walk::{Step, Walk};
use super::window::Window;
use super::writer::record_hash;
use crate::base::limits::{PACK_CAPACITY_MAX, SCAN_SEARCH_FACTOR};
use crate::base::{Error, Lsn, PackId, PackOff, Result, StoreId};
use crate::format::ALIGN;
use crate::format::footer::{
    FOOTER_FRAME_LEN, FOOTER_HEADER_LEN, Footer, FooterFrame, TRAILER_LEN, decode_footer,
};
use crate::format::frame::{
    Address, FRAME_CHUNK_LEN, FRAME_HEADER_LEN, FrameChunk, FrameKind, decode_frame, peek_frame_len,
};
use crate::format::pack::{PACK_HEADER_LEN, PackHeader, Piece, decode_pack_header, piece_at};
use crate::format::record::{
    RECORD_HEADER_LEN, RECORD_RAW_LEN_MAX, Record, decode_header, decode_record,
};
use crate::format::rows::PackKind;
use crate::hash::{Checksum, SpanHasher, checksum};

/// Something that a scan has come across.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// A frame that verifies, with its chunks.
    Frame {
        /// Its offset.
        off: PackOff,
        /// Its length in bytes, padding included.
        len: u32,
        /// What its chunks are.
        kind: FrameKind,
        /// Its chunks, in the order of the decoded payload.
        chunks: Vec<FrameChunk>,
    },
    /// A commit record that verifies.
    Record {
        /// Its offset.
        off: PackOff,
        /// Its number.
        lsn: Lsn,
    },
    /// Something that does not.
    Problem {
        /// Where. The index tells which chunks have their frame there.
        off: PackOff,
        /// What is wrong.
        detail: String,
    },
}

/// What a scan has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Frames that verify.
    pub frames: u64,
    /// Records that verify.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Problems.
    pub problems: u64,
}

/// What is known of a pack from elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// How many bytes must verify if it has no footer.
    pub(super) vouched: Option<PackOff>,
    /// It was never sealed: a footer that is not all there is a torn tail, as what a crash leaves.
    pub(super) unfinished: bool,
}

struct Scan<'a> {
    store: StoreId,
    id: PackId,
    each: &'a mut dyn FnMut(Scanned) -> Result<()>,
    report: ScanReport,
    /// The directory that the footer should have.
    frames: Vec<FooterFrame>,
    /// Offsets of the frames that an intact footer names, ascending.
    known: Option<Vec<u64>>,
    /// Bytes that may still be hashed in search of the next frame or record.
    search: u64,
}

/// Scans a pack.
pub(super) fn scan(
    files: &PackFiles,
    store: StoreId,
    id: PackId,
    claim: Claim,
    each: &mut dyn FnMut(Scanned) -> Result<()>,
) -> Result<ScanReport> {
    let mut scan = Scan {
        store,
        id,
        each,
        report: ScanReport::default(),
        frames: Vec::new(),
        known: None,
        search: 0,
    };
    // A file that cannot be read is a finding as well.
    if let Err(error) = scan.run(files, claim) {
        match error {
            Error::Io { .. } | Error::PackMissing { .. } | Error::PackTruncated { .. } => {
                scan.problem(0, error.to_string())?;
            }
            other => return Err(other),
        }
    }
    Ok(scan.report)
}

impl Scan<'_> {
    fn problem(&mut self, off: u64, detail: impl Into<String>) -> Result<()> {
        self.report.problems += 1;
        (self.each)(Scanned::Problem {
            off: PackOff::from_raw(off),
            detail: detail.into(),
        })
    }

    fn run(&mut self, files: &PackFiles, claim: Claim) -> Result<()> {
        let (file, path, kind) = (
            files.file(self.id)?,
            files.path(self.id),
            files.kind(self.id)?,
        );
        let len = file.len()?.raw();
        self.report.bytes = len;
        let start = PackOff::from_raw(0);
        let sealed = sealed_at(file.as_ref(), len, &path)?;
        // Without a footer and with nobody who vouches for any of it: what a crash has left of its creation.
        // Then a header that is torn, missing or stale is no damage, and nothing follows it.
        let unnamed = sealed.is_none() && claim.vouched.is_none();
        if unnamed && len < PACK_HEADER_LEN as u64 {
            return Ok(());
        }
        let header = read_exactly(file.as_ref(), start, PACK_HEADER_LEN, || path.clone())?;
        let hash = |parts: &[&[u8]]| checksum(Checksum::PackHeader, parts);
        let is_own = |found: PackHeader| {
            found.store == self.store && found.pack == self.id && found.kind() == kind
        };
        if unnamed && !decode_pack_header(&header, &hash).is_ok_and(is_own) {
            return Ok(());
        }
        // The frames do not need it: each is bound to its address.
        let header = self.header(&header, kind)?;
        let limit = sealed.or(claim.vouched).unwrap_or(PackOff::from_raw(len));
        if limit.raw() > len {
            return Err(Error::PackTruncated {
                path,
                found_bytes: len,
                expected_bytes: limit.raw(),
            });
        }
        let footer = match sealed {
            Some(at) => self.footer(files, at.raw(), len)?,
            None => None,
        };
        let directory = footer.as_ref().map(|footer| footer.frames.iter());
        self.known = directory.map(|frames| frames.map(|frame| frame.off.raw()).collect());
        self.search = limit.raw().saturating_mul(SCAN_SEARCH_FACTOR);
        let mut window = Window::new(Arc::clone(&file), path.clone(), limit);
        let strict = sealed.is_some() || claim.vouched.is_some();
        let end = self.frames_of(&mut window, strict)?;
        let mut log_end = (0, Lsn::from_raw(0), [0; 32]);
        if let Some(cut) = header.as_ref().and_then(|header| header.cut) {
            // What nobody vouches for may be torn from its first record on.
            let valid = claim.vouched.or(sealed).unwrap_or(start).min(limit);
            let window = Window::new(Arc::clone(&file), path.clone(), limit);
            let mut walk = Walk::new(self.store, self.id, &cut, window);
            self.records(&mut walk, valid)?;
            log_end = (self.report.records, walk.lsn, walk.chain);
        }
        match (sealed, footer, header) {
            // With damage before it, that the footer says something else is no damage of its own.
            (Some(at), Some(found), Some(_)) if self.report.problems == 0 => {
                self.compare(files, at.raw(), kind, &found, log_end)
            }
            (None, _, _) => {
                let rest = Window::new(file, path, PackOff::from_raw(len));
                self.rest(rest, end, claim.unfinished)
            }
            _ => Ok(()),
        }
    }

    /// What follows the pieces of a pack that does not end with a footer.
    fn rest(&mut self, mut rest: Window, end: u64, unfinished: bool) -> Result<()> {
        if !matches!(piece_at(rest.bytes(end, 8)?), Ok(Piece::Footer)) {
            return Ok(());
        }
        let (len, footer_len) = (rest.limit(), self.footer_len());
        let trailer = rest.bytes(len.saturating_sub(TRAILER_LEN as u64), TRAILER_LEN)?;
        // A crash leaves one that is too short or has pages that were never written; rot, bytes that are wrong.
        let torn = len.saturating_sub(end) < footer_len || trailer.iter().all(|byte| *byte == 0);
        if unfinished && torn {
            return Ok(());
        }
        self.problem(end, "the footer is damaged or incomplete")
    }

    /// Length of the footer that the frames found so far would have.
    fn footer_len(&self) -> u64 {
        let entry = |frame: &FooterFrame| FOOTER_FRAME_LEN + frame.chunks.len() * FRAME_CHUNK_LEN;
        let directory: usize = self.frames.iter().map(entry).sum();
        ((FOOTER_HEADER_LEN + directory).next_multiple_of(ALIGN) + 32 + TRAILER_LEN) as u64
    }

    fn header(&mut self, bytes: &[u8], kind: PackKind) -> Result<Option<PackHeader>> {
        let hash = |parts: &[&[u8]]| checksum(Checksum::PackHeader, parts);
        match decode_pack_header(bytes, &hash) {
            Ok(header)
                if header.store == self.store
                    && header.pack == self.id
                    && header.kind() == kind =>
            {
                Ok(Some(header))
            }
            Ok(_) => {
                self.problem(0, "the pack belongs to another store, number or kind")?;
                Ok(None)
            }
            Err(error) => {
                self.problem(0, error.to_string())?;
                Ok(None)
            }
        }
    }

    /// Verifies all frames up to the window's limit and returns where it stopped.
    ///
    /// After something damaged it goes on with the next piece that can be found, so that one flipped byte in a
    /// header hides nothing that follows. Without `strict` the damage is the end: nothing vouches for it.
    fn frames_of(&mut self, window: &mut Window, strict: bool) -> Result<u64> {
        let mut at = PACK_HEADER_LEN as u64;
        while at < window.limit() {
            let head = window.bytes(at, RECORD_HEADER_LEN)?;
            let (claim, is_frame) = match piece_at(head) {
                Ok(Piece::Footer) => return Ok(at),
                Ok(Piece::Record) => (decode_header(head).map(|found| found.record_len()), false),
                Ok(Piece::Frame) => {
                    let head = head.get(..FRAME_HEADER_LEN).unwrap_or(head);
                    (peek_frame_len(head), true)
                }
                Err(error) => (Err(error), false),
            };
            let left = window.limit() - at;
            let sound = match claim {
                Ok(len) if len > left => Err("goes past the end".to_owned()),
                Ok(len) if is_frame => {
                    let bytes = window.bytes(at, usize::try_from(len).unwrap_or(usize::MAX))?;
                    let sound = self.frame(at, bytes, strict)?;
                    if !sound && !strict {
                        return Ok(at);
                    }
                    // Its length is as little to be believed as the rest of it.
                    at = if sound {
                        at + len
                    } else {
                        self.after(window, at, at + len)?
                    };
                    continue;
                }
                Ok(len) => Ok(len),
                Err(error) => Err(error.to_string()),
            };
            match sound {
                Ok(len) => at += len,
                Err(_) if !strict => return Ok(at),
                Err(detail) => {
                    self.problem(at, detail)?;
                    at = self.after(window, at, 0)?;
                }
            }
        }
        Ok(at)
    }

    /// Where to go on after something damaged at `at`; `claim` is where it says that it ends.
    ///
    /// 1. The next frame of the footer's directory. 2. The claimed end, if something begins there. 3. The next
    ///    place at which a frame or a record verifies with its address: a copy of one within a file does not.
    ///    What all that looks like one takes to hash is bounded.
    fn after(&mut self, window: &mut Window, at: u64, claim: u64) -> Result<u64> {
        if let Some(known) = &self.known {
            let next = known.partition_point(|off| *off <= at);
            return Ok(known.get(next).copied().unwrap_or(window.limit()));
        }
        if claim > at && (claim == window.limit() || piece_at(window.bytes(claim, 8)?).is_ok()) {
            return Ok(claim);
        }
        let mut next = at + ALIGN as u64;
        while next < window.limit() {
            if self.verifies(window, next)? {
                return Ok(next);
            }
            if self.search == 0 {
                self.problem(next, "too much that looks like a frame and is none")?;
                break;
            }
            next += ALIGN as u64;
        }
        Ok(window.limit())
    }

    /// Whether a frame or a record begins at `at`.
    fn verifies(&mut self, window: &mut Window, at: u64) -> Result<bool> {
        let address = self.address(at);
        let left = window.limit() - at;
        let head = window.bytes(at, RECORD_HEADER_LEN)?;
        let len_of = |len: u64| usize::try_from(len.min(left)).unwrap_or(usize::MAX);
        match piece_at(head) {
            Ok(Piece::Frame) => {
                let Ok(len) = peek_frame_len(head.get(..FRAME_HEADER_LEN).unwrap_or(head)) else {
                    return Ok(false);
                };
                let bytes = window.bytes(at, len_of(len))?;
                self.search = self.search.saturating_sub(bytes.len() as u64);
                let hash = |parts: &[&[u8]]| checksum(Checksum::Frame, parts);
                Ok(decode_frame(bytes, &address, &hash).is_ok())
            }
            Ok(Piece::Record) => {
                let Ok(Record {
                    head, stored_len, ..
                }) = decode_header(head)
                else {
                    return Ok(false);
                };
                let len = RECORD_HEADER_LEN as u64 + u64::from(stored_len);
                if len > (RECORD_HEADER_LEN + RECORD_RAW_LEN_MAX) as u64 {
                    return Ok(false);
                }
                let bytes = window.bytes(at, len_of(len.next_multiple_of(ALIGN as u64)))?;
                self.search = self.search.saturating_sub(bytes.len() as u64);
                let hash = record_hash(address);
                let (chain, span) = (&head.prev_chain, &head.span_hash);
                Ok(decode_record(bytes, chain, head.span_len, span, &hash).is_ok())
            }
            _ => Ok(false),
        }
    }

    fn address(&self, off: u64) -> Address {
        Address {
            store: self.store,
            pack: self.id,
            off: PackOff::from_raw(off),
        }
    }

    /// Verifies one frame; false if its own checksum does not match.
    fn frame(&mut self, off: u64, bytes: &[u8], strict: bool) -> Result<bool> {
        let at = self.address(off);
        let (frame, head) = match DecodedFrame::decode(bytes, &at) {
            Ok(decoded) => decoded,
            Err(_) if !strict => return Ok(false),
            Err(error) => return self.problem(off, error.to_string()).map(|()| false),
        };
        if let Err(error) = frame.verify_all(&at) {
            return self.problem(off, error.to_string()).map(|()| true);
        }
        self.report.frames += 1;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.frames.push(FooterFrame {
            off: at.off,
            len,
            kind: head.kind,
            codec: head.codec,
            chunks: head.chunks.clone(),
        });
        (self.each)(Scanned::Frame {
            off: at.off,
            len,
            kind: head.kind,
            chunks: head.chunks,
        })?;
        Ok(true)
    }

    /// Verifies the records up to `valid`; what follows may be torn.
    fn records(&mut self, walk: &mut Walk, valid: PackOff) -> Result<()> {
        loop {
            match walk.next()? {
                Step::Record(found) => {
                    self.report.records += 1;
                    if let Err(error) = found.ops() {
                        self.problem(found.place.start, error.to_string())?;
                    }
                    (self.each)(Scanned::Record {
                        off: PackOff::from_raw(found.place.start),
                        lsn: found.record.head.lsn,
                    })?;
                }
                Step::End { .. } => return Ok(()),
                Step::Bad { off, detail } => {
                    if walk.off < valid.raw() {
                        self.problem(off, format!("commit record: {detail}"))?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The footer, if it is intact.
    fn footer(&mut self, files: &PackFiles, at: u64, len: u64) -> Result<Option<Footer>> {
        let footer_len = len.saturating_sub(at).min(PACK_CAPACITY_MAX);
        let footer_len = usize::try_from(footer_len).unwrap_or(0);
        let bytes = files.read(self.id, PackOff::from_raw(at), footer_len)?;
        match decode_footer(&bytes, &|parts| checksum(Checksum::Footer, parts)) {
            Ok(found) => Ok(Some(found)),
            Err(error) => self.problem(at, error.to_string()).map(|()| None),
        }
    }

    /// Compares the footer with what was found.
    fn compare(
        &mut self,
        files: &PackFiles,
        at: u64,
        kind: PackKind,
        found: &Footer,
        (record_count, last_lsn, chain): (u64, Lsn, [u8; 32]),
    ) -> Result<()> {
        let expected = Footer {
            store: self.store,
            pack: self.id,
            kind,
            data_len: PackOff::from_raw(at),
            record_count,
            last_lsn,
            chain,
            body: self.body(files, at)?,
            frames: std::mem::take(&mut self.frames),
        };
        if *found != expected {
            self.problem(at, "the footer does not say what the pack holds")?;
        }
        Ok(())
    }

    /// Digest of the bytes before the footer.
    fn body(&self, files: &PackFiles, end: u64) -> Result<[u8; 32]> {
        let path = files.path(self.id);
        let mut window = Window::new(files.file(self.id)?, path, PackOff::from_raw(end));
        let mut sum = SpanHasher::new(Checksum::Pack);
        let mut at = 0;
        while at < end {
            let bytes = window.bytes(at, 1 << 20)?;
            sum.update(bytes);
            at += bytes.len() as u64;
        }
        Ok(sum.finish())
    }
}
