//! The simulated disk: what programs see, the medium below, the calls in their order.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::dice::Dice;
use super::faults::{CallKind, Fault, Plan};
use super::medium::{FileId, Medium, NameOp, Names, dice_idx, parent};
use crate::base::{ByteLen, Error, PackOff, Result};
use crate::disk::{Access, Disk, DiskFile, Space};
use crate::meta::MemoryTables;

/// What the simulated disk says it has room for.
const SPACE_BYTES: u64 = 1 << 40;

/// The world at the moment in which a call that changes the disk was on its way.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The number of the call among those that change the disk, from 1.
    pub step: u64,
    /// What it was, with the digits of the file's name replaced by `#`.
    pub label: String,
    /// The disk, the call on its way.
    pub medium: Medium,
    /// The index, if there is one to copy.
    pub index: Option<MemoryTables>,
}

struct State {
    medium: Medium,
    names: Names,
    bytes: BTreeMap<FileId, Vec<u8>>,
    next: FileId,
    dice: Dice,
    plan: Plan,
    steps: u64,
    crash_at: Option<u64>,
    off: bool,
    /// Of all calls and what they were given, in their order.
    calls: DefaultHasher,
    film: Option<(Vec<Shot>, Option<MemoryTables>)>,
}

/// A disk in memory. One seed and one sequence of calls give one behaviour.
pub struct SimDisk {
    /// A leaf lock.
    state: Arc<Mutex<State>>,
}

fn off_error() -> Error {
    Error::io("disk call", std::io::Error::other("the power is off"))
}

impl SimDisk {
    /// A disk that shows what lies on `medium`. What was on its way still is: the programs have died, not the
    /// machine.
    #[must_use]
    pub fn new(medium: Medium, seed: u64) -> Self {
        let state = State {
            names: medium.live_names(),
            bytes: medium.live_bytes(),
            next: medium.next_id(),
            medium,
            dice: Dice(seed),
            plan: Plan::default(),
            steps: 0,
            crash_at: None,
            off: false,
            calls: DefaultHasher::new(),
            film: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Lets calls fail from now on; an empty plan ends all faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.state.lock().plan = Plan::new(faults);
    }

    /// How many calls the present plan has made fail.
    #[must_use]
    pub fn faults_made(&self) -> u64 {
        self.state.lock().plan.made
    }

    /// Lets the power go off at this step: it and every later call fail.
    pub fn crash_at(&self, step: u64) {
        self.state.lock().crash_at = Some(step);
    }

    /// Takes a picture at every step from now on, with a copy of `index`.
    pub fn film(&self, index: Option<MemoryTables>) {
        self.state.lock().film = Some((Vec::new(), index));
    }

    /// The pictures so far.
    #[must_use]
    pub fn take_film(&self) -> Vec<Shot> {
        let film = self.state.lock().film.take();
        film.map_or_else(Vec::new, |(shots, _)| shots)
    }

    /// How many calls that change the disk there were.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// A hash of all calls so far, their arguments and their order.
    #[must_use]
    pub fn calls_hash(&self) -> u64 {
        self.state.lock().calls.finish()
    }

    /// What lies on the disk now.
    #[must_use]
    pub fn medium(&self) -> Medium {
        self.state.lock().medium.clone()
    }
}

impl State {
    fn note(&mut self, what: &str, name: &str, numbers: (u64, u64)) {
        (what, name, numbers).hash(&mut self.calls);
    }

    fn is_on(&self) -> Result<()> {
        if self.off { Err(off_error()) } else { Ok(()) }
    }

    /// Counts a call that changes the disk, which `on_its_way` puts on its way, and decides how it ends.
    fn step(
        &mut self,
        kind: CallKind,
        name: &str,
        on_its_way: impl FnOnce(&mut Medium),
    ) -> Result<()> {
        self.is_on()?;
        self.steps += 1;
        let failed = self.plan.call(kind, name);
        if failed.is_ok() {
            on_its_way(&mut self.medium);
        }
        if let Some((shots, index)) = &mut self.film {
            shots.push(Shot {
                step: self.steps,
                label: format!("{kind:?} {}", class_of(name)),
                medium: self.medium.clone(),
                index: index.as_ref().map(MemoryTables::copy),
            });
        }
        if self.crash_at.is_some_and(|at| self.steps >= at) {
            self.off = true;
            return Err(off_error());
        }
        failed
    }

    fn name_op(&mut self, kind: CallKind, op: NameOp, name: &str) -> Result<()> {
        self.step(kind, name, |medium| medium.push_name(op.clone()))?;
        self.names.apply(&op);
        Ok(())
    }

    fn write(&mut self, id: FileId, name: &str, off: usize, bytes: &[u8]) -> Result<()> {
        let mut sum = DefaultHasher::new();
        bytes.hash(&mut sum);
        self.note("write", name, (off as u64, sum.finish()));
        let done = self.step(CallKind::Write, name, |medium| {
            medium.push_write(id, off, bytes);
        });
        // A write that fails may have got somewhere.
        let count = match &done {
            Ok(()) => bytes.len(),
            Err(_) if self.off => 0,
            Err(_) => dice_idx(&mut self.dice, bytes.len() + 1),
        };
        let written = bytes.get(..count).unwrap_or(bytes);
        if done.is_err() && count > 0 {
            self.medium.push_write(id, off, written);
        }
        let live = self.bytes.entry(id).or_default();
        live.resize(live.len().max(off + count), 0);
        if let Some(to) = live.get_mut(off..off + count) {
            to.copy_from_slice(written);
        }
        done
    }

    fn sync(&mut self, id: FileId, name: &str) -> Result<()> {
        self.note("sync", name, (0, 0));
        let done = self.step(CallKind::Sync, name, |_| {});
        let len = self.bytes.get(&id).map_or(0, Vec::len);
        match &done {
            Ok(()) => self.medium.sync(id, len),
            Err(_) if self.off => {}
            Err(_) => {
                // Linux marks the pages clean: a later sync succeeds without them. They may stay in memory or go.
                self.medium.drop_pending(id, &mut self.dice);
                if self.dice.one_in(2) {
                    let mut bytes = self.medium.durable(id).to_vec();
                    bytes.resize(len, 0);
                    self.bytes.insert(id, bytes);
                }
            }
        }
        done
    }
}

/// A name without its digits.
fn class_of(name: &str) -> String {
    let (dir, last) = name.rsplit_once('/').unwrap_or(("", name));
    let (stem, extension) = last.split_once('.').unwrap_or((last, ""));
    // Packs have 16 digits, checkpoints several numbers of 16.
    let stem = if stem.len() >= 16 { "#" } else { stem };
    let extension: String = extension
        .chars()
        .map(|c| if c.is_ascii_digit() { '#' } else { c })
        .collect();
    format!("{dir}/{stem}.{extension}")
}

impl Disk for SimDisk {
    fn create_new(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.note("create", name, (0, 0));
        state.is_on()?;
        if state.names.files.contains_key(name) {
            return Err(Error::Exists);
        }
        let dir = parent(name);
        if !dir.is_empty() && !state.names.dirs.contains(dir) {
            return Err(Error::NotFound);
        }
        let id = state.next;
        state.next += 1;
        state.name_op(CallKind::Create, NameOp::Create(name.to_owned(), id), name)?;
        state.bytes.insert(id, Vec::new());
        Ok(self.file(id, name))
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.note("open", name, (u64::from(access == Access::Read), 0));
        state.is_on()?;
        let id = state.names.files.get(name).copied();
        id.map(|id| self.file(id, name)).ok_or(Error::NotFound)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.note("rename", from, (0, 0));
        state.is_on()?;
        let id = *state.names.files.get(from).ok_or(Error::NotFound)?;
        let op = NameOp::Rename(from.to_owned(), to.to_owned(), id);
        let done = state.name_op(CallKind::Rename, op.clone(), to);
        if done.is_err() && !state.off && state.dice.one_in(4) {
            // It was done, and the answer was lost.
            state.names.apply(&op);
            state.medium.push_name(op);
        }
        done
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.note("remove", name, (0, 0));
        state.is_on()?;
        let id = *state.names.files.get(name).ok_or(Error::NotFound)?;
        state.name_op(CallKind::Remove, NameOp::Remove(name.to_owned(), id), name)
    }

    fn create_dir(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.note("mkdir", name, (0, 0));
        state.is_on()?;
        if state.names.dirs.contains(name) {
            return Ok(());
        }
        state.name_op(
            CallKind::CreateDir,
            NameOp::CreateDir(name.to_owned()),
            name,
        )
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let mut state = self.state.lock();
        state.note("list", dir, (0, 0));
        state.is_on()?;
        if !dir.is_empty() && !state.names.dirs.contains(dir) {
            return Err(Error::NotFound);
        }
        let names = state.names.files.keys().chain(&state.names.dirs);
        let mut found: Vec<String> = names
            .filter(|name| parent(name) == dir)
            .map(|name| name.rsplit('/').next().unwrap_or(name).to_owned())
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.note("fsync directory", dir, (0, 0));
        state.step(CallKind::SyncDir, dir, |_| {})?;
        state.medium.sync_dir(dir);
        Ok(())
    }

    fn len(&self, name: &str) -> Result<Option<ByteLen>> {
        let mut state = self.state.lock();
        state.note("stat", name, (0, 0));
        state.is_on()?;
        let id = state.names.files.get(name);
        let len = id.map(|id| state.bytes.get(id).map_or(0, Vec::len));
        Ok(len.map(|len| ByteLen::from_raw(len as u64)))
    }

    fn space(&self) -> Result<Space> {
        self.state.lock().is_on()?;
        Ok(Space {
            total_bytes: SPACE_BYTES,
            free_bytes: SPACE_BYTES,
            available_bytes: SPACE_BYTES,
            files: SPACE_BYTES,
            files_free: SPACE_BYTES,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("simulated").join(name)
    }
}

impl SimDisk {
    fn file(&self, id: FileId, name: &str) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            state: Arc::clone(&self.state),
            id,
            name: name.to_owned(),
        })
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    id: FileId,
    name: String,
}

fn offset(off: PackOff) -> Result<usize> {
    usize::try_from(off.raw()).map_err(|_| Error::FileTooLarge)
}

impl DiskFile for SimFile {
    fn read_at(&self, off: PackOff, buf: &mut [u8]) -> Result<usize> {
        let mut state = self.state.lock();
        state.note("read", &self.name, (off.raw(), buf.len() as u64));
        state.is_on()?;
        state.plan.call(CallKind::Read, &self.name)?;
        let bytes = state.bytes.get(&self.id).map_or(&[][..], Vec::as_slice);
        let from = bytes.get(offset(off)?..).unwrap_or(&[]);
        let count = from.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(from) {
            *to = *from;
        }
        Ok(count)
    }

    fn write_at(&self, off: PackOff, buf: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        state.write(self.id, &self.name, offset(off)?, buf)
    }

    fn sync_data(&self) -> Result<()> {
        self.state.lock().sync(self.id, &self.name)
    }

    fn len(&self) -> Result<ByteLen> {
        let state = self.state.lock();
        state.is_on()?;
        let len = state.bytes.get(&self.id).map_or(0, Vec::len);
        Ok(ByteLen::from_raw(len as u64))
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimDisk")
    }
}
