//! UTF-8 that arrives in parts: refused at the first byte that no continuation can mend.
//!
//! RFC 6455 section 8.1 lets an endpoint fail a text message as soon as it cannot become valid.
//! What has been checked is never checked again, but for the up to three bytes of a character that
//! is not complete.

/// The bytes cannot be the beginning of valid UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// Length of the whole characters at the start of `bytes`. What follows them, at most three bytes,
/// is the beginning of one more character.
pub fn checked_prefix(bytes: &[u8]) -> Result<usize, InvalidUtf8> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(text) => Ok(text.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(InvalidUtf8),
    }
}

/// Whether `bytes` are whole valid UTF-8.
pub fn check(bytes: &[u8]) -> Result<&str, InvalidUtf8> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| InvalidUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_valid_text_is_accepted() {
        let text = "aß水🍉".as_bytes();
        for end in 0..=text.len() {
            let whole = checked_prefix(&text[..end]).expect("a prefix of valid text");
            assert!(end - whole <= 3);
            assert!(std::str::from_utf8(&text[..whole]).is_ok());
        }
    }

    #[test]
    fn a_sequence_fails_at_its_first_impossible_byte() {
        // Overlong forms, a surrogate, beyond U+10FFFF, a stray continuation, a byte never used.
        let cases: [&[u8]; 7] = [
            b"\xc0",
            b"\xe0\x80",
            b"\xf0\x80",
            b"\xed\xa0",
            b"\xf4\x90",
            b"\x80",
            b"\xff",
        ];
        for case in cases {
            assert_eq!(checked_prefix(case), Err(InvalidUtf8), "{case:x?}");
            let mut later = vec![b'x'; 100];
            later.extend_from_slice(case);
            assert_eq!(checked_prefix(&later), Err(InvalidUtf8), "{case:x?}");
        }
    }

    #[test]
    fn a_character_cut_short_is_no_whole_text() {
        assert_eq!(check("水".as_bytes()), Ok("水"));
        assert_eq!(check(&"水".as_bytes()[..2]), Err(InvalidUtf8));
    }
}
