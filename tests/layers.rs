//! The layers of the architecture, read from the sources: a file names only layers below its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each layer and what it may name of this crate besides itself. `base` and `limits` are below all.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &["boot", "config", "service", "client", "wire", "access"],
    ),
    (
        "boot",
        &[
            "config", "demo", "shard", "service", "room", "mesh", "driver", "access",
        ],
    ),
    ("config", &["access"]),
    ("demo", &["shard"]),
    ("shard", &["room", "mesh", "driver", "wire", "access"]),
    ("service", &["mesh", "wire"]),
    ("client", &["wire"]),
    ("room", &["wire"]),
    ("wire", &[]),
    ("mesh", &[]),
    ("driver", &[]),
    ("access", &[]),
    ("base", &["limits"]),
    ("limits", &[]),
];

/// Crates that live in one layer and nowhere else.
const HOMES_OF_CRATES: &[(&str, &[&str])] = &[
    ("glommio", &["service"]),
    ("hyper", &["service"]),
    ("io_uring", &["driver"]),
    ("clap", &["cli", "config"]),
    ("rkyv", &["base", "mesh"]),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap().to_path_buf();
                let first = inside.iter().next().unwrap().to_str().unwrap();
                let layer = first.trim_end_matches(".rs").to_owned();
                found.push((layer, inside, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 50, "the sources were found");
    found
}

/// The text without line comments, so that prose may name anything.
fn code(text: &str) -> String {
    let lines = text.lines();
    let lines = lines.map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

/// First segments of all paths that begin with `root::`, groups included.
fn named(code: &str, root: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(&format!("{root}::")) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':')) {
            continue;
        }
        let rest = &code[at + root.len() + 2..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_segments(group)),
            None => names.extend(identifier(rest)),
        }
    }
    names
}

/// The first segment of each path in `a::b, c::{d, e}, f}`.
fn first_segments(group: &str) -> Vec<String> {
    let (mut depth, mut fresh, mut names) = (0, true, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if c.is_whitespace() => {}
            _ => {
                if std::mem::take(&mut fresh) {
                    names.extend(identifier(&group[at..]));
                }
            }
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let name = &text[..end.unwrap_or(text.len())];
    (!name.is_empty()).then(|| name.to_owned())
}

fn allowed(layer: &str) -> impl Fn(&str) -> bool {
    let entry = LAYERS.iter().find(|(name, _)| *name == layer);
    let (own, below) = entry.unwrap_or_else(|| panic!("src/{layer} is in no layer"));
    move |name: &str| {
        let common = matches!(name, "base" | "limits") && !matches!(*own, "limits" | "main");
        name == *own || common && *own != "base" || below.contains(&name)
    }
}

#[test]
fn no_file_names_a_layer_above_or_beside_its_own() {
    let mut offences = Vec::new();
    for (layer, path, text) in sources() {
        let (code, may) = (code(&text), allowed(&layer));
        for root in ["crate", "ringcast"] {
            for name in named(&code, root).iter().filter(|name| !may(name)) {
                offences.push(format!("src/{}: {root}::{name}", path.display()));
            }
        }
    }
    assert!(offences.is_empty(), "not below:\n{}", offences.join("\n"));
}

#[test]
fn no_relative_path_leads_out_of_a_layer() {
    for (_, path, text) in sources() {
        // Modules between this one and the crate; `mod.rs` is its folder.
        let depth = path.iter().count() - usize::from(path.ends_with("mod.rs"));
        let out = "super::".repeat(depth);
        assert!(
            !code(&text).contains(&out) || depth == 1,
            "src/{}: `{out}` reaches the crate's root",
            path.display()
        );
    }
}

#[test]
fn crates_stay_in_their_layer() {
    for (layer, path, text) in sources() {
        for (name, homes) in HOMES_OF_CRATES {
            let at_home = homes.contains(&layer.as_str());
            assert!(
                at_home || !names_crate(&code(&text), name),
                "src/{} uses {name}",
                path.display()
            );
        }
    }
}

/// Whether a path begins with the crate's name.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | ':'))
    })
}

#[test]
fn the_table_has_no_circle_and_every_layer_has_sources() {
    let found: BTreeSet<String> = sources().into_iter().map(|(layer, _, _)| layer).collect();
    for (index, (layer, below)) in LAYERS.iter().enumerate() {
        assert!(found.contains(*layer), "{layer} has no sources");
        for name in *below {
            let place = LAYERS.iter().position(|(other, _)| other == name);
            assert!(
                place.is_some_and(|place| place > index),
                "{layer} above {name}"
            );
        }
    }
}

#[test]
fn the_reader_of_paths_finds_what_it_must() {
    let text = "use crate::base::{A, b::C};\nuse crate::{room::view, wire::{x, y}, mesh};\n\
                fn f() -> crate::limits::T { mycrate::no(); a::crate::no(); }\n// crate::no\n";
    let found: Vec<String> = named(&code(text), "crate").into_iter().collect();
    assert_eq!(found, ["base", "limits", "mesh", "room", "wire"]);
    let may = allowed("room");
    assert!(may("wire") && may("base") && !may("shard") && !may("mesh"));
    assert!(!allowed("base")("wire") && allowed("base")("limits") && !allowed("limits")("base"));
    assert!(names_crate("use glommio::x;", "glommio") && !names_crate("my_glommio::x", "glommio"));
}
