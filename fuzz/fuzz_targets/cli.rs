//! What other processes say: requests and answers on the control socket, options of a mount, the command lines
//! that mount(8) makes, sizes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((first, rest)) = bytes.split_first() {
        mmhfs::cli::fuzzing::decode(*first, rest);
    }
});
