//! Packs, the log and the store of chunks.
//!
//! `ChunkStore::put` deduplicates, compresses and appends; `ChunkStore::finish` makes a commit durable;
//! `ChunkStore::get` returns verified bytes; [`replay`](replay()) reads the log back.

mod batch;
mod cache;
mod files;
mod types;

pub use batch::Batch;
pub use files::pack_name;
pub use types::{
    ChunkBytes, ChunkLookup, Committed, Durable, PackInfo, PutKind, StoreConfig, Watermark,
};
