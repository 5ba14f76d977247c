//! House rules that no compiler checks, read from the files.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file.
const LINES_MAX: usize = 700;

/// The files that may contain unsafe code.
const UNSAFE: &[&str] = &[
    "benches/floor.rs",
    "src/driver/buffers.rs",
    "src/driver/uring.rs",
    "src/mesh/ring.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust sources of the repository with their paths from its root.
fn sources() -> Vec<(String, String)> {
    let tops = ["src", "tests", "benches", "loadgen", "fuzz"];
    let mut folders: Vec<PathBuf> = tops.iter().map(|top| root().join(top)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(root()).unwrap().to_str().unwrap();
                found.push((inside.to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 80, "the sources were found");
    found
}

/// Whether a line of code has `word` as a word of its own, comments and quotes left out.
fn says(line: &str, word: &str) -> bool {
    let code = line.split_once("//").map_or(line, |(code, _)| code);
    let unquoted = code.split('"').step_by(2);
    unquoted
        .flat_map(|piece| piece.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .any(|found| found == word)
}

#[test]
fn unsafe_code_has_three_addresses() {
    for (path, text) in sources() {
        let uses = text.lines().any(|line| says(line, "unsafe"));
        let allows = text.contains("allow(unsafe_code)") && path != "tests/tidy.rs";
        assert!(
            !(uses || allows) || UNSAFE.contains(&path.as_str()),
            "{path} has unsafe code"
        );
    }
}

#[test]
fn no_source_file_is_a_giant() {
    let giants: Vec<String> = sources()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    assert!(giants.is_empty(), "split by idea: {giants:?}");
}

#[test]
fn nothing_is_left_to_do_in_the_sources() {
    for (path, text) in sources() {
        for (index, line) in text.lines().enumerate() {
            let place = format!("{path}:{}", index + 1);
            let marks = ["TO", "FIX", "XX"].iter().zip(["DO", "ME", "X"]);
            for mark in marks.map(|(a, b)| format!("{a}{b}")) {
                assert!(!line.contains(&mark), "{place}: {mark}");
            }
            for word in ["todo", "unimplemented", "dbg"] {
                assert!(!says(line, word), "{place}: {word}");
            }
        }
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for (path, text) in sources() {
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//!") || first.starts_with("#!"),
            "{path} begins with {first:?}"
        );
    }
}

#[test]
fn every_path_that_a_document_names_exists() {
    let document = "docs/architecture.md";
    let Ok(text) = fs::read_to_string(root().join(document)) else {
        eprintln!("skipped: there is no {document} yet");
        return;
    };
    let tops = [
        "src/", "tests/", "benches/", "loadgen/", "fuzz/", "docs/", "tuning/", "clients/",
    ];
    let mut checked = 0;
    // What stands between backquotes and begins like a path of the repository.
    for quoted in text.split('`').skip(1).step_by(2) {
        let path = quoted.split([' ', ':', '#']).next().unwrap_or_default();
        let is_path = tops.iter().any(|top| path.starts_with(top)) && !path.contains(['*', '{']);
        if is_path {
            checked += 1;
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
    assert!(checked > 0, "{document} names no path");
}

/// The word behind each occurrence of `function` or `fn` or `def` in a text.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut before = "";
    words.filter(|word| !word.is_empty()).filter(move |word| {
        let is_name = ["fn", "def", "function"].contains(&before);
        before = word;
        is_name
    })
}

#[test]
fn every_test_that_the_matrix_names_exists() {
    let mut texts: Vec<String> = sources().into_iter().map(|(_, text)| text).collect();
    for directory in ["js", "python"] {
        let directory = root().join("tests/interop").join(directory);
        for entry in fs::read_dir(&directory).expect("the directory") {
            let path = entry.expect("an entry").path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if matches!(extension, Some("mjs" | "py")) {
                texts.push(fs::read_to_string(&path).expect("a text"));
            }
        }
    }
    let known: HashSet<&str> = texts.iter().flat_map(|text| functions(text)).collect();
    let document = "docs/client-protocol.md";
    let text = fs::read_to_string(root().join(document)).expect(document);
    let quoted = text.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        let mut characters = word.chars();
        characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    // Settings and parameters have fewer words.
    let tests: Vec<&str> = quoted
        .filter(|word| word.matches('_').count() >= 3 && is_name(word))
        .collect();
    assert!(tests.len() > 90, "the matrix names {} tests", tests.len());
    for test in tests {
        assert!(known.contains(test), "{document} names {test}");
    }
}

#[test]
fn the_reader_of_lines_tells_code_from_prose() {
    assert!(says("    unsafe { x() }", "unsafe"));
    assert!(!says("// unsafe", "unsafe") && !says("\"unsafe\"", "unsafe"));
    assert!(!says("#![allow(unsafe_code)]", "unsafe"));
}
