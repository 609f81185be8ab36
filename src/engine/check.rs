//! Checks a whole store: every byte of the packs, and every row of the index against the others.
//!
//! 1. All packs are scanned. A problem in one is a place; the table of chunks tells what was stored there.
//! 2. The rows of chunks and packs are compared with the files. Each frame that verifies is compared with the rows of its
//!    chunks while the packs are scanned, and counted for its pack; a pack that more rows name than were
//!    found that way has rows that lead nowhere, and only its rows are tried one by one.
//! 3. The rows of the live tree are compared with each other, inode by inode; this also finds the files
//!    whose bytes are in damaged places, and directories that no path leads to.
//! 4. Snapshots: their roots must decode; where something is damaged, their trees are searched for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::Engine;
use super::affected::{names_of, paths_in_snapshot};
use super::check_roots::{Rooted, Top};
use super::facts::path_in;
use super::findings::Findings;
use super::names::first_slot;
use super::scrub::describe;
use super::types::{CheckReport, Progress};
use crate::base::limits::{CHECK_DAMAGED_MAX, CHECKPOINTS_KEPT};
use crate::base::{ByteLen, ChunkId, Error, FileOff, Ino, PackId, PackOff, Result, Slot};
use crate::chunk::{PackInfo, Scanned};
use crate::format::frame::FrameChunk;
use crate::format::keys;
use crate::format::rows::{
    ChunkRow, DirentRow, ExtentRow, FLAG_HAS_XATTRS, InodeRow, Kind, PackKind, PackRow, SnapDirRow,
    SnapFileRow, SnapshotRow, Table, decode_counter,
};
use crate::hash::RootRecord;
use crate::meta::{Rows, View, for_each_row};

/// Frames after which progress is told.
const REPORT_FRAMES: u64 = 256;

/// A place in the packs that cannot be read; with a chunk only that one cannot, because its row is wrong.
type Place = (PackId, u64, Option<ChunkId>);

/// What is wrong with the packs.
#[derive(Default)]
struct Damage {
    /// What is wrong at each place.
    places: BTreeMap<Place, String>,
    /// Offsets of the frames that verify, for each pack in which something does not.
    sound: HashMap<PackId, HashSet<u64>>,
    /// Chunks and nodes that are stored at damaged places.
    chunks: HashMap<ChunkId, Place>,
    /// Rows that a frame's directory confirms, for each pack.
    confirmed: HashMap<PackId, u64>,
}

impl Damage {
    /// Notes what is wrong at a place. Beyond the bound it is only reported, without the paths that suffer from it.
    fn note(&mut self, place: Place, detail: &str) {
        if self.places.len() < CHECK_DAMAGED_MAX {
            self.places.insert(place, detail.to_owned());
        }
    }

    /// Notes that a chunk cannot be read; bounded as the places are.
    fn lose(&mut self, id: ChunkId, place: Place) {
        if self.chunks.len() < CHECK_DAMAGED_MAX {
            self.chunks.insert(id, place);
        }
    }
}

struct Check<'a> {
    engine: &'a Engine,
    view: &'a View<'a>,
    found: Findings<'a>,
    packs: BTreeMap<PackId, PackRow>,
    files: BTreeMap<PackId, PackInfo>,
    damage: Damage,
}

impl Engine {
    /// Reads all packs and compares all rows of the index with them and with each other.
    ///
    /// What is committed while it runs is not looked at. Goes on after a problem and reports all of them,
    /// with the paths of the live tree and (`snapshot:path`) of the snapshots that suffer from it.
    ///
    /// # Errors
    /// Those of the commit before it and of the index. What is wrong with the store is in the report.
    pub fn check(&self, progress: &(dyn Fn(Progress) + Sync)) -> Result<CheckReport> {
        if !self.config.read_only && self.halted().is_none() {
            self.commit()?;
        }
        // A cleaning would take files away that the view names.
        let _one = self.cleaning.one.lock();
        let view = self.index().view();
        let mut packs = BTreeMap::new();
        let mut unreadable = Vec::new();
        for_each_row(&view, Table::Pack, &[], &[0xff; 9], &mut |key, value| {
            match PackRow::decode(value) {
                Ok(row) => {
                    packs.insert(keys::parse_pack(key)?, row);
                }
                Err(error) => unreadable.push(error),
            }
            Ok(true)
        })?;
        let files = match self.store.packs() {
            Ok(files) => files.into_iter().map(|info| (info.id, info)).collect(),
            Err(error) => {
                unreadable.push(error);
                BTreeMap::new()
            }
        };
        let mut kinds: BTreeMap<_, _> = packs.iter().map(|(id, row)| (*id, row.kind)).collect();
        kinds.extend(files.values().map(|info| (info.id, info.kind)));
        let totals = Progress {
            bytes_total: self.store.used_bytes().unwrap_or(0),
            ..Progress::default()
        };
        let mut check = Check {
            engine: self,
            view: &view,
            found: Findings::new(kinds, totals, progress),
            packs,
            files,
            damage: Damage::default(),
        };
        for error in &unreadable {
            check.found.error(error, None);
        }
        for id in self.store.missing_logs()? {
            // Of those with a row the scan says it.
            if !check.packs.contains_key(&id) {
                let path = self.store.pack_path(id, PackKind::Log);
                check.found.error(&Error::PackMissing { path }, None);
            }
        }
        if self.lacks_checkpoints()? {
            let found = self.store.checkpoints()?.len();
            let detail = format!("of {CHECKPOINTS_KEPT} checkpoints {found} are there");
            check.found.of(detail, None);
        }
        check.other_files()?;
        check.scan_packs()?;
        check.chunks()?;
        check.inodes()?;
        check.strays()?;
        check.snapshots()?;
        let bare = self.parity.unprotected(check.files.keys().copied());
        let mut report = check.found.finish();
        report.unprotected = Some(bare.len() as u64);
        Ok(report)
    }
}

impl Check<'_> {
    /// Superblocks, checkpoints and parity files.
    fn other_files(&self) -> Result<()> {
        let (store, parity) = (&self.engine.store, &self.engine.parity);
        for bad in store.bad_superblocks()? {
            self.found.file(bad.name, bad.detail);
        }
        for name in store.checkpoints()? {
            if let Err(error) = store.verify_checkpoint(name) {
                self.found.error(&error, None);
            }
        }
        for bad in parity.unreadable() {
            self.found.file(parity.name(bad.parity), bad.detail);
        }
        for header in parity.all() {
            let id = header.parity();
            match parity.check_parity(id) {
                // One that another has replaced meanwhile is gone.
                Ok(check) if check.is_clean() || parity.header(id).is_none() => {}
                Ok(check) => self.found.file(parity.name(id), describe(&check)),
                Err(Error::Invalid(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    // ---- packs ---------------------------------------------------------------------------------

    fn scan_packs(&mut self) -> Result<()> {
        let ids: BTreeSet<PackId> = self
            .packs
            .keys()
            .chain(self.files.keys())
            .copied()
            .collect();
        let damage = Mutex::new(Damage::default());
        ids.into_par_iter()
            .try_for_each(|id| self.scan_pack(id, &damage))?;
        self.damage = damage.into_inner();
        Ok(())
    }

    fn scan_pack(&self, id: PackId, damage: &Mutex<Damage>) -> Result<()> {
        let row = self.packs.get(&id);
        if let Some(row) = row
            && let Err(error) = self.engine.store.check_packs([(id, *row)].into_iter())
        {
            self.found.error(&error, None);
            let mut damage = damage.lock();
            damage.places.insert((id, 0, None), error.to_string());
            damage.sound.insert(id, HashSet::new());
            return Ok(());
        }
        let mut sound = HashSet::new();
        let mut problems = Vec::new();
        let (mut read, mut confirmed) = (0_u64, 0_u64);
        let store = &self.engine.store;
        let report = store.scan_pack(id, row.copied(), &mut |scanned| {
            let off = match scanned {
                Scanned::Frame {
                    off, len, chunks, ..
                } => {
                    sound.insert(off.raw());
                    self.found.frames.fetch_add(1, Ordering::Relaxed);
                    confirmed += self.confirmed((id, off, len), &chunks, damage)?;
                    off
                }
                Scanned::Record { off, .. } => {
                    self.found.records.fetch_add(1, Ordering::Relaxed);
                    off
                }
                Scanned::Problem { off, detail } => {
                    problems.push((off.raw(), detail));
                    return Ok(());
                }
            };
            if (sound.len() as u64).is_multiple_of(REPORT_FRAMES) {
                let more = off.raw().saturating_sub(read);
                read += more;
                self.found.bytes.fetch_add(more, Ordering::Relaxed);
                self.found.report();
            }
            Ok(())
        })?;
        self.found.packs.fetch_add(1, Ordering::Relaxed);
        let rest = report.bytes.saturating_sub(read);
        self.found.bytes.fetch_add(rest, Ordering::Relaxed);
        self.found.report();
        let mut damage = damage.lock();
        damage.confirmed.insert(id, confirmed);
        if !problems.is_empty() {
            for (off, detail) in problems {
                self.found.at(id, off, detail.clone(), None);
                damage.places.insert((id, off, None), detail);
            }
            damage.sound.insert(id, sound);
        }
        Ok(())
    }

    /// How many chunks of a frame have a row that says where they are in it.
    fn confirmed(
        &self,
        (pack, frame, frame_len): (PackId, PackOff, u32),
        chunks: &[FrameChunk],
        damage: &Mutex<Damage>,
    ) -> Result<u64> {
        let (mut count, mut raw_off) = (0, 0_u32);
        for (idx, chunk) in chunks.iter().enumerate() {
            let expected = ChunkRow {
                pack,
                frame,
                frame_len,
                idx: u16::try_from(idx).unwrap_or(u16::MAX),
                raw_off,
                len: chunk.len,
            };
            raw_off = raw_off.saturating_add(chunk.len);
            let row = self.view.get(Table::Chunk, &keys::chunk(&chunk.id))?;
            match row.and_then(|row| ChunkRow::decode(&row).ok()) {
                Some(row) if row == expected => count += 1,
                Some(row) if (row.pack, row.frame) == (pack, frame) => {
                    let detail = format!("the row of chunk {} does not fit its frame", chunk.id);
                    let place = (pack, frame.raw(), Some(chunk.id));
                    damage.lock().note(place, &detail);
                    self.found.at(pack, frame.raw(), detail, None);
                }
                // The row may name another copy of the chunk.
                _ => {}
            }
        }
        Ok(count)
    }

    /// The packs that more rows name than frames confirm: some of them lead to no chunk.
    fn misled(&self) -> Result<HashSet<PackId>> {
        let mut named: HashMap<PackId, u64> = HashMap::new();
        let view = self.view;
        for_each_row(view, Table::Chunk, &[], &[0xff; 33], &mut |_, value| {
            if let Ok(row) = ChunkRow::decode(value) {
                *named.entry(row.pack).or_default() += 1;
            }
            Ok(true)
        })?;
        let confirmed = |id: &PackId| self.damage.confirmed.get(id).copied().unwrap_or(0);
        named.retain(|id, count| *count != confirmed(id));
        Ok(named.into_keys().collect())
    }

    /// Says that a path suffers from a damaged place.
    fn suffers(&self, place: Place, path: String) {
        if let Some(detail) = self.damage.places.get(&place) {
            self.found.at(place.0, place.1, detail.clone(), Some(path));
        }
    }

    /// All rows of chunks; notes those that are at damaged places.
    fn chunks(&mut self) -> Result<()> {
        let misled = self.misled()?;
        let mut damage = std::mem::take(&mut self.damage);
        let view = self.view;
        for_each_row(view, Table::Chunk, &[], &[0xff; 33], &mut |key, value| {
            let id = keys::parse_chunk(key)?;
            let row = match ChunkRow::decode(value) {
                Ok(row) => row,
                Err(error) => {
                    self.found.of(format!("chunk {id}: {error}"), None);
                    return Ok(true);
                }
            };
            let end = row.frame.raw().saturating_add(u64::from(row.frame_len));
            let len = self.pack_len(row.pack);
            if len.is_none_or(|len| end > len.raw()) {
                let detail = format!("chunk {id} is not within its pack");
                self.found.at(row.pack, row.frame.raw(), detail, None);
            }
            if misled.contains(&row.pack) {
                self.try_chunk(&id, &row, &mut damage);
            }
            Ok(true)
        })?;
        self.damage = damage;
        Ok(())
    }

    /// Tries a chunk of a pack in which something is wrong.
    fn try_chunk(&self, id: &ChunkId, row: &ChunkRow, damage: &mut Damage) {
        let (pack, frame) = (row.pack, row.frame.raw());
        let own = (pack, frame, Some(*id));
        for place in [(pack, frame, None), own] {
            if damage.places.contains_key(&place) {
                // Decoded in memory it may be fine: what is written again must not rely on that.
                self.engine.store.note_damaged(row);
                return damage.lose(*id, place);
            }
        }
        if let Err(error) = self.engine.store.get_at(id, row) {
            // A sound frame that the row names by mistake has other chunks that can be read.
            let sound = damage.sound.get(&pack);
            let damaged = sound.is_some_and(|sound| !sound.contains(&frame));
            let place = if damaged { (pack, frame, None) } else { own };
            let detail = error.to_string();
            damage.note(place, &detail);
            damage.lose(*id, place);
            self.found.at(pack, frame, detail, None);
        }
    }

    fn pack_len(&self, id: PackId) -> Option<ByteLen> {
        let row = self.packs.get(&id).map(|row| row.len);
        let file = self.files.get(&id).map(|info| info.len);
        row.max(file)
    }

    // ---- rows of the live tree -----------------------------------------------------------------

    fn path(&self, ino: Ino) -> String {
        path_in(self.view, ino).unwrap_or_else(|| format!("inode {ino}"))
    }

    fn wrong(&self, ino: Ino, detail: impl Into<String>) {
        self.found.of(detail, Some(self.path(ino)));
    }

    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        let row = self.view.get(Table::Inode, &keys::inode(ino))?;
        Ok(row.and_then(|row| InodeRow::decode(&row).ok()))
    }

    fn inodes(&self) -> Result<()> {
        let next = self
            .view
            .get(Table::Counter, &keys::counter(keys::COUNTER_NEXT_INO))?
            .map_or(Ok(0), |value| decode_counter(&value))?;
        let mut root = false;
        let mut rooted = Rooted::default();
        for_each_row(
            self.view,
            Table::Inode,
            &[],
            &[0xff; 9],
            &mut |key, value| {
                let ino = keys::parse_inode(key)?;
                root |= ino == Ino::ROOT;
                self.found.entries.fetch_add(1, Ordering::Relaxed);
                if ino.raw() >= next && ino != Ino::ROOT {
                    self.wrong(ino, "its inode number may be given out again");
                }
                match InodeRow::decode(value) {
                    Ok(row) => {
                        self.links(ino, &row)?;
                        self.xattrs(ino, &row)?;
                        match row.attrs.kind {
                            Kind::Dir => {
                                self.entries(ino, &row)?;
                                self.top(ino, &row, &mut rooted)?;
                            }
                            Kind::File => self.extents(ino, &row)?,
                            _ => {}
                        }
                    }
                    Err(error) => self.wrong(ino, error.to_string()),
                }
                Ok(true)
            },
        )?;
        if !root {
            self.found.of("there is no root directory", None);
        }
        self.found.report();
        Ok(())
    }

    /// Whether a path from the root leads to a directory.
    fn top(&self, dir: Ino, row: &InodeRow, rooted: &mut Rooted) -> Result<()> {
        // A deleted one that is still open is in no directory.
        if row.nlink == 0 {
            return Ok(());
        }
        let parent = |dir| {
            let row = self.inode(dir)?;
            Ok(row
                .filter(|row| row.attrs.kind == Kind::Dir)
                .map(|row| row.parent))
        };
        if rooted.top(dir, &parent)? == Top::Loop {
            let detail = "a loop of directories that no path from the root leads to";
            self.found.of(detail, Some(format!("inode {dir}")));
        }
        Ok(())
    }

    /// The names of an inode, against its count of links.
    fn links(&self, ino: Ino, row: &InodeRow) -> Result<()> {
        let (from, to) = keys::ino_range(ino);
        let mut count = 0_u64;
        let mut parent = Ino::from_raw(0);
        for_each_row(self.view, Table::Link, &from, &to, &mut |key, _| {
            count += 1;
            let (_, dir, slot) = keys::parse_link(key)?;
            parent = dir;
            let entry = self.view.get(Table::Dirent, &keys::dirent(dir, slot))?;
            let entry = entry.and_then(|row| DirentRow::decode(&row).ok());
            if entry.is_none_or(|entry| entry.ino != ino) {
                self.wrong(ino, format!("a link in inode {dir} has no entry there"));
            }
            Ok(true)
        })?;
        if ino == Ino::ROOT {
            if count > 0 || row.parent != Ino::ROOT {
                self.wrong(ino, "the root directory is in a directory");
            }
            return Ok(());
        }
        let orphan = self.view.get(Table::Orphan, &keys::inode(ino))?.is_some();
        if (count == 0) != (row.nlink == 0) || orphan != (row.nlink == 0) {
            let orphan = if orphan { "an orphan" } else { "no orphan" };
            let detail = format!("{count} names, {} links, {orphan}", row.nlink);
            self.wrong(ino, detail);
        } else if row.attrs.kind != Kind::Dir && count != u64::from(row.nlink) {
            self.wrong(ino, format!("{count} names, {} links", row.nlink));
        } else if row.attrs.kind == Kind::Dir && (count > 1 || count == 1 && parent != row.parent) {
            self.wrong(ino, "a directory is not where it says");
        }
        if row.attrs.kind != Kind::Dir && row.nlink > 1 {
            let known = self.view.get(Table::HardLink, &keys::inode(ino))?;
            if known.is_none() {
                self.wrong(ino, "several links, but not known as such");
            }
        }
        Ok(())
    }

    /// The entries of a directory, against its size and count of links.
    fn entries(&self, dir: Ino, row: &InodeRow) -> Result<()> {
        let (from, to) = keys::ino_range(dir);
        let (mut count, mut subdirs) = (0_u64, 0_u64);
        for_each_row(self.view, Table::Dirent, &from, &to, &mut |key, value| {
            let (_, slot) = keys::parse_dirent(key)?;
            count += 1;
            match DirentRow::decode(value) {
                Ok(entry) => {
                    subdirs += u64::from(entry.kind == Kind::Dir);
                    self.dirent(dir, slot, &entry)?;
                }
                Err(error) => self.wrong(dir, error.to_string()),
            }
            Ok(true)
        })?;
        if row.attrs.size != count {
            let detail = format!("{count} entries, size {}", row.attrs.size);
            self.wrong(dir, detail);
        }
        if row.nlink != 0 && u64::from(row.nlink) != subdirs + 2 {
            let detail = format!("{subdirs} subdirectories, {} links", row.nlink);
            self.wrong(dir, detail);
        }
        Ok(())
    }

    fn dirent(&self, dir: Ino, slot: Slot, entry: &DirentRow) -> Result<()> {
        let name = String::from_utf8_lossy(&entry.name);
        if slot.raw() & !0xff != first_slot(&entry.name).raw() {
            self.wrong(dir, format!("the entry {name:?} is at another's place"));
        }
        match self.inode(entry.ino)? {
            None => self.wrong(dir, format!("the entry {name:?} has no inode")),
            Some(row) if row.attrs.kind != entry.kind => {
                self.wrong(dir, format!("the entry {name:?} is of another kind"));
            }
            Some(_) => {}
        }
        let link = keys::link(entry.ino, dir, slot);
        if self.view.get(Table::Link, &link)?.is_none() {
            self.wrong(dir, format!("the entry {name:?} has no link"));
        }
        Ok(())
    }

    fn xattrs(&self, ino: Ino, row: &InodeRow) -> Result<()> {
        let (from, to) = keys::ino_range(ino);
        let some = !self.view.scan(Table::Xattr, &from, &to, 1)?.is_empty();
        if some && row.attrs.flags & FLAG_HAS_XATTRS == 0 {
            self.wrong(ino, "attributes that the inode does not know of");
        }
        Ok(())
    }

    /// The extents of a file: their order, their chunks, their sum.
    fn extents(&self, ino: Ino, row: &InodeRow) -> Result<()> {
        let (from, to) = keys::ino_range(ino);
        let (mut end, mut mapped) = (0_u64, 0_u64);
        let mut places: BTreeSet<Place> = BTreeSet::new();
        let mut wrong: BTreeSet<String> = BTreeSet::new();
        for_each_row(self.view, Table::Extent, &from, &to, &mut |key, value| {
            let (_, off) = keys::parse_extent(key)?;
            let extent = match ExtentRow::decode(value) {
                Ok(extent) => extent,
                Err(error) => {
                    wrong.insert(error.to_string());
                    return Ok(true);
                }
            };
            if let Err(error) = keys::check_extent(off, &extent) {
                wrong.insert(error.to_string());
            }
            if off.raw() < end {
                wrong.insert("extents overlap".to_owned());
            }
            end = off.raw().saturating_add(u64::from(extent.len));
            mapped = mapped.saturating_add(u64::from(extent.len));
            if let Some(detail) = self.chunk_of(&extent)? {
                wrong.insert(detail);
            }
            places.extend(self.damage.chunks.get(&extent.chunk));
            Ok(true)
        })?;
        if end > row.attrs.size || end > FileOff::MAX.raw() {
            wrong.insert("extents beyond the end of the file".to_owned());
        }
        if mapped != row.mapped {
            wrong.insert(format!("{mapped} bytes are mapped, {} counted", row.mapped));
        }
        for detail in wrong {
            self.wrong(ino, detail);
        }
        if !places.is_empty() {
            for path in names_of(self.view, ino)? {
                places.iter().for_each(|at| self.suffers(*at, path.clone()));
            }
        }
        Ok(())
    }

    /// What is wrong with the chunk of an extent.
    fn chunk_of(&self, extent: &ExtentRow) -> Result<Option<String>> {
        let row = self.view.get(Table::Chunk, &keys::chunk(&extent.chunk))?;
        let Some(row) = row.and_then(|row| ChunkRow::decode(&row).ok()) else {
            return Ok(Some(format!("chunk {} is unknown", extent.chunk)));
        };
        let end = u64::from(extent.chunk_off) + u64::from(extent.len);
        Ok((end > u64::from(row.len)).then(|| "an extent exceeds its chunk".to_owned()))
    }

    /// Rows of inodes that do not exist.
    fn strays(&self) -> Result<()> {
        for table in [
            Table::Dirent,
            Table::Link,
            Table::Extent,
            Table::Xattr,
            Table::Orphan,
        ] {
            let mut at = Ino::from_raw(0);
            loop {
                // One look at each inode, whatever the number of its rows. The highest number has no next one.
                if at.next() == at {
                    break;
                }
                let from = keys::inode(at.next());
                let page = self.view.scan(table, &from, &[0xff; 9], 1)?;
                let Some((key, _)) = page.first() else {
                    break;
                };
                let Some(ino) = key.first_chunk::<8>() else {
                    self.found
                        .of(format!("a key of table {}", table.name()), None);
                    break;
                };
                at = Ino::from_raw(u64::from_be_bytes(*ino));
                if self.view.get(Table::Inode, &keys::inode(at))?.is_none() {
                    let detail = format!("rows of table {} without an inode", table.name());
                    self.wrong(at, detail);
                }
            }
        }
        Ok(())
    }

    // ---- snapshots -----------------------------------------------------------------------------

    fn snapshots(&self) -> Result<()> {
        self.last_nodes()?;
        let mut rows = Vec::new();
        for_each_row(
            self.view,
            Table::Snapshot,
            &[],
            &[0xff; 4],
            &mut |key, value| {
                let name = keys::parse_snapshot(key)?.to_owned();
                match SnapshotRow::decode(value) {
                    Ok(row) => rows.push((name, row)),
                    Err(error) => self.found.of(error.to_string(), Some(format!("{name}:/"))),
                }
                Ok(true)
            },
        )?;
        for (name, row) in rows {
            let at = |path: &[u8]| format!("{name}:/{}", String::from_utf8_lossy(path));
            let tree = self.engine.tree();
            let entry = match tree.root(&row) {
                Ok(entry) => entry,
                Err(error) => {
                    self.found.error(&error, Some(at(b"")));
                    continue;
                }
            };
            let record = RootRecord {
                content: entry.content,
                full: entry.full,
            };
            if record.seed().as_bytes() != row.seed.as_bytes() {
                self.found
                    .of("the root does not give the seed", Some(at(b"")));
            }
            if !self.damage.chunks.is_empty() {
                paths_in_snapshot(&tree, &row, &self.damage.chunks, &mut |place, path| {
                    self.suffers(place, at(path));
                });
            }
        }
        Ok(())
    }

    /// The nodes that the next snapshot will build on are known.
    fn last_nodes(&self) -> Result<()> {
        for table in [Table::SnapDir, Table::SnapFile] {
            for_each_row(self.view, table, &[], &[0xff; 9], &mut |key, value| {
                let ino = keys::parse_inode(key)?;
                let node = match table {
                    Table::SnapDir => SnapDirRow::decode(value).map(|row| row.trie),
                    _ => SnapFileRow::decode(value).map(|row| row.node),
                };
                match node {
                    Ok(id) if self.view.get(Table::Chunk, &keys::chunk(&id))?.is_some() => {}
                    Ok(id) => self.wrong(ino, format!("node {id} of the last snapshot is unknown")),
                    Err(error) => self.wrong(ino, error.to_string()),
                }
                Ok(true)
            })?;
        }
        Ok(())
    }
}
