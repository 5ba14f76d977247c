//! Durations and sizes as people write them: `25s`, `720h`, `64KiB`.

/// Units of durations with their milliseconds, longest first.
const DURATIONS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of sizes with their bytes, largest first.
const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Milliseconds. The unit is needed: `25` could be seconds or milliseconds.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, factor) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// Bytes. A number without a unit is one of bytes.
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// A duration in the largest unit that divides it; what [`duration_ms`] reads back.
pub(super) fn show_duration(ms: u64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    // Days stay hours: configurations of this field say 720h.
    let units = DURATIONS.iter().filter(|(name, _)| *name != "d");
    show(ms, units).unwrap_or_default()
}

/// A size in the largest unit that divides it; what [`size_bytes`] reads back.
pub(super) fn show_size(bytes: u64) -> String {
    match show(bytes, SIZES.iter()) {
        Some(text) if bytes > 0 => text,
        _ => bytes.to_string(),
    }
}

fn show<'a>(number: u64, mut units: impl Iterator<Item = &'a (&'a str, u64)>) -> Option<String> {
    let (name, factor) = units.find(|(_, factor)| number.is_multiple_of(*factor))?;
    Some(format!("{}{name}", number / factor))
}

/// Leading digits and what follows them.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
    Some((digits.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_its_unit() {
        for (text, ms) in [
            ("25s", 25_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("720h", 2_592_000_000),
            ("1d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for wrong in [
            "25",
            "",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1S",
            "99999999999999999999s",
        ] {
            assert_eq!(duration_ms(wrong), None, "{wrong}");
        }
        assert_eq!(duration_ms("18446744073709551615h"), None, "overflow");
    }

    #[test]
    fn a_size_is_bytes_or_has_a_binary_unit() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("77", 77), ("0", 0)] {
            assert_eq!(size_bytes(text), Some(bytes), "{text}");
        }
        for wrong in ["64KB", "KiB", "1 MiB", "-1", "18446744073709551615GiB"] {
            assert_eq!(size_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for ms in [0, 1, 500, 1_000, 25_000, 90_000, 120_000, 2_592_000_000] {
            assert_eq!(duration_ms(&show_duration(ms)), Some(ms));
        }
        for bytes in [0, 1, 1_000, 65_536, 3 << 20, 5 << 30] {
            assert_eq!(size_bytes(&show_size(bytes)), Some(bytes));
        }
        assert_eq!(show_duration(2_592_000_000), "720h");
        assert_eq!(show_size(512 << 20), "512MiB");
    }
}
