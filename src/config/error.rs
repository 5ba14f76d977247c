//! A setting that cannot be used: where it stands, what it is, what would be right.

use std::fmt;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the configuration file.
    File {
        /// Its path, as given.
        path: String,
        /// From 1.
        line: usize,
    },
    /// In the environment: the variable's name.
    Environment(String),
    /// On the command line: the flag without its dashes.
    Flag(&'static str),
    /// Nowhere: it is a default that does not fit something else.
    Default,
}

/// An error of the configuration. Its text never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where the value was given.
    pub place: Place,
    /// The setting, such as `client.ping_interval`; empty when it is about the text of the file.
    pub key: String,
    /// What was given; empty when there is nothing to show.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            expected,
            ..
        } = self;
        match &self.place {
            Place::File { path, line } => write!(f, "{path}:{line}: ")?,
            Place::Environment(name) => return write!(f, "{name}={value}: expected {expected}"),
            Place::Flag(flag) => return write!(f, "--{flag} {value}: expected {expected}"),
            Place::Default => {}
        }
        match (key.is_empty(), value.is_empty()) {
            (true, _) => write!(f, "expected {expected}"),
            (false, true) => write!(f, "{key}: expected {expected}"),
            (false, false) => write!(f, "{key} = {value}: expected {expected}"),
        }
    }
}

impl std::error::Error for ConfigError {}
