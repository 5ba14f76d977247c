//! What a fuzzer checks of the upstream codec, callable from a plain test as well.

use super::{Frame, HEADER_BYTES, LENGTH_BYTES, Recovery, decode};
use crate::limits::UPSTREAM_FRAME_MAX;

/// Reads `bytes` as a stream of frames and panics when the codec breaks a promise: a frame that was
/// taken encodes to the very bytes it came from, and no prefix of it is taken or called malformed; an
/// error to skip says how far.
pub fn fuzz_upstream(bytes: &[u8]) {
    let mut input = bytes;
    loop {
        match decode(input, UPSTREAM_FRAME_MAX) {
            Ok(Some((frame, frame_bytes))) => {
                check_frame(&frame, &input[..frame_bytes]);
                input = &input[frame_bytes..];
            }
            Ok(None) => return,
            Err(error) => {
                assert_eq!(error.recovery == Recovery::Close, error.code.closes());
                let Recovery::Skip(skipped) = error.recovery else {
                    return;
                };
                assert!(skipped >= HEADER_BYTES, "skips at least a header");
                match input.get(skipped..) {
                    Some(rest) => input = rest,
                    None => return,
                }
            }
        }
    }
}

fn check_frame(frame: &Frame<'_>, bytes: &[u8]) {
    let mut encoded = Vec::with_capacity(bytes.len());
    frame.encode(&mut encoded);
    assert_eq!(encoded, bytes, "one byte form per frame");
    for cut in [0, LENGTH_BYTES, HEADER_BYTES, bytes.len() - 1] {
        let prefix = &bytes[..cut.min(bytes.len() - 1)];
        assert_eq!(decode(prefix, UPSTREAM_FRAME_MAX), Ok(None));
    }
    if let Frame::Broadcast { rooms, .. } = frame {
        assert_eq!(rooms.iter().count(), rooms.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_seeds_and_what_is_one_byte_away_from_them_keep_the_promises() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/upstream");
        let mut seeds = 0;
        for entry in fs::read_dir(corpus).expect("the corpus") {
            let mut bytes = fs::read(entry.expect("an entry").path()).expect("a seed");
            fuzz_upstream(&bytes);
            for index in 0..bytes.len().min(200) {
                fuzz_upstream(&bytes[..index]);
                for bit in 0..8 {
                    bytes[index] ^= 1 << bit;
                    fuzz_upstream(&bytes);
                    bytes[index] ^= 1 << bit;
                }
            }
            seeds += 1;
        }
        assert!(seeds > 50, "{seeds} seeds");
    }
}
