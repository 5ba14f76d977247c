//! WebSocket frames and messages, as a server and as a client receives them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringcast::wire::message::fuzz_frames(data));
