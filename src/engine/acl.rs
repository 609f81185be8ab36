//! POSIX access control lists in the kernel's xattr encoding (`linux/posix_acl_xattr.h`).
//!
//! The kernel enforces them; what is left to a filesystem is inheritance from a default list, and
//! keeping the list and the permission bits in step (acl(5)).

use crate::base::{Error, Result};

/// The xattr that holds the access list.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The xattr that holds a directory's default list.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A parsed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Parses the value of an ACL xattr.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not a well-formed list.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        const BAD: Error = Error::Invalid("access control list");
        let (version, rest) = bytes.split_first_chunk::<4>().ok_or(BAD)?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 {
            return Err(BAD);
        }
        let (entries, _) = rest.as_chunks::<8>();
        let entries: Vec<Entry> = entries
            .iter()
            .map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| Entry {
                tag: u16::from_le_bytes([t0, t1]),
                perm: u16::from_le_bytes([p0, p1]),
                id: u32::from_le_bytes([i0, i1, i2, i3]),
            })
            .collect();
        let acl = Self(entries);
        let count = |tag| acl.0.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        let valid = acl.0.iter().all(|e| known.contains(&e.tag) && e.perm <= 7)
            && count(USER_OBJ) == 1
            && count(GROUP_OBJ) == 1
            && count(OTHER) == 1
            && count(MASK) <= 1
            && (named == 0 || count(MASK) == 1);
        if valid { Ok(acl) } else { Err(BAD) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            out.extend_from_slice(&e.tag.to_le_bytes());
            out.extend_from_slice(&e.perm.to_le_bytes());
            out.extend_from_slice(&e.id.to_le_bytes());
        }
        out
    }

    /// Whether permission bits say the same as the list.
    pub(crate) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The permission bits (`0o777` part) that the list stands for.
    pub(crate) fn mode(&self) -> u16 {
        let perm = |tag| self.0.iter().find(|e| e.tag == tag).map(|e| e.perm);
        let group = perm(MASK).or(perm(GROUP_OBJ)).unwrap_or(0);
        (perm(USER_OBJ).unwrap_or(0) << 6) | (group << 3) | perm(OTHER).unwrap_or(0)
    }

    /// Follows a `chmod` (the mask stands for the group bits if there is one).
    pub(crate) fn chmod(&mut self, mode: u16) {
        let has_mask = self.0.iter().any(|e| e.tag == MASK);
        for e in &mut self.0 {
            match e.tag {
                USER_OBJ => e.perm = (mode >> 6) & 7,
                GROUP_OBJ if !has_mask => e.perm = (mode >> 3) & 7,
                MASK => e.perm = (mode >> 3) & 7,
                OTHER => e.perm = mode & 7,
                _ => {}
            }
        }
    }

    /// Turns a default list into the access list of a new object; returns the object's permission bits.
    pub(crate) fn inherit(&mut self, mode: u16) -> u16 {
        let has_mask = self.0.iter().any(|e| e.tag == MASK);
        for e in &mut self.0 {
            match e.tag {
                USER_OBJ => e.perm &= (mode >> 6) & 7,
                GROUP_OBJ if !has_mask => e.perm &= (mode >> 3) & 7,
                MASK => e.perm &= (mode >> 3) & 7,
                OTHER => e.perm &= mode & 7,
                _ => {}
            }
        }
        (mode & !0o777) | self.mode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        Acl(entries
            .iter()
            .map(|&(tag, perm, id)| Entry { tag, perm, id })
            .collect())
        .encode()
    }

    #[test]
    fn a_default_list_limits_the_mode_of_new_objects() {
        let bytes = acl(&[
            (USER_OBJ, 7, 0),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, 0),
            (MASK, 7, 0),
            (OTHER, 0, 0),
        ]);
        let mut list = Acl::parse(&bytes).unwrap();
        assert_eq!(list.inherit(0o666), 0o660);
        assert!(!list.is_minimal());
        assert_eq!(list.mode(), 0o660);
    }

    #[test]
    fn chmod_changes_the_mask_and_not_the_group() {
        let bytes = acl(&[
            (USER_OBJ, 7, 0),
            (USER, 7, 1),
            (GROUP_OBJ, 7, 0),
            (MASK, 7, 0),
            (OTHER, 7, 0),
        ]);
        let mut list = Acl::parse(&bytes).unwrap();
        list.chmod(0o640);
        assert_eq!(list.mode(), 0o640);
        assert_eq!(list.0.iter().find(|e| e.tag == GROUP_OBJ).unwrap().perm, 7);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for bad in [&b""[..], &[2, 0, 0, 0], &[1, 0, 0, 0], &[2, 0, 0, 0, 1, 0]] {
            assert!(Acl::parse(bad).is_err());
        }
        assert!(
            Acl::parse(&acl(&[
                (USER_OBJ, 7, 0),
                (USER, 7, 1),
                (GROUP_OBJ, 7, 0),
                (OTHER, 7, 0)
            ]))
            .is_err()
        );
    }
}
