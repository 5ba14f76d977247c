//! Connection and subscription tokens: JSON Web Tokens (RFC 7519) that the application signs.
//!
//! Each key has its own list of algorithms, by its kind and never by what a token says, so a public key
//! cannot be passed off as a shared secret. A `kid` selects among the configured keys and nothing else.
//! A claim of the wrong JSON type makes a token invalid; it never counts as absent. Time is an argument:
//! no clock is read here. What a stranger can make the verifier do is bounded: the length of a token
//! before anything is decoded, the number of keys, and all that a good token says.

mod claims;
mod fuzz;
mod jwks;
mod keys;

pub use claims::{ConnectionClaims, OwnedData, SubscriptionClaims, SubscriptionOptions};
pub use fuzz::fuzz_token;

use crate::limits::{TOKEN_BYTES_MAX, TOKEN_KEYS_TRIED_MAX, TOKEN_LEEWAY_S_MAX};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
    /// Seconds by which clocks may differ, at most [`TOKEN_LEEWAY_S_MAX`].
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

/// A key, or another setting, that cannot be used.
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
    /// For a leeway above its bound, and for the first key that cannot be used.
    pub fn new(settings: &TokenSettings) -> Result<Self, TokenSetupError> {
        if settings.leeway_s > TOKEN_LEEWAY_S_MAX {
            return Err(TokenSetupError {
                key: "leeway".into(),
                why: format!(
                    "{} s given, at most {TOKEN_LEEWAY_S_MAX} s allowed",
                    settings.leeway_s
                ),
            });
        }
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
        let mut connection = ConnectionClaims::try_from(&claims)?;
        connection.expire_at_s = self.expire_at_s(&claims, now_s)?;
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
        let mut subscription = SubscriptionClaims::try_from(&claims)?;
        subscription.expire_at_s = self.expire_at_s(&claims, now_s)?;
        Ok(subscription)
    }

    /// The claims of a token that one of the keys has signed, for us. Nothing of the claims is looked
    /// at before the signature is known to be right.
    fn verified(&self, token: &str) -> Result<RawClaims, TokenError> {
        const SHAPE: TokenError = TokenError::Invalid("not a signed JSON Web Token");
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid("too long"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(SHAPE)?;
        let (_, payload) = message.split_once('.').ok_or(SHAPE)?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| SHAPE)?;
        if header.crit.is_some() {
            // RFC 7515 section 4.1.11: who does not know an extension refuses the token.
            return Err(TokenError::Invalid("needs an extension that is not known"));
        }
        let mut candidates = self.keys.iter().filter(|key| key.is_for(&header));
        match candidates.clone().count() {
            0 => return Err(TokenError::Invalid("no key for its algorithm and key id")),
            1..=TOKEN_KEYS_TRIED_MAX => {}
            _ => return Err(TokenError::Invalid("names no key, and many could be meant")),
        }
        if !candidates.any(|key| key.has_signed(message, signature, header.alg)) {
            return Err(TokenError::Invalid(
                "the signature is not of one of the keys",
            ));
        }
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| SHAPE)?;
        self.meant_for_us(RawClaims::read(&payload)?)
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

    /// When what the token is for expires (unix seconds, 0 for never), if the token is good now.
    fn expire_at_s(&self, claims: &RawClaims, now_s: u64) -> Result<u64, TokenError> {
        let is_early = |nbf| now_s.saturating_add(self.leeway_s) < nbf;
        if claims.nbf.is_some_and(is_early) {
            return Err(TokenError::Invalid("not valid yet"));
        }
        let expire_at_s = match claims.exp {
            None => 0,
            Some(exp) if now_s < exp => exp,
            // Taken late, it lasts as long as it would be taken.
            Some(exp) if now_s < exp.saturating_add(self.leeway_s) => {
                exp.saturating_add(self.leeway_s)
            }
            Some(_) => return Err(TokenError::Expired),
        };
        Ok(claims.expire_at.unwrap_or(expire_at_s))
    }
}

#[cfg(test)]
mod tests;
