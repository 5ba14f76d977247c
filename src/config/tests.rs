//! The promises of the configuration that need no process of their own.

use super::*;
use crate::access::{ChannelOptions, Grant};
use clap::Parser;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: ServeFlags,
}

const CORES: [usize; 4] = [0, 1, 2, 3];

fn flags(arguments: &str) -> ServeFlags {
    Command::parse_from(std::iter::once("serve").chain(arguments.split_whitespace())).flags
}

fn config(arguments: &str) -> Result<Config, Vec<ConfigError>> {
    Config::resolve(&flags(arguments), &[], &CORES)
}

/// A file with variables and flags over it.
fn layered(text: &str, environment: &[(&str, &str)], arguments: &str) -> (Config, Vec<String>) {
    let environment: Vec<(String, String)> = environment
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    let file = Some((Path::new("r.toml"), text));
    let (config, errors, _) = resolve_text(&flags(arguments), &environment, &CORES, file);
    (config, errors.iter().map(ToString::to_string).collect())
}

fn errors(text: &str) -> Vec<String> {
    layered(text, &[], "").1
}

fn fine(text: &str) -> Config {
    let (config, errors) = layered(text, &[], "");
    assert_eq!(errors, [""; 0]);
    config
}

#[test]
fn every_error_is_reported_with_flag_value_and_what_was_expected() {
    let errors = config("--shards 0 --cores 9 --upstream 0.0.0.0:1 --history-count 9999999");
    let shown: Vec<_> = errors
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "--cores 9: expected list of this host's cores",
        "--history-count 9999999: expected 0 to 1000000",
        "--shards 0: expected 1 to 255",
        "--upstream 0.0.0.0:1: expected a loopback address, or keys",
    ];
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown.starts_with(expected), "{shown}");
    }
}

#[test]
fn nothing_is_open_unless_it_is_asked_for() {
    let config = config("").unwrap();
    assert!(!config.client.allow_anonymous && !config.client.insecure && !config.demo);
    assert!(!config.origins.allow(Some("http://127.0.0.1:8000")));
    assert!(!config.lets_clients_in());
    assert_eq!((config.shards, config.cores.len()), (4, 4));
}

#[test]
fn the_demo_lets_its_own_page_in_and_no_other() {
    let config = config("--demo --listen 127.0.0.1:9").unwrap();
    assert!(config.client.allow_anonymous && config.open_namespaces);
    assert!(config.origins.allow(Some("http://127.0.0.1:9")));
    assert!(!config.origins.allow(Some("http://example.com")));
    let options = config
        .namespaces
        .options(config.namespaces.find("demo:x").unwrap());
    for grant in [
        options.allow_subscribe,
        options.allow_publish,
        options.allow_history,
        options.allow_presence,
    ] {
        assert!(grant.allows(true, false));
    }
    assert!(options.presence && options.join_leave && options.allow_recovery);
    assert!(options.has_history());
}

#[test]
fn without_a_file_every_name_may_be_subscribed_and_has_a_history() {
    let config = config("--allow-anonymous").unwrap();
    assert!(config.open_namespaces);
    let options = config
        .namespaces
        .options(config.namespaces.find("any:thing").unwrap());
    assert!(options.allow_subscribe.allows(true, false));
    assert!(!options.allow_publish.allows(false, true));
    assert_eq!(options.history_count, limits::HISTORY_COUNT);
    assert_eq!(options.history_age_ms, limits::HISTORY_AGE_MS);
    assert_eq!(options.history_bytes, limits::HISTORY_BYTES);
}

#[test]
fn with_a_file_what_is_not_granted_is_denied() {
    let config = fine("[namespaces.chat]\npresence = true\n");
    assert!(!config.open_namespaces);
    assert_eq!(config.namespaces.find("other:1"), None);
    assert_eq!(*config.namespaces.options(0), ChannelOptions::default());
    let chat = config
        .namespaces
        .options(config.namespaces.find("chat:1").unwrap());
    assert!(chat.presence && chat.allow_subscribe == Grant::default());
}

#[test]
fn a_namespace_of_the_command_line_brings_namespaces_back() {
    let config = config("--set namespaces.chat.presence=true").unwrap();
    assert!(!config.open_namespaces && config.namespaces.find("other:1").is_none());
    let chat = config
        .namespaces
        .options(config.namespaces.find("chat:1").unwrap());
    assert!(chat.presence && !chat.has_history());
    assert!(config.namespaces.options(0).has_history());
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    let variables = [
        ("RINGCAST_PORT", "tcp://10.0.0.1:8000"),
        ("RINGCAST_SECRET", "x"),
    ];
    assert_eq!(layered("", &variables, "").1, [""; 0]);
}

#[test]
fn two_listeners_need_two_addresses() {
    let shown = config("--listen 127.0.0.1:9 --upstream 127.0.0.1:9 --admin 127.0.0.1:9");
    let shown: Vec<_> = shown.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:#?}");
    assert!(shown[0].starts_with("--admin 127.0.0.1:9: expected another address"));
    config("--listen 127.0.0.1:0 --upstream 127.0.0.1:0 --admin 127.0.0.1:0").unwrap();
}

#[test]
fn the_flags_of_histories_and_publishing_are_options_without_a_namespace() {
    let options = |arguments: &str| config(arguments).unwrap().namespaces.options(0).clone();
    let some = options("--history-count 7 --history-age-s 3 --history-bytes 99 --allow-publish");
    assert_eq!(
        (some.history_count, some.history_age_ms, some.history_bytes),
        (7, 3_000, 99)
    );
    assert!(some.allow_publish.allows(true, false));
    for none in [
        "--history-count 0",
        "--history-age-s 0",
        "--history-count 0 --history-age-s 9",
    ] {
        assert!(!options(none).has_history(), "{none}");
    }
}

#[test]
fn flags_override_the_environment_and_that_overrides_the_file() {
    let file = "[shards]\ncount = 2\n[client]\nallow_anonymous = true\n";
    let count = |environment: &[(&str, &str)], arguments: &str| {
        let (config, errors) = layered(file, environment, arguments);
        assert_eq!(errors, [""; 0]);
        config.shards
    };
    let variable = [("RINGCAST_SHARDS_COUNT", "3")];
    assert_eq!(count(&[], ""), 2);
    assert_eq!(count(&variable, ""), 3);
    assert_eq!(count(&variable, "--shards 4"), 4);
    assert_eq!(count(&variable, "--shards 4 --set shards.count=5"), 5);
    let (config, _) = layered(file, &[], "--set client.allow_anonymous=false");
    assert!(!config.client.allow_anonymous);
    assert_eq!(layered("", &variable, "").0.shards, 3);
}

#[test]
fn errors_name_the_variable_or_the_flag_that_gave_the_value() {
    let (_, errors) = layered(
        "[shards]\ncount = 0\n",
        &[("RINGCAST_CLIENT_PING_INTERVAL", "25")],
        "--set client.pong=1s --set namespaces.x.presence=maybe",
    );
    let starts = [
        "r.toml:2: shards.count = 0: expected 1 to 255",
        "RINGCAST_CLIENT_PING_INTERVAL=25: expected 1s to 1h, as text with a unit",
        "--set client.pong: expected a known key",
        "--set namespaces.x.presence=maybe: expected true or false",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn a_wrong_value_is_an_error_even_where_it_is_overridden() {
    let (_, errors) = layered("[shards]\ncount = 0\n", &[], "--shards 2");
    assert_eq!(errors, ["r.toml:2: shards.count = 0: expected 1 to 255"]);
}

#[test]
fn lists_of_the_environment_are_separated_by_commas() {
    let origins = [(
        "RINGCAST_CLIENT_ALLOWED_ORIGINS",
        "https://a.com, https://b.com",
    )];
    let (config, errors) = layered("", &origins, "");
    assert_eq!(errors, [""; 0]);
    assert!(config.origins.allow(Some("https://b.com")));
}

/// Each with a line that is wrong, the number of the line, and a part of the error.
#[test]
fn options_that_contradict_each_other_are_refused() {
    let history = "history_size = 9\nhistory_ttl = '1m'\n";
    for (text, line, part) in [
        (
            "history_size = 9",
            1,
            "channels.history_ttl = 0s (default): expected more than 0s",
        ),
        ("history_ttl = '1m'", 1, "history_size = 0 (default)"),
        (
            "allow_recovery = true",
            2,
            "history_size and history_ttl above 0",
        ),
        (
            "force_positioning = true",
            2,
            "history_size and history_ttl above 0",
        ),
        (
            "allow_subscribe_for_anonymous = true",
            2,
            "allow_subscribe_for_client = true",
        ),
        (
            "allow_presence_for_anonymous = true",
            2,
            "allow_presence_for_client = true",
        ),
        ("delta_publish = true", 2, "allowed_delta_types"),
        ("allowed_delta_types = ['xor']", 2, "only \"fossil\""),
        ("recovery_mode = 'cache'", 2, "allow_recovery = true"),
        ("auto_cache_recover = true", 2, "recovery_mode = \"cache\""),
        ("force_push_join_leave = true", 2, "join_leave = true"),
    ] {
        let found = errors(&format!("[channels]\n{text}\n"));
        let [error] = &found[..] else {
            panic!("{text}: {found:#?}")
        };
        assert!(error.starts_with(&format!("r.toml:{line}: ")), "{error}");
        assert!(error.contains(part), "{error}");
    }
    fine(&format!(
        "[channels]\n{history}allow_recovery = true\nrecovery_mode = 'cache'\n"
    ));
    let meta = errors(&format!("[channels]\n{history}history_meta_ttl = '59s'\n"));
    assert!(meta[0].contains("r.toml:4: channels.history_meta_ttl = '59s': expected at least"));
    let pong = errors("[client]\nping_interval = '5s'\n");
    assert!(pong[0].contains("client.pong_timeout = 8s (default): expected less than"));
    let hook = errors("[client]\npong_timeout = '900ms'\n");
    assert!(hook[0].contains("client.hook_timeout = 1s (default): expected less than"));
    let open = errors("[listen]\nadmin = '0.0.0.0:1'\n[api]\ninsecure = true\n");
    assert!(open[0].contains("r.toml:4: api.insecure = true: expected false, because"));
}

#[test]
fn unknown_names_are_errors_that_name_the_nearest() {
    for (text, expected) in [
        (
            "[client]\npin_interval = 1\n",
            "r.toml:2: client.pin_interval = 1: expected a known key, such as client.ping_interval",
        ),
        (
            "[clients]\n",
            "r.toml:1: clients: expected a known section, such as [client]",
        ),
        (
            "presence = true\n",
            "r.toml:1: presence: expected a known key, such as channels.presence",
        ),
        (
            "[client]\npresence = true\n",
            "r.toml:2: client.presence = true: expected a known key, such as channels.presence",
        ),
        (
            "[namespaces.a]\npresense = true\n",
            "r.toml:2: namespaces.a.presense = true: expected a known key, such as namespaces.a.presence",
        ),
        (
            "[shards]\nfoo = 1\n",
            "r.toml:2: shards.foo = 1: expected a known key of [shards]",
        ),
        (
            "client = 1\n",
            "r.toml:1: client: expected a table, [client]",
        ),
        (
            "namespaces.chat = 1\n",
            "r.toml:1: namespaces.chat: expected a table, [namespaces.chat]",
        ),
        (
            "[namespaces.'a b']\n",
            "r.toml:1: namespaces.a b: expected a name of 1 to 64",
        ),
    ] {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(expected), "{}", found[0]);
    }
}

#[test]
fn types_are_not_guessed() {
    for wrong in [
        "[client]\nallow_anonymous = 'true'\n",
        "[client]\nallow_anonymous = 1\n",
        "[client]\nchannel_limit = '5'\n",
        "[client]\nchannel_limit = 5.0\n",
        "[client]\nchannel_limit = -5\n",
        "[client]\nchannel_limit = 99999999999999999999999\n",
        "[client]\nallowed_origins = 'https://a.com'\n",
        "[client]\nallowed_origins = [1]\n",
        "[client]\nallowed_origins = ['']\n",
        "[listen]\nclient = 8000\n",
        "[listen]\npath = 'no-slash'\n",
        "[history]\nbytes_per_shard = '512MB'\n",
        "[token]\nleeway = '1500ms'\n",
    ] {
        assert!(!errors(wrong).is_empty(), "{wrong}");
    }
    let config = fine("[client]\nchannel_limit = 0x1_0\n[history]\nbytes_per_shard = 2_000_000\n");
    assert_eq!(
        (config.client.channel_limit, config.history.bytes_per_shard),
        (16, 2_000_000)
    );
}

/// A folder with secrets, and a file whose relative paths begin there.
fn with_files(text: &str, files: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let path = folder.path().join("ringcast.toml");
    std::fs::write(&path, text).unwrap();
    let flags = ServeFlags {
        config: Some(path),
        ..ServeFlags::default()
    };
    Config::resolve(&flags, &[], &CORES)
}

const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n";

#[test]
fn token_keys_come_from_files_beside_the_configuration_the_current_first() {
    let text = "[token]\nhmac_secrets = ['new']\nhmac_secret_files = ['a', 'b']\n\
                rsa_public_key_files = ['rsa']\njwks_file = 'jwks'\naudience = 'app'\nleeway = '5s'\n";
    let files = [
        ("a", "old\n"),
        ("b", "older"),
        ("rsa", PEM),
        ("jwks", "{\"keys\":[]}"),
    ];
    let config = with_files(text, &files).unwrap();
    let token = &config.token;
    assert_eq!(token.hmac_secrets, ["new", "old", "older"]);
    assert_eq!((token.rsa_public_keys.len(), token.leeway_s), (1, 5));
    assert_eq!(token.jwks.as_deref(), Some("{\"keys\":[]}"));
    assert_eq!(config.subscription_token.hmac_secrets, token.hmac_secrets);
    assert!(config.lets_clients_in());
}

#[test]
fn subscription_tokens_have_keys_of_their_own_or_those_of_connection_tokens() {
    let own = fine("[token]\nhmac_secrets = ['a']\n[subscription_token]\nhmac_secrets = ['b']\n");
    assert_eq!(own.subscription_token.hmac_secrets, ["b"]);
    let keyless = errors("[token]\nhmac_secrets = ['a']\n[subscription_token]\nissuer = 'x'\n");
    assert!(keyless[0].starts_with("r.toml:3: subscription_token.hmac_secret_files"));
}

#[test]
fn wrong_key_files_are_named_without_their_content() {
    let text = "[token]\nhmac_secret_files = ['gone', 'empty', 'gone too']\n\
                rsa_public_key_files = ['private']\njwks_file = 'empty'\n\
                [upstream]\nkey_file = 'lonely'\n[api]\nkey_file = 'empty'\n";
    let private = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
    let files = [
        ("empty", "\n"),
        ("private", private),
        ("lonely", "a b\nhunter2\n"),
    ];
    let errors = with_files(text, &files).unwrap_err();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 5, "{shown:#?}");
    assert!(shown[0].contains("number 1: ") && shown[0].contains("number 3: "));
    assert!(shown[1].ends_with("expected files with a public key in PEM form"));
    assert!(shown[2].ends_with("expected a file with a JSON Web Key Set"));
    assert!(shown[3].ends_with("line 2 is not one"));
    assert!(shown[4].ends_with("at least one key, one a line"));
    assert!(!shown.concat().contains("hunter2"));
}

#[test]
fn secrets_are_in_no_error_and_no_debug_output() {
    let wrong = "[token]\nhmac_secrets = 'hunter2'\nhmac_secret_key = 'hunter2'\n\
                 hmac_secret_files = ['hunter2']\nhmac = 'hunter2'\n\
                 [api]\nkeys = 'hunter2'\nkye = 'hunter2'\n[upstream]\nsecret = 'hunter2'\n\
                 [secrets]\na = 'hunter2'\n[client]\ntokens = 'hunter2'\n";
    let environment = [("RINGCAST_SUBSCRIPTION_TOKEN_HMAC_SECRETS", "hunter2,,")];
    let (_, errors) = layered(
        wrong,
        &environment,
        "--set api.kyes=hunter2 --set api.keys=hunter2,",
    );
    assert!(errors.len() >= 11, "{errors:#?}");
    assert!(!errors.concat().contains("hunter2"), "{errors:#?}");

    let unquoted = self::errors("[token]\nhmac_secrets = [hunter2]\nhunter2\n");
    assert!(!unquoted.is_empty() && !unquoted.concat().contains("hunter2"));

    let right = "[token]\nhmac_secrets = ['hunter2']\n[api]\nkeys = ['hunter2']\n";
    let config = fine(right);
    assert_eq!(config.api.keys, ["hunter2"]);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_the_flag_or_the_variable() {
    let error = config("--config /nonexistent/r.toml").unwrap_err();
    assert!(
        error[0]
            .to_string()
            .starts_with("--config /nonexistent/r.toml: expected a readable")
    );
    let environment = [("RINGCAST_CONFIG".to_owned(), "/nonexistent".to_owned())];
    let error = Config::resolve(&flags(""), &environment, &CORES).unwrap_err();
    assert!(
        error[0]
            .to_string()
            .starts_with("RINGCAST_CONFIG=/nonexistent: expected")
    );
}

#[test]
fn no_text_makes_the_reader_panic() {
    for text in [
        "[",
        "=",
        "a = [1,",
        "\u{feff}[client]\n",
        "[[client]]\n[client]\n",
        "\0",
        "'",
        "a.b.c = 1\n[a.b]\n",
    ] {
        let _ = errors(text);
    }
    let deep = "[".repeat(10_000);
    assert!(!errors(&format!("a = {deep}")).is_empty());
}
