//! The keys that tokens are verified with, each with the algorithms that it may be used for.
//!
//! A key is checked once, here: what it is made of, how strong it is and that its public point exists.
//! The check of a signature can then rely on it, whatever a stranger sends.

use super::{TokenSettings, TokenSetupError, jwks};
use crate::limits::{RSA_BITS_MAX, RSA_BITS_MIN, TOKEN_KEYS_MAX, TOKEN_KEYS_TRIED_MAX};
use jsonwebtoken::crypto::{rust_crypto, verify};
use jsonwebtoken::{Algorithm, DecodingKey, Header};

/// What a shared secret is for. No public key has one of these.
const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
/// What an RSA key is for.
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
/// Bytes of an Ed25519 key.
const EDDSA_BYTES: usize = 32;

/// A key, what it is for, and its id if it came from a set.
pub(super) struct Key {
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
    id: Option<String>,
}

impl Key {
    /// Whether a token with this header may be of this key. An id selects among keys that have one.
    pub(super) fn is_for(&self, header: &Header) -> bool {
        let is_named = match (&header.kid, &self.id) {
            (Some(wanted), Some(id)) => wanted == id,
            (Some(_), None) | (None, _) => true,
        };
        is_named && self.algorithms.contains(&header.alg)
    }

    /// Whether this key has signed `message`. `algorithm` is one that the key is for.
    pub(super) fn has_signed(&self, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        debug_assert!(self.algorithms.contains(&algorithm), "see is_for");
        verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }

    /// A key of a set: its id, and the one algorithm that it is limited to, if it names one.
    pub(super) fn of_set(
        mut self,
        id: Option<String>,
        only: Option<&str>,
    ) -> Result<Self, &'static str> {
        if let Some(only) = only {
            self.algorithms
                .retain(|algorithm| format!("{algorithm:?}") == only);
        }
        if self.algorithms.is_empty() {
            return Err("alg is not one that tokens of this kind of key are verified with");
        }
        self.id = id;
        Ok(self)
    }

    fn new(key: DecodingKey, algorithms: &[Algorithm]) -> Self {
        Self {
            key,
            algorithms: algorithms.to_vec(),
            id: None,
        }
    }
}

/// All keys of the settings.
pub(super) fn all(settings: &TokenSettings) -> Result<Vec<Key>, TokenSetupError> {
    type Make = fn(&str) -> Result<Key, &'static str>;
    let lists: [(&'static str, &[String], Make); 4] = [
        ("HMAC secret", &settings.hmac_secrets, hmac),
        ("RSA public key", &settings.rsa_public_keys, rsa_pem),
        ("ECDSA public key", &settings.ecdsa_public_keys, ecdsa_pem),
        ("EdDSA public key", &settings.eddsa_public_keys, eddsa_pem),
    ];
    let mut keys = Vec::new();
    for (what, texts, make) in lists {
        for (index, text) in texts.iter().enumerate() {
            keys.push(make(text).map_err(|why| TokenSetupError {
                key: format!("{what} {}", index + 1),
                why: why.into(),
            })?);
        }
    }
    if let Some(text) = &settings.jwks {
        keys.extend(jwks::keys(text)?);
    }
    if keys.len() > TOKEN_KEYS_MAX {
        return Err(TokenSetupError {
            key: "keys".into(),
            why: format!("{} given, at most {TOKEN_KEYS_MAX} allowed", keys.len()),
        });
    }
    let nameless = || keys.iter().filter(|key| key.id.is_none());
    for algorithm in nameless().flat_map(|key| &key.algorithms) {
        let count = nameless()
            .filter(|key| key.algorithms.contains(algorithm))
            .count();
        if count > TOKEN_KEYS_TRIED_MAX {
            return Err(TokenSetupError {
                key: "keys".into(),
                why: format!(
                    "{count} for {algorithm:?} without a key id, at most {TOKEN_KEYS_TRIED_MAX} allowed"
                ),
            });
        }
    }
    Ok(keys)
}

fn hmac(secret: &str) -> Result<Key, &'static str> {
    if secret.is_empty() {
        return Err("it is empty");
    }
    if secret.contains("-----BEGIN") {
        return Err("a secret expected, not a key in PEM form: what is public is no secret");
    }
    Ok(Key::new(DecodingKey::from_secret(secret.as_bytes()), HMAC))
}

fn rsa_pem(pem: &str) -> Result<Key, &'static str> {
    const EXPECTED: &str = "an RSA public key in PEM form expected";
    refuse_other_pem(pem)?;
    let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| EXPECTED)?;
    let der = key.try_get_as_bytes().map_err(|_| EXPECTED)?;
    let components = rust_crypto::DEFAULT_PROVIDER
        .key_utils
        .rsa_pub_components_from_public_key;
    let (n, e) = components(der).map_err(|_| EXPECTED)?;
    rsa(&n, &e)
}

fn ecdsa_pem(pem: &str) -> Result<Key, &'static str> {
    const EXPECTED: &str = "an elliptic curve public key in PEM form expected";
    refuse_other_pem(pem)?;
    let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| EXPECTED)?;
    ecdsa(key.try_get_as_bytes().map_err(|_| EXPECTED)?)
}

fn eddsa_pem(pem: &str) -> Result<Key, &'static str> {
    const EXPECTED: &str = "an Ed25519 public key in PEM form expected";
    refuse_other_pem(pem)?;
    let key = DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| EXPECTED)?;
    eddsa(key.try_get_as_bytes().map_err(|_| EXPECTED)?)
}

/// Certificates and private keys can be read like public keys, but none belongs here.
fn refuse_other_pem(pem: &str) -> Result<(), &'static str> {
    if pem.contains("PRIVATE KEY-----") {
        return Err("a public key expected, not a private key");
    }
    match pem.matches("-----BEGIN").count() == 1 && pem.contains("PUBLIC KEY-----") {
        true => Ok(()),
        false => Err("one public key in PEM form expected"),
    }
}

/// An RSA key of its modulus and exponent, most significant byte first.
pub(super) fn rsa(n: &[u8], e: &[u8]) -> Result<Key, &'static str> {
    // What the check of a signature takes; larger exponents are of no use and slow.
    const EXPONENT_BITS_MAX: usize = 33;
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits(n)) {
        return Err("an RSA key of 2048 to 4096 bits expected");
    }
    if !is_odd(n) || !is_odd(e) || !(2..=EXPONENT_BITS_MAX).contains(&bits(e)) {
        return Err("its modulus or exponent is none of an RSA key");
    }
    Ok(Key::new(DecodingKey::from_rsa_raw_components(n, e), RSA))
}

/// Bits of a number, leading zeros left out.
fn bits(number: &[u8]) -> usize {
    match number.iter().position(|byte| *byte != 0) {
        Some(start) => 8 * (number.len() - start) - number[start].leading_zeros() as usize,
        None => 0,
    }
}

/// A key of a point (SEC 1 section 2.3.3), whose length says on which curve it has to be.
pub(super) fn ecdsa(point: &[u8]) -> Result<Key, &'static str> {
    let algorithm = match point.len() {
        33 | 65 => Algorithm::ES256,
        49 | 97 => Algorithm::ES384,
        _ => return Err("a key on P-256 or P-384 expected"),
    };
    usable(DecodingKey::from_ec_der(point), algorithm)
        .ok_or("a key on P-256 or P-384 expected: its point is not on the curve")
}

/// An Ed25519 key.
pub(super) fn eddsa(bytes: &[u8]) -> Result<Key, &'static str> {
    const EXPECTED: &str = "an Ed25519 key expected";
    if bytes.len() != EDDSA_BYTES {
        return Err(EXPECTED);
    }
    usable(DecodingKey::from_ed_der(bytes), Algorithm::EdDSA).ok_or(EXPECTED)
}

/// The key, if a signature can be checked with it: only a bad key makes that an error.
fn usable(key: DecodingKey, algorithm: Algorithm) -> Option<Key> {
    let checks = verify("", b"", &key, algorithm).is_ok();
    checks.then(|| Key::new(key, &[algorithm]))
}
