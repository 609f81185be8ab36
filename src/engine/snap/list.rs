//! Snapshots by name and seed: taking, listing, finding, deleting.

use crate::base::{Error, Ino, Result, utc};
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

pub(super) fn info(name: &str, row: &SnapshotRow) -> SnapshotInfo {
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
            None => self.free_name(&utc(self.env.now().secs, '-'))?,
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
    /// [`Error::SeedUnknown`] if there is none of that name; [`Error::Busy`] while something reads it.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        let _one = self.snapshots.lock();
        let key = keys::snapshot(name);
        let row = self.live.get(Table::Snapshot, &key)?;
        let row = SnapshotRow::decode(&row.ok_or_else(|| Error::SeedUnknown(name.to_owned()))?)?;
        if self.roots_in_use.contains(&row.root) {
            return Err(Error::Busy("the snapshot is being read, or is mounted"));
        }
        self.commit_nodes(&[], vec![Op::Del(Table::Snapshot, key)])?;
        self.auto_clean.note_forgotten();
        Ok(())
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
        pick(self.snapshot_rows()?, text)
    }

    /// The root directory of a snapshot (of the live tree for `None`), for the ordinary reading operations. To be kept
    /// from deletion by [`Engine::use_snapshot`] as long as it is used.
    ///
    /// # Errors
    /// Those of [`Engine::resolve`].
    pub fn tree_open(&self, text: Option<&str>) -> Result<Ino> {
        match text {
            None => Ok(Ino::ROOT),
            Some(text) => {
                let (_, row) = self.resolve_row(text)?;
                self.virtual_root(&row, 0)
            }
        }
    }
}

/// The snapshot among `rows` that a name, seed, content digest or short form means.
///
/// # Errors
/// As [`Engine::resolve`].
pub(crate) fn pick(rows: Vec<(String, SnapshotRow)>, text: &str) -> Result<(String, SnapshotRow)> {
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
