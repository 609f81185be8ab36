//! Which chunks and nodes, parts of split ones included, each path of a snapshot needs.

use super::nodes::chunk_ids;
use super::tree::Tree;
use super::verify::join;
use crate::base::ChunkId;
use crate::base::limits::CHECK_NODES_MAX;
use crate::format::node::{Body, DirChild, Entry, Node};
use crate::format::rows::SnapshotRow;

/// Calls `each(path, ids)` with the nodes of every directory and with the nodes and chunks of every file of
/// a snapshot. What lies below a node that cannot be read is left out: its path stands for all of it. Ends after
/// [`CHECK_NODES_MAX`] nodes of directories.
pub(crate) fn for_each_id(
    tree: &Tree<'_>,
    row: &SnapshotRow,
    each: &mut dyn FnMut(&[u8], &[ChunkId]),
) {
    each(b"", &chunk_ids(tree.store, &row.root));
    let Ok(root) = tree.root(row) else {
        return;
    };
    let mut stack: Vec<(DirChild, Vec<u8>)> = Vec::new();
    if let Body::Dir(body) = &root.body {
        stack.push((body.trie, Vec::new()));
    }
    for _ in 0..CHECK_NODES_MAX {
        let Some((child, path)) = stack.pop() else {
            return;
        };
        each(&path, &chunk_ids(tree.store, &child.node));
        let Ok(node) = tree.node(&child.node) else {
            continue;
        };
        match &*node {
            Node::DirInner(inner) => {
                stack.push((inner.right, path.clone()));
                stack.push((inner.left, path));
            }
            Node::DirLeaf(entries) => {
                for entry in entries {
                    let path = join(&path, &entry.name);
                    if let Body::Dir(body) = &entry.body {
                        stack.push((body.trie, path));
                    } else {
                        file(tree, entry, &path, each);
                    }
                }
            }
            _ => {}
        }
    }
}

fn file(tree: &Tree<'_>, entry: &Entry, path: &[u8], each: &mut dyn FnMut(&[u8], &[ChunkId])) {
    match &entry.body {
        Body::Inline(extents) => {
            let ids: Vec<ChunkId> = extents.iter().map(|(_, extent)| extent.chunk).collect();
            each(path, &ids);
        }
        Body::File(id) => {
            let mut todo = vec![*id];
            while let Some(id) = todo.pop() {
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
