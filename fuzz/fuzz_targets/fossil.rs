//! Fossil deltas: made, applied, and arbitrary ones.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ringcast::wire::fossil::fuzz_fossil(bytes));
