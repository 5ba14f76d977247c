//! The keys that tokens are verified with, each with the algorithms that it may be used for.

use super::claims::RawClaims;
use super::{TokenSettings, TokenSetupError};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
const ECDSA: &[Algorithm] = &[Algorithm::ES256, Algorithm::ES384];
const EDDSA: &[Algorithm] = &[Algorithm::EdDSA];

/// A key, what it is for, and its id if it came from a set.
pub(super) struct Key {
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
    id: Option<String>,
}

/// Why a key does not take a token.
pub(super) enum Refused {
    /// It has not signed it.
    Signature,
    /// It has, but what was signed cannot be read.
    Claims,
}

impl Key {
    /// Whether a token with this header may be of this key. A token without an id may be of any.
    pub(super) fn is_for(&self, header: &Header) -> bool {
        let named = match (&header.kid, &self.id) {
            (Some(wanted), Some(id)) => wanted == id,
            (Some(_), None) | (None, _) => true,
        };
        named && self.algorithms.contains(&header.alg)
    }

    /// The claims of a token that this key has signed; nothing is said of times, audience and issuer.
    pub(super) fn verify(&self, token: &str) -> Result<RawClaims, Refused> {
        let mut validation = Validation::new(self.algorithms[0]);
        validation.algorithms.clone_from(&self.algorithms);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        match jsonwebtoken::decode(token, &self.key, &validation) {
            Ok(decoded) => Ok(decoded.claims),
            Err(error) if is_of_content(&error) => Err(Refused::Claims),
            Err(_) => Err(Refused::Signature),
        }
    }
}

fn is_of_content(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Json(_) | ErrorKind::Utf8(_))
}

/// All keys of the settings.
pub(super) fn all(settings: &TokenSettings) -> Result<Vec<Key>, TokenSetupError> {
    let mut keys = Vec::new();
    for (index, secret) in settings.hmac_secrets.iter().enumerate() {
        if secret.is_empty() {
            return Err(unusable(
                format!("HMAC secret {}", index + 1),
                "it is empty",
            ));
        }
        keys.push(Key {
            key: DecodingKey::from_secret(secret.as_bytes()),
            algorithms: HMAC.to_vec(),
            id: None,
        });
    }
    let pems = [
        ("RSA", &settings.rsa_public_keys, RSA),
        ("ECDSA", &settings.ecdsa_public_keys, ECDSA),
        ("EdDSA", &settings.eddsa_public_keys, EDDSA),
    ];
    for (kind, texts, algorithms) in pems {
        for (index, text) in texts.iter().enumerate() {
            let key = of_pem(kind, text).map_err(|error| {
                let which = format!("{kind} public key {}", index + 1);
                unusable(which, format!("a public key in PEM expected ({error})"))
            })?;
            keys.push(Key {
                key,
                algorithms: algorithms.to_vec(),
                id: None,
            });
        }
    }
    if let Some(text) = &settings.jwks {
        keys.extend(of_set(text)?);
    }
    Ok(keys)
}

fn of_pem(kind: &str, text: &str) -> Result<DecodingKey, Error> {
    match kind {
        "RSA" => DecodingKey::from_rsa_pem(text.as_bytes()),
        "ECDSA" => DecodingKey::from_ec_pem(text.as_bytes()),
        _ => DecodingKey::from_ed_pem(text.as_bytes()),
    }
}

/// The keys of a JSON Web Key Set that are for signatures.
fn of_set(text: &str) -> Result<Vec<Key>, TokenSetupError> {
    let set: JwkSet = serde_json::from_str(text).map_err(|error| {
        unusable(
            "JWKS".into(),
            format!("a JSON Web Key Set expected ({error})"),
        )
    })?;
    let mut keys = Vec::new();
    for (index, jwk) in set.keys.iter().enumerate() {
        let other = |usage: &PublicKeyUse| *usage != PublicKeyUse::Signature;
        if jwk.common.public_key_use.as_ref().is_some_and(other) {
            continue;
        }
        let which = || match &jwk.common.key_id {
            Some(id) => format!("JWKS key {} ({id})", index + 1),
            None => format!("JWKS key {}", index + 1),
        };
        let algorithms = algorithms(jwk).map_err(|why| unusable(which(), why))?;
        let key =
            DecodingKey::from_jwk(jwk).map_err(|error| unusable(which(), error.to_string()))?;
        keys.push(Key {
            key,
            algorithms,
            id: jwk.common.key_id.clone(),
        });
    }
    Ok(keys)
}

/// What a key may be used for: what its kind allows, and of that what it says itself.
fn algorithms(jwk: &Jwk) -> Result<Vec<Algorithm>, &'static str> {
    let allowed: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => RSA,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return Err("P-256 or P-384 expected"),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => EDDSA,
        AlgorithmParameters::OctetKeyPair(_) => return Err("Ed25519 expected"),
        // A shared secret in a public set is a mistake.
        _ => return Err("a public key expected: RSA, EC or OKP"),
    };
    let Some(stated) = &jwk.common.key_algorithm else {
        return Ok(allowed.to_vec());
    };
    let stated = match stated {
        KeyAlgorithm::RS256 => Algorithm::RS256,
        KeyAlgorithm::RS384 => Algorithm::RS384,
        KeyAlgorithm::RS512 => Algorithm::RS512,
        KeyAlgorithm::ES256 => Algorithm::ES256,
        KeyAlgorithm::ES384 => Algorithm::ES384,
        KeyAlgorithm::EdDSA => Algorithm::EdDSA,
        _ => return Err("an algorithm that is not served: RS, ES or EdDSA expected"),
    };
    if !allowed.contains(&stated) {
        return Err("its algorithm is not one of its kind");
    }
    Ok(vec![stated])
}

fn unusable(key: String, why: impl Into<String>) -> TokenSetupError {
    TokenSetupError {
        key,
        why: why.into(),
    }
}
