//! Connection and subscription tokens: JSON Web Tokens (RFC 7519) that the application signs.
//!
//! Each key has its own list of algorithms, by its kind and never by what a token says, so a public key
//! cannot be passed off as a shared secret. A `kid` selects among the configured keys and nothing else.
//! A claim of the wrong JSON type makes a token invalid; it never counts as absent. Time is an
//! argument.

mod claims;
mod keys;

pub use claims::{ConnectionClaims, Overrides, OwnedData, SubscriptionClaims, SubscriptionOptions};

use crate::limits::TOKEN_BYTES_MAX;
use claims::RawClaims;
use keys::Key;
use std::fmt;

/// What the operator configured about tokens of one kind.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TokenSettings {
    /// Shared secrets: HS256, HS384, HS512. The current one first, others for rotation.
    pub hmac_secrets: Vec<String>,
    /// RSA public keys in PEM: RS256, RS384, RS512.
    pub rsa_public_keys: Vec<String>,
    /// Elliptic curve public keys in PEM: ES256 or ES384, by their curve.
    pub ecdsa_public_keys: Vec<String>,
    /// Ed25519 public keys in PEM: EdDSA.
    pub eddsa_public_keys: Vec<String>,
    /// A JSON Web Key Set (RFC 7517).
    pub jwks: Option<String>,
    /// What `aud` has to be or to contain.
    pub audience: Option<String>,
    /// What `iss` has to be.
    pub issuer: Option<String>,
    /// Seconds by which clocks may differ.
    pub leeway_s: u64,
}

impl fmt::Debug for TokenSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSettings")
            .field("hmac_secrets", &self.hmac_secrets.len())
            .field("rsa_public_keys", &self.rsa_public_keys.len())
            .field("ecdsa_public_keys", &self.ecdsa_public_keys.len())
            .field("eddsa_public_keys", &self.eddsa_public_keys.len())
            .field("jwks", &self.jwks.is_some())
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .field("leeway_s", &self.leeway_s)
            .finish()
    }
}

/// A key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSetupError {
    /// Which one.
    pub key: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for TokenSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)
    }
}

impl std::error::Error for TokenSetupError {}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It is none of ours, or does not say what it has to.
    Invalid(&'static str),
    /// It was good once.
    Expired,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "invalid: {why}"),
            Self::Expired => f.write_str("expired"),
        }
    }
}

impl std::error::Error for TokenError {}

/// Verifies tokens of one kind. The default has no keys and refuses all.
#[derive(Default)]
pub struct TokenVerifier {
    keys: Vec<Key>,
    audience: Option<String>,
    issuer: Option<String>,
    leeway_s: u64,
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl TokenVerifier {
    /// A verifier with these keys.
    ///
    /// # Errors
    /// For the first key that cannot be used.
    pub fn new(settings: &TokenSettings) -> Result<Self, TokenSetupError> {
        Ok(Self {
            keys: keys::all(settings)?,
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            leeway_s: settings.leeway_s,
        })
    }

    /// Whether there is no key: every token is refused.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What a connection token says at `now_s` (unix time in seconds).
    ///
    /// # Errors
    /// [`TokenError::Expired`] only when everything else is right.
    pub fn verify_connection(
        &self,
        token: &str,
        now_s: u64,
    ) -> Result<ConnectionClaims, TokenError> {
        let claims = self.verified(token)?;
        let connection = ConnectionClaims::try_from(&claims)?;
        self.check_times(&claims, now_s)?;
        Ok(connection)
    }

    /// What a subscription token says at `now_s` (unix time in seconds).
    ///
    /// # Errors
    /// As [`TokenVerifier::verify_connection`].
    pub fn verify_subscription(
        &self,
        token: &str,
        now_s: u64,
    ) -> Result<SubscriptionClaims, TokenError> {
        let claims = self.verified(token)?;
        let subscription = SubscriptionClaims::try_from(&claims)?;
        self.check_times(&claims, now_s)?;
        Ok(subscription)
    }

    /// The claims of a token that one of the keys has signed, for us.
    fn verified(&self, token: &str) -> Result<RawClaims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid("too long"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| TokenError::Invalid("not a signed JSON Web Token"))?;
        let mut candidates = self
            .keys
            .iter()
            .filter(|key| key.is_for(&header))
            .peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::Invalid("no key for its algorithm and key id"));
        }
        let mut why = "the signature is not of one of the keys";
        for key in candidates {
            match key.verify(token) {
                Ok(claims) => return self.meant_for_us(claims),
                Err(keys::Refused::Signature) => {}
                Err(keys::Refused::Claims) => why = "claims of the wrong type",
            }
        }
        Err(TokenError::Invalid(why))
    }

    fn meant_for_us(&self, claims: RawClaims) -> Result<RawClaims, TokenError> {
        if self
            .audience
            .as_ref()
            .is_some_and(|audience| !claims.is_for(audience))
        {
            return Err(TokenError::Invalid("for another audience"));
        }
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(TokenError::Invalid("of another issuer"));
        }
        Ok(claims)
    }

    fn check_times(&self, claims: &RawClaims, now_s: u64) -> Result<(), TokenError> {
        if claims
            .nbf
            .is_some_and(|nbf| now_s.saturating_add(self.leeway_s) < nbf)
        {
            return Err(TokenError::Invalid("not valid yet"));
        }
        if claims
            .exp
            .is_some_and(|exp| now_s >= exp.saturating_add(self.leeway_s))
        {
            return Err(TokenError::Expired);
        }
        Ok(())
    }
}

/// What a fuzzer checks: no bytes make the verifier panic, and none are taken that no key has signed.
pub fn fuzz_token(bytes: &[u8]) {
    let settings = TokenSettings {
        hmac_secrets: vec!["a secret that no fuzzer signs with".into()],
        ..TokenSettings::default()
    };
    let verifier = TokenVerifier::new(&settings).expect("a secret is a key");
    if let Ok(token) = std::str::from_utf8(bytes) {
        assert!(verifier.verify_connection(token, 0).is_err());
        assert!(verifier.verify_subscription(token, 0).is_err());
    }
    // Claims as if they had been signed.
    if let Ok(claims) = serde_json::from_slice::<RawClaims>(bytes) {
        let _ = ConnectionClaims::try_from(&claims);
        let _ = SubscriptionClaims::try_from(&claims);
    }
}

#[cfg(test)]
mod tests;
