//! Client messages in JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::wire::client::{Encoding, fuzz_commands};

fuzz_target!(|bytes: &[u8]| fuzz_commands(Encoding::Json, bytes));
