//! stub
#![allow(missing_docs)]
use crate::base::Content;
#[derive(Clone, Debug, Default)]
pub struct TokenSettings {
    pub hmac_secrets: Vec<String>,
    pub rsa_public_keys: Vec<String>,
    pub ecdsa_public_keys: Vec<String>,
    pub eddsa_public_keys: Vec<String>,
    pub jwks: Option<String>,
    pub audience: Option<String>,
    pub issuer: Option<String>,
    pub leeway_s: u64,
}
#[derive(Debug, Default)]
pub struct TokenVerifier;
pub enum TokenError {
    Invalid(&'static str),
    Expired,
}
impl TokenVerifier {
    pub fn verify_connection(&self, _: &str, _: u64) -> Result<ConnectionClaims, TokenError> {
        Err(TokenError::Invalid(""))
    }
    pub fn verify_subscription(&self, _: &str, _: u64) -> Result<SubscriptionClaims, TokenError> {
        Err(TokenError::Invalid(""))
    }
}
pub struct ConnectionClaims {
    pub user: String,
    pub expire_at_s: u64,
    pub info: OwnedData,
    pub channels: Vec<String>,
    pub subs: Vec<(String, SubscriptionOptions)>,
}
pub struct SubscriptionClaims {
    pub user: String,
    pub channel: String,
    pub client: Option<String>,
    pub expire_at_s: u64,
    pub options: SubscriptionOptions,
}
#[derive(Default)]
pub struct SubscriptionOptions {
    pub info: OwnedData,
    pub data: OwnedData,
    pub overrides: Overrides,
}
#[derive(Clone, Copy, Default)]
pub struct Overrides {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_push_join_leave: Option<bool>,
    pub force_recovery: Option<bool>,
    pub force_positioning: Option<bool>,
}
#[derive(Default)]
pub struct OwnedData {
    pub content: Content,
    pub bytes: Vec<u8>,
}

impl TokenVerifier {
    pub fn new(_: &TokenSettings) -> Result<Self, TokenSetupError> {
        Ok(Self)
    }
}
#[derive(Debug)]
pub struct TokenSetupError;
impl std::fmt::Display for TokenSetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("")
    }
}
