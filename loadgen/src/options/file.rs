//! Scenario files: TOML whose keys are the options of the command line, so that there is one list of
//! names, one place where values are checked, and options after the file override it.
//!
//! ```toml
//! scenario = "fanout"
//! connections = 10000
//! rate = 100
//! duration = "30s"
//! threshold = ["p99<50ms", "lost==0"]
//! ```

use toml::{Table, Value};

/// Options of which one takes the place of the other.
const INSTEAD: [(&str, &str); 8] = [
    ("--rate", "--rate-steps"),
    ("--rate-steps", "--rate"),
    ("--key", "--key-file"),
    ("--key-file", "--key"),
    ("--processes", "--workers"),
    ("--workers", "--processes"),
    ("--cores", "--workers"),
    ("--source", "--workers"),
];

/// The command line that `text` stands for: the scenario, then its options, but those that `later` options are to
/// take the place of.
pub(crate) fn arguments(text: &str, later: &[String]) -> Result<Vec<String>, String> {
    let table: Table = text.parse().map_err(|error| format!("{error}"))?;
    let scenario = match table.get("scenario") {
        Some(Value::String(scenario)) => scenario.clone(),
        Some(_) => return Err("`scenario` must be a string".to_owned()),
        None => return Err("`scenario` is missing, for example scenario = \"fanout\"".to_owned()),
    };
    let mut arguments = vec![scenario];
    for (key, value) in table.iter().filter(|(key, _)| *key != "scenario") {
        let option = format!("--{}", key.replace('_', "-"));
        let is_overridden = later.iter().any(|argument| {
            let name = argument.split('=').next().unwrap_or_default();
            name == option || INSTEAD.contains(&(option.as_str(), name))
        });
        if is_overridden {
            continue;
        }
        match value {
            Value::Boolean(true) => arguments.push(option),
            Value::Boolean(false) => {}
            Value::Array(values) => {
                for value in values {
                    arguments.push(format!("{option}={}", plain(key, value)?));
                }
            }
            _ => arguments.push(format!("{option}={}", plain(key, value)?)),
        }
    }
    Ok(arguments)
}

fn plain(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => Err(format!(
            "`{key}` must be a number, a text, true or false, or a list of numbers or texts"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_options() {
        let text = "connections = 7\nscenario = \"fanout\"\nrate_steps = [1, 2.5]\njson = true\n\
                    plain = false\nthreshold = [\"p99<50ms\"]";
        let mut all = arguments(text, &[]).unwrap();
        assert_eq!(all.remove(0), "fanout");
        all.sort();
        assert_eq!(
            all,
            [
                "--connections=7",
                "--json",
                "--rate-steps=1",
                "--rate-steps=2.5",
                "--threshold=p99<50ms"
            ]
        );
    }

    #[test]
    fn a_later_option_takes_the_place_of_a_list_and_one_rate_that_of_steps() {
        let text =
            "scenario = \"fanout\"\nrate_steps = [1, 2]\nthreshold = [\"p99<50ms\", \"lost==0\"]";
        let with = |later: &[&str]| {
            let later: Vec<_> = later.iter().map(|&one| one.to_owned()).collect();
            arguments(text, &later).unwrap()
        };
        assert_eq!(with(&[]).len(), 5);
        let rate = with(&["--rate", "5", "--threshold=p99<1s"]);
        assert_eq!(rate, ["fanout"]);
        assert_eq!(with(&["--rate-steps=7"]).len(), 3);
    }

    #[test]
    fn a_file_that_is_none_is_refused_with_its_fault() {
        for (text, fault) in [
            ("connections = 7", "`scenario` is missing"),
            ("scenario = 1", "must be a string"),
            ("scenario = \"idle\"\nx = { a = 1 }", "`x` must be"),
            ("scenario = ", "TOML"),
        ] {
            let error = arguments(text, &[]).unwrap_err();
            assert!(error.contains(fault), "{text}: {error}");
        }
    }
}
