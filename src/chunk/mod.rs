//! Packs, the log and the store of chunks.
//!
//! [`ChunkStore::put`] deduplicates, compresses and appends; [`ChunkStore::finish`] makes a commit durable;
//! [`ChunkStore::get`] returns verified bytes; [`replay`](replay()) reads the log back.
//! [`ParityStore`] encodes finished packs and repairs them from their parity.

mod batch;
mod cache;
mod checkpoint;
mod chunker;
mod clean;
mod files;
mod finished;
mod heal;
mod live;
mod log_end;
mod mend;
mod pack;
mod parity;
mod parity_check;
mod parity_encode;
mod parity_group;
mod parity_verify;
mod place;
mod read;
mod repair;
mod replay;
mod reserve;
mod salvage;
mod salvage_disk;
mod scan;
mod settle;
mod store;
mod superblocks;
mod types;
mod walk;
mod window;
mod writer;

pub use batch::Batch;
pub use checkpoint::{
    CheckpointName, CheckpointWriter, EachRows, checkpoints, load_checkpoint, log_start,
};
pub use chunker::cut;
pub use clean::MovingFrame;
pub use files::pack_name;
pub use heal::{HealStats, Signal};
pub use live::LiveSet;
pub use log_end::damaged_pack;
pub use mend::BadFile;
pub use parity::{Cover, PARITY_DIR, ParityConfig, ParityPlace, ParityStore, UnreadableParity};
pub use parity_check::{ParityCheck, ParityRepair};
pub use parity_encode::PackToCover;
pub use parity_verify::Compared;
pub use repair::{LostRange, RangeOutcome, RepairOutcome, RepairedPack};
pub use replay::{EachCommit, LogTail, Replay, replay};
pub use reserve::remove_reserve;
pub use salvage::{EachOps, SalvagedLog, SkippedLog, salvage_log};
pub use salvage_disk::SalvageDisk;
pub use scan::{ScanReport, Scanned};
pub use settle::settle_log;
pub use store::ChunkStore;
pub use superblocks::{load_superblock, mend_superblock, superblocks_that_are_bad};
pub use types::{
    ChunkBytes, ChunkLookup, Committed, Durable, PackInfo, PutKind, StoreConfig, Watermark,
};
