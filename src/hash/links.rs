//! Hard-link groups: which names of a tree are one file (docs/seed.md, "Hard links").

use std::collections::BTreeMap;

use super::attrs::len_u32;
use super::domain::{Domain, finish};
use crate::base::Digest;

/// The groups that are recorded at one directory: paths relative to it, sorted.
///
/// Each group has at least two paths in byte order; groups are in the order of their first paths.
pub type LinkGroups = Vec<Vec<Vec<u8>>>;

/// Finds the hard-link groups of a tree and the directories they are recorded at.
///
/// `links` are the paths of non-directories with more than one link, each with whatever identifies the
/// file (an inode number), in any order. Paths are relative to the root, components joined by `/`. Files
/// of which only one path is given vanish: their other links are outside the tree.
/// The result maps a directory's path (the root's is empty) to its groups: those whose lowest common
/// ancestor it is. A directory that is not in it has none.
#[must_use]
pub fn link_groups<K: Ord>(
    links: impl IntoIterator<Item = (K, Vec<u8>)>,
) -> BTreeMap<Vec<u8>, LinkGroups> {
    let mut files: BTreeMap<K, Vec<Vec<u8>>> = BTreeMap::new();
    for (file, path) in links {
        files.entry(file).or_default().push(path);
    }
    let mut dirs: BTreeMap<Vec<u8>, LinkGroups> = BTreeMap::new();
    for mut paths in files.into_values() {
        paths.sort_unstable();
        paths.dedup();
        if paths.len() < 2 {
            continue;
        }
        let ancestor = common_ancestor(&paths);
        // Below the root the relative path starts after the ancestor's name and a slash.
        let skip = if ancestor.is_empty() {
            0
        } else {
            ancestor.len() + 1
        };
        for path in &mut paths {
            path.drain(..skip.min(path.len()));
        }
        dirs.entry(ancestor).or_default().push(paths);
    }
    for groups in dirs.values_mut() {
        groups.sort_unstable();
    }
    dirs
}

/// The path of the lowest directory that holds all of the sorted paths.
///
/// The first and the last of sorted paths differ earliest, so their common ancestor is that of all.
fn common_ancestor(sorted: &[Vec<u8>]) -> Vec<u8> {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return Vec::new();
    };
    let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    // Two different names may share a prefix: go back to the last whole component. Neither path is a
    // prefix of the other up to a slash, because a non-directory has nothing below it.
    let end = first
        .iter()
        .take(common)
        .rposition(|byte| *byte == b'/')
        .unwrap_or(0);
    first.iter().take(end).copied().collect()
}

/// The digest of a directory's hard-link groups, as [`link_groups`] orders them; most have none.
#[must_use]
pub fn groups_digest(groups: &[Vec<Vec<u8>>]) -> Digest {
    let mut hasher = Domain::Groups.hasher();
    hasher.update(&len_u32(groups.len()).to_le_bytes());
    for group in groups {
        hasher.update(&len_u32(group.len()).to_le_bytes());
        for path in group {
            hasher.update(&len_u32(path.len()).to_le_bytes());
            hasher.update(path);
        }
    }
    finish(&hasher)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(links: &[(u64, &str)]) -> Vec<(String, Vec<Vec<String>>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        link_groups(
            links
                .iter()
                .map(|(id, path)| (*id, path.as_bytes().to_vec())),
        )
        .into_iter()
        .map(|(dir, groups)| {
            let groups = groups
                .iter()
                .map(|group| group.iter().map(|path| text(path)).collect())
                .collect();
            (text(&dir), groups)
        })
        .collect()
    }

    #[test]
    fn a_group_is_recorded_at_the_lowest_common_ancestor_by_relative_paths() {
        let got = groups(&[
            (1, "a/b/y"),
            (1, "a/b/x"),
            (2, "a/c/1"),
            (2, "a/b/2"),
            (3, "top"),
            (3, "a/z"),
        ]);
        let want = [
            ("", vec![vec!["a/z", "top"]]),
            ("a", vec![vec!["b/2", "c/1"]]),
            ("a/b", vec![vec!["x", "y"]]),
        ];
        let want: Vec<(String, Vec<Vec<String>>)> = want
            .iter()
            .map(|(dir, groups)| {
                let groups = groups
                    .iter()
                    .map(|g| g.iter().map(|p| (*p).to_owned()).collect());
                ((*dir).to_owned(), groups.collect())
            })
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn names_that_share_a_prefix_are_not_a_common_directory() {
        assert_eq!(groups(&[(1, "d/ab"), (1, "d/abc")])[0].0, "d");
        assert_eq!(groups(&[(1, "ab/x"), (1, "abc/x")])[0].0, "");
        assert_eq!(groups(&[(1, "d/a-b"), (1, "d/a/b")])[0].0, "d");
        assert_eq!(
            groups(&[(1, "d/a-b"), (1, "d/a/b"), (1, "d/a/c")])[0].0,
            "d"
        );
    }

    #[test]
    fn single_links_vanish() {
        assert!(groups(&[(1, "a"), (2, "b"), (1, "a")]).is_empty());
    }

    #[test]
    fn the_order_of_the_links_does_not_matter() {
        let mut links = vec![(1, "p/a"), (2, "p/b"), (2, "p/0"), (1, "p/c"), (1, "p/d/e")];
        let want = groups(&links);
        links.reverse();
        assert_eq!(groups(&links), want);
        assert_eq!(want[0].1, [vec!["0", "b"], vec!["a", "c", "d/e"]]);
    }
}
