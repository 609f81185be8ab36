//! Extended attributes and access control lists.

use std::sync::Arc;

use crate::base::limits::{
    XATTR_LIST_LEN_MAX, XATTR_NAME_LEN_MAX, XATTR_TOTAL_LEN_MAX, XATTR_VALUE_LEN_MAX,
};
use crate::base::{Error, Ino, Result};
use crate::engine::Engine;
use crate::engine::acl::{self, Acl};
use crate::engine::inode::{Inode, State};
use crate::engine::types::{Caller, XattrMode};
use crate::format::keys;
use crate::format::rows::{FLAG_APPEND, FLAG_HAS_XATTRS, FLAG_IMMUTABLE, Kind, Table};
use crate::meta::for_each_row;

/// Attributes under this prefix are facts about how a file is stored; they are made up on the spot.
const FACTS: &[u8] = b"user.mmhfs.";

impl Engine {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`], [`Error::Unsupported`] for a namespace that is not kept.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if let Some(fact) = name.strip_prefix(FACTS) {
            return self.fact(ino, fact);
        }
        if let Some(value) = self.virtual_getxattr(ino, name)? {
            return Ok(value);
        }
        check_namespace(name)?;
        let inode = self.inode(ino)?;
        let state = inode.state.read();
        self.xattr_row(ino, &state, name)?.ok_or(Error::NoAttribute)
    }

    /// The names of all extended attributes, each followed by a NUL.
    ///
    /// `trusted.*` is listed for root only.
    ///
    /// # Errors
    /// [`Error::AttributeTooLarge`] if the list is longer than the kernel takes.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        if let Some(list) = self.virtual_listxattr(ino)? {
            return Ok(list);
        }
        let inode = self.inode(ino)?;
        let state = inode.state.read();
        let mut list = Vec::new();
        if state.row.attrs.flags & FLAG_HAS_XATTRS != 0 {
            let (from, to) = keys::ino_range(ino);
            for_each_row(&self.live, Table::Xattr, &from, &to, &mut |key, _| {
                let (_, name) = keys::parse_xattr(key)?;
                if caller.uid == 0 || !name.starts_with(b"trusted.") {
                    list.extend_from_slice(name.as_ref());
                    list.push(0);
                }
                Ok(true)
            })?;
        }
        if list.len() > XATTR_LIST_LEN_MAX {
            Err(Error::AttributeTooLarge)
        } else {
            Ok(list)
        }
    }

    /// Sets an extended attribute; the kernel has checked the permissions.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::NoAttribute`] by `mode`, [`Error::AttributeTooLarge`],
    /// [`Error::Unsupported`], [`Error::NotPermitted`].
    pub fn setxattr(
        &self,
        _caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        if name.starts_with(FACTS) {
            return Err(Error::NotPermitted("user.mmhfs.* cannot be set"));
        }
        self.refuse_virtual(ino)?;
        self.check_writable()?;
        check_namespace(name)?;
        if name.len() > XATTR_NAME_LEN_MAX {
            return Err(Error::BufferTooSmall);
        }
        if value.len() > XATTR_VALUE_LEN_MAX {
            return Err(Error::AttributeTooLarge);
        }
        self.throttle()?;
        self.reserve(value.len() as u64)?;
        let inode = self.inode(ino)?;
        if name == acl::ACCESS || name == acl::DEFAULT {
            return self.set_acl(&inode, name, value);
        }
        let mut guard = inode.write();
        if guard.gone {
            return Err(Error::Stale);
        }
        if guard.row.attrs.flags & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
            return Err(Error::NotPermitted("immutable or append-only"));
        }
        let exists = self.xattr_row(ino, &guard, name)?.is_some();
        match mode {
            XattrMode::Create if exists => return Err(Error::Exists),
            XattrMode::Replace if !exists => return Err(Error::NoAttribute),
            _ => {}
        }
        self.check_xattr_room(&inode, &guard, name, value)?;
        let now = self.env.now();
        let mut change = self.change();
        change.set_xattr(ino, name, Some(value));
        guard.row.attrs.flags |= FLAG_HAS_XATTRS;
        guard.row.attrs.ctime = now;
        change.put_inode(&inode, &guard);
        change.apply();
        Ok(())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`], [`Error::NotPermitted`].
    pub fn removexattr(&self, _caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        if name.starts_with(FACTS) {
            return Err(Error::NotPermitted("user.mmhfs.* cannot be removed"));
        }
        self.refuse_virtual(ino)?;
        self.check_writable()?;
        check_namespace(name)?;
        let inode = self.inode(ino)?;
        let mut guard = inode.write();
        if guard.gone {
            return Err(Error::Stale);
        }
        if guard.row.attrs.flags & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
            return Err(Error::NotPermitted("immutable or append-only"));
        }
        if self.xattr_row(ino, &guard, name)?.is_none() {
            return Err(Error::NoAttribute);
        }
        let now = self.env.now();
        let mut change = self.change();
        change.set_xattr(ino, name, None);
        guard.row.attrs.ctime = now;
        change.put_inode(&inode, &guard);
        change.apply();
        Ok(())
    }

    /// Sets or (with an empty value) removes an access control list and keeps the mode in step.
    fn set_acl(&self, inode: &Arc<Inode>, name: &[u8], value: &[u8]) -> Result<()> {
        let list = if value.is_empty() {
            None
        } else {
            Some(Acl::parse(value)?)
        };
        let mut guard = inode.write();
        if guard.gone {
            return Err(Error::Stale);
        }
        if guard.row.attrs.flags & (FLAG_IMMUTABLE | FLAG_APPEND) != 0 {
            return Err(Error::NotPermitted("immutable or append-only"));
        }
        if guard.row.attrs.kind == Kind::Symlink {
            return Err(Error::Unsupported("access control list of a symbolic link"));
        }
        if name == acl::DEFAULT && guard.row.attrs.kind != Kind::Dir && list.is_some() {
            return Err(Error::AccessDenied);
        }
        self.check_xattr_room(inode, &guard, name, value)?;
        let now = self.env.now();
        let mut change = self.change();
        // A minimal access list says nothing that the mode does not say; a default list always counts.
        let keep = list
            .as_ref()
            .filter(|l| name == acl::DEFAULT || !l.is_minimal())
            .map(|_| value);
        change.set_xattr(inode.ino, name, keep);
        if keep.is_some() {
            guard.row.attrs.flags |= FLAG_HAS_XATTRS;
        }
        if let Some(list) = list.filter(|_| name == acl::ACCESS) {
            guard.row.attrs.mode = (guard.row.attrs.mode & !0o777) | list.mode();
        }
        guard.row.attrs.ctime = now;
        change.put_inode(inode, &guard);
        change.apply();
        Ok(())
    }

    /// Fails if the attributes of an inode would take more than an entry of a snapshot has room for.
    fn check_xattr_room(
        &self,
        inode: &Inode,
        state: &State,
        name: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let mut total = name.len() + value.len();
        if state.row.attrs.flags & FLAG_HAS_XATTRS != 0 {
            let (from, to) = keys::ino_range(inode.ino);
            for_each_row(&self.live, Table::Xattr, &from, &to, &mut |key, old| {
                let (_, other) = keys::parse_xattr(key)?;
                if other != name {
                    total += other.len() + old.len();
                }
                Ok(true)
            })?;
        }
        if total > XATTR_TOTAL_LEN_MAX {
            Err(Error::NoSpace)
        } else {
            Ok(())
        }
    }

    /// One of the facts about how a file is stored, as text.
    fn fact(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if !matches!(
            name,
            b"size" | b"stored" | b"ratio" | b"codec" | b"chunks" | b"extents"
        ) {
            return Err(Error::NoAttribute);
        }
        let facts = self.file_facts(ino)?;
        let text = match name {
            b"size" => facts.size.to_string(),
            b"stored" => facts.stored.to_string(),
            b"codec" => facts.codecs.join(","),
            b"chunks" => facts.chunks.to_string(),
            b"extents" => facts.extents.to_string(),
            _ if facts.stored == 0 => "-".to_owned(),
            _ => {
                let hundredths = facts.size.saturating_mul(100) / facts.stored;
                format!("{}.{:02}", hundredths / 100, hundredths % 100)
            }
        };
        Ok(text.into_bytes())
    }
}

/// Checks that an attribute is in a namespace that is kept.
fn check_namespace(name: &[u8]) -> Result<()> {
    let kept = [&b"user."[..], b"trusted.", b"security."];
    if name == acl::ACCESS
        || name == acl::DEFAULT
        || kept
            .iter()
            .any(|p| name.len() > p.len() && name.starts_with(p))
    {
        Ok(())
    } else {
        Err(Error::Unsupported("attribute namespace"))
    }
}
