//! HTTP upgrade requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringcast::wire::http::fuzz_upgrade(data));
