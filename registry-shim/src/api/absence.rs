//! "Not there" while a store is away: 404 only where it is certain.
//!
//! A client takes 404 for the last word. Of a repository of which something may have been
//! acknowledged that no store at hand has, an absence is no answer: 503 sends the client elsewhere,
//! or lets it try again. Not so for a `HEAD` of a blob, which asks before an upload, and not for an
//! unknown upload: with 404 the client uploads once more, which is harmless.

use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, StatusCode};
use longshore_proto::{ErrorCode, RepositoryName};

use super::ApiError;
use crate::registry::Registry;

impl ApiError {
    /// The same, unless it says that something of `repository` is absent and nobody can know.
    pub(crate) fn if_certain(
        self,
        registry: &Registry,
        repository: &RepositoryName,
        method: &Method,
    ) -> Self {
        let absent = match self.code() {
            ErrorCode::BlobUnknown => method != Method::HEAD,
            ErrorCode::ManifestUnknown
            | ErrorCode::ManifestBlobUnknown
            | ErrorCode::NameUnknown => true,
            _ => false,
        };
        if !absent || !registry.storage_of(repository).storage().may_lack(repository) {
            return self;
        }
        let message = "a store is away, and what is asked for may not have been copied from it";
        Self::new(ErrorCode::Unavailable, message)
            .with_status(StatusCode::SERVICE_UNAVAILABLE)
            .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }
}
