//! Patches against an independent reading of the format.

use super::*;
use proptest::prelude::*;

const BASE: &[u8] = br#"{"n":1,"pad":"abcdefghijklmnopqrstuvwxyz0123456789"}"#;
const TARGET: &[u8] = br#"{"n":2,"pad":"abcdefghijklmnopqrstuvwxyz0123456789!"}"#;
const PATCH: &[u8] = b"q\n6:{\"n\":2h@6,3:!\"}A3dNp;";

fn made(base: &[u8], patch: &[u8]) -> Result<Vec<u8>, BadDelta> {
    let mut out = b"before".to_vec();
    let applied = apply(base, patch, &mut out);
    let target = out.split_off(6);
    assert_eq!(out, b"before");
    applied.map(|()| target)
}

/// The patch, after checking that it makes the target and is text if the target is.
fn patched(base: &[u8], target: &[u8]) -> Vec<u8> {
    let mut patch = Vec::new();
    delta(base, target, &mut patch, &mut Scratch::default());
    assert_eq!(made(base, &patch).as_deref(), Ok(target));
    assert!(std::str::from_utf8(target).is_err() || std::str::from_utf8(&patch).is_ok());
    patch
}

#[test]
fn the_protocols_test_vector_applies_and_our_patch_is_no_longer() {
    assert_eq!(made(BASE, PATCH).as_deref(), Ok(TARGET));
    let patch = patched(BASE, TARGET);
    assert!(patch.len() <= PATCH.len(), "{}", patch.escape_ascii());
}

#[test]
fn integers_have_the_digits_of_the_format() {
    let written = |number| {
        let mut out = Vec::new();
        put_integer(&mut out, number);
        String::from_utf8(out).expect("digits")
    };
    let numbers = [0, 9, 10, 35, 36, 37, 62, 63, 64, 4095, 4096, 0xffff_ffff];
    let expected = [
        "0", "9", "A", "Z", "_", "a", "z", "~", "10", "~~", "100", "3~~~~~",
    ];
    assert_eq!(numbers.map(written), expected);
}

#[test]
fn two_separate_edits_cost_little_more_than_themselves() {
    let base: String = (0..40)
        .map(|item| format!(r#"{{"item":{item},"left":100}},"#))
        .collect();
    let target = base
        .replacen(r#""item":7,"left":100"#, r#""item":7,"left":99"#, 1)
        .replacen(r#""item":31,"left":100"#, r#""item":31,"left":101"#, 1);
    let patch = patched(base.as_bytes(), target.as_bytes());
    assert!(patch.len() < 60, "{} bytes", patch.len());
}

#[test]
fn parts_are_found_wherever_they_moved() {
    let base: Vec<u8> = (0..4_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let target = [&base[3_000..], b"new", &base[1_001..2_002], &base[..500]].concat();
    assert!(patched(&base, &target).len() < 60);
}

#[test]
fn edges_of_every_size_are_patched() {
    let long = vec![b'x'; 100];
    for (base, target) in [
        (&b""[..], &b""[..]),
        (b"", b"a"),
        (b"a", b""),
        (b"same", b"same"),
        (&long, &long),
        (&long, b""),
        (b"", &long),
        (&long[..16], &long),
        (&long, &long[..31]),
    ] {
        patched(base, target);
    }
    assert!(patched(&long, &long).len() < 16);
}

#[test]
fn characters_that_share_bytes_are_not_cut() {
    // U+00E4 and U+00F6 differ in their second byte; U+0444 and U+0544 in their first.
    for (old, new) in [
        ("\u{e4}", "\u{f6}"),
        ("\u{444}", "\u{544}"),
        ("\u{1f600}", "\u{1f601}"),
    ] {
        let text = |middle: &str| {
            let pad = "\u{44f}\u{43d}\u{432}".repeat(10);
            format!("{pad}{middle}{pad}{middle}{pad}")
        };
        let patch = patched(text(old).as_bytes(), text(new).as_bytes());
        assert!(patch.len() < text(new).len() / 2);
    }
}

#[test]
fn repetitive_payloads_do_not_take_the_square_of_their_length() {
    // Each has a part in common with the others at every place; in the last no copy could begin.
    let blanks = vec![b' '; 1 << 20];
    let mut dotted = blanks.clone();
    for at in (0..dotted.len()).step_by(19) {
        dotted[at] = b'.';
    }
    let continuations = vec![0x80; 1 << 20];
    let started = std::time::Instant::now();
    patched(&blanks, &dotted);
    patched(&dotted, &blanks);
    patched(&continuations, &continuations[1..]);
    assert!(started.elapsed().as_secs() < 10);
}

#[test]
fn a_warm_scratch_allocates_nothing() {
    let base = BASE.repeat(20);
    let target = TARGET.repeat(20);
    let (mut scratch, mut out) = (Scratch::default(), Vec::with_capacity(4096));
    delta(&base, &target, &mut out, &mut scratch);
    let allocations = allocation_counter::measure(|| {
        out.clear();
        delta(&base, &target, &mut out, &mut scratch);
        out.clear();
        delta(TARGET, BASE, &mut out, &mut scratch);
    });
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn a_patch_for_something_else_is_refused() {
    let mut other = BASE.to_vec();
    other[20] ^= 1;
    assert_eq!(made(&other, PATCH), Err(BadDelta::Checksum));
    assert_eq!(made(&BASE[..40], PATCH), Err(BadDelta::OutOfBase));
    for cut in 0..PATCH.len() {
        assert!(made(BASE, &PATCH[..cut]).is_err(), "{cut}");
    }
    for (patch, expected) in [
        (&b"1\n1:a1:bX;"[..], BadDelta::Length),
        (b"2\n1:aX;", BadDelta::Length),
        (b"1\n1:a0;x", BadDelta::Syntax),
        (b"1\n1:a0;", BadDelta::Checksum),
        (b"1\n1@0;0;", BadDelta::Syntax),
        (b"1\n1#a0;", BadDelta::Syntax),
        (b"1 1:a0;", BadDelta::Syntax),
        (b"\n0;", BadDelta::Syntax),
        (b"1000000\n0;", BadDelta::Syntax),
        (b"~~~~~~\n~~~~~~@~~~~~~,0;", BadDelta::OutOfBase),
        (b"~~~~~~\n~~~~~~:a0;", BadDelta::Syntax),
    ] {
        assert_eq!(made(b"", patch), Err(expected), "{}", patch.escape_ascii());
    }
}

/// Text of few characters that share bytes with each other.
fn text() -> impl Strategy<Value = String> {
    let characters = "[ab\u{e4}\u{f6}\u{1e4}\u{444}\u{544}\u{6c34}\u{6c35}\u{1f600}\u{1f601}]";
    let few_characters = proptest::string::string_regex(&format!("{characters}{{0,60}}"));
    let few_characters = few_characters.expect("a pattern").boxed();
    prop_oneof![
        "\\PC{0,80}".boxed(),
        few_characters.clone(),
        few_characters.prop_map(|text| text.repeat(8)).boxed(),
    ]
}

/// A text and what a few edits make of it.
fn edited() -> impl Strategy<Value = (String, String)> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), 0..4_usize, text()), 0..5);
    (text(), edits).prop_map(|(base, edits)| {
        let mut target: Vec<char> = base.chars().collect();
        for (place, removed, inserted) in edits {
            let from = place.index(target.len() + 1);
            let to = (from + removed).min(target.len());
            let inserted = inserted.chars().take(1 + removed);
            target.splice(from..to, inserted);
        }
        (base, target.into_iter().collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn patches_between_texts_are_text_and_make_their_target((base, target) in edited()) {
        patched(base.as_bytes(), target.as_bytes());
        patched(target.as_bytes(), base.as_bytes());
    }

    #[test]
    fn patches_between_bytes_make_their_target(
        base in proptest::collection::vec(0x7e..0x83_u8, 0..300),
        target in proptest::collection::vec(0x7e..0x83_u8, 0..300),
    ) {
        patched(&base, &target);
        patched(&base, &[&target[..], &base[..], &target[..]].concat());
    }

    #[test]
    fn arbitrary_patches_never_panic(patch in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = made(BASE, &patch);
        fuzz_fossil(&patch);
    }
}

#[test]
fn the_seeds_and_what_is_one_byte_away_from_them_keep_the_promises() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/fossil");
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let mut bytes = std::fs::read(entry.expect("an entry").path()).expect("a seed");
        fuzz_fossil(&bytes);
        for index in 0..bytes.len().min(400) {
            fuzz_fossil(&bytes[..index]);
            for replacement in *b"\x000~@:,;\x80\xc3" {
                let original = std::mem::replace(&mut bytes[index], replacement);
                fuzz_fossil(&bytes);
                bytes[index] = original;
            }
        }
        seeds += 1;
    }
    assert!(seeds > 10, "{seeds} seeds");
}
