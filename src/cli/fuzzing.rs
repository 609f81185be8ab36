//! The parsers of the command line and the control socket, for the fuzz target `cli` alone: nothing else builds it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::facts::Text;
use super::helper::{Role, translate};
use super::mount::Args;
use super::{control, options};

/// Hands bytes to one of the parsers; `which` chooses it.
pub fn decode(which: u8, bytes: &[u8]) {
    match which % 5 {
        0 => control::decode_line(bytes),
        1 => {
            let _ = options::apply(&mut Args::default(), &String::from_utf8_lossy(bytes));
        }
        2 => {
            let _ = options::parse_size(&String::from_utf8_lossy(bytes));
        }
        3 => {
            let words: Vec<OsString> = bytes
                .split(|byte| *byte == b' ')
                .map(|word| OsString::from_vec(word.to_vec()))
                .collect();
            for role in [Role::Mount, Role::Umount] {
                let _ = translate(role, &words);
            }
        }
        // A name travels as text, and as hexadecimal digits beside it if it is none.
        _ => assert_eq!(Text::new(bytes).bytes(), bytes),
    }
}
