//! The attributes that the full digest covers, and their encoding (docs/seed.md, "Attributes").

use super::dir::EntryKind;
use super::domain::{Domain, digest};
use crate::base::limits::{XATTR_NAME_LEN_MAX, XATTR_VALUE_LEN_MAX};
use crate::base::{Digest, Timestamp};

/// The attributes of a node, as `lstat` and `lgetxattr` give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAttrs<'a> {
    /// Mode; only the bits 07777 are used.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Major number; used for devices only.
    pub rdev_major: u32,
    /// Minor number; used for devices only.
    pub rdev_minor: u32,
    /// Extended attributes, name and value, in any order; those that do not count are left out.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Whether an extended attribute of this name is part of the full digest.
///
/// `user.*` without `user.mmhfs.*`, the two POSIX ACLs and file capabilities. Everything else belongs to
/// a machine and not to a tree (`security.selinux`, `trusted.*`).
#[must_use]
pub fn is_counted_xattr(name: &[u8]) -> bool {
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" | b"security.capability" => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.mmhfs."),
    }
}

/// The encoding of a node's attributes: little-endian, 36 bytes and the extended attributes that count.
///
/// A symbolic link's mode is always 0777, whatever the system says; the device number of anything but a
/// device is 0.
///
/// # Panics
/// If an extended attribute is larger than any kernel allows.
#[must_use]
pub fn encode_attrs(kind: EntryKind, attrs: &NodeAttrs<'_>) -> Vec<u8> {
    let mode = match kind {
        EntryKind::Symlink => 0o777,
        _ => attrs.mode & 0o7777,
    };
    let (major, minor) = if kind.is_device() {
        (attrs.rdev_major, attrs.rdev_minor)
    } else {
        (0, 0)
    };
    let mut xattrs: Vec<&(Vec<u8>, Vec<u8>)> = attrs
        .xattrs
        .iter()
        .filter(|(name, _)| is_counted_xattr(name))
        .collect();
    xattrs.sort_unstable();

    let mut out = Vec::with_capacity(36);
    out.extend_from_slice(&mode.to_le_bytes());
    out.extend_from_slice(&attrs.uid.to_le_bytes());
    out.extend_from_slice(&attrs.gid.to_le_bytes());
    out.extend_from_slice(&attrs.mtime.secs.to_le_bytes());
    out.extend_from_slice(&attrs.mtime.nanos.to_le_bytes());
    out.extend_from_slice(&major.to_le_bytes());
    out.extend_from_slice(&minor.to_le_bytes());
    out.extend_from_slice(&len_u32(xattrs.len()).to_le_bytes());
    for (name, value) in xattrs {
        assert!(
            name.len() <= XATTR_NAME_LEN_MAX,
            "an attribute's name is too long"
        );
        assert!(
            value.len() <= XATTR_VALUE_LEN_MAX,
            "an attribute's value is too long"
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 255, asserted above"
        )]
        let name_len = name.len() as u16;
        out.extend_from_slice(&name_len.to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&len_u32(value.len()).to_le_bytes());
        out.extend_from_slice(value);
    }
    out
}

/// The full digest of anything but a directory.
#[must_use]
pub fn node_full(kind: EntryKind, content: Digest, attrs: &NodeAttrs<'_>) -> Digest {
    digest(
        Domain::FullNode,
        &[content.as_bytes(), &encode_attrs(kind, attrs)],
    )
}

/// A length or count as the four bytes that every encoding here uses.
///
/// # Panics
/// If it does not fit: an encoding that says another length than it has would name two trees.
pub(super) fn len_u32(len: usize) -> u32 {
    assert!(
        u32::try_from(len).is_ok(),
        "a length above 2^32 - 1 in a digest"
    );
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let short = len as u32;
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> NodeAttrs<'_> {
        NodeAttrs {
            mode: 0o100_644,
            uid: 1000,
            gid: 100,
            mtime: Timestamp { secs: -1, nanos: 5 },
            rdev_major: 7,
            rdev_minor: 9,
            xattrs,
        }
    }

    #[test]
    fn the_encoding_is_36_bytes_and_the_sorted_attributes_that_count() {
        let xattrs = [
            (b"user.b".to_vec(), b"2".to_vec()),
            (b"user.mmhfs.codec".to_vec(), b"x".to_vec()),
            (b"security.selinux".to_vec(), b"x".to_vec()),
            (b"user.a".to_vec(), Vec::new()),
        ];
        let got = encode_attrs(EntryKind::Regular, &attrs(&xattrs));
        let mut want = Vec::new();
        want.extend_from_slice(&[0xa4, 1, 0, 0, 0xe8, 3, 0, 0, 100, 0, 0, 0]);
        want.extend_from_slice(&[0xff; 8]);
        want.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        want.extend_from_slice(b"\x06\0user.a\0\0\0\0\x06\0user.b\x01\0\0\x002");
        assert_eq!(got, want);
    }

    #[test]
    fn a_symlink_has_mode_0777_and_only_devices_have_numbers() {
        let link = encode_attrs(EntryKind::Symlink, &attrs(&[]));
        assert_eq!(link.get(..4), Some(&0o777_u32.to_le_bytes()[..]));
        let device = encode_attrs(EntryKind::CharDevice, &attrs(&[]));
        assert_eq!(device.get(24..32), Some(&[7, 0, 0, 0, 9, 0, 0, 0][..]));
        assert_eq!(device.len(), 36);
    }

    #[test]
    fn only_names_that_belong_to_a_tree_count() {
        for name in [
            "user.x",
            "user.mmhfs",
            "security.capability",
            "system.posix_acl_default",
        ] {
            assert!(is_counted_xattr(name.as_bytes()), "{name}");
        }
        for name in [
            "user.mmhfs.x",
            "user",
            "trusted.x",
            "security.ima",
            "system.nfs4_acl",
            "User.x",
        ] {
            assert!(!is_counted_xattr(name.as_bytes()), "{name}");
        }
    }
}
