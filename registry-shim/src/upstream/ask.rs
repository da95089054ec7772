//! A question to an upstream, as it is before anybody's credentials are added.

use std::fmt;
use std::sync::Mutex;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use longshore_proto::RepositoryName;
use reqwest::{Body, Url};

/// Manifests of every kind that this registry keeps.
const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json",
);
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A question.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) repository: &'a RepositoryName,
    pub(super) to: To,
    pub(super) push: bool,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload<'a>,
}

/// Where it goes.
#[derive(Debug)]
pub(super) enum To {
    /// `manifests/latest`, with its query, of the repository.
    Path(String),
    /// Where the upstream wants it. It may bear a signature.
    Location(Url),
}

/// What goes with it.
pub(super) enum Payload<'a> {
    None,
    Whole(Bytes),
    /// A stream that can be had again, for a redirect or another credential.
    Again(&'a (dyn Fn() -> Body + Send + Sync)),
    /// One that cannot.
    Once(Mutex<Option<Body>>),
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, repository: &'a RepositoryName, path: String) -> Self {
        let headers = HeaderMap::from_iter([(ACCEPT, ACCEPTED)]);
        let (to, payload) = (To::Path(path), Payload::None);
        Self { method, repository, to, push: false, headers, payload }
    }

    pub(super) fn get(repository: &'a RepositoryName, path: String) -> Self {
        Self::new(Method::GET, repository, path)
    }

    pub(super) fn head(repository: &'a RepositoryName, path: String) -> Self {
        Self::new(Method::HEAD, repository, path)
    }

    /// A step of an upload, where the upstream wants it, with `length` bytes if that is known.
    pub(super) fn upload(
        method: Method,
        repository: &'a RepositoryName,
        location: Url,
        payload: Payload<'a>,
        length: Option<u64>,
    ) -> Self {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, BYTES)]);
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        Self { method, repository, to: To::Location(location), push: true, headers, payload }
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

impl Payload<'_> {
    /// To be sent now.
    pub(super) fn body(&self) -> Option<Body> {
        match self {
            Self::None => None,
            Self::Whole(bytes) => Some(bytes.clone().into()),
            Self::Again(body) => Some(body()),
            Self::Once(body) => body.lock().expect("nobody panics with it").take(),
        }
    }

    /// Whether it can be sent again.
    pub(super) const fn is_lasting(&self) -> bool {
        !matches!(self, Self::Once(_))
    }
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Whole(_) => "Whole",
            Self::Again(_) => "Again",
            Self::Once(_) => "Once",
        })
    }
}
