//! The facts that commands print and that travel over the control socket. The field names are a promise:
//! scripts read them (`--json`), so a field may be added but never renamed or given another meaning.

use serde::{Deserialize, Serialize};

use crate::engine::{
    Change, CheckReport, CleanReport, DamagedPath, DiffItem, FileFacts, FileKind, ForgetReport,
    ParityStats, Progress, ProtectReport, RestoreReport, SnapshotInfo, SpaceUse, Stat, Stats,
};

/// Bytes that are nearly always text: a path or a link target.
///
/// `text` replaces what is not UTF-8; then `hex` has the exact bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Text {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    hex: Option<String>,
}

impl Text {
    pub(super) fn new(bytes: &[u8]) -> Self {
        use std::fmt::Write as _;
        let text = String::from_utf8_lossy(bytes).into_owned();
        let hex = (text.as_bytes() != bytes).then(|| {
            bytes.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
        });
        Self { text, hex }
    }

    /// The exact bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Some(hex) = &self.hex else {
            return self.text.clone().into_bytes();
        };
        let digit = |c: u8| u8::try_from(char::from(c).to_digit(16).unwrap_or(0)).unwrap_or(0);
        hex.as_bytes()
            .chunks(2)
            .map(|pair| pair.iter().fold(0u8, |byte, c| (byte << 4) | digit(*c)))
            .collect()
    }

    /// For people: control characters escaped, so that a name cannot draw on the terminal.
    pub(super) fn shown(&self) -> String {
        if self.text.chars().any(char::is_control) {
            self.text.escape_default().to_string()
        } else {
            self.text.clone()
        }
    }
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotFacts {
    pub(super) name: String,
    pub(super) seed: String,
    pub(super) content: String,
    pub(super) dna: String,
    /// RFC 3339, UTC.
    pub(super) created: String,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl From<&SnapshotInfo> for SnapshotFacts {
    fn from(info: &SnapshotInfo) -> Self {
        Self {
            name: info.name.clone(),
            seed: info.seed.clone(),
            content: info.content.clone(),
            dna: info.dna.clone(),
            created: super::ui::time(info.created.secs),
            entries: info.entries,
            bytes: info.bytes,
        }
    }
}

/// One difference.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DiffFacts {
    /// `added`, `removed`, `changed`, `attributes` or `renamed`.
    pub(super) change: String,
    pub(super) path: Text,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) from: Option<Text>,
}

impl From<&DiffItem> for DiffFacts {
    fn from(item: &DiffItem) -> Self {
        let change = match item.change {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Changed => "changed",
            Change::Attributes => "attributes",
            Change::Renamed => "renamed",
        };
        Self {
            change: change.to_owned(),
            path: Text::new(&item.path),
            from: item.from.as_deref().map(Text::new),
        }
    }
}

/// One entry of a listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EntryFacts {
    pub(super) path: Text,
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `char` or `block`.
    pub(super) kind: String,
    /// Permission bits.
    pub(super) mode: u16,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime_secs: i64,
    pub(super) mtime_nanos: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) target: Option<Text>,
}

impl EntryFacts {
    pub(super) fn new(path: &[u8], stat: &Stat, target: Option<&[u8]>) -> Self {
        Self {
            path: Text::new(path),
            kind: kind_name(stat.kind).to_owned(),
            mode: stat.mode,
            nlink: stat.nlink,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            mtime_secs: stat.mtime.secs,
            mtime_nanos: stat.mtime.nanos,
            target: target.map(Text::new),
        }
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char",
        FileKind::BlockDevice => "block",
    }
}

/// Facts about a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StatsFacts {
    pub(super) store_id: String,
    pub(super) format_version: u32,
    pub(super) pack_bytes: u64,
    pub(super) packs: u64,
    pub(super) index_bytes: u64,
    pub(super) inodes: u64,
    pub(super) logical_bytes: u64,
    pub(super) chunks: u64,
    pub(super) chunk_bytes: u64,
    pub(super) snapshots: u64,
    pub(super) lsn: u64,
    pub(super) dirty_bytes: u64,
    /// As of the last cleaning since the store was opened, if there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) space: Option<SpaceFacts>,
    /// Parity, and damage since the store was opened.
    #[serde(default)]
    pub(super) parity: ParityFacts,
    /// Why the store takes no more changes, if it does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) halted: Option<String>,
}

impl StatsFacts {
    pub(super) fn new(stats: &Stats, halted: Option<String>) -> Self {
        Self {
            store_id: stats.store_id.clone(),
            format_version: stats.format_version,
            pack_bytes: stats.pack_bytes,
            packs: stats.packs,
            index_bytes: stats.index_bytes,
            inodes: stats.inodes,
            logical_bytes: stats.logical_bytes,
            chunks: stats.chunks,
            chunk_bytes: stats.chunk_bytes,
            snapshots: stats.snapshots,
            lsn: stats.lsn,
            dirty_bytes: stats.dirty_bytes,
            space: stats.space.map(Into::into),
            parity: (&stats.parity).into(),
            halted,
        }
    }
}

/// Parity, and damage since the store was opened. The fields are those of
/// [`ParityStats`](crate::engine::ParityStats).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ParityFacts {
    pub(super) percent: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) unreadable: u64,
    pub(super) packs_in_groups: u64,
    pub(super) packs_alone: u64,
    pub(super) packs_weakened: u64,
    pub(super) packs_bare: u64,
    pub(super) packs_refused: u64,
    pub(super) pending: u64,
    pub(super) damaged_frames: u64,
    pub(super) lost_frames: u64,
    pub(super) reads_healed: u64,
    pub(super) packs_repaired: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<String>,
}

impl From<&ParityStats> for ParityFacts {
    fn from(stats: &ParityStats) -> Self {
        Self {
            percent: stats.percent,
            files: stats.files,
            bytes: stats.bytes,
            unreadable: stats.unreadable,
            packs_in_groups: stats.packs_in_groups,
            packs_alone: stats.packs_alone,
            packs_weakened: stats.packs_weakened,
            packs_bare: stats.packs_bare,
            packs_refused: stats.packs_refused,
            pending: stats.pending,
            damaged_frames: stats.damaged_frames,
            lost_frames: stats.lost_frames,
            reads_healed: stats.reads_healed,
            packs_repaired: stats.packs_repaired,
            trouble: stats.trouble.clone(),
        }
    }
}

/// What `clean` found and did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CleanFacts {
    pub(super) dry_run: bool,
    /// Needed by the live tree or a snapshot.
    pub(super) live_bytes: u64,
    /// Of what was deleted.
    pub(super) pending_bytes: u64,
    /// In files that nothing names.
    pub(super) leaked_bytes: u64,
    /// Of the log.
    pub(super) log_bytes: u64,
    pub(super) pack_bytes_before: u64,
    pub(super) pack_bytes_after: u64,
    pub(super) packs_removed: u64,
    pub(super) freed_bytes: u64,
    pub(super) moved_bytes: u64,
    /// Packs that had to stay, each with the reason.
    pub(super) kept: Vec<String>,
}

impl From<CleanReport> for CleanFacts {
    fn from(report: CleanReport) -> Self {
        Self {
            dry_run: report.dry_run,
            live_bytes: report.space.live_bytes,
            pending_bytes: report.space.pending_bytes,
            leaked_bytes: report.space.leaked_bytes,
            log_bytes: report.space.log_bytes,
            pack_bytes_before: report.pack_bytes_before,
            pack_bytes_after: report.pack_bytes_after,
            packs_removed: report.packs_removed,
            freed_bytes: report.freed_bytes,
            moved_bytes: report.moved_bytes,
            kept: report.kept,
        }
    }
}

/// What `protect` did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProtectFacts {
    /// Packs that got parity of their own.
    pub(super) covered: u64,
    /// Groups that were made.
    pub(super) groups: u64,
    /// Parity files that were removed.
    pub(super) removed: u64,
    /// Packs that were repaired.
    pub(super) repaired: u64,
    /// Packs without parity, each with the reason.
    pub(super) refused: Vec<String>,
}

impl From<ProtectReport> for ProtectFacts {
    fn from(report: ProtectReport) -> Self {
        Self {
            covered: report.covered,
            groups: report.groups,
            removed: report.removed,
            repaired: report.repaired,
            refused: report.refused,
        }
    }
}

/// What `forget` kept and deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForgetFacts {
    pub(super) dry_run: bool,
    pub(super) kept: Vec<SnapshotFacts>,
    pub(super) removed: Vec<SnapshotFacts>,
}

impl ForgetFacts {
    pub(super) fn new(report: &ForgetReport, dry_run: bool) -> Self {
        let facts = |list: &[SnapshotInfo]| list.iter().map(Into::into).collect();
        Self {
            dry_run,
            kept: facts(&report.kept),
            removed: facts(&report.removed),
        }
    }
}

/// What the packs held when the store was last cleaned or counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct SpaceFacts {
    pub(super) live_bytes: u64,
    pub(super) pending_bytes: u64,
    pub(super) leaked_bytes: u64,
    pub(super) log_bytes: u64,
}

impl From<SpaceUse> for SpaceFacts {
    fn from(space: SpaceUse) -> Self {
        Self {
            live_bytes: space.live_bytes,
            pending_bytes: space.pending_bytes,
            leaked_bytes: space.leaked_bytes,
            log_bytes: space.log_bytes,
        }
    }
}

/// How one file is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FileStorage {
    pub(super) size: u64,
    pub(super) stored: u64,
    pub(super) extents: u64,
    pub(super) chunks: u64,
    pub(super) codecs: Vec<String>,
}

impl From<FileFacts> for FileStorage {
    fn from(facts: FileFacts) -> Self {
        Self {
            size: facts.size,
            stored: facts.stored,
            extents: facts.extents,
            chunks: facts.chunks,
            codecs: facts.codecs,
        }
    }
}

/// What `check` or `verify` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ReportFacts {
    pub(super) packs: u64,
    pub(super) frames: u64,
    pub(super) records: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Packs that no parity covers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) unprotected: Option<u64>,
    pub(super) problems: Vec<ProblemFacts>,
}

/// One problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProblemFacts {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) pack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) offset: Option<u64>,
    pub(super) paths: Vec<String>,
    pub(super) detail: String,
}

impl From<CheckReport> for ReportFacts {
    fn from(report: CheckReport) -> Self {
        let problems = report.problems.into_iter().map(|p| ProblemFacts {
            pack: p.pack,
            offset: p.offset,
            paths: p.paths,
            detail: p.detail,
        });
        Self {
            packs: report.packs,
            frames: report.frames,
            records: report.records,
            entries: report.entries,
            bytes: report.bytes,
            unprotected: report.unprotected,
            problems: problems.collect(),
        }
    }
}

/// What `restore` did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RestoreFacts {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Entries that were there already and are right.
    pub(super) skipped: u64,
    pub(super) warnings: Vec<String>,
    #[serde(default)]
    pub(super) damaged: Vec<DamagedFacts>,
    /// Damaged paths beyond those that are listed.
    #[serde(default)]
    pub(super) damaged_more: u64,
}

/// A path that was not restored because its stored bytes are damaged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DamagedFacts {
    pub(super) path: Text,
    /// Byte ranges that cannot be read: first byte, and the one after the last.
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) detail: String,
}

impl From<DamagedPath> for DamagedFacts {
    fn from(found: DamagedPath) -> Self {
        let ranges = found.ranges.into_iter();
        Self {
            path: Text::new(&found.path),
            ranges: ranges.map(|range| (range.start, range.end)).collect(),
            detail: found.cause,
        }
    }
}

impl std::fmt::Display for DamagedFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.shown())?;
        for (n, (from, to)) in self.ranges.iter().enumerate() {
            let before = if n == 0 { " bytes " } else { ", " };
            write!(f, "{before}{from}-{}", to.saturating_sub(1))?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl From<RestoreReport> for RestoreFacts {
    fn from(report: RestoreReport) -> Self {
        Self {
            entries: report.entries,
            bytes: report.bytes,
            skipped: report.skipped,
            warnings: report.warnings,
            damaged: report.damaged.into_iter().map(Into::into).collect(),
            damaged_more: report.damaged_more,
        }
    }
}

/// How far a long operation is; totals are 0 while unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProgressFacts {
    pub(super) entries: u64,
    pub(super) entries_total: u64,
    pub(super) bytes: u64,
    pub(super) bytes_total: u64,
}

impl From<Progress> for ProgressFacts {
    fn from(progress: Progress) -> Self {
        Self {
            entries: progress.entries,
            entries_total: progress.entries_total,
            bytes: progress.bytes,
            bytes_total: progress.bytes_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_text_keeps_its_bytes() {
        let raw = b"caf\xe9/\xff";
        let json = serde_json::to_string(&Text::new(raw)).unwrap();
        let back: Text = serde_json::from_str(&json).unwrap();
        assert_eq!(back.bytes(), raw);
        assert_eq!(
            serde_json::to_string(&Text::new(b"plain")).unwrap(),
            r#"{"text":"plain"}"#
        );
    }

    #[test]
    fn a_name_cannot_draw_on_the_terminal() {
        assert!(!Text::new(b"\x1b[2J").shown().contains('\x1b'));
    }
}
