//! Which chunks and nodes, parts of split ones included, each path of a snapshot needs.

use std::collections::HashSet;

use super::nodes::chunk_ids;
use super::tree::{Part, Tree};
use super::verify::join;
use crate::base::ChunkId;
use crate::base::limits::CHECK_NODES_MAX;
use crate::format::node::{Body, Entry, Node};
use crate::format::rows::SnapshotRow;

/// Calls `each(path, ids)` with the nodes of every directory and with the nodes and chunks of every file of
/// a snapshot. What lies below a node that cannot be read is left out: its path stands for all of it. So is what
/// cannot be in a true tree: a part of a directory that is not what it is said to be, and what lies in a directory that
/// was met before. Ends after [`CHECK_NODES_MAX`] nodes.
pub(crate) fn for_each_id(
    tree: &Tree<'_>,
    row: &SnapshotRow,
    each: &mut dyn FnMut(&[u8], &[ChunkId]),
) {
    each(b"", &chunk_ids(tree.store, &row.root));
    let Ok(root) = tree.root(row) else {
        return;
    };
    let mut nodes_left = CHECK_NODES_MAX;
    // A directory has one name. Leaves may be many times in a tree, where hard links are, but without directories.
    let mut dirs = HashSet::from([root.ino]);
    let mut stack: Vec<(Part, Vec<u8>)> = Vec::new();
    if let Body::Dir(body) = &root.body {
        stack.push((Part::whole(body.trie), Vec::new()));
    }
    while let Some((part, path)) = stack.pop() {
        if nodes_left == 0 {
            return;
        }
        nodes_left -= 1;
        each(&path, &chunk_ids(tree.store, &part.child.node));
        let Ok(node) = tree.node(&part.child.node) else {
            continue;
        };
        if part.check(&node).is_err() {
            continue;
        }
        match &*node {
            Node::DirInner(inner) => {
                let [left, right] = part.halves(inner);
                stack.push((right, path.clone()));
                stack.push((left, path));
            }
            Node::DirLeaf(entries) => {
                for entry in entries {
                    let path = join(&path, &entry.name);
                    if let Body::Dir(body) = &entry.body {
                        if dirs.insert(entry.ino) {
                            stack.push((Part::whole(body.trie), path));
                        }
                    } else {
                        file(tree, entry, &path, &mut nodes_left, each);
                    }
                }
            }
            _ => {}
        }
    }
}

fn file(
    tree: &Tree<'_>,
    entry: &Entry,
    path: &[u8],
    nodes_left: &mut usize,
    each: &mut dyn FnMut(&[u8], &[ChunkId]),
) {
    match &entry.body {
        Body::Inline(extents) => {
            let ids: Vec<ChunkId> = extents.iter().map(|(_, extent)| extent.chunk).collect();
            each(path, &ids);
        }
        Body::File(id) => {
            let mut todo = vec![*id];
            while let Some(id) = todo.pop() {
                if *nodes_left == 0 {
                    return;
                }
                *nodes_left -= 1;
                each(path, &chunk_ids(tree.store, &id));
                let Ok(node) = tree.node(&id) else {
                    continue;
                };
                let mut ids = Vec::new();
                node.for_each_id(|id| ids.push(*id));
                match &*node {
                    Node::File(_) => todo = ids,
                    _ => each(path, &ids),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Digest, Env, Ino, Timestamp};
    use crate::engine::snap::nodes;
    use crate::engine::{Config, Engine, InitOptions};
    use crate::format::node::{DirBody, DirChild};
    use crate::format::rows::{Attrs, Kind};

    const NONE: Digest = Digest::from_raw([0; 32]);

    fn put(chunks: &mut Vec<Vec<u8>>, node: &Node) -> ChunkId {
        let encoded = nodes::encode(node).unwrap();
        chunks.extend(encoded.chunks);
        encoded.id
    }

    fn dir(name: &str, ino: u64, trie: DirChild) -> Entry {
        let attrs = Attrs {
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev_major: 0,
            rdev_minor: 0,
            flags: 0,
            size: trie.count,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
        };
        Entry {
            name: name.into(),
            ino: Ino::from_raw(ino),
            attrs,
            nlink: 1,
            mapped: 0,
            xattrs: Vec::new(),
            content: NONE,
            full: NONE,
            body: Body::Dir(DirBody { trie, groups: NONE }),
        }
    }

    /// Bug: 2^n directories in n nodes were looked through until the limit, for each damaged snapshot.
    #[test]
    fn i10_directories_that_name_each_other_twice_are_met_as_often_as_they_have_a_name() {
        let place = tempfile::tempdir().unwrap();
        Engine::init(place.path(), &Env::real(), &InitOptions::default()).unwrap();
        let engine = Engine::open(place.path(), Env::real(), Config::default()).unwrap();
        let mut chunks = Vec::new();
        let mut trie_of = |entries: Vec<Entry>| DirChild {
            inner: false,
            count: entries.len() as u64,
            node: put(&mut chunks, &Node::DirLeaf(entries)),
            content: NONE,
            full: NONE,
            entries: 50,
            bytes: 0,
        };
        let mut trie = trie_of(Vec::new());
        for n in 0..20 {
            let twice = vec![dir("l", 100 + 2 * n, trie), dir("r", 101 + 2 * n, trie)];
            trie = trie_of(twice);
        }
        let root = put(&mut chunks, &Node::Root(Box::new(dir("", 1, trie))));
        engine.commit_nodes(&chunks, Vec::new()).unwrap();
        let row = SnapshotRow {
            seed: NONE,
            content: NONE,
            root,
            created: Timestamp::default(),
            generation: 1,
            entries: 50,
            bytes: 0,
        };
        let mut paths = Vec::new();
        for_each_id(&engine.tree(), &row, &mut |path, _| {
            paths.push(path.to_vec());
        });
        // The root node, the root directory, and each of the 40 others once.
        assert_eq!(paths.len(), 42);
        let dirs = |depth: usize| {
            paths
                .iter()
                .filter(|path| path.len() == 2 * depth - 1)
                .count()
        };
        assert!((1..=20).all(|depth| dirs(depth) == 2), "{paths:?}");
        engine.close().unwrap();
    }
}
