//! Tokens of every algorithm, and what must not pass.

use super::*;
use crate::base::{Content, Overrides};
use crate::limits::{INFO_BYTES_MAX, META_BYTES_MAX, ROOM_NAME_MAX};
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const NOW_S: u64 = 1_000_000;
const SECRET: &str = "a shared secret";

macro_rules! key {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/keys/",
            $name,
            ".pem"
        ))
    };
}

mod keys;

fn hmac() -> TokenSettings {
    TokenSettings {
        hmac_secrets: vec![SECRET.into()],
        ..TokenSettings::default()
    }
}

fn verifier(settings: &TokenSettings) -> TokenVerifier {
    TokenVerifier::new(settings).expect("good keys")
}

fn signed(header: &Header, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(header, claims, key).expect("a token")
}

fn token(claims: Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    signed(&Header::new(Algorithm::HS256), &key, &claims)
}

fn connection(claims: Value) -> Result<ConnectionClaims, TokenError> {
    verifier(&hmac()).verify_connection(&token(claims), NOW_S)
}

fn subscription(claims: Value) -> Result<SubscriptionClaims, TokenError> {
    verifier(&hmac()).verify_subscription(&token(claims), NOW_S)
}

fn invalid<T>(result: &Result<T, TokenError>) -> bool {
    matches!(result, Err(TokenError::Invalid(_)))
}

/// Algorithm, private key, settings with its public key.
fn pairs() -> Vec<(Algorithm, EncodingKey, TokenSettings)> {
    let secret = || EncodingKey::from_secret(SECRET.as_bytes());
    let rsa = || EncodingKey::from_rsa_pem(key!("rsa").as_bytes()).unwrap();
    let with_rsa = || TokenSettings {
        rsa_public_keys: vec![key!("rsa.pub").into()],
        ..TokenSettings::default()
    };
    let with_ec = |pem: &str| TokenSettings {
        ecdsa_public_keys: vec![pem.into()],
        ..TokenSettings::default()
    };
    let ec = |pem: &str| EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    let ed = EncodingKey::from_ed_pem(key!("ed25519").as_bytes()).unwrap();
    let with_ed = TokenSettings {
        eddsa_public_keys: vec![key!("ed25519.pub").into()],
        ..TokenSettings::default()
    };
    vec![
        (Algorithm::HS256, secret(), hmac()),
        (Algorithm::HS384, secret(), hmac()),
        (Algorithm::HS512, secret(), hmac()),
        (Algorithm::RS256, rsa(), with_rsa()),
        (Algorithm::RS384, rsa(), with_rsa()),
        (Algorithm::RS512, rsa(), with_rsa()),
        (
            Algorithm::ES256,
            ec(key!("p256")),
            with_ec(key!("p256.pub")),
        ),
        (
            Algorithm::ES384,
            ec(key!("p384")),
            with_ec(key!("p384.pub")),
        ),
        (Algorithm::EdDSA, ed, with_ed),
    ]
}

#[test]
fn every_algorithm_verifies_with_its_own_key_and_with_no_other() {
    let claims = json!({"sub": "42"});
    for (algorithm, key, settings) in pairs() {
        let token = signed(&Header::new(algorithm), &key, &claims);
        let found = verifier(&settings).verify_connection(&token, NOW_S);
        assert_eq!(found.expect("its own key").user, "42", "{algorithm:?}");
        for (other, _, others) in pairs().iter().filter(|other| other.2 != settings) {
            let found = verifier(others).verify_connection(&token, NOW_S);
            assert!(invalid(&found), "{algorithm:?} with the key of {other:?}");
        }
        let mut tampered = token.into_bytes();
        let last = tampered.len() - 10;
        tampered[last] = if tampered[last] == b'A' { b'B' } else { b'A' };
        let tampered = String::from_utf8(tampered).unwrap();
        assert!(invalid(
            &verifier(&settings).verify_connection(&tampered, NOW_S)
        ));
    }
}

#[test]
fn a_public_key_is_no_shared_secret_and_no_signature_is_none() {
    let settings = TokenSettings {
        rsa_public_keys: vec![key!("rsa.pub").into()],
        ..TokenSettings::default()
    };
    let secret = EncodingKey::from_secret(key!("rsa.pub").as_bytes());
    let confused = signed(&Header::new(Algorithm::HS256), &secret, &json!({}));
    assert!(invalid(
        &verifier(&settings).verify_connection(&confused, NOW_S)
    ));
    // {"alg":"none"} . {} .
    for unsigned in [
        "eyJhbGciOiJub25lIn0.e30.",
        "e30.e30.",
        "",
        ".",
        "..",
        "a.b.c",
    ] {
        assert!(invalid(
            &verifier(&hmac()).verify_connection(unsigned, NOW_S)
        ));
    }
    let nobody = TokenVerifier::default();
    assert!(nobody.is_empty() && invalid(&nobody.verify_connection(&token(json!({})), NOW_S)));
}

#[test]
fn a_claim_of_the_wrong_type_never_counts_as_absent() {
    for claims in [
        json!({"exp": "soon"}),
        json!({"exp": -1}),
        json!({"exp": 1.5}),
        json!({"exp": null}),
        json!({"nbf": "now"}),
        json!({"nbf": [1]}),
        json!({"iat": "now"}),
        json!({"expire_at": true}),
        json!({"sub": 42}),
        json!({"sub": null}),
        json!({"aud": 1}),
        json!({"iss": {}}),
        json!({"channels": "news"}),
        json!({"channels": [1]}),
        json!({"subs": ["news"]}),
        json!({"subs": {"news": 1}}),
        json!({"subs": {"news": [null, null, null, null, null]}}),
        json!({"b64info": "%"}),
        json!({"b64info": 1}),
        json!({"channel": "news"}),
        json!([]),
    ] {
        assert!(invalid(&connection(claims.clone())), "{claims}");
    }
    for claims in [
        json!({}),
        json!({"channel": ""}),
        json!({"channel": 1}),
        json!({"channel": "a", "override": {"presence": true}}),
        json!({"channel": "a", "override": {"presence": [true]}}),
        json!({"channel": "a", "override": [null, null, null, null, null]}),
        json!({"channel": "a", "client": 1}),
    ] {
        assert!(invalid(&subscription(claims.clone())), "{claims}");
    }
}

#[test]
fn times_are_checked_with_the_leeway_on_both_sides() {
    let settings = TokenSettings {
        leeway_s: 10,
        ..hmac()
    };
    let verifier = verifier(&settings);
    let check = |claims| {
        verifier
            .verify_connection(&token(claims), NOW_S)
            .map(|_| ())
    };
    assert_eq!(check(json!({"exp": NOW_S - 9})), Ok(()));
    assert_eq!(check(json!({"exp": NOW_S - 10})), Err(TokenError::Expired));
    assert_eq!(check(json!({"nbf": NOW_S + 10})), Ok(()));
    assert!(invalid(&check(json!({"nbf": NOW_S + 11}))));
    assert_eq!(check(json!({"exp": u64::MAX, "nbf": 0})), Ok(()));
    let forged = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.AAAA";
    assert!(
        invalid(&verifier.verify_connection(forged, NOW_S)),
        "not even expired"
    );
}

#[test]
fn a_time_is_a_whole_number_however_it_is_written() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let expires = |exp: &str| {
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#));
        let message = format!("{header}.{claims}");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
        let token = format!("{message}.{}", signature.unwrap());
        verifier(&hmac())
            .verify_connection(&token, NOW_S)
            .map(|claims| claims.expire_at_s)
    };
    for (exp, expire_at_s) in [
        ("2000000", 2_000_000),
        ("2000000.0", 2_000_000),
        ("2e6", 2_000_000),
        ("9007199254740992.0", 1 << 53),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(expires(exp), Ok(expire_at_s), "{exp}");
    }
    assert_eq!(expires("1.0"), Err(TokenError::Expired));
    assert_eq!(expires("-0"), Err(TokenError::Expired));
    for exp in ["2000000.5", "-2e6", "1e16", "18446744073709551616", "1e999"] {
        assert!(invalid(&expires(exp)), "{exp}");
    }
}

#[test]
fn the_leeway_is_bounded() {
    let with_leeway = |leeway_s| TokenVerifier::new(&TokenSettings { leeway_s, ..hmac() });
    assert!(with_leeway(TOKEN_LEEWAY_S_MAX).is_ok());
    let error = with_leeway(TOKEN_LEEWAY_S_MAX + 1).expect_err("above the bound");
    assert_eq!(
        error.to_string(),
        "leeway: 31 s given, at most 30 s allowed"
    );
}

#[test]
fn every_shard_may_have_the_verifier() {
    fn shared<T: Send + Sync>() {}
    shared::<TokenVerifier>();
}

#[test]
fn the_expiry_of_a_connection_is_that_of_its_token_unless_it_says_otherwise() {
    let later = NOW_S + 5;
    for (claims, expire_at_s) in [
        (json!({}), 0),
        (json!({"exp": later}), later),
        (json!({"exp": later, "expire_at": 0}), 0),
        (json!({"exp": later, "expire_at": later + 9}), later + 9),
        (json!({"expire_at": 7}), 7),
    ] {
        assert_eq!(connection(claims).unwrap().expire_at_s, expire_at_s);
    }
}

#[test]
fn audience_and_issuer_are_checked_where_they_are_wanted() {
    let settings = TokenSettings {
        audience: Some("chat".into()),
        issuer: Some("login".into()),
        ..hmac()
    };
    let verifier = verifier(&settings);
    for (claims, good) in [
        (json!({"aud": "chat", "iss": "login"}), true),
        (json!({"aud": ["x", "chat"], "iss": "login"}), true),
        (json!({"aud": ["x"], "iss": "login"}), false),
        (json!({"aud": "chat"}), false),
        (json!({"iss": "login"}), false),
    ] {
        let found = verifier.verify_connection(&token(claims.clone()), NOW_S);
        assert_eq!(found.is_ok(), good, "{claims}");
    }
}

#[test]
fn everything_that_a_token_says_is_read() {
    let claims = connection(json!({
        "sub": "42", "info": {"name": "Ann"}, "channels": ["a"], "meta": {"x": 1},
        "subs": {"b": {"b64info": "AP8=", "data": [1], "override": {"presence": {"value": false}}}},
    }))
    .unwrap();
    assert_eq!(claims.info.bytes, br#"{"name":"Ann"}"#);
    assert_eq!(claims.meta, br#"{"x":1}"#);
    assert_eq!(claims.channels, ["a"]);
    let (channel, options) = &claims.subs[0];
    assert_eq!(channel, "b");
    let bytes = OwnedData {
        content: Content::Bytes,
        bytes: vec![0, 255],
    };
    assert_eq!(
        (&options.info, &options.data.bytes[..]),
        (&bytes, &b"[1]"[..])
    );
    assert_eq!(options.overrides.presence, Some(false));
    assert_eq!(options.overrides.join_leave, None);
    let claims = subscription(json!({"sub": "42", "channel": "$a", "client": "c"})).unwrap();
    assert_eq!(
        (&*claims.channel, claims.client.as_deref()),
        ("$a", Some("c"))
    );
}

#[test]
fn what_is_too_long_is_refused() {
    let long = |bytes: usize| "x".repeat(bytes);
    for claims in [
        json!({"sub": long(256)}),
        json!({"info": long(INFO_BYTES_MAX)}),
        json!({"channels": [long(ROOM_NAME_MAX + 1)]}),
        json!({"channels": [""]}),
        json!({"channels": vec!["a"; 129]}),
        json!({"meta": long(TOKEN_BYTES_MAX)}),
    ] {
        assert!(invalid(&connection(claims)));
    }
}

#[test]
fn no_secret_shows_in_debug_output() {
    let settings = hmac();
    let shown = format!("{settings:?} {:?}", verifier(&settings));
    assert!(!shown.contains(SECRET), "{shown}");
}

#[test]
fn claims_that_stand_twice_or_go_deep_are_refused() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let deep = format!(r#"{{"info":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for claims in [
        r#"{"sub":"a","sub":"b"}"#,
        r#"{"exp":9999999,"exp":1}"#,
        r#"{"exp":1e400}"#,
        r#"{"exp":18446744073709551616}"#,
        r#"{"info":"\ud800"}"#,
        r#"{"subs":{"a":{},"a":{}}}"#,
        r#"{"sub":"a"} {}"#,
        "",
        &deep,
    ] {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
        let token = format!("{message}.{}", signature.unwrap());
        assert!(
            invalid(&verifier(&hmac()).verify_connection(&token, NOW_S)),
            "{claims}"
        );
    }
}

#[test]
fn a_token_that_needs_an_extension_is_refused() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".into()]);
    let token = signed(&header, &key, &json!({}));
    assert!(invalid(&verifier(&hmac()).verify_connection(&token, NOW_S)));
}

#[test]
fn a_token_taken_within_the_leeway_is_good_until_the_leeway_ends() {
    let settings = TokenSettings {
        leeway_s: 10,
        ..hmac()
    };
    let verifier = verifier(&settings);
    for (exp, expire_at_s) in [
        (NOW_S + 1, NOW_S + 1),
        (NOW_S, NOW_S + 10),
        (NOW_S - 9, NOW_S + 1),
    ] {
        let claims = json!({"exp": exp, "channel": "a"});
        let found = verifier.verify_subscription(&token(claims), NOW_S);
        assert_eq!(found.unwrap().expire_at_s, expire_at_s, "{exp}");
    }
    let claims = json!({"exp": NOW_S - 9, "expire_at": 0});
    let found = verifier.verify_connection(&token(claims), NOW_S);
    assert_eq!(found.unwrap().expire_at_s, 0, "expire_at says it all");
}

#[test]
fn a_channel_is_subscribed_to_once_and_with_its_options() {
    let claims = json!({"channels": ["c", "a", "c", "b"], "subs": {"b": {"data": 1}, "a2": {}}});
    let claims = connection(claims).unwrap();
    assert_eq!(claims.channels, ["c", "a"]);
    let names: Vec<&str> = claims.subs.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&"a2") && names.contains(&"b"));
    let none = json!({"channels": null, "subs": null, "info": null, "meta": null, "channel": null});
    let claims = connection(none).expect("no values at all");
    assert!(claims.channels.is_empty() && claims.subs.is_empty());
    assert!(claims.info.bytes.is_empty() && claims.meta.is_empty());
}

#[test]
fn bytes_win_over_json_and_an_empty_override_is_no() {
    let claims = json!({
        "channel": "a", "info": 1, "b64info": "AP8=", "data": 2, "b64data": "",
        "override": {
            "presence": {"value": true}, "join_leave": {"value": false},
            "force_push_join_leave": {}, "force_recovery": null,
        },
    });
    let options = subscription(claims).unwrap().options;
    assert_eq!(options.info.content, Content::Bytes);
    assert_eq!(options.info.bytes, [0, 255]);
    assert_eq!(options.data.content, Content::Json);
    assert_eq!(options.data.bytes, b"2");
    let expected = Overrides {
        presence: Some(true),
        join_leave: Some(false),
        force_push_join_leave: Some(false),
        ..Overrides::default()
    };
    assert_eq!(options.overrides, expected);
}

#[test]
fn info_and_meta_are_bounded_to_the_byte() {
    for (name, bytes_max) in [("info", INFO_BYTES_MAX), ("meta", META_BYTES_MAX)] {
        let exactly = "x".repeat(bytes_max - 2);
        let more = "x".repeat(bytes_max - 1);
        assert!(connection(json!({name: exactly})).is_ok(), "{name}");
        assert!(invalid(&connection(json!({name: more}))), "{name}");
    }
    let bytes = |count: usize| json!({"b64info": STANDARD.encode(vec![0; count])});
    assert!(connection(bytes(INFO_BYTES_MAX)).is_ok());
    assert!(invalid(&connection(bytes(INFO_BYTES_MAX + 1))));
    let more = "x".repeat(INFO_BYTES_MAX - 1);
    assert!(invalid(&subscription(
        json!({"channel": "a", "client": more})
    )));
}

#[test]
fn seeds_and_what_is_near_them_never_panic() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/token");
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let mut bytes = std::fs::read(entry.unwrap().path()).unwrap();
        fuzz_token(&bytes);
        for index in 0..bytes.len().min(200) {
            bytes[index] ^= 1;
            fuzz_token(&bytes);
            bytes[index] ^= 1;
            fuzz_token(&bytes[..index]);
        }
        seeds += 1;
    }
    assert!(seeds >= 6, "{seeds} seeds");
}
