//! A question to an upstream, as it is before anybody's credentials are added.

use bytes::Bytes;
use http::header::{ACCEPT, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use longshore_proto::RepositoryName;

/// Manifests of every kind that this registry keeps.
const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json",
);

/// A question.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) repository: &'a RepositoryName,
    /// `manifests/latest`, with its query.
    pub(super) path: String,
    pub(super) push: bool,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, repository: &'a RepositoryName, path: String) -> Self {
        let headers = HeaderMap::from_iter([(ACCEPT, ACCEPTED)]);
        Self { method, repository, path, push: false, headers, body: None }
    }

    pub(super) fn get(repository: &'a RepositoryName, path: String) -> Self {
        Self::new(Method::GET, repository, path)
    }

    pub(super) fn head(repository: &'a RepositoryName, path: String) -> Self {
        Self::new(Method::HEAD, repository, path)
    }

    /// Only what lies from `offset` on.
    pub(super) fn from(mut self, offset: u64) -> Self {
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            self.headers.insert(RANGE, range.expect("a number is a header value"));
        }
        self
    }

    /// Only what is not `etag`.
    pub(super) fn unless(mut self, etag: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(etag) {
            self.headers.insert(IF_NONE_MATCH, value);
        }
        self
    }

    /// A write: the token must allow it, and it is not tried twice.
    pub(super) fn pushing(mut self) -> Self {
        self.push = true;
        self
    }

    /// What a token for it must allow.
    pub(super) fn scope(&self) -> String {
        let actions = if self.push { "pull,push" } else { "pull" };
        format!("repository:{}:{actions}", self.repository)
    }
}
