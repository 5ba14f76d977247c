//! `ringcast token`: makes tokens for tests and says what a token is worth.
//!
//! Both go through the verifier that the broker uses: a token that is made is one that it takes.

use super::{EXIT_USAGE, fail};
use crate::access::{TokenSettings, TokenVerifier};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Exit code of a token that is refused.
const EXIT_REFUSED: u8 = 1;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a connection token, or with --channel a subscription token, signed with HS256
    Make(MakeFlags),
    /// Verify a token and print what it says
    Check(CheckFlags),
}

#[derive(Debug, Args)]
pub(super) struct MakeFlags {
    /// File that holds the shared secret
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// The user; anonymous without it
    #[arg(long, value_name = "USER", default_value = "")]
    user: String,
    /// Make a subscription token for this channel
    #[arg(long, value_name = "CHANNEL", conflicts_with = "channels")]
    channel: Option<String>,
    /// Channels to subscribe the connection to
    #[arg(long, value_name = "CHANNEL,…", value_delimiter = ',')]
    channels: Vec<String>,
    /// How long the token is good, such as 90s, 15m, 1h or 30d; for ever without it
    #[arg(long, value_name = "TIME")]
    expires_in: Option<String>,
    /// JSON that others see of the client
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    /// Value of `aud`
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// Value of `iss`
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    /// The token
    token: String,
    /// File that holds a shared secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// File that holds a public key in PEM: RSA, EC or Ed25519
    #[arg(long, alias = "public-key", value_name = "FILE")]
    public_key_file: Option<PathBuf>,
    /// File that holds a JSON Web Key Set
    #[arg(long, alias = "jwks", value_name = "FILE")]
    jwks_file: Option<PathBuf>,
    /// Take it for a subscription token, even if it names no channel
    #[arg(long)]
    subscription: bool,
    /// What `aud` has to be
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// What `iss` has to be
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
}

pub(super) fn run(command: TokenCommand) -> ExitCode {
    let result = match command {
        TokenCommand::Make(flags) => make(&flags, now_s()).map(|token| {
            println!("{token}");
            ExitCode::SUCCESS
        }),
        TokenCommand::Check(flags) => check(&flags, now_s()),
    };
    result.unwrap_or_else(fail)
}

fn make(flags: &MakeFlags, now_s: u64) -> Result<String, String> {
    let secret = secret(&flags.secret_file)?;
    let mut claims = Map::new();
    claims.insert("sub".into(), json!(flags.user));
    if let Some(channel) = &flags.channel {
        claims.insert("channel".into(), json!(channel));
    }
    if !flags.channels.is_empty() {
        claims.insert("channels".into(), json!(flags.channels));
    }
    if let Some(time) = &flags.expires_in {
        let expire_at_s = seconds(time).and_then(|seconds| now_s.checked_add(seconds));
        let expire_at_s = expire_at_s.ok_or_else(|| {
            format!("--expires-in {time}: a time such as 90s, 15m, 1h or 30d expected")
        })?;
        claims.insert("exp".into(), json!(expire_at_s));
    }
    if let Some(info) = &flags.info {
        let info: Value = serde_json::from_str(info)
            .map_err(|error| format!("--info {info}: JSON expected ({error})"))?;
        claims.insert("info".into(), info);
    }
    for (name, value) in [("aud", &flags.audience), ("iss", &flags.issuer)] {
        if let Some(value) = value {
            claims.insert(name.into(), json!(value));
        }
    }
    let settings = TokenSettings {
        hmac_secrets: vec![secret.clone()],
        ..TokenSettings::default()
    };
    let verifier = TokenVerifier::new(&settings).map_err(|error| {
        format!(
            "--secret-file {}: {}",
            flags.secret_file.display(),
            error.why
        )
    })?;
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| error.to_string())?;
    // A token of no use is an error here rather than at the broker. One for 0s is expired on purpose.
    let before_s = now_s.saturating_sub(1);
    let verdict = match flags.channel {
        Some(_) => verifier.verify_subscription(&token, before_s).map(drop),
        None => verifier.verify_connection(&token, before_s).map(drop),
    };
    verdict.map_err(|error| format!("the token would be {error}"))?;
    Ok(token)
}

fn check(flags: &CheckFlags, now_s: u64) -> Result<ExitCode, String> {
    let verifier = verifier(flags)?;
    let [header, claims] = parts(&flags.token);
    let is_subscription = flags.subscription || names_channel(claims.as_ref());
    let verdict = match is_subscription {
        true => verifier
            .verify_subscription(&flags.token, now_s)
            .map(|claims| claims.expire_at_s),
        false => verifier
            .verify_connection(&flags.token, now_s)
            .map(|claims| claims.expire_at_s),
    };
    let what = match is_subscription {
        true => "subscription",
        false => "connection",
    };
    let code = match verdict {
        Ok(expire_at_s) => {
            println!(
                "verdict  valid; the {what} expires {}",
                expiry(expire_at_s, now_s)
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("verdict  {error}");
            ExitCode::from(EXIT_REFUSED)
        }
    };
    // Of a refused token too: what it says often shows why.
    println!("header   {}\nclaims   {}", line(header), line(claims));
    Ok(code)
}

/// Whether a token is for a subscription: the broker refuses it as a connection token then.
fn names_channel(claims: Option<&Value>) -> bool {
    let channel = claims.and_then(|claims| claims.get("channel"));
    channel.is_some_and(|channel| !channel.is_null())
}

/// The verifier of the given keys; a public key is of the kind that it can be read as.
fn verifier(flags: &CheckFlags) -> Result<TokenVerifier, String> {
    let mut settings = TokenSettings {
        audience: flags.audience.clone(),
        issuer: flags.issuer.clone(),
        ..TokenSettings::default()
    };
    if let Some(path) = &flags.secret_file {
        settings.hmac_secrets = vec![secret(path)?];
        usable(&settings, "--secret-file", path)?;
    }
    if let Some(path) = &flags.jwks_file {
        settings.jwks = Some(read(path, "--jwks-file")?);
        usable(&settings, "--jwks-file", path)?;
    }
    if let Some(path) = &flags.public_key_file {
        let pem = read(path, "--public-key-file")?;
        let keys = public_key(&pem)
            .map_err(|why| format!("--public-key-file {}: {why}", path.display()))?;
        settings = TokenSettings {
            hmac_secrets: settings.hmac_secrets,
            jwks: settings.jwks,
            audience: settings.audience,
            issuer: settings.issuer,
            ..keys
        };
    }
    let verifier = TokenVerifier::new(&settings).map_err(|error| error.to_string())?;
    match verifier.is_empty() {
        true => Err("a key expected: --secret-file, --public-key-file or --jwks-file".into()),
        false => Ok(verifier),
    }
}

/// Settings to which the keys of one more file were added: an error is of that file.
fn usable(settings: &TokenSettings, flag: &str, path: &Path) -> Result<(), String> {
    let verifier = TokenVerifier::new(settings);
    verifier
        .map(drop)
        .map_err(|error| format!("{flag} {}: {error}", path.display()))
}

/// Settings with this one public key.
fn public_key(pem: &str) -> Result<TokenSettings, String> {
    let list = || vec![pem.to_owned()];
    let kinds = [
        TokenSettings {
            rsa_public_keys: list(),
            ..TokenSettings::default()
        },
        TokenSettings {
            ecdsa_public_keys: list(),
            ..TokenSettings::default()
        },
        TokenSettings {
            eddsa_public_keys: list(),
            ..TokenSettings::default()
        },
    ];
    let mut reasons = Vec::new();
    for settings in kinds {
        match TokenVerifier::new(&settings) {
            Ok(_) => return Ok(settings),
            Err(error) => reasons.push(error.why),
        }
    }
    reasons.dedup();
    Err(reasons.join("; "))
}

/// Header and claims of a token, not checked in any way.
fn parts(token: &str) -> [Option<Value>; 2] {
    let mut parts = token.split('.').map(|part| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice(&bytes).ok()
    });
    [(); 2].map(|()| parts.next().flatten())
}

/// A part of a token as JSON on one line.
fn line(part: Option<Value>) -> String {
    match part {
        Some(value) => value.to_string().chars().flat_map(shown).collect(),
        None => "unreadable".into(),
    }
}

/// A character as a terminal can be given it.
fn shown(character: char) -> Vec<char> {
    match character.is_control() {
        true => character.escape_unicode().collect(),
        false => vec![character],
    }
}

fn expiry(at_s: u64, now_s: u64) -> String {
    match at_s {
        0 => "never".into(),
        at_s if at_s <= now_s => format!("{} s ago", now_s - at_s),
        at_s => format!("in {} s", at_s - now_s),
    }
}

/// A secret, without the newline that editors put at its end.
fn secret(path: &Path) -> Result<String, String> {
    Ok(read(path, "--secret-file")?.trim().to_owned())
}

fn read(path: &Path, flag: &str) -> Result<String, String> {
    let refuse = |why: &dyn Display| format!("{flag} {}: {why}", path.display());
    fs::read_to_string(path).map_err(|error| refuse(&error))
}

fn seconds(time: &str) -> Option<u64> {
    let unit = time.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let count: u64 = time[..time.len() - 1].parse().ok()?;
    count.checked_mul(seconds)
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const _: () = assert!(EXIT_USAGE != EXIT_REFUSED);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let table = [("90s", Some(90)), ("15m", Some(900)), ("1h", Some(3_600))];
        for (time, expected) in table {
            assert_eq!(seconds(time), expected);
        }
        for wrong in ["", "9", "h", "-1s", "1w", "1ü"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        file
    }

    fn make_flags(secret: &Path) -> MakeFlags {
        MakeFlags {
            secret_file: secret.into(),
            user: "42".into(),
            channel: None,
            channels: Vec::new(),
            expires_in: None,
            info: None,
            audience: None,
            issuer: None,
        }
    }

    fn check_flags(secret: &Path) -> CheckFlags {
        CheckFlags {
            token: String::new(),
            secret_file: Some(secret.into()),
            public_key_file: None,
            jwks_file: None,
            subscription: false,
            audience: None,
            issuer: None,
        }
    }

    #[test]
    fn a_token_that_is_made_is_taken_and_says_what_was_asked_for() {
        let secret = file("a secret\n");
        let flags = MakeFlags {
            expires_in: Some("1m".into()),
            info: Some(r#"{"name":"Ann"}"#.into()),
            channels: vec!["a".into(), "b".into()],
            audience: Some("chat".into()),
            ..make_flags(secret.path())
        };
        let token = make(&flags, 1_000).unwrap();
        let flags = CheckFlags {
            audience: Some("chat".into()),
            ..check_flags(secret.path())
        };
        let claims = verifier(&flags)
            .unwrap()
            .verify_connection(&token, 1_059)
            .unwrap();
        assert_eq!(claims.user, "42");
        assert_eq!(claims.expire_at_s, 1_060);
        assert_eq!(claims.info.bytes, br#"{"name":"Ann"}"#);
        assert_eq!(claims.channels, ["a", "b"]);
        assert_eq!(parts(&token)[1].as_ref().unwrap()["sub"], "42");
        let flags = MakeFlags {
            channel: Some("$a".into()),
            ..make_flags(secret.path())
        };
        let token = make(&flags, 1_000).unwrap();
        let verifier = verifier(&check_flags(secret.path())).unwrap();
        assert_eq!(
            verifier.verify_subscription(&token, 0).unwrap().channel,
            "$a"
        );
    }

    #[test]
    fn a_token_that_would_be_refused_is_not_made() {
        let secret = file("a secret");
        let flags = || make_flags(secret.path());
        let long = "x".repeat(256);
        for flags in [
            MakeFlags {
                user: long.clone(),
                ..flags()
            },
            MakeFlags {
                channel: Some(String::new()),
                ..flags()
            },
            MakeFlags {
                channels: vec![long],
                ..flags()
            },
            MakeFlags {
                info: Some("{".into()),
                ..flags()
            },
            MakeFlags {
                expires_in: Some(format!("{}s", u64::MAX)),
                ..flags()
            },
            MakeFlags {
                secret_file: file("\n").path().into(),
                ..flags()
            },
        ] {
            assert!(make(&flags, 1_000).is_err(), "{flags:?}");
        }
        assert!(
            make(
                &MakeFlags {
                    expires_in: Some("0s".into()),
                    ..flags()
                },
                1_000
            )
            .is_ok()
        );
    }

    #[test]
    fn a_public_key_is_read_as_what_it_is_and_refused_with_its_reason() {
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
        let flags = |name: &str| CheckFlags {
            secret_file: None,
            public_key_file: Some(keys.join(name)),
            ..check_flags(&keys)
        };
        for name in [
            "rsa.pub.pem",
            "p256.pub.pem",
            "p384.pub.pem",
            "ed25519.pub.pem",
        ] {
            assert!(verifier(&flags(name)).is_ok(), "{name}");
        }
        let error = verifier(&flags("rsa.pem")).unwrap_err();
        assert!(
            error.ends_with("a public key expected, not a private key"),
            "{error}"
        );
        let none = CheckFlags {
            secret_file: None,
            ..check_flags(&keys)
        };
        assert!(verifier(&none).is_err());
    }

    #[test]
    fn a_token_that_names_a_channel_is_checked_as_what_it_is() {
        let secret = file("a secret");
        let verdict = |made: MakeFlags, subscription| {
            let flags = CheckFlags {
                token: make(&made, 1_000).unwrap(),
                subscription,
                ..check_flags(secret.path())
            };
            check(&flags, 1_000).unwrap()
        };
        let connection = || make_flags(secret.path());
        let subscription = || MakeFlags {
            channel: Some("$a".into()),
            ..connection()
        };
        let refused = ExitCode::from(EXIT_REFUSED);
        assert_eq!(verdict(connection(), false), ExitCode::SUCCESS);
        assert_eq!(verdict(connection(), true), refused);
        assert_eq!(verdict(subscription(), false), ExitCode::SUCCESS);
        assert_eq!(verdict(subscription(), true), ExitCode::SUCCESS);
        assert!(!names_channel(Some(&json!({"channel": null}))) && !names_channel(None));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_flag() {
        let (empty, good) = (file("\n"), file("a secret"));
        let set = file(r#"{"keys":[{"kty":"AKP","kid":"a"}]}"#);
        for (flags, flag, which, why) in [
            (check_flags(empty.path()), "--secret-file", &empty, "empty"),
            (
                CheckFlags {
                    jwks_file: Some(empty.path().into()),
                    ..check_flags(good.path())
                },
                "--jwks-file",
                &empty,
                "JSON expected",
            ),
            (
                CheckFlags {
                    jwks_file: Some(set.path().into()),
                    ..check_flags(good.path())
                },
                "--jwks-file",
                &set,
                "JWKS key 1 (a): kty",
            ),
        ] {
            let error = verifier(&flags).unwrap_err();
            let start = format!("{flag} {}: ", which.path().display());
            assert!(error.starts_with(&start) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_a_token_says_cannot_write_to_the_terminal() {
        let claims = URL_SAFE_NO_PAD.encode("{\"sub\":\"\u{9b}2J\u{7f}\"}");
        let [header, claims] = parts(&format!("%.{claims}.x")).map(line);
        assert_eq!(header, "unreadable");
        assert_eq!(claims, r#"{"sub":"\u{9b}2J\u{7f}"}"#);
    }
}
