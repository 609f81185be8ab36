//! The digests of directories: a canonical trie on the bits of the names' hashes (docs/seed.md,
//! "Directories"), and the content digests of links and special files.
//!
//! 1. An entry's path is [`name_hash`] of its name, bits most significant first.
//! 2. A node with at most 256 entries below it is a leaf: its entries in byte order of the names. Any other
//!    node is inner: the entries whose next bit is 0 on the left, 1 on the right, either may be empty.
//! 3. The shape is a function of the set of names alone, so a change costs one path (I9).
//!
//! Two tries of the same shape stand side by side, one of content digests, one of full digests.

use super::attrs::{NodeAttrs, encode_attrs};
use super::domain::{Domain, digest, finish};
use super::record::name_hash;
use crate::base::Digest;
use crate::base::limits::{DIR_LEAF_ENTRIES_MAX, NAME_LEN_MAX};

/// What a directory entry is; the number is its type byte in the digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A regular file that its owner may not execute.
    Regular = 1,
    /// A regular file with the owner's execute bit (0100).
    Executable = 2,
    /// A directory.
    Directory = 3,
    /// A symbolic link.
    Symlink = 4,
    /// A named pipe.
    Fifo = 5,
    /// A Unix socket.
    Socket = 6,
    /// A character device.
    CharDevice = 7,
    /// A block device.
    BlockDevice = 8,
}

impl EntryKind {
    /// The type byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The kind of a regular file with these permission bits.
    #[must_use]
    pub const fn of_regular(mode: u32) -> Self {
        if mode & 0o100 == 0 {
            Self::Regular
        } else {
            Self::Executable
        }
    }

    /// Whether it has a device number.
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }
}

/// The content digest and the full digest of the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TwoDigests {
    /// Names, types, owner's execute bits, bytes, link targets.
    pub content: Digest,
    /// Content and everything else that counts: owners, modes, times, attributes, hard links.
    pub full: Digest,
}

/// An entry of a directory, as the trie sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: 1 to 255 bytes, any but `/` and NUL.
    pub name: &'a [u8],
    /// What it is.
    pub kind: EntryKind,
    /// The digests of what it names.
    pub digests: TwoDigests,
}

/// The content digest of a symbolic link.
#[must_use]
pub fn symlink_content(target: &[u8]) -> Digest {
    digest(Domain::Symlink, &[target])
}

/// The content digest of a fifo, a socket or a device: a function of its type alone.
#[must_use]
pub fn special_content(kind: EntryKind) -> Digest {
    digest(Domain::Special, &[&[kind.byte()]])
}

/// A leaf of both tries.
///
/// `entries` come in ascending byte order of their names. There are at most 256 of them unless all 256
/// bits of the hashes are used up.
///
/// # Panics
/// If the names do not ascend strictly or one is longer than 255 bytes: such a digest would name no tree.
#[must_use]
pub fn dir_leaf<'a>(entries: impl IntoIterator<Item = DirEntry<'a>>) -> TwoDigests {
    let mut content = Domain::DirLeaf.hasher();
    let mut full = Domain::FullDirLeaf.hasher();
    let mut previous: Option<&[u8]> = None;
    let mut head = Vec::with_capacity(NAME_LEN_MAX + 3);
    for entry in entries {
        assert!(
            previous.is_none_or(|before| before < entry.name),
            "the names of a directory leaf must ascend"
        );
        assert!(
            entry.name.len() <= NAME_LEN_MAX,
            "a directory entry's name has at most 255 bytes"
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 255, asserted above"
        )]
        let name_len = entry.name.len() as u16;
        head.clear();
        head.extend_from_slice(&name_len.to_le_bytes());
        head.extend_from_slice(entry.name);
        head.push(entry.kind.byte());
        content.update(&head);
        content.update(entry.digests.content.as_bytes());
        full.update(&head);
        full.update(entry.digests.full.as_bytes());
        previous = Some(entry.name);
    }
    TwoDigests {
        content: finish(&content),
        full: finish(&full),
    }
}

/// An inner node of both tries: the entries with bit 0 at `left`, with bit 1 at `right`.
#[must_use]
pub fn dir_inner(left: &TwoDigests, right: &TwoDigests) -> TwoDigests {
    TwoDigests {
        content: digest(
            Domain::DirInner,
            &[left.content.as_bytes(), right.content.as_bytes()],
        ),
        full: digest(
            Domain::FullDirInner,
            &[left.full.as_bytes(), right.full.as_bytes()],
        ),
    }
}

/// The content digest of a directory from the root of its content trie.
#[must_use]
pub fn dir_content(entry_count: u64, root: Digest) -> Digest {
    digest(Domain::Dir, &[&entry_count.to_le_bytes(), root.as_bytes()])
}

/// The full digest of a directory below the root, from the root of its full trie, its attributes and
/// [`groups_digest`](super::groups_digest).
#[must_use]
pub fn dir_full(entry_count: u64, root: Digest, attrs: &NodeAttrs<'_>, groups: Digest) -> Digest {
    full_of(
        entry_count,
        root,
        &encode_attrs(EntryKind::Directory, attrs),
        groups,
    )
}

/// The full digest of the root directory: its own mode, owner, time and attributes do not count.
///
/// They belong to the place where the tree stands and not to the tree: `cp -a src/. mnt/` keeps the seed.
#[must_use]
pub fn root_dir_full(entry_count: u64, root: Digest, groups: Digest) -> Digest {
    full_of(entry_count, root, &[], groups)
}

fn full_of(entry_count: u64, root: Digest, attrs: &[u8], groups: Digest) -> Digest {
    let count = entry_count.to_le_bytes();
    digest(
        Domain::FullDir,
        &[root.as_bytes(), &count, attrs, groups.as_bytes()],
    )
}

/// Bit `depth` of a name's hash, most significant first: the side of the entry below an inner node at
/// that depth (the trie's root is depth 0). `true` is right; past the last bit it is always left.
#[must_use]
pub fn trie_bit(hash: &[u8; 32], depth: u32) -> bool {
    let byte = hash.get((depth / 8) as usize).copied().unwrap_or(0);
    byte & (0x80 >> (depth % 8)) != 0
}

/// The roots of both tries over all entries of a directory, in any order.
///
/// Allocates about 130 bytes per entry.
///
/// # Panics
/// If two entries have the same name.
#[must_use]
pub fn trie_root<'a>(entries: impl IntoIterator<Item = DirEntry<'a>>) -> TwoDigests {
    let mut keyed: Vec<Keyed<'a>> = entries
        .into_iter()
        .map(|entry| (name_hash(entry.name), entry))
        .collect();
    if keyed.len() > DIR_LEAF_ENTRIES_MAX {
        keyed.sort_unstable_by_key(|(hash, _)| *hash);
    }
    node(&mut keyed, 0)
}

type Keyed<'a> = ([u8; 32], DirEntry<'a>);

/// The node over entries that share their first `depth` bits; sorted by hash if they do not fit a leaf.
fn node(entries: &mut [Keyed<'_>], depth: u32) -> TwoDigests {
    if entries.len() <= DIR_LEAF_ENTRIES_MAX || depth >= 256 {
        entries.sort_unstable_by(|(_, a), (_, b)| a.name.cmp(b.name));
        return dir_leaf(entries.iter().map(|(_, entry)| *entry));
    }
    let middle = entries.partition_point(|(hash, _)| !trie_bit(hash, depth));
    let (left, right) = entries.split_at_mut(middle);
    dir_inner(&node(left, depth + 1), &node(right, depth + 1))
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
