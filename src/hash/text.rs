//! The printed forms of seeds (docs/seed.md, "Text").

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32m, Hrp};

use super::root::{ContentSeed, Seed};
use crate::base::{Error, Result};

/// Bytes of the short form: the first half of the seed.
pub const SHORT_SEED_LEN: usize = 16;

const SEED_HRP: Hrp = Hrp::parse_unchecked("mmh");
const CONTENT_HRP: Hrp = Hrp::parse_unchecked("mmc");
/// `mmh1`, 52 characters of data, 6 of checksum.
const LONG_TEXT_LEN: usize = 62;
const LETTERS_TEXT_LEN: usize = 4 * SHORT_SEED_LEN;
const HEX_TEXT_LEN: usize = 2 * SHORT_SEED_LEN;
const BECH32_CHARSET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// A seed as somebody typed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeedText {
    /// `mmh1…`: the whole seed.
    Full(Seed),
    /// `mmc1…`: the content digest.
    Content(ContentSeed),
    /// 64 letters ACGT or 32 hexadecimal digits: the first 16 bytes of a seed.
    Short([u8; SHORT_SEED_LEN]),
}

impl Seed {
    /// The short form: the first 16 bytes.
    #[must_use]
    pub fn short(&self) -> [u8; SHORT_SEED_LEN] {
        let mut out = [0; SHORT_SEED_LEN];
        for (to, from) in out.iter_mut().zip(self.as_bytes()) {
            *to = *from;
        }
        out
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bech32m(f, SEED_HRP, self.as_bytes())
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ContentSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bech32m(f, CONTENT_HRP, self.as_bytes())
    }
}

impl fmt::Debug for ContentSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SeedText {
    /// Short forms are printed as letters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(seed) => seed.fmt(f),
            Self::Content(content) => content.fmt(f),
            Self::Short(short) => f.write_str(&short_letters(short)),
        }
    }
}

impl FromStr for SeedText {
    type Err = Error;

    /// Reads any printed form; see [`SeedText::parse`].
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl SeedText {
    /// Reads any printed form.
    ///
    /// `mmh1…` and `mmc1…` are all lower or all upper case, as bech32 demands; letters and hexadecimal
    /// digits are read in any case.
    ///
    /// # Errors
    /// [`Error::SeedSyntax`] that says whether the prefix is unknown, the length wrong or a character
    /// mistyped.
    pub fn parse(text: &str) -> Result<Self> {
        parse_any(text).map_err(|detail| Error::SeedSyntax {
            text: text.to_owned(),
            detail,
        })
    }
}

fn write_bech32m(f: &mut fmt::Formatter<'_>, hrp: Hrp, bytes: &[u8; 32]) -> fmt::Result {
    bech32::encode_lower_to_fmt::<Bech32m, _>(f, hrp, bytes).map_err(|_| fmt::Error)
}

/// The short form as 64 letters: two bits each, most significant first, A=0 C=1 G=2 T=3.
#[must_use]
pub fn short_letters(short: &[u8; SHORT_SEED_LEN]) -> String {
    let pairs = short
        .iter()
        .flat_map(|byte| [byte >> 6, (byte >> 4) & 3, (byte >> 2) & 3, byte & 3]);
    pairs
        .map(|pair| match pair {
            0 => 'A',
            1 => 'C',
            2 => 'G',
            _ => 'T',
        })
        .collect()
}

/// The short form as 32 hexadecimal digits.
#[must_use]
pub fn short_hex(short: &[u8; SHORT_SEED_LEN]) -> String {
    short.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Parsed<T> = std::result::Result<T, String>;

fn parse_any(text: &str) -> Parsed<SeedText> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let prefix: String = text.chars().take(4).collect();
    match prefix.to_ascii_lowercase().as_str() {
        "mmh1" => parse_long(text, SEED_HRP).map(|raw| SeedText::Full(Seed::from_raw(raw))),
        "mmc1" => {
            parse_long(text, CONTENT_HRP).map(|raw| SeedText::Content(ContentSeed::from_raw(raw)))
        }
        _ => parse_short(text).map(SeedText::Short),
    }
}

/// The 32 bytes of a text that starts with a known prefix.
fn parse_long(text: &str, hrp: Hrp) -> Parsed<[u8; 32]> {
    let mut places = text.chars().enumerate().skip(4);
    if let Some((at, wrong)) =
        places.find(|(_, c)| !BECH32_CHARSET.contains(c.to_ascii_lowercase()))
    {
        return Err(format!(
            "{wrong:?} at character {} cannot occur in it",
            at + 1
        ));
    }
    if text.len() != LONG_TEXT_LEN {
        return Err(format!(
            "wrong length: {} characters, {LONG_TEXT_LEN} expected",
            text.len()
        ));
    }
    let upper = text.chars().any(|c| c.is_ascii_uppercase());
    if upper && text.chars().any(|c| c.is_ascii_lowercase()) {
        return Err("upper and lower case are mixed".to_owned());
    }
    let mistyped = || "a character is mistyped (the checksum does not match)".to_owned();
    let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
        .map_err(|_| mistyped())?;
    let raw: Vec<u8> = checked.byte_iter().collect();
    let raw = <[u8; 32]>::try_from(raw).map_err(|_| mistyped())?;
    // Encoding again finds bits beyond the 256 that are not zero: one seed has one text.
    match bech32::encode_lower::<Bech32m>(hrp, &raw) {
        Ok(canonical) if canonical == text.to_ascii_lowercase() => Ok(raw),
        _ => Err("its unused last bits are not zero".to_owned()),
    }
}

/// The 16 bytes of letters or hexadecimal digits.
fn parse_short(text: &str) -> Parsed<[u8; SHORT_SEED_LEN]> {
    let letters = text.chars().all(|c| "ACGTacgt".contains(c));
    let hex = text.chars().all(|c| c.is_ascii_hexdigit());
    if letters && text.len() == LETTERS_TEXT_LEN {
        return Ok(pack(text, 2, |c| "ACGT".find(c.to_ascii_uppercase())));
    }
    if hex && text.len() == HEX_TEXT_LEN {
        return Ok(pack(text, 4, |c| {
            c.to_digit(16).map(|digit| digit as usize)
        }));
    }
    if letters || hex {
        return Err(format!(
            "wrong length: {} characters; the short form has {LETTERS_TEXT_LEN} letters ACGT or {HEX_TEXT_LEN} hexadecimal digits",
            text.len()
        ));
    }
    Err("unknown prefix: a seed starts with mmh1, a content digest with mmc1".to_owned())
}

/// Packs characters of `bits` bits each, most significant first.
fn pack(text: &str, bits: u32, value: impl Fn(char) -> Option<usize>) -> [u8; SHORT_SEED_LEN] {
    let all = text.chars().fold(0_u128, |all, c| {
        (all << bits) | value(c).unwrap_or(0) as u128
    });
    all.to_be_bytes()
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
