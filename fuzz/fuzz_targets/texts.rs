//! Printed forms: one seed has one text, whatever was typed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmhfs::hash::{SeedText, short_hex, short_letters};
use mmhfs_fuzz::within;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match within(64 << 10, || SeedText::parse(text)) {
        Ok(SeedText::Short(short)) => {
            let letters = short_letters(&short);
            assert!(
                text.eq_ignore_ascii_case(&letters)
                    || text.eq_ignore_ascii_case(&short_hex(&short))
            );
            assert_eq!(SeedText::parse(&letters).unwrap(), SeedText::Short(short));
        }
        Ok(seed) => {
            assert!(text.eq_ignore_ascii_case(&seed.to_string()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
