//! A whole tree as a value that can be compared: everything but times, inode numbers and blocks.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::sys::{get_xattr, list_xattr};

/// Paths from the root with what `lstat`, the contents and the extended attributes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, String>);

impl Tree {
    /// The first path that is not the same in both.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        for (path, facts) in &self.0 {
            match expected.0.get(path) {
                None => return Some(format!("{path:?} should not be there: {facts}")),
                Some(other) if other != facts => {
                    return Some(format!("{path:?} is {facts}; should be {other}"));
                }
                Some(_) => {}
            }
        }
        let missing = expected.0.keys().find(|path| !self.0.contains_key(*path));
        missing.map(|path| format!("{path:?} is missing"))
    }
}

/// A digest of bytes that is short to print.
pub fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{} bytes {:016x}", bytes.len(), hasher.finish())
}

/// What `lstat` says of a path, without times, blocks and inode number; the size of a directory is its filesystem's.
pub fn facts(meta: &fs::Metadata) -> String {
    let size = if meta.is_dir() { 0 } else { meta.len() };
    format!(
        "mode {:o} nlink {} owner {}:{} size {size} device {}",
        meta.mode(),
        meta.nlink(),
        meta.uid(),
        meta.gid(),
        meta.rdev()
    )
}

/// Attributes of `user.` with their values.
pub fn xattrs(path: &Path) -> String {
    let names = list_xattr(path).unwrap_or_default();
    let user = names.iter().filter(|name| name.starts_with("user."));
    let shown: Vec<String> = user
        .map(|name| format!("{name}={}", digest(&get_xattr(path, name, 65_536).unwrap())))
        .collect();
    shown.join(" ")
}

/// Reads the tree below `root`. Hard links are shown by the first of their paths.
pub fn tree(root: &Path) -> Tree {
    let mut found = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    let mut paths = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                waiting.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let rel = path.strip_prefix(root).unwrap().to_owned();
        let kind = meta.file_type();
        let content = if kind.is_file() {
            digest(&fs::read(&path).unwrap())
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_fifo() {
            "fifo".into()
        } else {
            String::new()
        };
        let same_as = match kind.is_dir() {
            true => None,
            false => links.get(&meta.ino()).cloned(),
        };
        links.entry(meta.ino()).or_insert_with(|| rel.clone());
        let text = format!("{} {content} {} {same_as:?}", facts(&meta), xattrs(&path));
        found.insert(rel, text);
    }
    Tree(found)
}
