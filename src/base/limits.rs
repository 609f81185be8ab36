//! Every bound of the program, in one place (I7). Sizes are bytes unless the name says otherwise.

/// Longest name of a directory entry.
pub const NAME_LEN_MAX: usize = 255;
/// Longest target of a symbolic link.
pub const SYMLINK_LEN_MAX: usize = 4095;
/// Longest name of an extended attribute, prefix included.
pub const XATTR_NAME_LEN_MAX: usize = 255;
/// Largest value of an extended attribute (the kernel's `XATTR_SIZE_MAX`).
pub const XATTR_VALUE_LEN_MAX: usize = 65_536;
/// Largest list of attribute names (the kernel's `XATTR_LIST_MAX`).
pub const XATTR_LIST_LEN_MAX: usize = 65_536;
/// Names and values of all attributes of one inode together: they travel through memory as one entry.
pub const XATTR_TOTAL_LEN_MAX: usize = 1 << 20;
/// Highest inode number that is given out: those of snapshots that are mounted have further bits above it.
pub const INO_MAX: u64 = (1 << 48) - 1;
/// Most hard links to one inode.
pub const LINKS_MAX: u32 = 1_000_000_000;

/// One leaf of a file's digest tree (docs/seed.md).
pub const LEAF_LEN: usize = 65_536;
/// Bytes covered by one digest that the store keeps: a random write re-reads this much for a snapshot.
pub const SUBTREE_LEN: u64 = 1 << 20;
/// Bytes of a file that one extent-map segment of a snapshot covers.
pub const SEGMENT_LEN: u64 = 64 << 20;
/// Most entries of one leaf of a directory trie (docs/seed.md).
pub const DIR_LEAF_ENTRIES_MAX: usize = 256;
/// Files up to this size keep their extents in the directory entry of a snapshot.
pub const INLINE_EXTENTS_FILE_LEN_MAX: u64 = SUBTREE_LEN;
/// Most extents that a directory entry of a snapshot holds.
pub const INLINE_EXTENTS_MAX: usize = 64;

/// Capacity of a pack file, default. A pack is closed before it would grow beyond it.
pub const PACK_CAPACITY_DEFAULT: u64 = 64 << 20;
/// Smallest and largest capacity that `init` accepts.
pub const PACK_CAPACITY_MIN: u64 = 4 << 20;
/// See [`PACK_CAPACITY_MIN`].
pub const PACK_CAPACITY_MAX: u64 = 1 << 30;
/// Largest payload of one commit record before compression; a larger commit is cut into parts.
pub const RECORD_PAYLOAD_MAX: usize = 1 << 20;
/// Raw bytes after which a frame is closed.
pub const FRAME_TARGET_LEN: usize = 128 << 10;
/// Largest raw (decoded) length of a frame that a reader accepts.
pub const FRAME_RAW_LEN_MAX: usize = 2 << 20;
/// Most chunks in one frame.
pub const FRAME_CHUNKS_MAX: usize = 1024;
/// Largest chunk.
pub const CHUNK_LEN_MAX: usize = 1 << 20;
/// Largest encoded node of a snapshot that is one chunk; a larger one is split into parts.
pub const NODE_WHOLE_LEN_MAX: usize = FRAME_RAW_LEN_MAX;
/// Length of every part of a split node but the last.
pub const NODE_PART_LEN: usize = 1 << 20;
/// Largest encoded node, and so what a reader gathers of its parts: a directory leaf whose entries have as many
/// attributes as they may has less.
pub const NODE_LEN_MAX: usize = 512 << 20;
/// Encoded bytes of the decoded nodes that are kept in memory, by the default budget or a larger one.
pub const NODES_CACHED_LEN: usize = 32 << 20;

/// Most bits of a name's hash that a directory's trie can tell apart: it is no deeper.
pub const TRIE_DEPTH_MAX: u32 = 256;
/// Most snapshots whose trees have inode numbers at a time: those have 15 bits for it.
pub const VIRTUAL_ROOTS_MAX: usize = (1 << 15) - 1;

/// Bytes that are hashed to tell a torn tail from damage. An honest tail needs a little more than its length, or, where a
/// commit has inline frames full of what looks like records, some GiB.
pub const TEAR_SEARCH_LEN_MAX: u64 = 16 << 30;
/// How many times the length of a pack `check` hashes to find where it goes on after something damaged: bytes of a
/// file may look like the beginning of one frame after another.
pub const SCAN_SEARCH_FACTOR: u64 = 16;
/// Most pack files that are open at a time.
pub const OPEN_PACKS_MAX: usize = 256;
/// Most shards of the cache of decoded frames.
pub const CACHE_SHARDS: usize = 16;
/// Raw bytes that one `put` hashes and compresses at a time; bounds the memory of a large one.
pub const PUT_SLICE_LEN: usize = 8 << 20;
/// Frame bytes that an inline commit keeps in memory; a larger one goes to DATA packs after all.
pub const INLINE_FRAMES_LEN_MAX: usize = 2 << 20;
/// Most frames that read-ahead decodes at a time.
pub const PREFETCH_FRAMES_MAX: usize = 32;
/// Most damaged frames that are remembered; beyond them nothing is deduplicated any more.
pub const DAMAGED_FRAMES_MAX: usize = 65_536;
/// Most frames that are remembered as whole, so that deduplication need not read them again: 8 GiB of file bytes, and a
/// few MiB of memory.
pub const DEDUP_FRAMES_MAX: usize = 65_536;
/// Frames that deduplication reads and verifies at a time; bounds their memory to that of as many of the largest size.
pub const DEDUP_READ_FRAMES: usize = 32;

/// Bytes of a parity symbol: what is lost at a time when a disk loses a sector.
pub const PARITY_SYMBOL_LEN: u32 = 4096;
/// Most source symbols of a source block that this program makes: with what the code adds to them they are less than
/// 8 MiB, from where on the allocator gives memory back at once and each block would fault in all its pages anew. Beyond
/// about twice as many, encoding and decoding become slower per byte.
pub const PARITY_BLOCK_SYMBOLS: u32 = 1900;
/// Most source symbols, and most repair symbols, of a source block that a reader accepts.
pub const PARITY_BLOCK_SYMBOLS_MAX: u32 = 8192;
/// Fewest repair symbols of a source block that this program makes.
pub const PARITY_REPAIR_SYMBOLS_MIN: u32 = 8;
/// Packs of a full group.
pub const PARITY_GROUP_PACKS: usize = 16;
/// Most packs of a group that a reader accepts.
pub const PARITY_MEMBERS_MAX: usize = 32;
/// Most symbols that one parity file covers or holds; bounds the memory that its checksums take to 64 MiB.
pub const PARITY_SYMBOLS_MAX: u64 = 8 << 20;
/// Repair symbols in percent of source symbols, default: enough for the loss of one pack of sixteen.
pub const PARITY_PERCENT_DEFAULT: u8 = 7;
/// Bytes of source blocks that encoding and repair hold at a time, default.
pub const PARITY_MEMORY_DEFAULT: usize = 128 << 20;
/// Part of the memory budget that making parity in the background and repair may take for source blocks.
pub const PARITY_MEMORY_SHARE: u64 = 8;
/// The shortest pack of a group has at least so many percent of the longest one's length.
pub const PARITY_GROUP_LEN_PERCENT_MIN: u64 = 75;
/// Room that making parity in the background leaves on the disk: it must not be what makes a write fail.
pub const PARITY_ROOM_MIN: u64 = 32 << 20;
/// Packs that may fail to be encoded, for another reason than damage, before a pass ends.
pub const PARITY_FAILURES_MAX: usize = 8;
/// Milliseconds after which parity is looked at without being asked for.
pub const PARITY_INTERVAL_MS: u64 = 60_000;
/// Milliseconds without a commit after which the open packs are sealed, so that they get parity ...
pub const IDLE_SEAL_MS: u64 = 60_000;
/// ... if they hold so many bytes.
pub const IDLE_SEAL_LEN_MIN: u64 = 1 << 20;
/// Milliseconds after which open packs are sealed whatever happens.
pub const OPEN_PACK_AGE_MS_MAX: u64 = 3_600_000;
/// Most packs that one opening of a store brings back from parity.
pub const OPEN_REPAIRS_MAX: usize = 256;
/// Most plans for encoding that are kept, one for each count of source symbols; a large one takes a few MiB.
pub const PARITY_PLANS_MAX: usize = 8;
/// Most bytes that a read of damaged bytes may ask for at a time: a frame of the largest size, rounded up.
pub const PARITY_RANGE_LEN_MAX: usize = 4 << 20;
/// Most files of one pack in quarantine.
pub const QUARANTINE_FILES_MAX: u32 = 1000;

/// Dirty file bytes at which a commit is started without being asked for. This and the next three are for the default
/// memory budget or a larger one; a smaller one makes them smaller.
pub const DIRTY_START_LEN: u64 = 32 << 20;
/// Dirty file bytes at which writers wait for the commit.
pub const DIRTY_WAIT_LEN: u64 = 96 << 20;
/// Pending metadata bytes at which a commit is started.
pub const PENDING_META_START_LEN: u64 = 8 << 20;
/// Pending metadata bytes at which writers wait.
pub const PENDING_META_WAIT_LEN: u64 = 32 << 20;
/// How many times as much may wait when only deleting goes on, on a full disk.
pub const PENDING_META_DELETE_FACTOR: u64 = 4;
/// Milliseconds after which changes are committed without an fsync.
pub const COMMIT_INTERVAL_MS: u64 = 5_000;
/// Dirty bytes of a commit up to which its frames go into the LOG pack itself, so that one
/// `fdatasync` suffices.
pub const INLINE_COMMIT_LEN_MAX: u64 = 1 << 20;

/// Bytes of a file that are folded together: small overwrites become whole chunks again.
pub const FOLD_REGION_LEN: u64 = 1 << 20;
/// Fewest extents of a run that are worth writing anew.
pub const FOLD_EXTENTS_MIN: u64 = 6;
/// Most regions that wait to be folded; more are left as they are until they are written again.
pub const FOLD_QUEUE_MAX: usize = 65_536;
/// Most regions that are looked at each time that the commit timer comes round; bounds what it reads and writes.
pub const FOLD_PASS_REGIONS: usize = 32;

/// Memory budget, default.
pub const MEMORY_DEFAULT: u64 = 512 << 20;
/// Smallest memory budget.
pub const MEMORY_MIN: u64 = 128 << 20;

/// Most problems that `check` and `verify` tell apart; more are counted only.
pub const PROBLEMS_MAX: usize = 10_000;
/// Most paths that are listed with one problem.
pub const PROBLEM_PATHS_MAX: usize = 1_000;
/// Pieces of work of `verify` that run at a time; bounds its memory to as many MiB.
pub const VERIFY_BATCH: usize = 64;
/// Damaged places and chunks whose paths `check` looks for; of more it tells only the place.
pub const CHECK_DAMAGED_MAX: usize = 1 << 20;
/// Nodes of one snapshot in which `check` looks for what is stored at damaged places: a node may be in a tree more often
/// than anybody can wait for.
pub const CHECK_NODES_MAX: usize = 1 << 22;
/// Directories that `check` remembers to lie below the root; when they are more it begins to remember anew.
pub const CHECK_ROOTED_MAX: usize = 1 << 20;
/// Directories above one another that a path is followed through: more are a loop.
pub const PATH_DEPTH_MAX: usize = 1 << 20;

/// Byte ranges that a scrub lists of one damaged file; the last one takes in those after it.
pub const SCRUB_RANGES_MAX: usize = 16_384;
/// Bytes after which a scrub notes durably how far it has got.
pub const SCRUB_MARK_INTERVAL_LEN: u64 = 256 << 20;
/// Milliseconds that a scrub waits at a time before it looks whether it is to end.
pub const SCRUB_WAIT_MS_MAX: u64 = 100;

/// Bytes that a salvage reads at a time where the disk fails.
pub const SALVAGE_SECTOR_LEN: usize = 4096;
/// Places of the log that a salvage lists as passed over; further ones are counted.
pub const SALVAGE_SKIPPED_MAX: usize = 10_000;
/// Operations of a commit that a salvage holds; a larger one takes effect in parts.
pub const SALVAGE_PENDING_OPS_MAX: usize = 1 << 20;
/// Roots of snapshots that a salvage finds without the log; more are passed over.
pub const SALVAGE_ROOTS_MAX: usize = 65_536;
/// Byte ranges that a salvage lists of each damaged file; further ones are counted.
pub const SALVAGE_RANGES_MAX: usize = 65_536;

/// Bits that cleaning spends on each chunk that may be live: with [`LIVE_PROBES`] of them set, it keeps about one
/// dead chunk of 1,700 until the next run.
pub const LIVE_BITS_PER_CHUNK: u64 = 16;
/// Bits of the set of live chunks that one chunk sets.
pub const LIVE_PROBES: u64 = 6;
/// Smallest set of live chunks, in bytes.
pub const LIVE_SET_LEN_MIN: usize = 64 << 10;
/// Part of the memory budget that the set of live chunks may take.
pub const LIVE_SET_SHARE: u64 = 8;
/// Part of the memory budget that the nodes already visited by the mark may take; beyond them a shared node is
/// visited again, which costs time only.
pub const VISITED_SHARE: u64 = 16;
/// About what remembering one id costs in a hash set, in bytes.
pub const VISITED_ID_LEN: u64 = 64;
/// Rows of chunks of packs to be emptied that cleaning holds at a time.
pub const CLEAN_ROWS_MAX: usize = 262_144;
/// Stored bytes of frames that cleaning moves in one commit; foreground commits pass between two of them.
pub const CLEAN_BATCH_LEN: usize = 4 << 20;
/// Rows of dead chunks that one commit of cleaning deletes.
pub const CLEAN_OPS_MAX: usize = 8_192;
/// Dead bytes, in percent of the live ones, that cleaning leaves in packs that are mostly live.
pub const CLEAN_UNUSED_PERCENT: u64 = 5;
/// Places at which one read looks for a chunk that is moved again and again.
pub const LOOKUPS_MAX: u32 = 8;
/// Milliseconds between two looks whether a store is to be cleaned.
pub const AUTO_CLEAN_INTERVAL_MS: u64 = 60_000;
/// Packs that must be new before a store is cleaned by itself ...
pub const AUTO_CLEAN_PACKS_MIN: u64 = 4;
/// ... and beside them this part of all packs.
pub const AUTO_CLEAN_PACKS_SHARE: u64 = 4;
/// What an automatic cleaning leaves: see [`CLEAN_UNUSED_PERCENT`].
pub const AUTO_CLEAN_UNUSED_PERCENT: u64 = 25;
/// Bytes of the file that keeps room for the commits of a cleaning.
pub const RESERVE_LEN: u64 = 4 << 20;
/// Room below which a cleaning begins with giving that file back.
pub const RESERVE_NEEDED_LEN: u64 = 16 << 20;
/// Bytes that the packs of a store must have for that file to be worth it.
pub const RESERVE_STORE_LEN_MIN: u64 = 64 << 20;
/// Room that the disk must have for that file to be made.
pub const RESERVE_ROOM_MIN: u64 = 64 << 20;
/// Checkpoints that are kept: the newest, and one to fall back on.
pub const CHECKPOINTS_KEPT: usize = 2;

/// Most threads that compute the seed of a plain directory.
pub const PLAIN_SEED_THREADS_MAX: usize = 256;
/// Stack of each of them: the deepest path has 2,048 directories. Only what is used takes memory.
pub const PLAIN_SEED_STACK_LEN: usize = 64 << 20;

/// Files that a restore works on at a time; bounds its open directories as well.
pub const RESTORE_BATCH: usize = 256;
/// Directories on the way down that a restore keeps open; those further up are opened again when needed.
pub const RESTORE_OPEN_DIRS_MAX: usize = 64;
/// Warnings that a restore keeps word for word; further ones are counted.
pub const RESTORE_WARNINGS_MAX: usize = 1000;
/// Damaged paths that a restore lists; further ones are counted.
pub const RESTORE_DAMAGED_MAX: usize = 10_000;
/// Byte ranges that are listed of each damaged file; the last one takes in those after it.
pub const RESTORE_DAMAGED_RANGES_MAX: usize = 100;
/// Pending bytes of metadata at which opening a store commits what it has cleaned up so far.
pub const SETTLE_STEP_LEN: u64 = 1 << 20;
/// Nodes and rows that a snapshot gathers in memory before it commits them.
pub const SNAPSHOT_PENDING_LEN: usize = 4 << 20;
/// Size of a file from which on its nodes are stored as they are made, and not with those of its neighbours.
pub const SNAPSHOT_STREAMED_LEN: u64 = 4 * SEGMENT_LEN;
/// Pending bytes of metadata at which a rollback commits what it has done so far; a smaller one is atomic.
pub const ROLLBACK_STEP_LEN: u64 = 16 << 20;

const _: () = assert!(NODE_WHOLE_LEN_MAX <= FRAME_RAW_LEN_MAX);
const _: () = assert!(NODE_PART_LEN <= NODE_WHOLE_LEN_MAX);
// Names and values of all attributes, the lengths before them, and the rest of an entry.
const _: () = assert!(
    DIR_LEAF_ENTRIES_MAX * (XATTR_TOTAL_LEN_MAX + 5 * XATTR_LIST_LEN_MAX + (16 << 10))
        <= NODE_LEN_MAX
);
const _: () = assert!(ROLLBACK_STEP_LEN < PENDING_META_WAIT_LEN);
const _: () = assert!(SUBTREE_LEN.is_multiple_of(LEAF_LEN as u64));
const _: () = assert!(SEGMENT_LEN.is_multiple_of(SUBTREE_LEN));
const _: () = assert!(CHUNK_LEN_MAX <= FRAME_RAW_LEN_MAX);
const _: () = assert!((FRAME_RAW_LEN_MAX as u64) < PACK_CAPACITY_MIN);
const _: () = assert!((RECORD_PAYLOAD_MAX as u64) < PACK_CAPACITY_MIN);
const _: () = assert!(PARITY_BLOCK_SYMBOLS <= PARITY_BLOCK_SYMBOLS_MAX);
const _: () = assert!(PARITY_GROUP_PACKS <= PARITY_MEMBERS_MAX);
const _: () = assert!(FRAME_RAW_LEN_MAX < PARITY_RANGE_LEN_MAX);
const _: () = assert!(PARITY_GROUP_LEN_PERCENT_MIN <= 100);
const _: () = assert!(DIRTY_START_LEN < DIRTY_WAIT_LEN);
