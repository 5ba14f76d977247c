//! What a fuzzer checks of tokens, callable from a plain test as well.

use super::{OwnedData, SubscriptionOptions, TokenSettings, TokenVerifier};
use crate::base::Content;
use crate::limits::{
    INFO_BYTES_MAX, META_BYTES_MAX, ROOM_NAME_MAX, SUBSCRIPTIONS_PER_CONN_MAX, USER_NAME_MAX,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::value::RawValue;
use std::collections::HashSet;

const SECRET: &str = "a secret that no fuzzer signs with";
/// A moment between the times that seeds name.
const NOW_S: u64 = 1_000_000;

/// Reads `bytes` as a token, as claims that a key has signed, and as a key set, and panics when a promise
/// is broken: nothing passes that no key has signed, what passes is within its bounds and can be told to
/// clients, and a key set that is taken can be used.
pub fn fuzz_token(bytes: &[u8]) {
    let Some(verifier) = verifier(TokenSettings {
        hmac_secrets: vec![SECRET.into()],
        ..TokenSettings::default()
    }) else {
        return;
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return check_claims(&verifier, bytes);
    };
    assert!(verifier.verify_connection(text, NOW_S).is_err(), "unsigned");
    assert!(
        verifier.verify_subscription(text, NOW_S).is_err(),
        "unsigned"
    );
    check_claims(&verifier, bytes);
    check_set(text);
}

fn verifier(settings: TokenSettings) -> Option<TokenVerifier> {
    TokenVerifier::new(&settings).ok()
}

fn check_claims(verifier: &TokenVerifier, claims: &[u8]) {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let Ok(signature) = crypto::sign(message.as_bytes(), &key, Algorithm::HS256) else {
        return;
    };
    let token = format!("{message}.{signature}");
    if let Ok(claims) = verifier.verify_connection(&token, NOW_S) {
        assert!(claims.user.len() <= USER_NAME_MAX, "a bounded user");
        let subs = claims.subs.iter().map(|(channel, _)| channel);
        let channels: Vec<&String> = claims.channels.iter().chain(subs).collect();
        assert!(
            channels.len() <= SUBSCRIPTIONS_PER_CONN_MAX,
            "bounded channels"
        );
        channels.iter().for_each(|channel| check_channel(channel));
        let distinct: HashSet<_> = channels.iter().collect();
        assert_eq!(distinct.len(), channels.len(), "a channel comes once");
        check_data(&claims.info);
        assert!(claims.meta.len() <= META_BYTES_MAX, "bounded meta");
        check_json(&claims.meta);
        claims
            .subs
            .iter()
            .for_each(|(_, options)| check_options(options));
    }
    if let Ok(claims) = verifier.verify_subscription(&token, NOW_S) {
        assert!(claims.user.len() <= USER_NAME_MAX, "a bounded user");
        check_channel(&claims.channel);
        check_options(&claims.options);
    }
}

fn check_channel(channel: &str) {
    assert!((1..=ROOM_NAME_MAX).contains(&channel.len()), "a name");
}

fn check_options(options: &SubscriptionOptions) {
    check_data(&options.info);
    check_data(&options.data);
}

fn check_data(data: &OwnedData) {
    assert!(data.bytes.len() <= INFO_BYTES_MAX, "bounded data");
    if data.content == Content::Json {
        check_json(&data.bytes);
    }
}

/// JSON, or nothing.
fn check_json(bytes: &[u8]) {
    let is_json = || serde_json::from_slice::<&RawValue>(bytes).is_ok();
    assert!(bytes.is_empty() || is_json(), "data is JSON");
}

/// A token of every algorithm, for the keys of a set.
fn check_set(text: &str) {
    let Some(verifier) = verifier(TokenSettings {
        jwks: Some(text.into()),
        ..TokenSettings::default()
    }) else {
        return;
    };
    assert!(!verifier.is_empty(), "a set has a key");
    for (algorithm, signature_bytes) in
        [("RS256", 256), ("ES256", 64), ("ES384", 96), ("EdDSA", 64)]
    {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}"}}"#));
        let signature = URL_SAFE_NO_PAD.encode(vec![1; signature_bytes]);
        let token = format!("{header}.e30.{signature}");
        assert!(
            verifier.verify_connection(&token, NOW_S).is_err(),
            "unsigned"
        );
    }
}
