//! Finds directories that no path from the root leads to: loops, and what hangs below them.
//!
//! In a loop every row agrees with its neighbours: each directory has one name, in a directory that says so.
//! Only going up shows it. Memory is bounded: of the directories that were found to lie below the root so many are
//! remembered, and a loop is seen by its length (Brent's algorithm), not by what was passed.

use std::collections::HashSet;

use crate::base::limits::{CHECK_ROOTED_MAX, PATH_DEPTH_MAX};
use crate::base::{Ino, Result};

/// Directories that lie below the root.
#[derive(Debug, Default)]
pub(super) struct Rooted {
    known: HashSet<Ino>,
}

/// Where going up from a directory ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Top {
    /// At the root.
    Root,
    /// Never: there is a loop.
    Loop,
    /// At an inode that is no directory, which is another problem.
    Nowhere,
}

impl Rooted {
    /// Goes up from `dir`; `parent` tells the directory that one is in, `None` if it is none.
    ///
    /// # Errors
    /// Those of `parent`.
    pub(super) fn top(
        &mut self,
        dir: Ino,
        parent: &dyn Fn(Ino) -> Result<Option<Ino>>,
    ) -> Result<Top> {
        let (mut at, mut mark) = (dir, dir);
        let (mut steps, mut lap) = (0_usize, 1_usize);
        while at != Ino::ROOT && !self.known.contains(&at) {
            let Some(up) = parent(at)? else {
                return Ok(Top::Nowhere);
            };
            if up == mark || steps > PATH_DEPTH_MAX {
                return Ok(Top::Loop);
            }
            at = up;
            steps += 1;
            if steps == lap {
                mark = at;
                lap = lap.saturating_mul(2);
            }
        }
        // The way once more, to remember it.
        let mut at = dir;
        for _ in 0..steps {
            if self.known.len() >= CHECK_ROOTED_MAX {
                self.known.clear();
            }
            self.known.insert(at);
            match parent(at)? {
                Some(up) => at = up,
                None => break,
            }
        }
        Ok(Top::Root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(rooted: &mut Rooted, from: u64, parents: &[(u64, u64)]) -> Top {
        let parent = |dir: Ino| {
            let found = parents.iter().find(|(child, _)| *child == dir.raw());
            Ok(found.map(|(_, up)| Ino::from_raw(*up)))
        };
        rooted.top(Ino::from_raw(from), &parent).unwrap()
    }

    #[test]
    fn a_loop_of_any_length_is_seen_also_from_below_it() {
        for len in 1..20 {
            let mut parents = vec![(2, 1), (3, 2)];
            parents.extend((0..len).map(|n| (10 + n, 10 + (n + 1) % len)));
            parents.extend([(100, 10), (101, 100), (102, 101), (200, 201)]);
            let mut rooted = Rooted::default();
            for (from, expected) in [
                (1, Top::Root),
                (3, Top::Root),
                (2, Top::Root),
                (10, Top::Loop),
                (102, Top::Loop),
                (200, Top::Nowhere),
            ] {
                assert_eq!(top(&mut rooted, from, &parents), expected, "{from} {len}");
            }
        }
    }
}
