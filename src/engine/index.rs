//! The index of a store: opening it, and making it anew from the log (I12).
//!
//! A new index is built beside the old one and takes its name when it is complete: whatever ends the program
//! before that leaves the old one, and between the two renames there is none, which is as good as one that
//! has to be made.

use std::path::Path;

use super::open::{Config, Place};
use crate::base::{Error, PackOff, Result, Site};
use crate::chunk::{
    CheckpointName, LogTail, Replay, Watermark, checkpoints, load_checkpoint, load_superblock,
    log_start, pack_name, replay, settle_log,
};
use crate::disk::{Disk, StoreLock, move_dir, remove_tree};
use crate::format::rows::{Op, PackKind};
use crate::format::superblock::Superblock;
use crate::meta::{Index, IndexConfig, MemoryTables};

/// Name of the directory of the index within a store.
const INDEX: &str = "index";
/// The index that is being made.
const INDEX_NEW: &str = "index.new";
/// The index that was replaced and not yet removed.
const INDEX_OLD: &str = "index.old";

pub(super) fn index_config(config: &Config) -> IndexConfig {
    let part = |n: u64| usize::try_from(config.memory / n).unwrap_or(usize::MAX);
    IndexConfig {
        cache_len: part(8),
        write_buffer_len: part(12),
        open_files_max: 256,
    }
}

/// The store whose index is worked on.
struct Home<'a> {
    dir: &'a Path,
    disk: &'a dyn Disk,
    /// What the index is in, if not in a directory.
    tables: Option<&'a MemoryTables>,
    superblock: &'a Superblock,
    config: &'a Config,
}

/// Opens the index and brings it up to the end of the log; one that does not fit is made anew.
///
/// # Errors
/// [`Error::Index`] if the index may be good but cannot be opened: nothing is deleted then. Those of the replay.
pub(super) fn open(
    place: &Place,
    superblock: &Superblock,
    config: &Config,
) -> Result<(Index, LogTail)> {
    let dir = place.dir.as_path();
    let home = Home {
        dir,
        disk: place.disk.as_ref(),
        tables: place.index.as_ref(),
        superblock,
        config,
    };
    home.clear()?;
    match home.current(&mut |index, ops, mark| index.apply(&ops, &mark.encode()))? {
        Ok(found) => Ok(found),
        Err(why) => {
            log::warn!("the index of {} {why}; it is made anew", dir.display());
            let (tail, _) = home.rebuild(&Watermark::START)?;
            Ok((home.open_current()?, tail))
        }
    }
}

/// Makes the index of a store that is not open anew and returns the number of commits in the log.
///
/// # Errors
/// As [`Engine::rebuild_index`](super::Engine::rebuild_index).
pub(super) fn rebuild(place: &Place, config: &Config) -> Result<u64> {
    let dir = place.dir.as_path();
    let disk = place.disk.as_ref();
    load_superblock(disk)?;
    let _lock = StoreLock::take(dir)?;
    let superblock = load_superblock(disk)?;
    let home = Home {
        dir,
        disk,
        tables: place.index.as_ref(),
        superblock: &superblock,
        config,
    };
    home.clear()?;
    // The index outlives a loss of power, and what only the system's cache has of the log does not.
    settle_log(disk, &superblock)?;
    // The old index may vouch for the end of a log that would be taken for a torn tail without it.
    let mut least = Watermark::START;
    if home.has_index() {
        match home.current(&mut |_, _, _| Ok(()))? {
            Ok((_, tail)) => least = tail.watermark(),
            Err(why) => log::info!("the old index of {} {why}", dir.display()),
        }
    }
    let (_, commits) = home.rebuild(&least)?;
    Ok(commits)
}

/// What is called with each commit that follows the index's watermark.
type EachCommit<'a> = &'a mut dyn FnMut(&Index, Vec<Op>, Watermark) -> Result<()>;

impl Home<'_> {
    fn has_index(&self) -> bool {
        self.tables.is_some() || self.disk.list(INDEX).is_ok_and(|names| !names.is_empty())
    }

    fn open_current(&self) -> Result<Index> {
        match self.tables {
            Some(tables) => Index::in_memory(tables.clone()),
            None => Index::open(&self.dir.join(INDEX), &index_config(self.config)),
        }
    }

    /// Removes what an interrupted rebuild has left.
    fn clear(&self) -> Result<()> {
        remove_tree(&self.dir.join(INDEX_NEW))?;
        remove_tree(&self.dir.join(INDEX_OLD))
    }

    /// Opens the index that is there and reads the log from its watermark on; or says why it must be made anew.
    fn current(
        &self,
        each: EachCommit<'_>,
    ) -> Result<std::result::Result<(Index, LogTail), String>> {
        let opened = self.open_current();
        let marked = opened.and_then(|index| index.watermark().map(|mark| (index, mark)));
        let (index, mark) = match marked {
            Ok(found) => found,
            Err(Error::IndexDamaged { op, detail }) => {
                return Ok(Err(format!("cannot be used ({op}: {detail})")));
            }
            Err(other) => return Err(other),
        };
        let mark = match mark.map(|mark| Watermark::decode(&mark)).transpose() {
            Ok(mark) => mark,
            Err(error) => return Ok(Err(format!("is unreadable ({error})"))),
        };
        // The log may not go back as far as that any more, but a checkpoint stands for what is missing.
        match (mark, log_start(self.disk, self.superblock)?) {
            (None, Some(_)) => return Ok(Err("is new".to_owned())),
            (Some(mark), Some(start)) if mark.pack < start => {
                return Ok(Err("is older than its log".to_owned()));
            }
            _ => {}
        }
        let mut each = |ops: Vec<Op>, mark: Watermark| each(&index, ops, mark);
        match replay(self.disk, self.superblock, mark, &mut each)? {
            Replay::Done(tail) => Ok(Ok((index, tail))),
            Replay::Foreign => Ok(Err("does not fit its log".to_owned())),
        }
    }

    /// Makes a new index from a checkpoint or from nothing, and the log from there on, which must reach `least`; it then takes the place of the old one.
    fn rebuild(&self, least: &Watermark) -> Result<(LogTail, u64)> {
        if let Some(tables) = self.tables {
            let new = MemoryTables::default();
            let (tail, commits) = self.build(&|| {
                new.clear();
                Index::in_memory(new.clone())
            })?;
            self.check_end(&tail.watermark(), least)?;
            tables.become_copy_of(&new);
            return Ok((tail, commits));
        }
        let new = self.dir.join(INDEX_NEW);
        let empty = || {
            remove_tree(&new)?;
            Index::open(&new, &index_config(self.config))
        };
        let built = self.build(&empty).and_then(|(tail, commits)| {
            self.check_end(&tail.watermark(), least)?;
            Ok((tail, commits))
        });
        let (tail, commits) = match built {
            Ok(built) => built,
            Err(error) => {
                // What is left of it is removed by the next one, if not now.
                let _ = remove_tree(&new);
                return Err(error);
            }
        };
        move_dir(&self.dir.join(INDEX), &self.dir.join(INDEX_OLD))?;
        move_dir(&new, &self.dir.join(INDEX))?;
        remove_tree(&self.dir.join(INDEX_OLD))?;
        Ok((tail, commits))
    }

    /// Fails if the log now ends before a place that it is known to have reached.
    fn check_end(&self, end: &Watermark, least: &Watermark) -> Result<()> {
        if end.lsn >= least.lsn {
            return Ok(());
        }
        let known = if end.pack == least.pack {
            end.off
        } else {
            PackOff::from_raw(0)
        };
        Err(Error::LogDamaged {
            path: self.disk.path(&pack_name(least.pack, PackKind::Log)),
            site: Site {
                pack: least.pack,
                off: known,
            },
            detail: "a commit that the index has does not verify any more".to_owned(),
        })
    }

    /// Takes the newest checkpoint that verifies, or else the whole log. If none does, and the log does not reach back to
    /// its beginning, the newest is the error: never a shorter tree. Each try is given a new index by `empty`.
    fn build(&self, empty: &dyn Fn() -> Result<Index>) -> Result<(LogTail, u64)> {
        let mut first = None;
        for name in checkpoints(self.disk)?.into_iter().rev() {
            match self.build_from(&empty()?, Some(name)) {
                Err(error @ (Error::CheckpointDamaged { .. } | Error::Io { .. })) => {
                    log::warn!("{error}");
                    first.get_or_insert(error);
                }
                done => return done,
            }
        }
        match (self.build_from(&empty()?, None), first) {
            // What is missing of the log is missed only because of it.
            (Err(error), Some(first)) if error.is_damage() => Err(first),
            (done, _) => done,
        }
    }

    fn build_from(&self, index: &Index, base: Option<CheckpointName>) -> Result<(LogTail, u64)> {
        let mark = match base {
            None => None,
            Some(name) => {
                let mut put = |rows: Vec<Op>| index.load(&rows);
                let mark = load_checkpoint(self.disk, self.superblock, name, &mut put)?;
                index.loaded(&mark.encode())?;
                Some(mark)
            }
        };
        let mut commits = 0;
        let mut each = |ops: Vec<Op>, mark: Watermark| {
            commits += 1;
            index.apply(&ops, &mark.encode())
        };
        match (replay(self.disk, self.superblock, mark, &mut each)?, base) {
            (Replay::Done(tail), _) => {
                index.flush()?;
                Ok((tail, commits))
            }
            (Replay::Foreign, Some(name)) => Err(Error::CheckpointDamaged {
                path: self.disk.path(&name.path()),
                offset: 0,
                detail: "its place is not in the log".to_owned(),
            }),
            (Replay::Foreign, None) => Err(Error::Internal(
                "a replay from the start did not fit the log",
            )),
        }
    }
}
