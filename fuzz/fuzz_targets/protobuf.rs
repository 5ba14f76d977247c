//! Client messages in Protobuf.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::wire::client::{Encoding, fuzz_commands};

fuzz_target!(|bytes: &[u8]| fuzz_commands(Encoding::Protobuf, bytes));
