//! What lies on a disk at one moment, and what a loss of power may leave of it.
//!
//! 1. Names. Every creation, renaming and removal since the last sync of its directory survives or does not,
//!    each for itself; a renaming is never half done.
//! 2. Bytes. Every sector (512 bytes or 4 KiB, chosen for each file) that was written since the last sync of
//!    its file holds what it held after any of those writes, or before them. A sector beyond the synced length
//!    may hold zeros or stale bytes instead: those of another file or rubbish.
//! 3. Lengths. A file that has grown since its last sync has any length between the old one and the new one.
//!
//! Bytes and names that a successful sync has covered are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dice::Dice;

/// A file, whatever it is called.
pub(super) type FileId = u64;

/// Bytes on their way to a file.
#[derive(Clone, Debug)]
pub(super) struct Write {
    off: usize,
    bytes: Arc<[u8]>,
}

impl Write {
    fn end(&self) -> usize {
        self.off.saturating_add(self.bytes.len())
    }
}

/// The certain bytes of a file and those on their way.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    durable: Arc<Vec<u8>>,
    pending: Vec<Write>,
}

/// A change of a directory that is on its way.
#[derive(Clone, Debug)]
pub(super) enum NameOp {
    Create(String, FileId),
    Rename(String, String, FileId),
    Remove(String, FileId),
    CreateDir(String),
}

impl NameOp {
    /// The name whose directory has to be synced.
    fn name(&self) -> &str {
        match self {
            Self::Create(name, _) | Self::Remove(name, _) | Self::CreateDir(name) => name,
            Self::Rename(_, to, _) => to,
        }
    }

    fn file(&self) -> Option<FileId> {
        match self {
            Self::Create(_, id) | Self::Remove(_, id) | Self::Rename(_, _, id) => Some(*id),
            Self::CreateDir(_) => None,
        }
    }
}

/// The names of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) files: BTreeMap<String, FileId>,
    pub(super) dirs: BTreeSet<String>,
}

impl Names {
    pub(super) fn apply(&mut self, op: &NameOp) {
        match op {
            NameOp::Create(name, id) => {
                self.files.insert(name.clone(), *id);
            }
            NameOp::Rename(from, to, id) => {
                if self.files.get(from) == Some(id) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *id);
            }
            NameOp::Remove(name, id) => {
                if self.files.get(name) == Some(id) {
                    self.files.remove(name);
                }
            }
            NameOp::CreateDir(name) => {
                self.dirs.insert(name.clone());
            }
        }
    }
}

/// The directory that a name is in.
pub(super) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// What lies on a disk: what is certain, and what was changed since and may or may not be there.
#[derive(Clone, Debug, Default)]
pub struct Medium {
    files: BTreeMap<FileId, Contents>,
    names: Names,
    pending: Vec<NameOp>,
}

impl Medium {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One of the states that the disk may be found in when the power comes back; nothing is on its way in it.
    #[must_use]
    pub fn after_power_loss(&self, dice: &mut Dice) -> Self {
        let mut names = self.names.clone();
        let kept_in_8 = [0, 8, 4, 4, 1, 7].get(dice_idx(dice, 6)).copied();
        for op in &self.pending {
            if dice.below(8) < kept_in_8.unwrap_or(4) {
                names.apply(op);
            }
        }
        let mut files = BTreeMap::new();
        for id in names.files.values() {
            let contents = self.files.get(id).cloned().unwrap_or_default();
            let bytes = if contents.pending.is_empty() {
                contents.durable
            } else {
                Arc::new(self.torn(&contents, dice))
            };
            let pending = Vec::new();
            files.insert(
                *id,
                Contents {
                    durable: bytes,
                    pending,
                },
            );
        }
        Self {
            files,
            names,
            pending: Vec::new(),
        }
    }

    /// What may be left of a file that was being written.
    fn torn(&self, contents: &Contents, dice: &mut Dice) -> Vec<u8> {
        let Contents { durable, pending } = contents;
        let end = pending.iter().map(Write::end).max().unwrap_or(0);
        let end = end.max(durable.len());
        let all = pending.len();
        let (sector_len, kept_in_8) = match dice.below(10) {
            0 => return durable.to_vec(),
            1..=2 => (4096, 8),
            3 => (4096, 0),
            4 => (512, 1),
            5 => (4096, 1),
            6 => (512, 4),
            7 => (4096, 4),
            8 => (512, 7),
            _ => (4096, 7),
        };
        // Most tears have neither zeros nor stale bytes.
        let strange_in_32 = if dice.one_in(2) { 0 } else { dice.below(8) };
        let mut found = durable.to_vec();
        found.resize(end, 0);
        let first = pending.iter().map(|write| write.off).min().unwrap_or(0);
        let mut at = first / sector_len * sector_len;
        while at < end {
            let sector = at..(at + sector_len).min(end);
            at = sector.end;
            let touched = |write: &&Write| write.off < sector.end && sector.start < write.end();
            if !pending.iter().any(|write| touched(&write)) {
                continue;
            }
            let count = if dice.below(8) < kept_in_8 {
                all
            } else if all > 1 && dice.one_in(4) {
                dice_idx(dice, all)
            } else {
                0
            };
            for write in pending.iter().take(count).filter(touched) {
                copy_within(&mut found, write, &sector);
            }
            if sector.start >= durable.len() && dice.below(32) < strange_in_32 {
                let stale = self.stale(sector.len(), dice);
                for (to, from) in found.iter_mut().skip(sector.start).zip(stale) {
                    *to = from;
                }
            }
        }
        let len = match dice.below(4) {
            0 => durable.len() + dice_idx(dice, end - durable.len() + 1),
            1 => {
                let count = dice_idx(dice, all + 1);
                let grown = pending.iter().take(count).map(Write::end).max();
                grown.unwrap_or(0).max(durable.len())
            }
            _ => end,
        };
        found.truncate(len);
        found
    }

    /// What a sector may hold that was given to a file and not written yet.
    fn stale(&self, len: usize, dice: &mut Dice) -> Vec<u8> {
        match dice.below(3) {
            0 => vec![0; len],
            1 => dice.bytes(len),
            _ => {
                let other = self.files.values().nth(dice_idx(dice, self.files.len()));
                let bytes = other.map_or(&[][..], |other| other.durable.as_slice());
                let at = dice_idx(dice, bytes.len() / 512 + 1) * 512;
                let mut stale: Vec<u8> = bytes.iter().skip(at).take(len).copied().collect();
                stale.resize(len, 0);
                stale
            }
        }
    }

    // ---- damage ----------------------------------------------------------------------------------

    /// The files whose names are certain, and how many bytes of each are.
    #[must_use]
    pub fn durable_files(&self) -> Vec<(String, usize)> {
        let files = self.names.files.iter();
        files
            .map(|(name, id)| (name.clone(), self.durable(*id).len()))
            .collect()
    }

    /// The certain bytes of a file.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.names.files.get(name).map(|id| self.durable(*id))
    }

    /// Puts bytes in the place of a file, certain at once, as somebody who changes a store while it is closed does.
    /// A directory that is missing comes to be.
    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        let next = self.next_id();
        let id = *self.names.files.entry(name.to_owned()).or_insert(next);
        let mut dir = parent(name);
        while !dir.is_empty() {
            self.names.dirs.insert(dir.to_owned());
            dir = parent(dir);
        }
        let contents = Contents {
            durable: Arc::new(bytes),
            pending: Vec::new(),
        };
        self.files.insert(id, contents);
    }

    /// Changes one certain byte of a file, as rot does.
    pub fn flip(&mut self, name: &str, at: usize) {
        let id = self.names.files.get(name);
        let contents = id.and_then(|id| self.files.get_mut(id));
        let bytes = contents.map(|found| Arc::make_mut(&mut found.durable));
        if let Some(byte) = bytes.and_then(|bytes| bytes.get_mut(at)) {
            *byte ^= 0x10;
        }
    }

    /// Loses a file altogether.
    pub fn lose(&mut self, name: &str) {
        self.names.files.remove(name);
        self.forget_nameless();
    }

    // ---- what a disk does to it ------------------------------------------------------------------

    /// The names as programs see them, those on their way included.
    pub(super) fn live_names(&self) -> Names {
        let mut names = self.names.clone();
        for op in &self.pending {
            names.apply(op);
        }
        names
    }

    /// The bytes of every file as programs see them.
    pub(super) fn live_bytes(&self) -> BTreeMap<FileId, Vec<u8>> {
        let bytes = |contents: &Contents| {
            let mut bytes = contents.durable.to_vec();
            for write in &contents.pending {
                bytes.resize(bytes.len().max(write.end()), 0);
                copy_within(&mut bytes, write, &(0..write.end()));
            }
            bytes
        };
        let files = self.files.iter();
        files.map(|(id, found)| (*id, bytes(found))).collect()
    }

    pub(super) fn push_name(&mut self, op: NameOp) {
        if let NameOp::Create(_, id) = &op {
            self.files.insert(*id, Contents::default());
        }
        self.pending.push(op);
    }

    pub(super) fn push_write(&mut self, id: FileId, off: usize, bytes: &[u8]) {
        if let Some(contents) = self.files.get_mut(&id) {
            let bytes = Arc::from(bytes);
            contents.pending.push(Write { off, bytes });
        }
    }

    /// Makes certain what is on its way to a file; `len` is its length.
    pub(super) fn sync(&mut self, id: FileId, len: usize) {
        if let Some(contents) = self.files.get_mut(&id) {
            let durable = Arc::make_mut(&mut contents.durable);
            durable.resize(len, 0);
            for write in std::mem::take(&mut contents.pending) {
                copy_within(durable, &write, &(0..len));
            }
        }
    }

    /// A sync that fails: some of what was on its way has arrived, and the rest never will.
    pub(super) fn drop_pending(&mut self, id: FileId, dice: &mut Dice) {
        if let Some(contents) = self.files.get(&id).cloned() {
            let durable = Arc::new(self.torn(&contents, dice));
            let pending = Vec::new();
            self.files.insert(id, Contents { durable, pending });
        }
    }

    /// The certain bytes of a file.
    pub(super) fn durable(&self, id: FileId) -> &[u8] {
        self.files.get(&id).map_or(&[], |found| &found.durable)
    }

    /// Makes the names in a directory certain.
    pub(super) fn sync_dir(&mut self, dir: &str) {
        let ops = std::mem::take(&mut self.pending);
        for op in ops {
            if parent(op.name()) == dir {
                self.names.apply(&op);
            } else {
                self.pending.push(op);
            }
        }
        self.forget_nameless();
    }

    /// Drops the bytes of files that no name can lead to any more.
    fn forget_nameless(&mut self) {
        let mut named: BTreeSet<FileId> = self.names.files.values().copied().collect();
        named.extend(self.pending.iter().filter_map(NameOp::file));
        self.files.retain(|id, _| named.contains(id));
    }

    pub(super) fn next_id(&self) -> FileId {
        self.files.last_key_value().map_or(1, |(id, _)| id + 1)
    }
}

/// A number in `0..n` to index with; 0 if `n` is 0.
pub(super) fn dice_idx(dice: &mut Dice, n: usize) -> usize {
    usize::try_from(dice.below(n as u64)).unwrap_or(0)
}

/// Copies the part of a write that falls into `range`; `to` is long enough or the rest is cut.
fn copy_within(to: &mut [u8], write: &Write, range: &std::ops::Range<usize>) {
    let start = write.off.max(range.start);
    let end = write.end().min(range.end).min(to.len());
    if start < end
        && let (Some(to), Some(from)) = (
            to.get_mut(start..end),
            write.bytes.get(start - write.off..end - write.off),
        )
    {
        to.copy_from_slice(from);
    }
}
