//! Every printed form is read back, and every mistake is named.

#![expect(
    clippy::cast_possible_truncation,
    reason = "test data wraps and is small"
)]

use proptest::prelude::*;

use super::*;

fn detail(text: &str) -> String {
    match SeedText::parse(text) {
        Err(Error::SeedSyntax { detail, .. }) => detail,
        other => panic!("{text} gave {other:?}"),
    }
}

fn example() -> Seed {
    Seed::from_raw(std::array::from_fn(|at| at as u8 ^ 0x1b))
}

#[test]
fn the_printed_forms_have_their_lengths_and_prefixes() {
    let text = example().to_string();
    assert!(text.starts_with("mmh1") && text.len() == LONG_TEXT_LEN);
    let content = ContentSeed::from_raw(*example().as_bytes()).to_string();
    assert!(content.starts_with("mmc1") && content.len() == LONG_TEXT_LEN);
    let letters = short_letters(&example().short());
    assert!(
        letters.starts_with("ACGTACGG") && letters.len() == LETTERS_TEXT_LEN,
        "{letters}"
    );
    assert!(short_hex(&example().short()).starts_with("1b1a"));
}

#[test]
fn a_mistake_is_named_for_what_it_is() {
    let text = example().to_string();
    assert!(detail("").contains("empty"));
    assert!(detail("hello").contains("unknown prefix"));
    assert!(detail("mmx1qqqq").contains("unknown prefix"));
    assert!(detail(&text[..60]).contains("wrong length"));
    assert!(detail("ACGTACGT").contains("wrong length"));
    assert!(detail("0123456789abcdef").contains("wrong length"));
    assert!(detail(&text.replace('q', "b")).contains("cannot occur"));
    let mut typo = text.clone().into_bytes();
    typo[20] = if typo[20] == b'q' { b'p' } else { b'q' };
    assert!(detail(std::str::from_utf8(&typo).unwrap()).contains("mistyped"));
    let mixed = format!("MMH1{}", &text[4..]);
    assert!(detail(&mixed).contains("mixed"));
    // The checksum covers the prefix: one kind of seed does not pass as the other.
    assert!(detail(&text.replacen("mmh1", "mmc1", 1)).contains("mistyped"));
    assert!(detail("mmh1é").contains("cannot occur"));
}

#[test]
fn a_text_whose_unused_bits_are_set_is_refused() {
    use bech32::primitives::iter::{ByteIterExt as _, Fe32IterExt as _};
    let raw = *example().as_bytes();
    let mut symbols: Vec<bech32::Fe32> = raw.iter().copied().bytes_to_fes().collect();
    let last = symbols.pop().unwrap();
    symbols.push(bech32::Fe32::try_from(last.to_u8() | 1).unwrap());
    let text: String = symbols
        .into_iter()
        .with_checksum::<Bech32m>(&SEED_HRP)
        .chars()
        .collect();
    assert_eq!(text.len(), LONG_TEXT_LEN);
    assert!(detail(&text).contains("unused"));
}

#[test]
fn the_older_checksum_of_bech32_is_refused() {
    let old = bech32::encode_lower::<bech32::Bech32>(SEED_HRP, example().as_bytes()).unwrap();
    assert!(detail(&old).contains("mistyped"));
}

proptest! {
    #[test]
    fn every_form_is_read_back(raw in any::<[u8; 32]>()) {
        let seed = Seed::from_raw(raw);
        let content = ContentSeed::from_raw(raw);
        let parse = |text: String| SeedText::parse(&text).unwrap();
        prop_assert_eq!(parse(seed.to_string()), SeedText::Full(seed));
        prop_assert_eq!(parse(seed.to_string().to_uppercase()), SeedText::Full(seed));
        prop_assert_eq!(parse(content.to_string()), SeedText::Content(content));
        let short = SeedText::Short(seed.short());
        prop_assert_eq!(parse(short.to_string()), short);
        prop_assert_eq!(parse(short.to_string().to_lowercase()), short);
        prop_assert_eq!(parse(short_hex(&seed.short())), short);
        prop_assert_eq!(parse(short_hex(&seed.short()).to_uppercase()), short);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = SeedText::parse(&text);
        let _ = SeedText::parse(&format!("mmh1{text}"));
    }
}
