//! `ringcast check`: whether a configuration works, without starting anything.

use crate::access::{ChannelOptions, TokenSettings, TokenVerifier};
use crate::config::Config;
use crate::config::raw::ServeFlags;
use std::process::ExitCode;

pub(super) fn run(flags: ServeFlags) -> ExitCode {
    let name = flags.config.as_ref().map(|path| path.display().to_string());
    match Config::from_flags(flags, &super::cores_here()) {
        Ok(config) => {
            let errors = key_errors(&config);
            if !errors.is_empty() {
                errors.iter().for_each(|error| eprintln!("{error}"));
                return ExitCode::from(super::EXIT_USAGE);
            }
            let name = name.unwrap_or_else(|| "configuration".into());
            println!("{name}: fine\n{}", summary(&config));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            ExitCode::from(super::EXIT_USAGE)
        }
    }
}

/// Keys of tokens that cannot be used. The sections are the same unless the second has its own keys.
fn key_errors(config: &Config) -> Vec<String> {
    let mut sections = vec![("token", &config.token)];
    if config.subscription_token != config.token {
        sections.push(("subscription_token", &config.subscription_token));
    }
    let errors = sections.into_iter().filter_map(|(section, settings)| {
        let error = TokenVerifier::new(settings).err()?;
        Some(format!("[{section}]: {error}"))
    });
    errors.collect()
}

/// What the configuration amounts to, with everything that is open to strangers.
fn summary(config: &Config) -> String {
    let mut lines = vec![
        format!("  clients     ws://{}{}", config.listen, config.path),
        format!("  upstream    {}", upstream(config)),
        format!("  admin       http://{} ({})", config.admin, api(config)),
        format!("  tokens      {}", algorithms(&config.token)),
        format!("  namespaces  {}", namespaces(config)),
    ];
    let open = open(config);
    if !open.is_empty() {
        lines.push(format!("  open        {}", open.join("; ")));
    }
    if !config.lets_clients_in() {
        let note = "no client can connect: no token keys, no anonymous clients, no connect hook";
        lines.push(format!("  note        {note}"));
    }
    lines.join("\n")
}

fn upstream(config: &Config) -> String {
    match config.keys.len() {
        0 => format!("{} (no key needed)", config.upstream),
        keys => format!("{} ({})", config.upstream, keys_of(keys)),
    }
}

fn api(config: &Config) -> String {
    match (config.api.insecure, config.api.keys.len()) {
        (true, _) => "server API without a key".into(),
        (false, 0) => "no server API".into(),
        (false, keys) => format!("server API with {}", keys_of(keys)),
    }
}

fn keys_of(count: usize) -> String {
    match count {
        1 => "1 key".into(),
        count => format!("{count} keys"),
    }
}

fn algorithms(token: &TokenSettings) -> String {
    let kinds = [
        ("HS256-512", token.hmac_secrets.len()),
        ("RS256-512", token.rsa_public_keys.len()),
        ("ES256-384", token.ecdsa_public_keys.len()),
        ("EdDSA", token.eddsa_public_keys.len()),
        ("JWKS", usize::from(token.jwks.is_some())),
    ];
    let with_keys = kinds.iter().filter(|(_, keys)| *keys > 0);
    let shown: Vec<String> = with_keys
        .map(|(name, keys)| match keys {
            1 => (*name).to_owned(),
            keys => format!("{name} ({})", keys_of(*keys)),
        })
        .collect();
    match shown.is_empty() {
        true => "none accepted".into(),
        false => shown.join(", "),
    }
}

fn namespaces(config: &Config) -> String {
    if config.open_namespaces {
        return "not in use: every channel name is fine".into();
    }
    let names: Vec<&str> = config.namespaces.named().map(|(name, _)| name).collect();
    match names.is_empty() {
        true => "none: only channels without a namespace".into(),
        false => names.join(", "),
    }
}

/// Everything that somebody without a user may do.
fn open(config: &Config) -> Vec<String> {
    let mut open = Vec::new();
    let client = &config.client;
    for (is_open, what) in [
        (
            client.insecure,
            "client.insecure: everybody may do everything",
        ),
        (client.allow_anonymous, "clients connect without a token"),
        (
            config.api.insecure,
            "api.insecure: the server API needs no key",
        ),
        (
            config.origins.allow(Some("null")),
            "web pages of any origin",
        ),
    ] {
        if is_open {
            open.push(what.to_owned());
        }
    }
    let without = ("channels", config.namespaces.options(0));
    for (name, options) in std::iter::once(without).chain(config.namespaces.named()) {
        let granted = granted_to_anonymous(options);
        if !granted.is_empty() {
            open.push(format!("{name}: anonymous {}", granted.join(", ")));
        }
    }
    open
}

fn granted_to_anonymous(options: &ChannelOptions) -> Vec<&'static str> {
    let grants = [
        ("subscribe", options.allow_subscribe),
        ("publish", options.allow_publish),
        ("history", options.allow_history),
        ("presence", options.allow_presence),
    ];
    let granted = grants.iter().filter(|(_, grant)| grant.allows(true, false));
    granted.map(|(name, _)| *name).collect()
}
