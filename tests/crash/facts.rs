//! What else is asked of the model here: single nodes, and its tree as plain files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::model::{Body, Model, Node};

impl Model {
    /// A node and its names: what an fsync of it makes durable.
    pub(crate) fn facts(&self, id: u64) -> Option<(&Node, BTreeSet<(u64, &str)>)> {
        let mut names = BTreeSet::new();
        for (dir, node) in &self.nodes {
            if let Body::Dir(entries) = &node.body {
                let of = entries.iter().filter(|(_, to)| **to == id);
                names.extend(of.map(|(name, _)| (*dir, name.as_str())));
            }
        }
        let node = self.nodes.get(&id)?;
        Some((node, names))
    }

    /// Writes the tree out as plain files: names, bytes, links and modes.
    pub(crate) fn write_out(&self, to: &Path) {
        let mut linked: BTreeMap<u64, PathBuf> = BTreeMap::new();
        let mut paths = self.paths();
        paths.sort();
        for path in paths.iter().filter(|path| !path.is_empty()) {
            let (id, at) = (self.id(path).unwrap(), to.join(path));
            if let Some(first) = linked.get(&id) {
                std::fs::hard_link(first, &at).unwrap();
                continue;
            }
            let node = &self.nodes[&id];
            match &node.body {
                Body::Dir(_) => std::fs::create_dir(&at).unwrap(),
                Body::Symlink(target) => symlink(target, &at).unwrap(),
                Body::File(data) => {
                    std::fs::write(&at, data).unwrap();
                    let mode = Permissions::from_mode(u32::from(node.mode));
                    std::fs::set_permissions(&at, mode).unwrap();
                }
            }
            if !matches!(node.body, Body::Dir(_)) {
                linked.insert(id, at);
            }
        }
    }
}
