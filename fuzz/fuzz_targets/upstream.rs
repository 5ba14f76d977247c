#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ringcast::wire::upstream::fuzz_upstream(bytes));
