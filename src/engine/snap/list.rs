//! Snapshots by name and seed: taking, listing, finding, deleting.

use crate::base::{Error, Ino, Result, Timestamp};
use crate::engine::Engine;
use crate::engine::types::{Progress, SnapshotInfo};
use crate::format::keys;
use crate::format::rows::{Op, SnapshotRow, Table};
use crate::hash::{ContentSeed, Seed, SeedText, short_letters};
use crate::meta::{Rows, for_each_row};

/// Longest name of a snapshot: it is also a directory name under `.mmhfs/snapshots`.
const NAME_LEN_MAX: usize = 255;

fn seed_of(row: &SnapshotRow) -> Seed {
    Seed::from_raw(*row.seed.as_bytes())
}

fn info(name: &str, row: &SnapshotRow) -> SnapshotInfo {
    let seed = seed_of(row);
    SnapshotInfo {
        name: name.to_owned(),
        seed: seed.to_string(),
        content: ContentSeed::from_raw(*row.content.as_bytes()).to_string(),
        dna: short_letters(&seed.short()),
        created: row.created,
        entries: row.entries,
        bytes: row.bytes,
    }
}

/// A name made of a moment: `2026-11-22T12-18-20Z`.
fn name_of_time(time: Timestamp) -> String {
    let days = time.secs.div_euclid(86_400);
    let of_day = time.secs.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// The proleptic Gregorian date of a day counted from 1970-01-01.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (
        yoe + era * 400 + i64::from(month <= 2),
        month,
        doy - (153 * mp + 2) / 5 + 1,
    )
}

impl Engine {
    /// Takes a snapshot of everything that the engine has received; without a name it is named by the time.
    ///
    /// # Errors
    /// [`Error::SnapshotExists`], [`Error::Usage`] for a name that cannot be one, [`Error::Corrupt`] if a file
    /// that must be hashed cannot be read: then there is no snapshot.
    pub fn snapshot(
        &self,
        name: Option<&str>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<SnapshotInfo> {
        self.check_writable()?;
        let _one = self.snapshots.lock();
        let name = match name {
            Some(name) => name.to_owned(),
            None => self.free_name(&name_of_time(self.env.now()))?,
        };
        check_name(&name)?;
        if self
            .live
            .get(Table::Snapshot, &keys::snapshot(&name))?
            .is_some()
        {
            return Err(Error::SnapshotExists(name));
        }
        let row = self.build_snapshot(&name, progress)?;
        Ok(info(&name, &row))
    }

    fn free_name(&self, base: &str) -> Result<String> {
        let mut name = base.to_owned();
        let mut n = 1;
        while self
            .live
            .get(Table::Snapshot, &keys::snapshot(&name))?
            .is_some()
        {
            n += 1;
            name = format!("{base}-{n}");
        }
        Ok(name)
    }

    /// All snapshots in the order in which they were taken.
    ///
    /// # Errors
    /// Those of the index.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let rows = self.snapshot_rows()?;
        Ok(rows.iter().map(|(name, row)| info(name, row)).collect())
    }

    pub(crate) fn snapshot_rows(&self) -> Result<Vec<(String, SnapshotRow)>> {
        let mut rows = Vec::new();
        for_each_row(
            &self.live,
            Table::Snapshot,
            &[],
            &[0xff; 4],
            &mut |key, value| {
                rows.push((
                    keys::parse_snapshot(key)?.to_owned(),
                    SnapshotRow::decode(value)?,
                ));
                Ok(true)
            },
        )?;
        rows.sort_by_key(|(_, row)| row.generation);
        Ok(rows)
    }

    /// Deletes a snapshot by its name. Its space comes back when packs are cleaned.
    ///
    /// # Errors
    /// [`Error::SeedUnknown`] if there is none of that name.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        let _one = self.snapshots.lock();
        let key = keys::snapshot(name);
        if self.live.get(Table::Snapshot, &key)?.is_none() {
            return Err(Error::SeedUnknown(name.to_owned()));
        }
        self.commit_nodes(&[], vec![Op::Del(Table::Snapshot, key)])
    }

    /// The snapshot that a name, seed, content digest or short form means.
    ///
    /// # Errors
    /// [`Error::SeedUnknown`], [`Error::SeedAmbiguous`] for a short form that fits several seeds,
    /// [`Error::SeedSyntax`] for something that looks like a seed but is mistyped.
    pub fn resolve(&self, text: &str) -> Result<SnapshotInfo> {
        self.resolve_row(text).map(|(name, row)| info(&name, &row))
    }

    pub(crate) fn resolve_row(&self, text: &str) -> Result<(String, SnapshotRow)> {
        let rows = self.snapshot_rows()?;
        if let Some(found) = rows.iter().find(|(name, _)| name == text) {
            return Ok(found.clone());
        }
        let unknown = || Error::SeedUnknown(text.to_owned());
        let looks_like_seed = text.starts_with("mmh1") || text.starts_with("mmc1");
        let wanted = match SeedText::parse(text) {
            Ok(wanted) => wanted,
            Err(error) if looks_like_seed => return Err(error),
            Err(_) => return Err(unknown()),
        };
        let fits = |row: &SnapshotRow| match &wanted {
            SeedText::Full(seed) => seed_of(row) == *seed,
            SeedText::Content(content) => row.content.as_bytes() == content.as_bytes(),
            SeedText::Short(short) => seed_of(row).short() == *short,
        };
        let mut found: Vec<_> = rows.into_iter().filter(|(_, row)| fits(row)).collect();
        let distinct = |a: &(String, SnapshotRow), b: &(String, SnapshotRow)| a.1.seed != b.1.seed;
        if found
            .windows(2)
            .any(|w| matches!(w, [a, b] if distinct(a, b)))
        {
            return Err(Error::SeedAmbiguous(text.to_owned()));
        }
        found.pop().ok_or_else(unknown)
    }

    /// The root directory of a snapshot (of the live tree for `None`), for the ordinary reading operations.
    ///
    /// # Errors
    /// Those of [`Engine::resolve`].
    pub fn tree_open(&self, text: Option<&str>) -> Result<Ino> {
        match text {
            None => Ok(Ino::ROOT),
            Some(text) => {
                let (name, row) = self.resolve_row(text)?;
                self.virtual_root(&name, &row)
            }
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > NAME_LEN_MAX
        || name == "."
        || name == ".."
        || name.chars().any(|c| c == '/' || c.is_control());
    let seed_like = name.starts_with("mmh1") || name.starts_with("mmc1");
    if bad || seed_like {
        return Err(Error::Usage(format!(
            "{name:?} cannot name a snapshot: 1 to 255 bytes, no '/', no control characters, not like a seed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_without_a_name_is_named_by_the_time() {
        let at = |secs| name_of_time(Timestamp { secs, nanos: 0 });
        assert_eq!(at(0), "1970-01-01T00-00-00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12-34-56Z");
        assert_eq!(at(1_795_349_900), "2026-11-22T12-18-20Z");
    }
}
