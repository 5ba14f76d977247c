//! Where values come from: flags override the environment, the environment overrides the file.
//!
//! A setting has one name, `section.key`. The file has it as a key of a table, the environment as
//! `RINGCAST_SECTION_KEY`, the command line as a flag of its own or as `--set section.key=value`.

use super::error::{ConfigError, Place};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value of the command line.
#[derive(Clone, Debug)]
pub(super) struct FlagValue {
    /// The setting.
    pub(super) setting: String,
    /// The flag without its dashes.
    pub(super) flag: &'static str,
    /// What stands on the command line.
    pub(super) given: String,
    /// The same in the setting's own notation.
    pub(super) text: String,
}

/// A configuration file, parsed.
pub(super) struct File<'a> {
    path: &'a str,
    text: &'a str,
    root: DeTable<'a>,
}

impl<'a> File<'a> {
    /// Parses `text`; what is no TOML is an error each, and the rest is read all the same.
    pub(super) fn parse(path: &'a str, text: &'a str, errors: &mut Vec<ConfigError>) -> Self {
        let (root, wrong) = DeTable::parse_recoverable(text);
        let root = root.into_inner();
        let file = Self { path, text, root };
        errors.extend(wrong.iter().map(|error| ConfigError {
            place: file.place(error.span().unwrap_or_default()),
            key: String::new(),
            value: String::new(),
            expected: format!("TOML ({})", error.message().replace('\n', ", ")),
        }));
        file
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.as_bytes().iter().take(span.start);
        Place::File {
            path: self.path.into(),
            line: 1 + before.filter(|byte| **byte == b'\n').count(),
        }
    }

    /// The value as it is typed, shortened.
    pub(super) fn shown(&self, value: &Spanned<DeValue<'_>>) -> String {
        const CHARS_MAX: usize = 60;
        let typed = self.text.get(value.span()).unwrap_or_default();
        let typed = typed.split_whitespace().collect::<Vec<_>>().join(" ");
        match typed.char_indices().nth(CHARS_MAX) {
            Some((end, _)) => format!("{}…", &typed[..end]),
            None => typed,
        }
    }

    pub(super) fn root(&self) -> &DeTable<'a> {
        &self.root
    }

    /// A section's table: `client`, or `namespaces.NAME`, whose name may have dots.
    fn section(&self, section: &str) -> Option<&DeTable<'a>> {
        match section.split_once('.') {
            Some((outer, name)) => table(table(&self.root, outer)?, name),
            None => table(&self.root, section),
        }
    }
}

/// Values of tables, by their names.
pub(super) fn table<'t, 'a>(of: &'t DeTable<'a>, name: &str) -> Option<&'t DeTable<'a>> {
    of.get(name)?.get_ref().as_table()
}

/// All that the operator typed.
pub(super) struct Sources<'a> {
    /// Values of the command line; of two for one setting the later counts.
    pub(super) flags: Vec<FlagValue>,
    /// Variables of the environment.
    pub(super) environment: &'a [(String, String)],
    /// The file, if there is one.
    pub(super) file: Option<File<'a>>,
}

/// A value before anybody knows what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// From a flag or a variable: all types are written as text there.
    Word(String),
    /// A string of the file.
    Text(String),
    /// An integer of the file, in decimal.
    Number(String),
    /// A boolean of the file.
    Boolean(bool),
    /// An array of strings of the file.
    List(Vec<String>),
    /// Anything else.
    Other,
}

/// A value with the place that an error would name.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) place: Place,
    /// As typed, or a stand-in for a secret.
    pub(super) shown: String,
    pub(super) typed: Typed,
}

impl Sources<'_> {
    /// The value that counts for `section.key`.
    pub(super) fn find(&self, section: &str, key: &str) -> Option<Given> {
        self.flag(section, key)
            .or_else(|| self.variable(section, key))
            .or_else(|| self.in_file(section, key))
    }

    fn flag(&self, section: &str, key: &str) -> Option<Given> {
        let setting = format!("{section}.{key}");
        let mut later_first = self.flags.iter().rev();
        let value = later_first.find(|value| value.setting == setting)?;
        Some(Given {
            place: Place::Flag(value.flag),
            shown: shown(key, value.given.clone()),
            typed: Typed::Word(value.text.clone()),
        })
    }

    fn variable(&self, section: &str, key: &str) -> Option<Given> {
        let name = variable_name(section, key);
        let (name, value) = self.environment.iter().find(|(found, _)| *found == name)?;
        Some(Given {
            place: Place::Environment(name.clone()),
            shown: shown(key, value.clone()),
            typed: Typed::Word(value.clone()),
        })
    }

    /// The value of the file, overridden or not.
    pub(super) fn in_file(&self, section: &str, key: &str) -> Option<Given> {
        let file = self.file.as_ref()?;
        let value = file.section(section)?.get(key)?;
        Some(Given {
            place: file.place(value.span()),
            shown: shown(key, file.shown(value)),
            typed: typed(value.get_ref()),
        })
    }

    /// Where an error about a setting that is nowhere given belongs: at its section's header.
    pub(super) fn place_of_section(&self, section: &str) -> Place {
        let Some(file) = &self.file else {
            return Place::Default;
        };
        let (outer, inner) = match section.split_once('.') {
            Some((outer, name)) => (table(&file.root, outer), name),
            None => (Some(&file.root), section),
        };
        match outer.and_then(|outer| outer.get_key_value(inner)) {
            Some((name, _)) => file.place(name.span()),
            None => Place::Default,
        }
    }

    /// Names of `[namespaces.NAME]`, from the file and from `--set`.
    pub(super) fn namespaces(&self) -> Vec<String> {
        let in_file = self.file.as_ref();
        let in_file = in_file.and_then(|file| table(&file.root, "namespaces"));
        let in_file = in_file.into_iter().flat_map(|names| names.iter());
        let tables = in_file.filter(|(_, value)| value.get_ref().is_table());
        let mut names: Vec<String> = tables
            .map(|(name, _)| name.get_ref().to_string())
            .chain(self.flags.iter().filter_map(|value| {
                let (section, _) = value.setting.rsplit_once('.')?;
                Some(section.strip_prefix("namespaces.")?.to_owned())
            }))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// `RINGCAST_CLIENT_PING_INTERVAL` for `client.ping_interval`.
pub(super) fn variable_name(section: &str, key: &str) -> String {
    format!("RINGCAST_{section}_{key}").to_ascii_uppercase()
}

/// What an error shows of the value of a known key.
fn shown(key: &str, value: String) -> String {
    match key.contains("secret") || key == "keys" {
        true => "(hidden)".into(),
        false => value,
    }
}

fn typed(value: &DeValue<'_>) -> Typed {
    match value {
        DeValue::String(text) => Typed::Text(text.to_string()),
        DeValue::Boolean(is) => Typed::Boolean(*is),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Typed::Number(number.to_string()),
            Err(_) => Typed::Other,
        },
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str());
            let texts: Option<Vec<String>> = texts.map(|text| text.map(str::to_owned)).collect();
            texts.map_or(Typed::Other, Typed::List)
        }
        _ => Typed::Other,
    }
}
