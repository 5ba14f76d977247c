//! State files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringcast::room::state::fuzz_state(bytes));
