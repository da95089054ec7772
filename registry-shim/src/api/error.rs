//! Refusals: the specification's code for the client, its cause for the log.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use longshore_proto::{ErrorBody, ErrorCode, InvalidDigest, InvalidName};

use super::Body;
use crate::auth::PermitRefused;
use crate::limits::Throttled;
use crate::quota::QuotaError;
use crate::storage::{StorageError, UploadError};

/// A request that is not answered as asked.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The log has its cause already.
    logged: bool,
}

impl ApiError {
    /// With the code's usual status; `message` is for the client.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.status()).expect("codes have valid statuses");
        Self { status, code, message: message.into(), headers: Vec::new(), logged: false }
    }

    /// Where the specification wants another status.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its code.
    pub(crate) const fn code(&self) -> ErrorCode {
        self.code
    }

    /// What the client is told.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// One line in the log: a fault of ours where an operator sees it, once; else for the curious.
    pub(super) fn log(&self) {
        let (status, code, error) = (self.status.as_u16(), self.code.as_str(), &self.message);
        if self.status.is_server_error() && !self.logged {
            tracing::warn!(status, code, error, "refused");
        } else {
            tracing::debug!(status, code, error, "refused");
        }
    }

    /// As an answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        let body = ErrorBody::new(self.code, self.message).to_json();
        let mut response = Response::new(Body::Full(body.into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.headers);
        response
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        Self::from(&error)
    }
}

impl From<Arc<StorageError>> for ApiError {
    fn from(error: Arc<StorageError>) -> Self {
        Self::from(&*error)
    }
}

impl From<&StorageError> for ApiError {
    /// The client is not told keys and paths; the log is.
    fn from(error: &StorageError) -> Self {
        let (status, message) = match error {
            // The caller's own doing: no fault of ours to log.
            StorageError::TagImmutable { .. } => {
                let denied = Self::new(ErrorCode::Denied, error.to_string());
                return denied.with_status(StatusCode::CONFLICT);
            }
            StorageError::NotNow(message) => (StatusCode::SERVICE_UNAVAILABLE, *message),
            StorageError::Full => (StatusCode::INSUFFICIENT_STORAGE, "storage is full"),
            StorageError::Unavailable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "storage is unavailable")
            }
            StorageError::Contended => {
                (StatusCode::SERVICE_UNAVAILABLE, "collection is at work on this")
            }
            StorageError::Corrupt { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "stored data is damaged")
            }
        };
        tracing::error!(%error, "storage");
        let mut answer = Self::new(ErrorCode::Unavailable, message).with_status(status);
        answer.logged = true;
        match error {
            StorageError::Contended => {
                answer.with_header(RETRY_AFTER, HeaderValue::from_static("30"))
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                answer.with_header(RETRY_AFTER, HeaderValue::from_static("5"))
            }
            _ => answer,
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Raced => Self::new(ErrorCode::BlobUploadInvalid, error.to_string())
                .with_status(StatusCode::RANGE_NOT_SATISFIABLE),
            UploadError::WrongDigest { .. } => {
                Self::new(ErrorCode::DigestInvalid, error.to_string())
            }
            UploadError::Storage(error) => error.into(),
        }
    }
}

impl From<Throttled> for ApiError {
    fn from(error: Throttled) -> Self {
        Self::new(ErrorCode::TooManyRequests, error.to_string())
            .with_header(RETRY_AFTER, error.retry_after_s.into())
    }
}

impl From<QuotaError> for ApiError {
    fn from(error: QuotaError) -> Self {
        /// Longer than an idle lease lives on, and than most pushes.
        const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");
        match error {
            QuotaError::Denied { .. } => Self::new(ErrorCode::Denied, error.to_string()),
            QuotaError::Held { .. } | QuotaError::Unavailable { .. } => {
                Self::new(ErrorCode::Unavailable, error.to_string())
                    .with_header(RETRY_AFTER, RETRY_AFTER_S)
            }
            QuotaError::Storage(error) => error.into(),
        }
    }
}

impl From<InvalidDigest> for ApiError {
    fn from(error: InvalidDigest) -> Self {
        Self::new(ErrorCode::DigestInvalid, error.to_string())
    }
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        let code = match error {
            InvalidName::Repository | InvalidName::NoHost => ErrorCode::NameInvalid,
            // The specification's table of codes has none for tags.
            InvalidName::Tag => ErrorCode::ManifestInvalid,
            InvalidName::Digest(_) => ErrorCode::DigestInvalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<PermitRefused> for ApiError {
    fn from(error: PermitRefused) -> Self {
        Self::new(ErrorCode::Denied, error.to_string())
    }
}
