//! Reads settings by type, notes every error, and in the end every key that nobody asked for.
//!
//! The calls of this reader are the schema: each says a setting's name, type, range and default, and
//! what they said is kept for the documentation's test and for suggestions.

use super::error::{ConfigError, Place};
use super::source::{File, Given, Sources, Typed};
use super::units::{duration_ms, show_duration, show_size, size_bytes};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// A setting as the documentation lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// Its name, such as `client.ping_interval`.
    pub setting: String,
    /// Type and range.
    pub allowed: String,
    /// What it is when nobody gives it.
    pub default: String,
}

/// See the module documentation.
pub(super) struct Reader<'a> {
    sources: Sources<'a>,
    /// Relative paths of the file begin here.
    folder: &'a Path,
    errors: Vec<ConfigError>,
    known: Vec<Known>,
}

impl<'a> Reader<'a> {
    /// `errors` are those of the file's text.
    pub(super) fn new(sources: Sources<'a>, folder: &'a Path, errors: Vec<ConfigError>) -> Self {
        Self {
            sources,
            folder,
            errors,
            known: Vec::new(),
        }
    }

    pub(super) fn section(&mut self, name: &str) -> Section<'_, 'a> {
        Section {
            reader: self,
            name: name.into(),
            is_given: false,
            is_sound: true,
        }
    }

    /// Names of the namespaces that somebody gave.
    pub(super) fn namespaces(&self) -> Vec<String> {
        self.sources.namespaces()
    }

    /// Complains of unknown keys; returns all errors in the order of the file, and all settings.
    pub(super) fn finish(mut self) -> (Vec<ConfigError>, Vec<Known>) {
        let mut unknown = Vec::new();
        if let Some(file) = &self.sources.file {
            self.unknown_in_file(file, &mut unknown);
        }
        for flag in &self.sources.flags {
            let (section, key) = flag.setting.rsplit_once('.').unwrap_or(("", &flag.setting));
            if !self.is_known(section, key) {
                unknown.push(ConfigError {
                    place: Place::Flag(flag.flag),
                    key: flag.setting.clone(),
                    value: flag.setting.clone(),
                    expected: self.suggestion(section, key),
                });
            }
        }
        self.errors.extend(unknown);
        // What could not be parsed cannot be right either: once a line is enough.
        let unparsed = self.errors.iter().filter(|error| error.key.is_empty());
        let unparsed: Vec<Place> = unparsed.map(|error| error.place.clone()).collect();
        self.errors
            .retain(|error| error.key.is_empty() || !unparsed.contains(&error.place));
        self.errors.sort();
        self.errors.dedup();
        (self.errors, self.known)
    }

    fn unknown_in_file(&self, file: &File<'_>, errors: &mut Vec<ConfigError>) {
        for (name, value) in file.root() {
            let section: &str = name.get_ref();
            let mut fail = |expected| {
                errors.push(ConfigError {
                    place: file.place(name.span()),
                    key: section.into(),
                    value: String::new(),
                    expected,
                });
            };
            match value.get_ref().as_table() {
                _ if !self.is_section(section) => fail(self.suggestion("", section)),
                None => fail(format!("a table, [{section}]")),
                Some(names) if section == "namespaces" => {
                    self.unknown_in_namespaces(file, names, errors);
                }
                Some(table) => self.unknown_in_table(file, section, table, errors),
            }
        }
    }

    fn unknown_in_namespaces(
        &self,
        file: &File<'_>,
        names: &DeTable<'_>,
        errors: &mut Vec<ConfigError>,
    ) {
        for (name, value) in names {
            let section = format!("namespaces.{}", name.get_ref());
            match value.get_ref().as_table() {
                Some(table) => self.unknown_in_table(file, &section, table, errors),
                None => errors.push(ConfigError {
                    place: file.place(name.span()),
                    expected: format!("a table, [{section}]"),
                    key: section,
                    value: String::new(),
                }),
            }
        }
    }

    fn unknown_in_table(
        &self,
        file: &File<'_>,
        section: &str,
        table: &DeTable<'_>,
        errors: &mut Vec<ConfigError>,
    ) {
        for (name, value) in table {
            let key: &str = name.get_ref();
            if self.is_known(section, key) {
                continue;
            }
            errors.push(ConfigError {
                place: file.place(name.span()),
                key: format!("{section}.{key}"),
                value: match may_hold_secret(section, key) {
                    true => "(hidden)".into(),
                    false => file.shown(value),
                },
                expected: self.suggestion(section, key),
            });
        }
    }

    fn is_section(&self, name: &str) -> bool {
        name == "namespaces" || self.sections().any(|section| section == name)
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        let settings = self.known.iter();
        settings.filter_map(|known| known.setting.split_once('.').map(|(section, _)| section))
    }

    fn is_known(&self, section: &str, key: &str) -> bool {
        let name = format!("{}.{key}", documented(section));
        self.known.iter().any(|known| known.setting == name)
    }

    /// What an unknown key may have been meant to be; sections are keys of the section "".
    fn suggestion(&self, section: &str, key: &str) -> String {
        let documented = documented(section);
        let settings = || self.known.iter().map(|known| known.setting.as_str());
        let near = |name: &str| strsim::damerau_levenshtein(name, key) <= 1 + key.len() / 4;
        let beside: Vec<&str> = match section {
            "" => self.sections().chain(["namespaces"]).collect(),
            _ => settings()
                .filter_map(|name| name.strip_prefix(documented)?.strip_prefix('.'))
                .collect(),
        };
        let nearest = beside.into_iter().filter(|name| near(name));
        let nearest = nearest.min_by_key(|name| strsim::damerau_levenshtein(name, key));
        let elsewhere = settings().find(|name| name.rsplit('.').next() == Some(key));
        match (nearest, elsewhere) {
            (Some(name), _) if section.is_empty() => format!("a known section, such as [{name}]"),
            (Some(name), _) => format!("a known key, such as {section}.{name}"),
            (None, Some(name)) => format!("a known key, such as {name}"),
            (None, None) if section.is_empty() => "a known section".into(),
            (None, None) => format!("a known key of [{section}]"),
        }
    }
}

/// The section of which the documentation lists the keys.
fn documented(section: &str) -> &str {
    match section.starts_with("namespaces.") {
        true => "channels",
        false => section,
    }
}

/// Whether the value of an unknown key may be a secret whose key is misspelt.
fn may_hold_secret(section: &str, key: &str) -> bool {
    let words = ["secret", "key", "pass", "token", "hmac"];
    matches!(section, "token" | "subscription_token" | "api")
        || words
            .iter()
            .any(|word| key.to_ascii_lowercase().contains(word))
}

/// What a setting may be: for the documentation, and for errors.
struct Rule {
    allowed: String,
    expected: String,
}

impl Rule {
    fn new(allowed: impl Into<String>, expected: impl Into<String>) -> Self {
        let (allowed, expected) = (allowed.into(), expected.into());
        Self { allowed, expected }
    }
}

/// One section being read.
pub(super) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    name: String,
    is_given: bool,
    is_sound: bool,
}

impl Section<'_, '_> {
    /// Whether any of the keys read so far was given.
    pub(super) fn is_given(&self) -> bool {
        self.is_given
    }

    /// Whether all keys read so far were right.
    pub(super) fn is_sound(&self) -> bool {
        self.is_sound
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        let rule = Rule::new("boolean", "true or false");
        let read = self.read(key, rule, default.to_string(), |typed| match typed {
            Typed::Boolean(is) => Some(*is),
            Typed::Word(word) => word.parse().ok(),
            _ => None,
        });
        read.unwrap_or(default)
    }

    /// An integer of `range`.
    pub(super) fn integer(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let given = self.integer_or(key, range, &default.to_string());
        given.unwrap_or(default)
    }

    /// An integer of `range`; `default` says what happens without one.
    pub(super) fn integer_or(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        default: &str,
    ) -> Option<u64> {
        let (min, max) = (range.start(), range.end());
        let rule = Rule::new(
            format!("integer, {min} to {max}"),
            format!("{min} to {max}"),
        );
        self.read(key, rule, default.into(), |typed| match typed {
            Typed::Number(text) | Typed::Word(text) => within(text.parse().ok(), &range),
            _ => None,
        })
    }

    /// Milliseconds, typed with a unit.
    pub(super) fn duration(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let (min, max) = (show_duration(*range.start()), show_duration(*range.end()));
        let rule = Rule::new(
            format!("duration, {min} to {max}"),
            format!("{min} to {max}, as text with a unit such as \"25s\" (ms, s, m, h, d)"),
        );
        let read = self.read(key, rule, show_duration(default), |typed| match typed {
            Typed::Text(text) | Typed::Word(text) => within(duration_ms(text), &range),
            _ => None,
        });
        read.unwrap_or(default)
    }

    /// Bytes, typed with or without a unit.
    pub(super) fn size(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let (min, max) = (show_size(*range.start()), show_size(*range.end()));
        let rule = Rule::new(
            format!("size, {min} to {max}"),
            format!("{min} to {max}, in bytes or as text with a unit (KiB, MiB, GiB)"),
        );
        let read = self.read(key, rule, show_size(default), |typed| match typed {
            Typed::Text(text) | Typed::Word(text) | Typed::Number(text) => {
                within(size_bytes(text), &range)
            }
            _ => None,
        });
        read.unwrap_or(default)
    }

    /// An address with a port.
    pub(super) fn address(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        let rule = Rule::new("address", "an address with a port, such as 127.0.0.1:8000");
        let read = self.read(key, rule, default.to_string(), |typed| {
            text(typed)?.parse().ok()
        });
        read.unwrap_or(default)
    }

    /// One of a few words with their meanings; the first is the default.
    pub(super) fn choice<T: Copy, const N: usize>(
        &mut self,
        key: &str,
        choices: [(&str, T); N],
    ) -> T {
        const { assert!(N > 0, "a choice has a default") };
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect();
        let allowed = format!("one of {}", words.join(", "));
        let rule = Rule::new(allowed.clone(), allowed);
        let read = self.read(key, rule, words[0].clone(), |typed| {
            let given = text(typed)?;
            let found = choices.iter().find(|(word, _)| *word == given);
            found.map(|(_, meaning)| *meaning)
        });
        read.unwrap_or(choices[0].1)
    }

    /// A string that `is_right` accepts; `default` says what happens without one.
    pub(super) fn string(
        &mut self,
        key: &str,
        expected: &str,
        default: &str,
        is_right: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let rule = Rule::new(expected, expected);
        self.read(key, rule, default.into(), |typed| {
            text(typed).filter(|text| is_right(text)).map(str::to_owned)
        })
    }

    /// A list of strings, none of them empty; commas separate them in the environment and in flags.
    pub(super) fn strings(&mut self, key: &str, expected: &str) -> Vec<String> {
        let rule = Rule::new(expected, format!("a {expected}"));
        let read = self.read(key, rule, "none".into(), |typed| {
            let items: Vec<String> = match typed {
                Typed::List(items) => items.clone(),
                Typed::Word(word) if word.is_empty() => Vec::new(),
                Typed::Word(word) => word.split(',').map(|item| item.trim().into()).collect(),
                _ => return None,
            };
            items.iter().all(|item| !item.is_empty()).then_some(items)
        });
        read.unwrap_or_default()
    }

    /// The path of a file. In the configuration file, a relative one begins at that file's folder.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.string(key, "path of a file", "none", |text| !text.is_empty())?;
        Some(self.resolved(key, &path))
    }

    /// The texts of files, in their order; those that cannot be read are errors.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let paths = self.strings(key, "list of paths of files");
        let (mut texts, mut unreadable) = (Vec::new(), Vec::new());
        for (index, path) in paths.iter().enumerate() {
            match std::fs::read_to_string(self.resolved(key, path)) {
                Ok(text) => texts.push(text),
                // The path is not repeated: it may be a secret in the wrong place.
                Err(error) => unreadable.push(format!("number {}: {error}", index + 1)),
            }
        }
        if !unreadable.is_empty() {
            let expected = format!("readable text files ({})", unreadable.join("; "));
            self.refuse(key, &expected);
        }
        texts
    }

    /// The text of one file.
    pub(super) fn text_of(&mut self, key: &str) -> Option<String> {
        let path = self.path(key)?;
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.refuse(key, &format!("a readable text file ({error})"));
                None
            }
        }
    }

    /// Notes that a setting does not fit.
    pub(super) fn refuse(&mut self, key: &str, expected: &str) {
        let given = self.reader.sources.find(&self.name, key);
        let given = given.unwrap_or_else(|| Given {
            place: self.reader.sources.place_of_section(&self.name),
            shown: self.default_of(key),
            typed: Typed::Other,
        });
        self.fail(key, given, expected.into());
    }

    fn default_of(&self, key: &str) -> String {
        let name = format!("{}.{key}", documented(&self.name));
        let known = self.reader.known.iter().find(|known| known.setting == name);
        known.map_or(String::new(), |known| {
            format!("{} (default)", known.default)
        })
    }

    fn resolved(&self, key: &str, path: &str) -> PathBuf {
        match self.reader.sources.find(&self.name, key) {
            Some(given) if matches!(given.place, Place::File { .. }) => {
                self.reader.folder.join(path)
            }
            _ => path.into(),
        }
    }

    fn read<T>(
        &mut self,
        key: &str,
        rule: Rule,
        default: String,
        parse: impl Fn(&Typed) -> Option<T>,
    ) -> Option<T> {
        if documented(&self.name) == self.name {
            self.reader.known.push(Known {
                setting: format!("{}.{key}", self.name),
                allowed: rule.allowed,
                default,
            });
        }
        let given = self.reader.sources.find(&self.name, key)?;
        self.is_given = true;
        let value = parse(&given.typed);
        // What is overridden has to be right as well: it counts again when the override goes.
        let overridden = self.reader.sources.in_file(&self.name, key);
        for given in overridden.into_iter().chain([given]) {
            if parse(&given.typed).is_none() {
                self.fail(key, given, rule.expected.clone());
            }
        }
        value
    }

    /// Notes that the section itself does not fit.
    pub(super) fn refuse_all(&mut self, expected: &str) {
        self.is_sound = false;
        self.reader.errors.push(ConfigError {
            place: self.reader.sources.place_of_section(&self.name),
            key: self.name.clone(),
            value: String::new(),
            expected: expected.into(),
        });
    }

    /// One error a value is enough: what follows from the first would only hide it.
    fn fail(&mut self, key: &str, given: Given, expected: String) {
        self.is_sound = false;
        let key = format!("{}.{key}", self.name);
        let mut errors = self.reader.errors.iter();
        if errors.any(|error| error.key == key && error.place == given.place) {
            return;
        }
        self.reader.errors.push(ConfigError {
            place: given.place,
            key,
            value: given.shown,
            expected,
        });
    }
}

fn within(number: Option<u64>, range: &RangeInclusive<u64>) -> Option<u64> {
    number.filter(|number| range.contains(number))
}

fn text(typed: &Typed) -> Option<&str> {
    match typed {
        Typed::Text(text) | Typed::Word(text) => Some(text),
        _ => None,
    }
}
