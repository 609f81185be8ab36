//! Which snapshots to keep: the newest, and the newest of so many days, weeks, months and years (UTC).

use crate::base::{Error, Result, civil};
use crate::engine::Engine;
use crate::engine::types::{ForgetReport, KeepPolicy, SnapshotInfo};

/// One rule: so many periods, told apart by a number.
type Rule<'a> = (u32, Box<dyn Fn(&SnapshotInfo) -> i64 + 'a>);

impl KeepPolicy {
    /// Whether it would keep nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = [
            self.last,
            self.daily,
            self.weekly,
            self.monthly,
            self.yearly,
        ];
        counts.iter().all(|count| *count == 0) && self.names.is_empty()
    }

    /// For each snapshot, in the order given (the oldest first), whether it is kept.
    ///
    /// Each rule counts for itself: it keeps the newest snapshot of each of the newest so many periods that have one. A
    /// snapshot is kept if any rule keeps it.
    #[must_use]
    pub fn keeps(&self, snapshots: &[SnapshotInfo]) -> Vec<bool> {
        let day = |info: &SnapshotInfo| info.created.secs.div_euclid(86_400);
        let month = move |info: &SnapshotInfo| {
            let (year, month, _) = civil(day(info));
            year * 12 + month
        };
        let rules: [Rule<'_>; 4] = [
            (self.daily, Box::new(day)),
            // 1970-01-01 was a Thursday; weeks begin on Monday.
            (self.weekly, Box::new(move |i| (day(i) + 3).div_euclid(7))),
            (self.monthly, Box::new(month)),
            (self.yearly, Box::new(move |i| month(i).div_euclid(12))),
        ];
        let by_name = |info: &SnapshotInfo| self.names.iter().any(|g| matches(g, &info.name));
        let mut kept: Vec<bool> = snapshots.iter().map(by_name).collect();
        let newest = kept.iter_mut().rev();
        newest
            .take(usize::try_from(self.last).unwrap_or(usize::MAX))
            .for_each(|kept| *kept = true);
        for (count, period) in rules {
            let mut left = count;
            let mut last = None;
            for (info, kept) in snapshots.iter().zip(&mut kept).rev() {
                let now = period(info);
                if left > 0 && last != Some(now) {
                    *kept = true;
                    last = Some(now);
                    left -= 1;
                }
            }
        }
        kept
    }
}

/// Whether a name fits a pattern, in which `*` stands for any letters and `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // Which prefixes of the pattern fit what has been read of the name.
    let mut fits = vec![true];
    fits.extend(pattern.iter().scan(true, |all, c| {
        *all &= *c == '*';
        Some(*all)
    }));
    for letter in name {
        let before = fits.clone();
        let mut now = vec![false];
        for (at, c) in pattern.iter().enumerate() {
            let (up, here) = (before.get(at), before.get(at + 1));
            let shorter = now.get(at).copied().unwrap_or(false);
            now.push(match c {
                '*' => shorter || here == Some(&true),
                '?' => up == Some(&true),
                c => *c == letter && up == Some(&true),
            });
        }
        fits = now;
    }
    fits.last().copied().unwrap_or(false)
}

impl Engine {
    /// Deletes the snapshots that a policy does not keep. Their space comes back when the store is cleaned.
    ///
    /// # Errors
    /// [`Error::Usage`] for a policy that keeps nothing at all, and those of deleting.
    pub fn forget_snapshots(&self, policy: &KeepPolicy, dry_run: bool) -> Result<ForgetReport> {
        if policy.is_empty() {
            return Err(Error::Usage(
                "say what to keep: nothing would be left".to_owned(),
            ));
        }
        let all = self.snapshots()?;
        let mut report = ForgetReport::default();
        for (info, kept) in all.iter().zip(policy.keeps(&all)) {
            if kept {
                report.kept.push(info.clone());
                continue;
            }
            if !dry_run {
                self.delete_snapshot(&info.name)?;
            }
            report.removed.push(info.clone());
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    const DAY: i64 = 86_400;
    /// 2026-11-22T12:00:00Z, a Sunday.
    const NOON: i64 = 1_795_348_800;

    fn taken(at: &[i64]) -> Vec<SnapshotInfo> {
        let info = |(n, secs): (usize, &i64)| SnapshotInfo {
            name: format!("s{n}"),
            seed: String::new(),
            content: String::new(),
            dna: String::new(),
            created: Timestamp {
                secs: *secs,
                nanos: 0,
            },
            entries: 0,
            bytes: 0,
        };
        at.iter().enumerate().map(info).collect()
    }

    fn kept(policy: &KeepPolicy, at: &[i64]) -> Vec<usize> {
        let kept = policy.keeps(&taken(at)).into_iter().enumerate();
        kept.filter_map(|(n, kept)| kept.then_some(n)).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let hours = [
            NOON - 400 * DAY,
            NOON - 40 * DAY,
            NOON - 8 * DAY,
            NOON - 7 * DAY,
            NOON - DAY,
            NOON - 3600,
            NOON,
        ];
        let none = KeepPolicy::default();
        let with = |change: fn(&mut KeepPolicy)| {
            let mut policy = none.clone();
            change(&mut policy);
            kept(&policy, &hours)
        };
        assert_eq!(with(|p| p.last = 2), [5, 6]);
        assert_eq!(with(|p| p.daily = 2), [4, 6]);
        assert_eq!(with(|p| p.weekly = 2), [3, 6]);
        assert_eq!(with(|p| p.monthly = 2), [1, 6]);
        assert_eq!(with(|p| p.yearly = 5), [0, 6]);
        assert_eq!(with(|p| p.names = vec!["s[".into(), "s?".into()]).len(), 7);
        assert!(with(|_| {}).is_empty());
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, name, fits) in [
            ("v*", "v1", true),
            ("v*", "v", true),
            ("*", "", true),
            ("v?", "v", false),
            ("*-b*c", "a-bb-c", true),
            ("*-b*c", "a-bb-d", false),
            ("v1", "v12", false),
            ("?", "ä", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
