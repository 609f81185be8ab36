//! The digest of a file: a binary tree over leaves of 64 KiB (docs/seed.md, "Files").
//!
//! 1. Bytes are cut in leaves of [`LEAF_LEN`]; the last one may be short; an empty file has one empty leaf.
//! 2. The tree over n leaves splits at the largest power of two below n (RFC 6962). It is built from the
//!    left by a stack of complete subtrees, like a binary counter, and folded from the right at the end.
//! 3. Nodes do not know their position, so a complete subtree of zeros depends on its level alone: the
//!    48 possible ones are computed once and a hole of any length costs O(log n).
//!
//! Because every aligned block of 2^k leaves (the last one may be shorter) is a node of the tree, digests
//! of aligned 1 MiB subtrees and 64 MiB segments may be kept and joined again later.

use std::sync::OnceLock;

use super::domain::{Domain, digest, finish};
use crate::base::limits::LEAF_LEN;
use crate::base::{ByteLen, Digest, Error, FileOff, Result};

/// Levels of complete subtrees: 2^47 leaves of 2^16 bytes are 2^63 bytes.
const LEVELS: usize = 48;
const LEAF_LEN_U64: u64 = LEAF_LEN as u64;
static ZEROS: [u8; LEAF_LEN] = [0; LEAF_LEN];

const _: () = assert!(LEAF_LEN_U64.is_power_of_two());

/// The digest of one leaf: at most 64 KiB.
#[must_use]
pub fn leaf_digest(bytes: &[u8]) -> Digest {
    digest(Domain::Leaf, &[bytes])
}

fn inner(left: &Digest, right: &Digest) -> Digest {
    digest(Domain::Inner, &[left.as_bytes(), right.as_bytes()])
}

/// The content digest of a regular file of `len` bytes whose tree has the given root.
#[must_use]
pub fn file_content(len: ByteLen, root: Digest) -> Digest {
    digest(Domain::File, &[&len.raw().to_le_bytes(), root.as_bytes()])
}

/// The root of the tree over `bytes`: the digest of an aligned subtree that holds them.
///
/// Meant for up to 1 MiB (`limits::SUBTREE_LEN`) that start at a multiple of it; the last subtree of a
/// file may be short. No bytes give the empty leaf.
#[must_use]
pub fn subtree_digest(bytes: &[u8]) -> Digest {
    let mut stack = Stack::default();
    let mut leaves = bytes.chunks(LEAF_LEN);
    if let Some(first) = leaves.next() {
        stack.push(0, leaf_digest(first));
    }
    for leaf in leaves {
        stack.push(0, leaf_digest(leaf));
    }
    stack.fold(None)
}

/// The node above consecutive aligned subtrees of equal size, of which the last may be short.
///
/// Sixty-four 1 MiB subtrees give a segment; the segments of a file give its tree root. No children
/// give the empty leaf, which is the tree root of an empty file.
#[must_use]
pub fn join_subtrees(children: &[Digest]) -> Digest {
    let mut stack = Stack::default();
    for child in children {
        stack.push(0, *child);
    }
    stack.fold(None)
}

/// The root of the tree over `len` zero bytes: a hole, full or short. Costs O(log n).
///
/// # Panics
/// If `len` is above 2^63 - 1: there is no such file.
#[must_use]
pub fn zero_subtree(len: ByteLen) -> Digest {
    assert!(
        len.raw() <= FileOff::MAX.raw(),
        "a hole above 2^63 - 1 bytes"
    );
    let mut hasher = FileHasher::new();
    hasher.push_zeros(len);
    hasher.root()
}

/// The content digest of a file given by the digests of some of its segments; the rest are holes.
///
/// `segments` are pairs of the segment's index and digest in ascending order, where a segment is
/// `segment_len` bytes (a power of two of at least one leaf; the last one may be short).
/// Costs O(log n) for each of them, whatever the length of the file.
///
/// # Errors
/// [`Error::Internal`] if the segments do not ascend or lie past the end.
pub fn sparse_file_content(
    len: ByteLen,
    segment_len: ByteLen,
    segments: impl IntoIterator<Item = (u64, Digest)>,
) -> Result<Digest> {
    let mut hasher = FileHasher::new();
    for (idx, segment) in segments {
        let start = idx
            .checked_mul(segment_len.raw())
            .filter(|start| *start < len.raw())
            .ok_or(Error::Internal("a segment lies past the end of its file"))?;
        let hole = start
            .checked_sub(hasher.len().raw())
            .ok_or(Error::Internal("segments of a file do not ascend"))?;
        hasher.push_zeros(ByteLen::from_raw(hole));
        let covered = segment_len.raw().min(len.raw() - start);
        hasher.push_subtree(ByteLen::from_raw(covered), segment);
    }
    let tail = len.raw() - hasher.len().raw();
    hasher.push_zeros(ByteLen::from_raw(tail));
    hasher.finish(len)
}

/// The digests of complete zero subtrees by level.
fn zero_level(level: u32) -> Digest {
    static TABLE: OnceLock<[Digest; LEVELS]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut node = leaf_digest(&ZEROS);
        std::array::from_fn(|at| {
            if at > 0 {
                node = inner(&node, &node);
            }
            node
        })
    });
    #[expect(
        clippy::indexing_slicing,
        reason = "callers pass levels of files of at most 2^63 bytes"
    )]
    table[level as usize]
}

/// Complete subtrees from the left, of strictly descending level.
#[derive(Clone, Debug, Default)]
struct Stack(Vec<(u32, Digest)>);

impl Stack {
    /// Appends a complete subtree of 2^level leaves; the leaves so far are a multiple of 2^level.
    fn push(&mut self, mut level: u32, mut node: Digest) {
        while let Some((top, left)) = self.0.last() {
            debug_assert!(*top >= level, "a subtree was pushed unaligned");
            if *top != level {
                break;
            }
            node = inner(left, &node);
            level += 1;
            self.0.pop();
        }
        self.0.push((level, node));
    }

    /// The root: the subtrees joined from the right, after a last incomplete one.
    fn fold(&self, tail: Option<Digest>) -> Digest {
        let mut nodes = self.0.iter().rev().map(|(_, node)| node);
        let Some(mut root) = tail.or_else(|| nodes.next().copied()) else {
            return leaf_digest(&[]);
        };
        for left in nodes {
            root = inner(left, &root);
        }
        root
    }
}

/// Builds a file's content digest from its bytes, holes and known subtrees, in order.
///
/// Keeps at most one digest per level: memory does not depend on the length. Mistakes of the caller
/// (an unaligned subtree, bytes after the short last one, more than 2^63 - 1 bytes) are remembered and
/// returned by [`FileHasher::finish`].
#[derive(Clone, Debug)]
pub struct FileHasher {
    stack: Stack,
    /// The open leaf, with `len % LEAF_LEN` bytes in it; meaningless if that is 0.
    leaf: blake3::Hasher,
    len: u64,
    /// A last subtree that is not complete; nothing may follow it.
    tail: Option<Digest>,
    mistake: Option<&'static str>,
}

impl Default for FileHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl FileHasher {
    /// A hasher of an empty file.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stack: Stack::default(),
            leaf: Domain::Leaf.hasher(),
            len: 0,
            tail: None,
            mistake: None,
        }
    }

    /// Bytes pushed so far, holes included.
    #[must_use]
    pub const fn len(&self) -> ByteLen {
        ByteLen::from_raw(self.len)
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends file bytes, any number.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.grow(bytes.len() as u64) {
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.leaf_room();
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.fill_leaf(now);
            rest = later;
        }
    }

    /// Appends `len` zero bytes: a hole. Costs O(log n) and at most two leaves of hashing.
    pub fn push_zeros(&mut self, len: ByteLen) {
        if !self.grow(len.raw()) {
            return;
        }
        let mut rest = len.raw();
        while rest > 0 {
            let leaves = self.len / LEAF_LEN_U64;
            if self.len.is_multiple_of(LEAF_LEN_U64) && rest >= LEAF_LEN_U64 {
                // The largest complete subtree that is aligned here and fits in what is left.
                let level = leaves.trailing_zeros().min((rest / LEAF_LEN_U64).ilog2());
                self.stack.push(level, zero_level(level));
                self.len += LEAF_LEN_U64 << level;
                rest -= LEAF_LEN_U64 << level;
            } else {
                let now = (self.leaf_room() as u64).min(rest);
                let zeros = usize::try_from(now).ok().and_then(|n| ZEROS.get(..n));
                self.fill_leaf(zeros.unwrap_or(&[]));
                rest -= now;
            }
        }
    }

    /// Appends a subtree of `len` bytes whose root is known.
    ///
    /// The position must be a multiple of the smallest power of two of leaves that holds `len`. A `len`
    /// that is not such a power itself is the end of the file: nothing may follow it.
    pub fn push_subtree(&mut self, len: ByteLen, root: Digest) {
        if len.raw() == 0 || !self.grow(len.raw()) {
            return;
        }
        let level = len
            .raw()
            .div_ceil(LEAF_LEN_U64)
            .next_power_of_two()
            .trailing_zeros();
        let capacity = LEAF_LEN_U64 << level;
        if !self.len.is_multiple_of(capacity) {
            self.mistake = Some("a subtree of a file digest was pushed unaligned");
        } else if len.raw() == capacity {
            self.stack.push(level, root);
        } else {
            self.tail = Some(root);
        }
        self.len += len.raw();
    }

    /// The content digest of the file, whose length the caller states again.
    ///
    /// # Errors
    /// [`Error::Internal`] if the length is not what was pushed, or after a mistake in pushing.
    pub fn finish(&self, len: ByteLen) -> Result<Digest> {
        if let Some(mistake) = self.mistake {
            return Err(Error::Internal(mistake));
        }
        if len.raw() != self.len {
            return Err(Error::Internal(
                "a file digest was finished at another length than was pushed",
            ));
        }
        Ok(file_content(len, self.root()))
    }

    /// The root of the tree over what was pushed so far.
    fn root(&self) -> Digest {
        if self.len.is_multiple_of(LEAF_LEN_U64) || self.tail.is_some() {
            self.stack.fold(self.tail)
        } else {
            self.stack.fold(Some(finish(&self.leaf)))
        }
    }

    /// Whether `more` bytes may follow.
    fn grow(&mut self, more: u64) -> bool {
        if more > 0 && self.tail.is_some() {
            self.mistake = Some("bytes follow the short last subtree of a file digest");
        } else if self
            .len
            .checked_add(more)
            .is_none_or(|end| end > FileOff::MAX.raw())
        {
            self.mistake = Some("a file digest of more than 2^63 - 1 bytes");
        }
        self.mistake.is_none()
    }

    /// Bytes until the open leaf is full: 1 to 65,536.
    fn leaf_room(&self) -> usize {
        let used = (self.len % LEAF_LEN_U64) as usize;
        LEAF_LEN - used
    }

    /// Appends bytes to the open leaf, at most [`Self::leaf_room`] of them.
    fn fill_leaf(&mut self, bytes: &[u8]) {
        if self.len.is_multiple_of(LEAF_LEN_U64) {
            self.leaf = Domain::Leaf.hasher();
        }
        self.leaf.update(bytes);
        self.len += bytes.len() as u64;
        if self.len.is_multiple_of(LEAF_LEN_U64) {
            let done = finish(&self.leaf);
            self.stack.push(0, done);
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
