//! A disk that cannot read some bytes, and one that dies at a chosen call.
#![allow(clippy::unwrap_used, reason = "test support")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mmhfs::base::{ByteLen, Error, PackOff, Result};
use mmhfs::disk::{Access, Disk, DiskFile, RealDisk, Space};

#[derive(Default)]
struct Plan {
    /// Bytes of files that cannot be read, and how often.
    bad: Vec<(String, Range<u64>, u32)>,
    /// Calls that change something and still succeed; `None`: all.
    lives: Option<u32>,
    /// A file for which there is no room.
    no_room: Option<String>,
    /// Calls so far that read.
    reads: u64,
}

/// A real directory behind a plan of faults.
pub(crate) struct SickDisk {
    inner: RealDisk,
    plan: Arc<Mutex<Plan>>,
}

struct SickFile {
    name: String,
    inner: Arc<dyn DiskFile>,
    plan: Arc<Mutex<Plan>>,
}

fn broken(op: &str) -> Error {
    Error::io(op, std::io::Error::other("told to fail"))
}

impl Plan {
    fn change(&mut self) -> Result<()> {
        match &mut self.lives {
            Some(0) => Err(broken("the disk is gone")),
            Some(lives) => {
                *lives -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl SickDisk {
    pub(crate) fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            inner: RealDisk::new(root),
            plan: Arc::default(),
        })
    }

    /// Makes bytes of a file unreadable.
    pub(crate) fn spoil(&self, name: &str, range: Range<u64>) {
        self.spoil_for(name, range, u32::MAX);
    }

    /// Makes bytes of a file unreadable for so many reads.
    pub(crate) fn spoil_for(&self, name: &str, range: Range<u64>, reads: u32) {
        let bad = (name.to_owned(), range, reads);
        self.plan.lock().unwrap().bad.push(bad);
    }

    /// Lets only so many changes succeed from now on.
    pub(crate) fn die_after(&self, changes: Option<u32>) {
        self.plan.lock().unwrap().lives = changes;
    }

    /// Lets no file of this name be created.
    pub(crate) fn no_room_for(&self, name: &str) {
        self.plan.lock().unwrap().no_room = Some(name.to_owned());
    }

    /// Calls that read since the last time.
    pub(crate) fn take_reads(&self) -> u64 {
        std::mem::take(&mut self.plan.lock().unwrap().reads)
    }

    fn wrap(&self, name: &str, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SickFile {
            name: name.to_owned(),
            inner,
            plan: Arc::clone(&self.plan),
        })
    }

    fn change(&self) -> Result<()> {
        self.plan.lock().unwrap().change()
    }
}

impl Disk for SickDisk {
    fn create_new(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        self.change()?;
        if self.plan.lock().unwrap().no_room.as_deref() == Some(name) {
            return Err(Error::NoSpace);
        }
        Ok(self.wrap(name, self.inner.create_new(name)?))
    }
    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.inner.open(name, access)?))
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.change()?;
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.change()?;
        self.inner.remove(name)
    }
    fn create_dir(&self, name: &str) -> Result<()> {
        self.change()?;
        self.inner.create_dir(name)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.change()?;
        self.inner.sync_dir(dir)
    }
    fn len(&self, name: &str) -> Result<Option<ByteLen>> {
        self.inner.len(name)
    }
    fn space(&self) -> Result<Space> {
        self.inner.space()
    }
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
}

impl DiskFile for SickFile {
    fn read_at(&self, off: PackOff, buf: &mut [u8]) -> Result<usize> {
        let mut plan = self.plan.lock().unwrap();
        plan.reads += 1;
        let wanted = off.raw()..off.raw() + buf.len() as u64;
        let hit = plan.bad.iter_mut().find(|(name, bad, left)| {
            *left > 0 && *name == self.name && bad.start < wanted.end && wanted.start < bad.end
        });
        if let Some((_, _, left)) = hit {
            *left -= 1;
            // What a real disk leaves in the buffer is anything.
            buf.fill(0xee);
            return Err(broken("read"));
        }
        drop(plan);
        self.inner.read_at(off, buf)
    }
    fn write_at(&self, off: PackOff, buf: &[u8]) -> Result<()> {
        self.plan.lock().unwrap().change()?;
        self.inner.write_at(off, buf)
    }
    fn sync_data(&self) -> Result<()> {
        self.plan.lock().unwrap().change()?;
        self.inner.sync_data()
    }
    fn len(&self) -> Result<ByteLen> {
        self.inner.len()
    }
}
