//! The way up from a directory: it ends at the root, unless rows lie.

use crate::base::limits::PATH_DEPTH_MAX;
use crate::base::{Error, Ino, Result};

/// Watches somebody who goes up from a directory, so that a loop ends (Brent's algorithm: after its length at most, one
/// meets the place that was noted at the last power of two). Costs no memory.
#[derive(Debug)]
pub(crate) struct Way {
    mark: Ino,
    steps: usize,
    lap: usize,
}

impl Way {
    /// Begins at a directory.
    pub(crate) fn new(from: Ino) -> Self {
        Self {
            mark: from,
            steps: 0,
            lap: 1,
        }
    }

    /// Takes the step to the directory above.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it leads in a circle.
    pub(crate) fn step(&mut self, up: Ino) -> Result<()> {
        if up == self.mark || self.steps > PATH_DEPTH_MAX {
            return Err(Error::Malformed {
                what: "directory",
                detail: "no way up from it ends at the root",
            });
        }
        self.steps += 1;
        if self.steps == self.lap {
            self.mark = up;
            self.lap = self.lap.saturating_mul(2);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_in_a_circle_ends_whatever_its_length_and_where_it_is_entered() {
        for len in 1..20_u64 {
            for before in 0..5_u64 {
                let up = |at: u64| {
                    if at + 1 < before + len {
                        at + 1
                    } else {
                        before
                    }
                };
                let mut way = Way::new(Ino::from_raw(10));
                let (mut at, mut steps) = (0, 0);
                let mut taken = Ok(());
                while taken.is_ok() && steps < 1000 {
                    at = up(at);
                    steps += 1;
                    taken = way.step(Ino::from_raw(10 + at));
                }
                assert!(taken.is_err(), "{len} {before}");
                assert!(steps < 100, "{len} {before}: {steps} steps");
            }
        }
    }

    #[test]
    fn a_long_way_is_none() {
        let mut way = Way::new(Ino::from_raw(100_000));
        assert!(
            (1..100_000)
                .rev()
                .all(|at| way.step(Ino::from_raw(at)).is_ok())
        );
    }
}
