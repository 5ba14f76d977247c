//! Keys: rotation, sets, and what cannot be used.

use super::*;
use crate::limits::{TOKEN_KEYS_MAX, TOKEN_KEYS_TRIED_MAX};
use jsonwebtoken::jwk::Jwk;

#[test]
fn keys_are_rotated_by_having_both() {
    let mut settings = hmac();
    settings.hmac_secrets.insert(0, "the next secret".into());
    let verifier = verifier(&settings);
    for secret in &settings.hmac_secrets {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = signed(&Header::new(Algorithm::HS256), &key, &json!({}));
        assert!(
            verifier.verify_connection(&token, NOW_S).is_ok(),
            "{secret}"
        );
    }
}

fn key_set() -> (String, Vec<(Header, EncodingKey)>) {
    let named = [
        ("r", Algorithm::RS256),
        ("e", Algorithm::ES256),
        ("d", Algorithm::EdDSA),
    ];
    let (mut keys, mut signers) = (Vec::new(), Vec::new());
    for (id, algorithm) in named {
        let pair = pairs()
            .into_iter()
            .find(|pair| pair.0 == algorithm)
            .unwrap();
        let mut jwk = Jwk::from_encoding_key(&pair.1, algorithm).unwrap();
        jwk.common.key_id = Some(id.into());
        keys.push(serde_json::to_value(jwk).unwrap());
        let mut header = Header::new(algorithm);
        header.kid = Some(id.into());
        signers.push((header, pair.1));
    }
    (json!({ "keys": keys }).to_string(), signers)
}

#[test]
fn a_key_id_selects_among_the_keys_of_the_set() {
    let (set, signers) = key_set();
    let settings = TokenSettings {
        jwks: Some(set),
        ..TokenSettings::default()
    };
    let verifier = verifier(&settings);
    for (header, key) in &signers {
        assert!(
            verifier
                .verify_connection(&signed(header, key, &json!({})), NOW_S)
                .is_ok()
        );
        let mut other = header.clone();
        other.kid = Some("unknown".into());
        let refused = verifier.verify_connection(&signed(&other, key, &json!({})), NOW_S);
        assert!(invalid(&refused), "{other:?}");
    }
}

#[test]
fn a_set_with_a_key_that_cannot_be_used_is_refused_by_name() {
    let shared = json!({"keys": [{"kty": "oct", "kid": "s", "k": "c2VjcmV0"}]}).to_string();
    for (set, which) in [("{", "JWKS"), ("[]", "JWKS"), (&shared, "JWKS key 1 (s)")] {
        let settings = TokenSettings {
            jwks: Some(set.into()),
            ..TokenSettings::default()
        };
        let error = TokenVerifier::new(&settings).expect_err(set);
        assert!(error.to_string().starts_with(which), "{error}");
    }
    let settings = TokenSettings {
        rsa_public_keys: vec![key!("p256.pub").into()],
        ..TokenSettings::default()
    };
    let error = TokenVerifier::new(&settings).expect_err("an EC key as RSA");
    assert_eq!(error.key, "RSA public key 1");
}

fn with_set(keys: &Value) -> Result<TokenVerifier, TokenSetupError> {
    TokenVerifier::new(&TokenSettings {
        jwks: Some(json!({ "keys": keys }).to_string()),
        ..TokenSettings::default()
    })
}

/// The public key of `algorithm` as a JSON Web Key, and its private key.
fn jwk(algorithm: Algorithm) -> (Value, EncodingKey) {
    let mut pairs = pairs().into_iter();
    let key = pairs.find(|pair| pair.0 == algorithm).unwrap().1;
    let jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
    (serde_json::to_value(jwk).unwrap(), key)
}

/// `jwk` with its members replaced by those of `other`; null takes one away.
fn with(mut jwk: Value, other: Value) -> Value {
    for (name, value) in other.as_object().unwrap() {
        match value.is_null() {
            true => jwk.as_object_mut().unwrap().remove(name),
            false => jwk
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    jwk
}

#[test]
fn a_key_of_a_set_is_for_its_algorithm_only() {
    let (key, private) = jwk(Algorithm::RS256);
    let takes = |key: &Value, algorithm| {
        let token = signed(&Header::new(algorithm), &private, &json!({}));
        with_set(&json!([key]))
            .unwrap()
            .verify_connection(&token, NOW_S)
            .is_ok()
    };
    assert!(takes(&key, Algorithm::RS256));
    assert!(!takes(&key, Algorithm::RS384));
    let any = with(key, json!({"alg": null}));
    assert!(takes(&any, Algorithm::RS256) && takes(&any, Algorithm::RS384));
}

#[test]
fn a_key_id_says_nothing_about_keys_without_one() {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("unknown".into());
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = signed(&header, &key, &json!({}));
    assert!(verifier(&hmac()).verify_connection(&token, NOW_S).is_ok());
    let (key, private) = jwk(Algorithm::EdDSA);
    let token = signed(&Header::new(Algorithm::EdDSA), &private, &json!({}));
    let set = with_set(&json!([with(key, json!({"kid": "a"}))])).unwrap();
    assert!(
        set.verify_connection(&token, NOW_S).is_ok(),
        "no id, any key"
    );
}

#[test]
fn keys_that_are_not_for_signatures_are_left_out() {
    let (key, private) = jwk(Algorithm::ES256);
    let token = signed(&Header::new(Algorithm::ES256), &private, &json!({}));
    for other in [json!({"use": "enc"}), json!({"key_ops": ["encrypt"]})] {
        let other = with(key.clone(), other);
        assert!(
            with_set(&json!([other])).is_err(),
            "{other}: nothing is left"
        );
        let set = with_set(&json!([other, key])).unwrap();
        assert!(set.verify_connection(&token, NOW_S).is_ok());
    }
    for same in [json!({"use": "sig"}), json!({"key_ops": ["verify"]})] {
        let set = with_set(&json!([with(key.clone(), same)])).unwrap();
        assert!(set.verify_connection(&token, NOW_S).is_ok());
    }
}

#[test]
fn a_key_of_a_set_that_cannot_be_used_is_named_with_its_reason() {
    let (rsa, ec, ed) = (
        jwk(Algorithm::RS256).0,
        jwk(Algorithm::ES256).0,
        jwk(Algorithm::EdDSA).0,
    );
    let number = |bytes: usize, first: u8, last: u8| {
        let mut number = vec![0x55; bytes];
        (number[0], number[bytes - 1]) = (first, last);
        URL_SAFE_NO_PAD.encode(number)
    };
    let table = [
        (
            with(rsa.clone(), json!({"n": number(255, 0xff, 1)})),
            "2048",
        ),
        (with(rsa.clone(), json!({"n": number(257, 0, 1)})), "2048"),
        (with(rsa.clone(), json!({"n": number(513, 1, 1)})), "4096"),
        (
            with(rsa.clone(), json!({"n": number(256, 0xff, 2)})),
            "none of an RSA key",
        ),
        (with(rsa.clone(), json!({"e": "AQ"})), "none of an RSA key"),
        (with(rsa.clone(), json!({"e": "BA"})), "none of an RSA key"),
        (
            with(rsa.clone(), json!({"e": number(5, 2, 1)})),
            "none of an RSA key",
        ),
        (with(rsa.clone(), json!({"e": null})), "e: base64url"),
        (with(rsa.clone(), json!({"n": "+/"})), "n: base64url"),
        (with(rsa.clone(), json!({"n": 5})), "JSON Web Key"),
        (with(rsa.clone(), json!({"alg": "ES256"})), "alg"),
        (with(rsa.clone(), json!({"alg": "HS256"})), "alg"),
        (with(rsa.clone(), json!({"alg": "PS256"})), "alg"),
        (with(rsa, json!({"d": "AQAB"})), "secret"),
        (with(ec.clone(), json!({"crv": "P-521"})), "crv"),
        (with(ec.clone(), json!({"crv": "P-384"})), "48 bytes"),
        (with(ec.clone(), json!({"alg": "ES384"})), "alg"),
        (with(ec, json!({"y": number(32, 1, 1)})), "not on the curve"),
        (with(ed.clone(), json!({"x": number(31, 1, 1)})), "Ed25519"),
        (with(ed.clone(), json!({"x": number(33, 1, 1)})), "Ed25519"),
        (with(ed, json!({"crv": "X25519"})), "crv"),
        (
            json!({"kty": "oct", "k": "c2VjcmV0", "use": "enc"}),
            "secret",
        ),
        (json!({"kty": "AKP"}), "kty"),
        (json!({}), "JSON Web Key"),
        (json!(1), "JSON Web Key"),
    ];
    let good = jwk(Algorithm::ES384).0;
    for (bad, why) in table {
        let error = with_set(&json!([good, bad])).expect_err("a bad key");
        assert!(error.key.starts_with("JWKS key 2"), "{bad}: {error}");
        assert!(error.why.contains(why), "{bad}: {error}");
    }
}

#[test]
fn a_key_in_pem_form_that_cannot_be_used_is_refused() {
    let pems = |rsa: &str, ecdsa: &str, eddsa: &str| {
        let list = |pem: &str| match pem {
            "" => Vec::new(),
            pem => vec![pem.to_owned()],
        };
        TokenVerifier::new(&TokenSettings {
            rsa_public_keys: list(rsa),
            ecdsa_public_keys: list(ecdsa),
            eddsa_public_keys: list(eddsa),
            ..TokenSettings::default()
        })
    };
    assert!(pems(key!("rsa.pub"), key!("p384.pub"), key!("ed25519.pub")).is_ok());
    for (rsa, ecdsa, eddsa) in [
        (key!("rsa"), "", ""),
        (key!("p256.pub"), "", ""),
        ("", key!("p256"), ""),
        ("", key!("ed25519.pub"), ""),
        ("", SECP256K1, ""),
        ("", "", key!("ed25519")),
        ("", "", key!("rsa.pub")),
        (
            "",
            "",
            "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
        ),
        (&key!("rsa.pub").repeat(2), "", ""),
    ] {
        assert!(pems(rsa, ecdsa, eddsa).is_err(), "{rsa}{ecdsa}{eddsa}");
    }
}

/// PKCS#1 (RFC 8017 appendix A.1.1) is what is inside of `rsa.pub`, behind 24 bytes that say what it is.
fn pkcs1() -> String {
    let lines = key!("rsa.pub").lines();
    let text: String = lines.filter(|line| !line.starts_with('-')).collect();
    let inner = STANDARD.encode(&STANDARD.decode(text).unwrap()[24..]);
    format!("-----BEGIN RSA PUBLIC KEY-----\n{inner}\n-----END RSA PUBLIC KEY-----\n")
}

#[test]
fn a_key_in_pem_form_is_read_as_other_tools_write_it() {
    let private = EncodingKey::from_rsa_pem(key!("rsa").as_bytes()).unwrap();
    let token = signed(&Header::new(Algorithm::RS256), &private, &json!({}));
    for pem in [
        key!("rsa.pub").replace('\n', "\r\n"),
        format!("the key of 2026\n{}", key!("rsa.pub")),
        key!("rsa.pub").trim_end().to_owned(),
        pkcs1(),
    ] {
        let settings = TokenSettings {
            rsa_public_keys: vec![pem.clone()],
            ..TokenSettings::default()
        };
        let found = verifier(&settings).verify_connection(&token, NOW_S);
        assert!(found.is_ok(), "{pem}");
    }
}

/// A key whose curve has points as long as those of P-256.
const SECP256K1: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEREUQsWeuuGCLE6Hn2aNPIVeyrSHyDZOo\n\
    S6737byoCX63IG5HWBIXOBm5i+xnlzkcMOMiyAfgx9JE81UGBet/tw==\n\
    -----END PUBLIC KEY-----\n";

#[test]
fn a_public_key_is_not_taken_for_a_shared_secret() {
    for secret in ["", key!("rsa.pub"), key!("p256")] {
        let settings = TokenSettings {
            hmac_secrets: vec![SECRET.into(), secret.into()],
            ..TokenSettings::default()
        };
        let error = TokenVerifier::new(&settings).expect_err(secret);
        assert_eq!(error.key, "HMAC secret 2");
    }
}

#[test]
fn the_number_of_keys_is_bounded_and_that_of_checks_for_one_token_even_more() {
    let with_secrets = |count: usize| {
        TokenVerifier::new(&TokenSettings {
            hmac_secrets: vec![SECRET.into(); count],
            ..TokenSettings::default()
        })
    };
    assert!(with_secrets(TOKEN_KEYS_TRIED_MAX).is_ok());
    let error = with_secrets(TOKEN_KEYS_TRIED_MAX + 1).expect_err("one more");
    assert_eq!(
        error.to_string(),
        "keys: 5 for HS256 without a key id, at most 4 allowed"
    );

    let (public, key) = jwk(Algorithm::ES256);
    let set = |count: usize| -> Vec<Value> {
        let ids = (0..count).map(|number| json!({"kid": number.to_string()}));
        ids.map(|id| with(public.clone(), id)).collect()
    };
    assert!(with_set(&json!(set(TOKEN_KEYS_MAX + 1))).is_err());
    let verifier = with_set(&json!(set(TOKEN_KEYS_MAX))).expect("each has an id");
    let mut header = Header::new(Algorithm::ES256);
    let nameless = verifier.verify_connection(&signed(&header, &key, &json!({})), NOW_S);
    assert!(invalid(&nameless), "which one is not for us to find out");
    header.kid = Some("31".into());
    let named = verifier.verify_connection(&signed(&header, &key, &json!({})), NOW_S);
    assert!(named.is_ok(), "{named:?}");
}
