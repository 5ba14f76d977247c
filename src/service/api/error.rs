//! What the server API answers when it cannot do what it was asked.

use crate::service::tasks::{Crowded, Late};
use crate::wire::client::ErrorCode;
use hyper::StatusCode;
use serde_json::json;
use std::borrow::Cow;

/// An error of one method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    code: ErrorCode,
    /// What exactly; empty when the code says it all.
    detail: Cow<'static, str>,
}

/// Result of a method: a JSON object.
pub(super) type Answer = Result<Vec<u8>, ApiError>;

/// The result that says nothing.
pub(super) fn nothing() -> Answer {
    Ok(b"{}".to_vec())
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self { code, detail }
    }

    /// A field is not what it has to be.
    pub(super) fn field(path: &str, expected: &str) -> Self {
        Self::new(ErrorCode::BadRequest, format!("{path}: {expected}"))
    }

    /// The status that says the same to callers who asked for it.
    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::UnknownChannel | ErrorCode::MethodNotFound => StatusCode::NOT_FOUND,
            ErrorCode::BadRequest | ErrorCode::NotAvailable | ErrorCode::LimitExceeded => {
                StatusCode::BAD_REQUEST
            }
            ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Unrecoverable => StatusCode::RANGE_NOT_SATISFIABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `{"error":{"code":…,"message":…}}`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut message = self.code.message().to_owned();
        if !self.detail.is_empty() {
            message.push_str(": ");
            message.push_str(&self.detail);
        }
        let error = json!({"error": {"code": self.code as u16, "message": message}});
        out.extend_from_slice(error.to_string().as_bytes());
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, "")
    }
}

impl From<Late> for ApiError {
    fn from(_: Late) -> Self {
        Self::new(ErrorCode::Internal, "a shard did not answer in time")
    }
}

impl From<Crowded> for ApiError {
    fn from(_: Crowded) -> Self {
        Self::new(
            ErrorCode::TooManyRequests,
            "too many requests wait for answers",
        )
    }
}
