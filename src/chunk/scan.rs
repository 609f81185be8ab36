//! Verifies a whole pack, for `check`: every frame, every chunk, every record, the footer.

use std::sync::Arc;

use super::files::{PackFiles, read_exactly};
use super::read::DecodedFrame;
use super::replay::sealed_at;
use super::walk::{Step, Walk};
use super::window::Window;
use crate::base::limits::PACK_CAPACITY_MAX;
use crate::base::{ChunkId, Error, Lsn, PackId, PackOff, Result, StoreId};
use crate::format::footer::{Footer, FooterFrame, decode_footer};
use crate::format::frame::{Address, FRAME_HEADER_LEN, peek_frame_len};
use crate::format::pack::{PACK_HEADER_LEN, PackHeader, Piece, decode_pack_header, piece_at};
use crate::format::record::{RECORD_HEADER_LEN, decode_header};
use crate::format::rows::PackKind;
use crate::hash::{Checksum, SpanHasher, checksum};

/// Something that a scan has come across.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// A frame that verifies, with its chunks.
    Frame {
        /// Its offset.
        off: PackOff,
        /// Its chunks.
        chunks: Vec<ChunkId>,
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

struct Scan<'a> {
    store: StoreId,
    id: PackId,
    each: &'a mut dyn FnMut(Scanned) -> Result<()>,
    report: ScanReport,
    /// The directory that the footer should have.
    frames: Vec<FooterFrame>,
}

/// Scans a pack; `vouched` bytes of it must verify if it has no footer.
pub(super) fn scan(
    files: &PackFiles,
    store: StoreId,
    id: PackId,
    vouched: Option<PackOff>,
    each: &mut dyn FnMut(Scanned) -> Result<()>,
) -> Result<ScanReport> {
    let mut scan = Scan {
        store,
        id,
        each,
        report: ScanReport::default(),
        frames: Vec::new(),
    };
    // A file that cannot be read is a finding as well.
    if let Err(error) = scan.run(files, vouched) {
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

    fn run(&mut self, files: &PackFiles, vouched: Option<PackOff>) -> Result<()> {
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
        // Then a header that is torn or missing is no damage, and nothing follows it.
        let unnamed = sealed.is_none() && vouched.is_none();
        if unnamed && len < PACK_HEADER_LEN as u64 {
            return Ok(());
        }
        let header = read_exactly(file.as_ref(), start, PACK_HEADER_LEN, || path.clone())?;
        let hash = |parts: &[&[u8]]| checksum(Checksum::PackHeader, parts);
        if unnamed && decode_pack_header(&header, &hash).is_err() {
            return Ok(());
        }
        let Some(header) = self.header(&header, kind)? else {
            return Ok(());
        };
        let limit = sealed.or(vouched).unwrap_or(PackOff::from_raw(len));
        if limit.raw() > len {
            return Err(Error::PackTruncated {
                path,
                found_bytes: len,
                expected_bytes: limit.raw(),
            });
        }
        let mut window = Window::new(Arc::clone(&file), path.clone(), limit);
        let strict = sealed.is_some() || vouched.is_some();
        let end = self.frames_of(&mut window, strict)?;
        let mut log_end = (0, Lsn::from_raw(0), [0; 32]);
        if let Some(cut) = &header.cut {
            // What nobody vouches for may be torn from its first record on.
            let valid = vouched.or(sealed).unwrap_or(PackOff::from_raw(0));
            let valid = valid.min(limit);
            let window = Window::new(Arc::clone(&file), path.clone(), limit);
            let mut walk = Walk::new(self.store, self.id, cut, window);
            self.records(&mut walk, valid)?;
            log_end = (self.report.records, walk.lsn, walk.chain);
        }
        if let Some(at) = sealed {
            return self.footer(files, at.raw(), len, kind, log_end);
        }
        let mut rest = Window::new(file, path, PackOff::from_raw(len));
        if matches!(piece_at(rest.bytes(end, 8)?), Ok(Piece::Footer)) {
            self.problem(end, "the footer is damaged or incomplete")?;
        }
        Ok(())
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
    fn frames_of(&mut self, window: &mut Window, strict: bool) -> Result<u64> {
        let mut at = PACK_HEADER_LEN as u64;
        while at < window.limit() {
            let head = window.bytes(at, RECORD_HEADER_LEN)?;
            let claim = match piece_at(head) {
                Ok(Piece::Frame) => {
                    let head = head.get(..FRAME_HEADER_LEN).unwrap_or(head);
                    peek_frame_len(head).map(|len| (len, true))
                }
                Ok(Piece::Record) => decode_header(head).map(|found| (found.record_len(), false)),
                Ok(Piece::Footer) => return Ok(at),
                Err(error) => Err(error),
            };
            let (len, is_frame) = match claim {
                Ok((len, is_frame)) if at.saturating_add(len) <= window.limit() => (len, is_frame),
                Ok(_) if !strict => return Ok(at),
                Ok(_) => {
                    self.problem(at, "goes past the end")?;
                    return Ok(at);
                }
                Err(_) if !strict => return Ok(at),
                Err(error) => {
                    self.problem(at, error.to_string())?;
                    return Ok(at);
                }
            };
            if is_frame {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let bytes = window.bytes(at, len)?;
                if !self.frame(at, bytes, strict)? {
                    return Ok(at);
                }
            }
            at += len;
        }
        Ok(at)
    }

    /// Verifies a frame; false if it is torn where that is no damage.
    fn frame(&mut self, off: u64, bytes: &[u8], strict: bool) -> Result<bool> {
        let at = Address {
            store: self.store,
            pack: self.id,
            off: PackOff::from_raw(off),
        };
        let decoded = DecodedFrame::decode(bytes, &at)
            .and_then(|(frame, head)| frame.verify_all(&at).map(|()| head));
        match decoded {
            Ok(head) => {
                self.report.frames += 1;
                let chunks = head.chunks.iter().map(|chunk| chunk.id).collect();
                self.frames.push(FooterFrame {
                    off: at.off,
                    len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                    kind: head.kind,
                    codec: head.codec,
                    chunks: head.chunks,
                });
                (self.each)(Scanned::Frame {
                    off: at.off,
                    chunks,
                })?;
                Ok(true)
            }
            Err(_) if !strict => Ok(false),
            Err(error) => self.problem(off, error.to_string()).map(|()| true),
        }
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

    fn footer(
        &mut self,
        files: &PackFiles,
        at: u64,
        len: u64,
        kind: PackKind,
        (record_count, last_lsn, chain): (u64, Lsn, [u8; 32]),
    ) -> Result<()> {
        let footer_len = len.saturating_sub(at).min(PACK_CAPACITY_MAX);
        let footer_len = usize::try_from(footer_len).unwrap_or(0);
        let bytes = files.read(self.id, PackOff::from_raw(at), footer_len)?;
        let found = match decode_footer(&bytes, &|parts| checksum(Checksum::Footer, parts)) {
            Ok(found) => found,
            Err(error) => return self.problem(at, error.to_string()),
        };
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
        if found != expected {
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
