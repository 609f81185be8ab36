//! Every byte on disk: encoders and decoders, pure, no I/O. Specified in docs/format.md.
//!
//! Encoders are canonical; decoders refuse what an encoder cannot have written, never panic and never
//! allocate more than the input's length justifies (I10).

pub mod cursor;
pub mod keys;
pub mod node;
pub mod rows;
