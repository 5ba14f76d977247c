//! `ringcast check`, the example configuration and the documentation's tables of settings.

use ringcast::config::known_settings;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// More than ten mistakes; each line that has one says so in its comment.
const BROKEN: &str = r#"
[listen]
client = "nowhere"                      # wrong: listen.client
pth = "/x"                              # wrong: listen.pth

[shards]
count = 0                               # wrong: shards.count

[client]
ping_interval = 25                      # wrong: client.ping_interval
pong_timeout = "26s"                    # wrong: client.pong_timeout
channel_limit = 500                     # wrong: client.channel_limit
alow_anonymous = true                   # wrong: client.alow_anonymous
hook_timeout = "10s"                    # wrong: client.hook_timeout

[token]
hmac_secrets = "s3cret"                 # wrong: token.hmac_secrets

[chanels]                               # wrong: chanels
presence = true

[channels]
presence = "yes"                        # wrong: channels.presence
allow_recovery = true                   # wrong: channels.allow_recovery
recovery_mode = "caches"                # wrong: channels.recovery_mode
allow_publish_for_anonymous = true      # wrong: channels.allow_publish_for_anonymous
history_bytes = "64KB"                  # wrong: channels.history_bytes

[namespaces.chat]
history_size = 10
history_size = 11                       # wrong: expected TOML
history_ttl = "1m"
history_meta_ttl =                      # wrong: expected TOML
delta_publish = true                    # wrong: namespaces.chat.delta_publish

[namespaces."b c"]                      # wrong: namespaces.b c
"#;

fn check(config: &Path, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    command.arg("check").arg("--config").arg(config);
    change(&mut command);
    command.output().expect("ringcast runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_error_of_a_broken_file_is_reported_in_the_order_of_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.toml");
    fs::write(&path, BROKEN).unwrap();
    let output = check(&path, |_| {});
    assert_eq!(output.status.code(), Some(2));

    let expected = BROKEN.lines().enumerate().filter_map(|(index, line)| {
        let (_, key) = line.split_once("# wrong: ")?;
        Some(format!("{}:{}: {key}", path.display(), index + 1))
    });
    let expected: Vec<String> = expected.collect();
    let errors = text(&output.stderr);
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
    for (error, expected) in errors.lines().zip(&expected) {
        assert!(error.starts_with(expected), "{error}\nis not {expected}");
        assert!(error.contains("expected "), "{error}");
    }
    assert!(errors.contains("client.channel_limit = 500: expected 1 to 128"));
    assert!(!errors.contains("s3cret"));
}

/// The example beside the files that it names, in a folder of its own.
fn example(folder: &Path) -> PathBuf {
    let path = folder.join("ringcast.toml");
    fs::copy(root().join("deploy/ringcast.toml"), &path).unwrap();
    fs::create_dir(folder.join("secrets")).unwrap();
    for (name, content) in [
        ("token-hmac", "a secret\n"),
        ("upstream-keys", "chat another secret\n"),
        ("api-keys", "key\n"),
    ] {
        fs::write(folder.join("secrets").join(name), content).unwrap();
    }
    path
}

#[test]
fn the_example_is_fine_and_the_check_says_what_it_amounts_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = example(folder.path());
    let output = check(&path, |_| {});
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(said.starts_with(&format!("{}: fine\n", path.display())));
    for part in [
        "ws://0.0.0.0:8000/connection/websocket",
        "HS256-512",
        "chat, news",
        "server API with 1 key)",
        "news: anonymous subscribe",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(!said.contains("secret"));
}

#[test]
fn flags_override_the_environment_and_that_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringcast.toml");
    fs::write(&path, "[listen]\nclient = \"127.0.0.1:1111\"\n").unwrap();
    let address = |variable: Option<&str>, flag: Option<&str>| {
        let output = check(&path, |command| {
            command.envs(variable.map(|value| ("RINGCAST_LISTEN_CLIENT", value)));
            command.args(flag.iter().flat_map(|value| ["--listen", value]));
        });
        assert_eq!(output.status.code(), Some(0));
        let said = text(&output.stdout);
        let (_, rest) = said.split_once("ws://127.0.0.1:").unwrap();
        rest[..4].to_owned()
    };
    assert_eq!(address(None, None), "1111");
    assert_eq!(address(Some("127.0.0.1:2222"), None), "2222");
    assert_eq!(address(None, Some("127.0.0.1:3333")), "3333");
    assert_eq!(
        address(Some("127.0.0.1:2222"), Some("127.0.0.1:3333")),
        "3333"
    );
}

/// Setting → (type and range, default), as the documentation has them.
fn documented() -> BTreeMap<String, (String, String)> {
    let document = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, allowed, default, meaning] = cells[..] else {
            panic!("four cells: {row}");
        };
        assert!(meaning.len() > 10, "{name} has no meaning");
        let name = name.trim_matches('`').to_owned();
        (name, (allowed.to_owned(), default.to_owned()))
    });
    rows.collect()
}

#[test]
fn the_documentation_has_every_setting_and_no_other() {
    let known = known_settings().into_iter();
    let known: BTreeMap<_, _> = known
        .map(|known| (known.setting, (known.allowed, known.default)))
        .collect();
    let documented = documented();
    for (setting, said) in &known {
        assert_eq!(documented.get(setting), Some(said), "{setting} in the docs");
    }
    for setting in documented.keys() {
        assert!(known.contains_key(setting), "there is no {setting}");
    }
}

#[test]
fn the_documentation_names_every_flag() {
    let help = Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(["check", "--help"])
        .output()
        .expect("ringcast runs");
    let help = text(&help.stdout);
    let document = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let words = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    let flags: Vec<&str> = words.filter(|word| *word != "--help").collect();
    assert!(flags.len() > 10, "{help}");
    for flag in flags {
        assert!(document.contains(flag), "{flag} is not in the docs");
    }
}
