//! `ringcast token`: makes tokens for tests and says what a token is worth.

use super::{EXIT_USAGE, fail};
use crate::access::{TokenError, TokenSettings, TokenVerifier};
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
    /// File that holds a public key in PEM
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
    /// File that holds a JSON Web Key Set
    #[arg(long, value_name = "FILE")]
    jwks_file: Option<PathBuf>,
    /// It is a subscription token
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
        TokenCommand::Make(flags) => make(&flags),
        TokenCommand::Check(flags) => check(&flags),
    };
    result.unwrap_or_else(fail)
}

fn make(flags: &MakeFlags) -> Result<ExitCode, String> {
    let secret = read(&flags.secret_file, "--secret-file")?;
    let mut claims = Map::new();
    claims.insert("sub".into(), json!(flags.user));
    if let Some(channel) = &flags.channel {
        claims.insert("channel".into(), json!(channel));
    }
    if !flags.channels.is_empty() {
        claims.insert("channels".into(), json!(flags.channels));
    }
    if let Some(time) = &flags.expires_in {
        let seconds = seconds(time).ok_or_else(|| {
            format!("--expires-in {time}: a time such as 90s, 15m, 1h or 30d expected")
        })?;
        claims.insert("exp".into(), json!(now_s() + seconds));
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
    let key = EncodingKey::from_secret(secret.trim().as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| error.to_string())?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

fn check(flags: &CheckFlags) -> Result<ExitCode, String> {
    let mut settings = TokenSettings {
        audience: flags.audience.clone(),
        issuer: flags.issuer.clone(),
        ..TokenSettings::default()
    };
    if let Some(path) = &flags.secret_file {
        settings.hmac_secrets = vec![read(path, "--secret-file")?.trim().to_owned()];
    }
    if let Some(path) = &flags.jwks_file {
        settings.jwks = Some(read(path, "--jwks-file")?);
    }
    let verifier = match &flags.public_key_file {
        None => TokenVerifier::new(&settings).map_err(|error| error.to_string())?,
        Some(path) => with_public_key(&settings, &read(path, "--public-key-file")?)?,
    };
    if verifier.is_empty() {
        return Err("a key expected: --secret-file, --public-key-file or --jwks-file".into());
    }
    if flags.subscription {
        Ok(report(
            verifier.verify_subscription(&flags.token, now_s()),
            |claims| {
                println!("user     {:?}", claims.user);
                println!("channel  {:?}", claims.channel);
                println!("expires  {}", expiry(claims.expire_at_s));
                println!(
                    "info     {}",
                    String::from_utf8_lossy(&claims.options.info.bytes)
                );
            },
        ))
    } else {
        Ok(report(
            verifier.verify_connection(&flags.token, now_s()),
            |claims| {
                let subs = claims.subs.iter().map(|(channel, _)| channel);
                let channels: Vec<&String> = claims.channels.iter().chain(subs).collect();
                println!("user     {:?}", claims.user);
                println!("expires  {}", expiry(claims.expire_at_s));
                println!("channels {channels:?}");
                println!("info     {}", String::from_utf8_lossy(&claims.info.bytes));
            },
        ))
    }
}

/// A key whose kind its text does not say: the one that it can be read as.
fn with_public_key(settings: &TokenSettings, pem: &str) -> Result<TokenVerifier, String> {
    let kinds: [fn(&mut TokenSettings) -> &mut Vec<String>; 3] = [
        |settings| &mut settings.rsa_public_keys,
        |settings| &mut settings.ecdsa_public_keys,
        |settings| &mut settings.eddsa_public_keys,
    ];
    let readable = kinds.into_iter().find_map(|kind| {
        let mut settings = settings.clone();
        kind(&mut settings).push(pem.to_owned());
        TokenVerifier::new(&settings).ok()
    });
    readable
        .ok_or_else(|| "--public-key-file: an RSA, EC or Ed25519 public key in PEM expected".into())
}

fn report<T>(result: Result<T, TokenError>, print: impl FnOnce(&T)) -> ExitCode {
    match result {
        Ok(claims) => {
            println!("valid");
            print(&claims);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn expiry(at_s: u64) -> String {
    match at_s {
        0 => "never".into(),
        at_s if at_s <= now_s() => format!("{} s ago", now_s() - at_s),
        at_s => format!("in {} s", at_s - now_s()),
    }
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
}
