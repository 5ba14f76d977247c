//! Masking of WebSocket payloads (RFC 6455 section 5.3): XOR with a repeating four-byte key.
//!
//! Safe code in a shape that the compiler turns into one vector XOR per 16 bytes; a tail of up to 15
//! bytes goes byte by byte. Masking is its own inverse, so one function masks and unmasks.

/// Bytes that one step of the loop covers.
const WORD_BYTES: usize = 16;

/// XORs `payload` with `key`. `phase` is the number of payload bytes of the same frame that were
/// masked before these, so that a frame may be treated in parts of any length.
pub fn apply(payload: &mut [u8], key: [u8; 4], phase: usize) {
    // Little-endian: the key's next byte is the lowest, so the key turns to the right.
    let turned = u32::from_le_bytes(key).rotate_right(8 * (phase % 4) as u32);
    let key = turned.to_le_bytes();
    let word: [u8; WORD_BYTES] = std::array::from_fn(|index| key[index % 4]);
    let (chunks, tail) = payload.as_chunks_mut::<WORD_BYTES>();
    for chunk in chunks {
        for (byte, mask) in chunk.iter_mut().zip(word) {
            *byte ^= mask;
        }
    }
    // The words before the tail are whole turns of the key.
    for (byte, mask) in tail.iter_mut().zip(word) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in RFC 6455, octet by octet.
    fn apply_slowly(payload: &mut [u8], key: [u8; 4], phase: usize) {
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[(index + phase) % 4];
        }
    }

    #[test]
    fn words_give_what_bytes_give_at_every_alignment_length_and_phase() {
        let key = [0x01, 0x20, 0xc3, 0xf4];
        let source: Vec<u8> = (0..200u32).map(|n| (n * 7 + 3) as u8).collect();
        for start in 0..2 * WORD_BYTES {
            for length in 0..=5 * WORD_BYTES {
                for phase in 0..8 {
                    let mut fast = source.clone();
                    let mut slow = source.clone();
                    apply(&mut fast[start..start + length], key, phase);
                    apply_slowly(&mut slow[start..start + length], key, phase);
                    assert_eq!(fast, slow, "start {start}, length {length}, phase {phase}");
                }
            }
        }
    }

    #[test]
    fn parts_of_a_payload_are_masked_like_the_whole() {
        let key = [9, 8, 7, 6];
        let source: Vec<u8> = (0..100).collect();
        let mut whole = source.clone();
        apply(&mut whole, key, 0);
        for cut in 0..=source.len() {
            let mut parts = source.clone();
            let (head, tail) = parts.split_at_mut(cut);
            apply(head, key, 0);
            apply(tail, key, cut);
            assert_eq!(parts, whole, "cut at {cut}");
        }
    }
}
