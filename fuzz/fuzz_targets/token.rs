//! Tokens and their claims.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringcast::access::fuzz_token(bytes));
