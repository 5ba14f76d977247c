//! JSON Web Key Sets (RFC 7517): the public keys that an identity provider publishes.

use super::TokenSetupError;
use super::keys::{self, Key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The members of a key that matter here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// The private part. It does not belong here.
    d: Option<IgnoredAny>,
}

/// The keys of a set that are for signatures. A key that cannot be used is an error and names itself,
/// by its place from 1 and its id: left out in silence, it would refuse users much later.
pub(super) fn keys(text: &str) -> Result<Vec<Key>, TokenSetupError> {
    let set = |why: String| TokenSetupError {
        key: "JWKS".into(),
        why,
    };
    let document: Value =
        serde_json::from_str(text).map_err(|error| set(format!("JSON expected ({error})")))?;
    let entries = document.get("keys").and_then(Value::as_array);
    let entries = entries.ok_or_else(|| set("an object with a list of keys expected".into()))?;
    let mut keys = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let key = key(entry).map_err(|why| TokenSetupError {
            key: name(index, entry),
            why,
        })?;
        keys.extend(key);
    }
    match keys.is_empty() {
        true => Err(set("none of its keys is for signatures".into())),
        false => Ok(keys),
    }
}

fn name(index: usize, entry: &Value) -> String {
    match entry.get("kid").and_then(Value::as_str) {
        Some(id) => format!("JWKS key {} ({id})", index + 1),
        None => format!("JWKS key {}", index + 1),
    }
}

/// A key, or none if it is for something else than signatures.
fn key(entry: &Value) -> Result<Option<Key>, String> {
    // The error of a wrong type would show the value, which may be of a key that is not public.
    let jwk = Jwk::deserialize(entry)
        .map_err(|_| "a JSON Web Key expected: an object with kty and members of its kind")?;
    if jwk.kty == "oct" || jwk.d.is_some() {
        return Err("a public key expected: a secret does not belong in a set".into());
    }
    let verifies = |operations: &Vec<String>| operations.iter().any(|name| name == "verify");
    let is_for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
        && jwk.key_ops.as_ref().is_none_or(verifies);
    if !is_for_signatures {
        return Ok(None);
    }
    let key = match (&*jwk.kty, jwk.crv.as_deref()) {
        ("RSA", _) => keys::rsa(&bytes("n", &jwk.n)?, &bytes("e", &jwk.e)?)?,
        ("EC", Some("P-256")) => keys::ecdsa(&point(&jwk, 32)?)?,
        ("EC", Some("P-384")) => keys::ecdsa(&point(&jwk, 48)?)?,
        ("EC", _) => return Err("crv: P-256 or P-384 expected".into()),
        ("OKP", Some("Ed25519")) => keys::eddsa(&bytes("x", &jwk.x)?)?,
        ("OKP", _) => return Err("crv: Ed25519 expected".into()),
        _ => return Err("kty: RSA, EC or OKP expected".into()),
    };
    Ok(Some(key.of_set(jwk.kid, jwk.alg.as_deref())?))
}

fn bytes(member: &str, text: &Option<String>) -> Result<Vec<u8>, String> {
    let text = text.as_deref().unwrap_or_default();
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        Ok(_) | Err(_) => Err(format!("{member}: base64url expected")),
    }
}

/// The point of an elliptic curve key, uncompressed. Coordinates are of full length (RFC 7518 section
/// 6.2.1.2).
fn point(jwk: &Jwk, coordinate_bytes: usize) -> Result<Vec<u8>, String> {
    let (x, y) = (bytes("x", &jwk.x)?, bytes("y", &jwk.y)?);
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return Err(format!("x, y: {coordinate_bytes} bytes expected"));
    }
    Ok([&[4], &*x, &*y].concat())
}
