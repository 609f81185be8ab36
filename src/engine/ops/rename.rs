//! Rename: one change, whatever it replaces or exchanges.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::limits::LINKS_MAX;
use crate::base::{Error, Ino, Result, Slot, Timestamp};
use crate::engine::Engine;
use crate::engine::inode::Locked;
use crate::engine::names::{check_name, is_reserved};
use crate::engine::ops::create::check_dir;
use crate::engine::ops::remove::{check_kind, dangling};
use crate::engine::types::RenameHow;
use crate::engine::way::Way;
use crate::format::rows::{DirentRow, FLAG_APPEND, FLAG_IMMUTABLE, Kind};

/// A directory entry as it was found.
struct Found {
    slot: Slot,
    row: DirentRow,
}

/// One side of a rename.
struct Place<'a> {
    dir: Ino,
    name: &'a [u8],
}

impl Engine {
    /// Moves an entry, replacing or exchanging what is at the destination.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Exists`] with `no_replace`, [`Error::NotEmpty`], [`Error::IsDirectory`],
    /// [`Error::NotDirectory`], [`Error::Invalid`] for moving a directory into itself, [`Error::NotPermitted`].
    pub fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        how: RenameHow,
    ) -> Result<()> {
        self.refuse_virtual(dir)?;
        self.refuse_virtual(new_dir)?;
        self.check_writable()?;
        check_name(name)?;
        check_name(new_name)?;
        if how.no_replace && how.exchange {
            return Err(Error::Invalid("NOREPLACE and EXCHANGE exclude each other"));
        }
        if is_reserved(dir, name) || is_reserved(new_dir, new_name) {
            return Err(Error::NotPermitted("the directory of the snapshots"));
        }
        self.throttle()?;
        // One directory rename at a time: two could otherwise form a loop (each valid by itself).
        let _order = self.renames.lock();
        let (from, to) = (
            Place { dir, name },
            Place {
                dir: new_dir,
                name: new_name,
            },
        );
        let (mut locked, source, target) = self.lock_both(&from, &to)?;
        check_dir(locked.get(dir)?.1, false)?;
        check_dir(locked.get(new_dir)?.1, target.is_none())?;
        if target.is_some() && how.no_replace {
            return Err(Error::Exists);
        }
        if target.is_none() && how.exchange {
            return Err(Error::NotFound);
        }
        for found in [Some(&source), target.as_ref()].into_iter().flatten() {
            if locked.get(found.row.ino)?.1.row.attrs.flags & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
                return Err(Error::NotPermitted("immutable or append-only"));
            }
        }
        if source.row.kind == Kind::Dir {
            self.check_no_loop(source.row.ino, new_dir)?;
        }
        let now = self.env.now();
        match target {
            Some(target) if target.row.ino == source.row.ino => Ok(()),
            Some(target) if how.exchange => {
                if target.row.kind == Kind::Dir {
                    self.check_no_loop(target.row.ino, dir)?;
                }
                self.exchange(&mut locked, &from, &to, &source, &target, now)
            }
            target => self.replace(&mut locked, &from, &to, &source, target.as_ref(), now),
        }
    }

    /// Finds and locks both entries and their directories.
    fn lock_both(
        &self,
        from: &Place<'_>,
        to: &Place<'_>,
    ) -> Result<(Locked, Found, Option<Found>)> {
        let (dir, new_dir) = (self.inode(from.dir)?, self.inode(to.dir)?);
        let mut missing: Vec<Ino> = Vec::new();
        loop {
            let source = self.peek(from)?.ok_or(Error::NotFound)?;
            let target = self.peek(to)?;
            let mut inodes = vec![Arc::clone(&dir), Arc::clone(&new_dir)];
            let mut stale = Vec::new();
            for found in [Some(&source), target.as_ref()].into_iter().flatten() {
                match self.inode(found.row.ino) {
                    Ok(inode) => inodes.push(inode),
                    Err(Error::Stale) => stale.push(found.row.ino),
                    Err(other) => return Err(other),
                }
            }
            if stale.iter().any(|ino| missing.contains(ino)) {
                return Err(dangling());
            }
            if !stale.is_empty() {
                missing.extend(stale);
                continue;
            }
            let mut locked = Locked::new(inodes);
            let now = self.find(from.dir, from.name)?;
            let target_now = self.find(to.dir, to.name)?;
            let same = |a: Option<&Found>, b: Option<&(Slot, DirentRow)>| {
                a.map(|f| (f.slot, f.row.ino)) == b.map(|(slot, row)| (*slot, row.ino))
            };
            if same(Some(&source), now.as_ref()) && same(target.as_ref(), target_now.as_ref()) {
                for found in [Some(&source), target.as_ref()].into_iter().flatten() {
                    check_kind(&mut locked, &found.row)?;
                }
                return Ok((locked, source, target));
            }
        }
    }

    fn peek(&self, place: &Place<'_>) -> Result<Option<Found>> {
        let inode = self.inode(place.dir)?;
        let _state = inode.state.read();
        Ok(self
            .find(place.dir, place.name)?
            .map(|(slot, row)| Found { slot, row }))
    }

    /// Checks that `moved` is not `dir` or above it. Parents of other directories are stable: the caller
    /// holds the lock of all directory renames.
    fn check_no_loop(&self, moved: Ino, dir: Ino) -> Result<()> {
        let mut at = dir;
        let mut way = Way::new(dir);
        while at != Ino::ROOT {
            if at == moved {
                return Err(Error::Invalid("a directory cannot move into itself"));
            }
            at = self.parent_of(at)?;
            way.step(at)?;
        }
        Ok(())
    }

    fn replace(
        &self,
        locked: &mut Locked,
        from: &Place<'_>,
        to: &Place<'_>,
        source: &Found,
        target: Option<&Found>,
        now: Timestamp,
    ) -> Result<()> {
        let is_dir = source.row.kind == Kind::Dir;
        if let Some(target) = target {
            match (is_dir, target.row.kind == Kind::Dir) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if locked.get(target.row.ino)?.1.row.attrs.size > 0 => {
                    return Err(Error::NotEmpty);
                }
                _ => {}
            }
        } else if is_dir && from.dir != to.dir && locked.get(to.dir)?.1.row.nlink >= LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        let slot = match target {
            Some(target) => target.slot,
            None => self.free_slot(to.dir, to.name)?,
        };
        let mut change = self.change();
        change.del_entry(from.dir, source.slot, source.row.ino);
        if let Some(target) = target {
            change.del_entry(to.dir, target.slot, target.row.ino);
            let (inode, state) = locked.get(target.row.ino)?;
            state.row.attrs.ctime = now;
            self.drop_name(&mut change, inode, state);
        }
        if slot.raw() & 0xff != 0 {
            self.collisions.store(true, Ordering::Release);
            change.set_collisions();
        }
        change.put_entry(to.dir, slot, source.row.ino, source.row.kind, to.name);
        let (inode, state) = locked.get(source.row.ino)?;
        state.row.attrs.ctime = now;
        if is_dir {
            state.row.parent = to.dir;
        }
        change.put_inode(inode, state);
        let replaced_dir = target.is_some_and(|t| t.row.kind == Kind::Dir);
        let (parent, state) = locked.get(from.dir)?;
        state.row.attrs.size = state.row.attrs.size.saturating_sub(1);
        state.row.nlink = state.row.nlink.saturating_sub(u32::from(is_dir));
        state.row.attrs.mtime = now;
        state.row.attrs.ctime = now;
        change.put_inode(parent, state);
        let (parent, state) = locked.get(to.dir)?;
        state.row.attrs.size += u64::from(target.is_none());
        state.row.nlink = state
            .row
            .nlink
            .saturating_add(u32::from(is_dir))
            .saturating_sub(u32::from(replaced_dir));
        state.row.attrs.mtime = now;
        state.row.attrs.ctime = now;
        change.put_inode(parent, state);
        change.apply();
        Ok(())
    }

    fn exchange(
        &self,
        locked: &mut Locked,
        from: &Place<'_>,
        to: &Place<'_>,
        source: &Found,
        target: &Found,
        now: Timestamp,
    ) -> Result<()> {
        let mut change = self.change();
        change.del_entry(from.dir, source.slot, source.row.ino);
        change.del_entry(to.dir, target.slot, target.row.ino);
        change.put_entry(
            from.dir,
            source.slot,
            target.row.ino,
            target.row.kind,
            from.name,
        );
        change.put_entry(
            to.dir,
            target.slot,
            source.row.ino,
            source.row.kind,
            to.name,
        );
        for (found, dir) in [(source, to.dir), (target, from.dir)] {
            let (inode, state) = locked.get(found.row.ino)?;
            state.row.attrs.ctime = now;
            if found.row.kind == Kind::Dir {
                state.row.parent = dir;
            }
            change.put_inode(inode, state);
        }
        let kinds = [source.row.kind == Kind::Dir, target.row.kind == Kind::Dir];
        for (dir, [leaves, comes]) in [(from.dir, kinds), (to.dir, [kinds[1], kinds[0]])] {
            let (parent, state) = locked.get(dir)?;
            state.row.nlink = state
                .row
                .nlink
                .saturating_add(u32::from(comes))
                .saturating_sub(u32::from(leaves));
            state.row.attrs.mtime = now;
            state.row.attrs.ctime = now;
            change.put_inode(parent, state);
        }
        change.apply();
        Ok(())
    }
}
