//! What `[token]` and `[subscription_token]` say: keys and claims that tokens are checked with.

use super::reader::{Reader, Section};
use crate::access::TokenSettings;
use crate::limits::TOKEN_LEEWAY_S_MAX;

/// Settings of connection tokens and of subscription tokens. Without keys of their own, the latter
/// are checked like the former.
pub(super) fn tokens(reader: &mut Reader<'_>) -> (TokenSettings, TokenSettings) {
    let token = read(&mut reader.section("token"));
    let mut section = reader.section("subscription_token");
    let subscription = read(&mut section);
    match section.is_given() {
        true => (token, subscription),
        false => (token.clone(), token),
    }
}

/// Whether there is anything that a token can be checked with.
pub(super) fn has_keys(settings: &TokenSettings) -> bool {
    let lists = [
        &settings.hmac_secrets,
        &settings.rsa_public_keys,
        &settings.ecdsa_public_keys,
        &settings.eddsa_public_keys,
    ];
    settings.jwks.is_some() || lists.iter().any(|list| !list.is_empty())
}

fn read(section: &mut Section<'_, '_>) -> TokenSettings {
    let mut hmac_secrets = section.strings("hmac_secrets", "list of secrets, the current first");
    hmac_secrets.extend(secret_files(section));
    let any = |text: &str| !text.is_empty();
    let settings = TokenSettings {
        hmac_secrets,
        rsa_public_keys: public_keys(section, "rsa_public_key_files"),
        ecdsa_public_keys: public_keys(section, "ecdsa_public_key_files"),
        eddsa_public_keys: public_keys(section, "eddsa_public_key_files"),
        jwks: jwks(section),
        audience: section.string("audience", "string", "not checked", any),
        issuer: section.string("issuer", "string", "not checked", any),
        leeway_s: leeway_s(section),
    };
    if section.is_given() && section.is_sound() && !has_keys(&settings) {
        let expected = "at least one key, in this list or another of the section";
        section.refuse("hmac_secret_files", expected);
    }
    settings
}

/// Secrets of files, without the newline that editors put at their end.
fn secret_files(section: &mut Section<'_, '_>) -> Vec<String> {
    let texts = section.texts("hmac_secret_files");
    let secrets: Vec<String> = texts.iter().map(|text| text.trim().to_owned()).collect();
    if secrets.iter().any(String::is_empty) {
        section.refuse("hmac_secret_files", "files that are not empty");
    }
    secrets
}

fn public_keys(section: &mut Section<'_, '_>, key: &str) -> Vec<String> {
    let texts = section.texts(key);
    let is_public = |text: &String| {
        let is_pem = text.contains("-----BEGIN") && text.contains("PUBLIC KEY-----");
        is_pem && !text.contains("PRIVATE KEY-----")
    };
    if !texts.iter().all(is_public) {
        section.refuse(key, "files with a public key in PEM form");
    }
    texts
}

fn jwks(section: &mut Section<'_, '_>) -> Option<String> {
    let text = section.text_of("jwks_file")?;
    let document: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let keys = document.as_ref().and_then(|document| document.get("keys"));
    if !keys.is_some_and(serde_json::Value::is_array) {
        section.refuse("jwks_file", "a file with a JSON Web Key Set");
    }
    Some(text)
}

fn leeway_s(section: &mut Section<'_, '_>) -> u64 {
    let leeway_ms = section.duration("leeway", 0..=1_000 * TOKEN_LEEWAY_S_MAX, 0);
    if !leeway_ms.is_multiple_of(1_000) {
        section.refuse("leeway", "whole seconds");
    }
    leeway_ms / 1_000
}
