//! What the targets share: a meter on memory, and inputs brought into the form that a decoder asks for.

mod meter;

pub use meter::within;

/// Bytes that each byte of an input gives a decoder a right to: a list of the smallest operations takes 56 bytes
/// for each 5, a vector that grows is there twice, and each key has an allocation of its own.
pub const SHARE: usize = 64;

/// Runs a decoder, which may take memory in proportion to its input.
pub fn decoding<T>(input: &[u8], work: impl FnOnce() -> T) -> T {
    within(1024 + SHARE * input.len(), work)
}

/// The hash that targets give to decoders: a constant, so that a fuzzer passes the checksum, which is made right
/// by [`fixed`], and reaches what is behind it.
pub fn no_hash(_: &[&[u8]]) -> [u8; 32] {
    [0; 32]
}

/// The input cut or filled up to `len` bytes, with the checksum of [`no_hash`] in its last 32.
pub fn fixed(input: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(len, 0);
    bytes[len - 32..].fill(0);
    bytes
}
