//! Values on the command line, and in scenario files, which use the same words.

use crate::payload::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, ROOMS_MAX};
use crate::schedule::Rate;
use crate::url::hide_secrets;
use std::fmt;
use std::time::Duration;

/// How this service proves who it is.
#[derive(Clone)]
pub(crate) struct Key {
    /// Which secret.
    pub(crate) id: String,
    /// The secret.
    pub(crate) secret: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The command line without secrets, for reports.
pub(crate) fn command_line(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let hide = |name: &str, value: &str| match (name, value.split_once(':')) {
        ("--key", Some((id, _))) => format!("{id}:…"),
        ("--key" | "--api-key", _) => "…".to_owned(),
        _ => hide_secrets(value),
    };
    let mut before = String::new();
    arguments
        .map(|argument| {
            let name = std::mem::take(&mut before);
            if !argument.starts_with("--") {
                return hide(&name, &argument);
            }
            match argument.split_once('=') {
                Some((name, value)) => format!("{name}={}", hide(name, value)),
                None => {
                    before.clone_from(&argument);
                    argument
                }
            }
        })
        .collect()
}

/// A number of rooms that payloads can name.
pub(super) fn rooms() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(ROOMS_MAX))
}

pub(super) fn parse_payload_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "between {PAYLOAD_BYTES_MIN} and {PAYLOAD_BYTES_MAX} bytes"
        )),
    }
}

/// Cores that a thread can be pinned to: bits of the C library's `cpu_set_t`.
pub(crate) const CORES_MAX: usize = 1_024;

pub(super) fn parse_core(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(core) if core < CORES_MAX => Ok(core),
        _ => Err(format!("the number of a core, below {CORES_MAX}")),
    }
}

pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate < 1e9 => Ok(Rate(rate)),
        _ => Err("publications per second, above 0".to_owned()),
    }
}

/// A part of a whole, as `5%` or `0.05`.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, 0.01),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&(number * unit)) => Ok(number * unit),
        _ => Err("a share, as 5% or 0.05".to_owned()),
    }
}

/// The same, and not nothing.
pub(super) fn parse_some_share(text: &str) -> Result<f64, String> {
    match parse_share(text)? {
        0.0 => Err("a share above 0".to_owned()),
        share => Ok(share),
    }
}

pub(super) fn parse_key(text: &str) -> Result<Key, String> {
    match text.split_once(':') {
        Some((id, secret)) if !id.is_empty() && !secret.is_empty() => Ok(Key {
            id: id.to_owned(),
            secret: secret.as_bytes().to_vec(),
        }),
        _ => Err("key id, colon, secret".to_owned()),
    }
}

pub(super) fn read_key(path: &str) -> Result<Key, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(id), Some(secret), None) => Ok(Key {
            id: id.to_owned(),
            secret: secret.as_bytes().to_vec(),
        }),
        _ => Err("not one line: key id, space, secret".to_owned()),
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| c != '.' && !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit_s = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("a number and us, ms, s, m or h".to_owned()),
    };
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() && number * unit_s < 1e6 => {
            Ok(Duration::from_secs_f64(number * unit_s))
        }
        _ => Err("a number and us, ms, s, m or h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_in_no_report() {
        let line = |arguments: &[&str]| command_line(arguments.iter().map(|&a| a.to_owned()));
        assert_eq!(
            line(&["loadgen", "--key", "id:secret", "--json"]),
            ["loadgen", "--key", "id:…", "--json"]
        );
        assert_eq!(line(&["--key=id:secret"]), ["--key=id:…"]);
        assert_eq!(line(&["--api-key", "a:secret"]), ["--api-key", "…"]);
        assert_eq!(line(&["--api-key=secret"]), ["--api-key=…"]);
        assert_eq!(
            line(&[
                "--publish-to",
                "http://me:secret@h/pub",
                "--path=/ws?token=secret"
            ]),
            ["--publish-to", "http://…@h/pub", "--path=/ws?token=…"]
        );
        let threshold = ["--threshold", "p99<5ms"];
        assert_eq!(line(&threshold), threshold);
        let key = parse_key("id:secret").unwrap();
        assert!(!format!("{key:?}").contains("secret"));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1s", "1d", "1e9h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_a_part_of_the_whole() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert_eq!(parse_share("0.05"), Ok(0.05));
        for bad in ["", "%", "101%", "-1%", "2", "nan"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
        assert!(parse_share("0%").is_ok() && parse_some_share("0%").is_err());
    }
}
