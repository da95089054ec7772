//! Answers: statuses and headers as containerd expects them.
//!
//! Errors carry the OCI body. There is no answer here that makes containerd fail a pull or try
//! the same host again: no 408, no 429, no redirect, no success without its bytes.

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, WARNING,
};
use http::{Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use longshore_proto::{ByteRange, Digest, ErrorBody, ErrorCode};

use super::route::Refused;
use crate::pull::{PullError, ServedManifest, TailError};
use crate::store::BlobFailure;

pub(super) type Body = UnsyncBoxBody<Bytes, TailError>;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const OCTETS: &str = "application/octet-stream";
/// distribution-spec 1.1, "Warnings", has one code and one agent for all of them.
const STALE: HeaderValue =
    HeaderValue::from_static(r#"299 - "Response is stale: origin unreachable""#);

/// `/v2/`: yes, a registry.
pub(super) fn base() -> Response<Body> {
    let mut response = Response::new(full(Bytes::from_static(b"{}")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

/// A manifest, or its head.
pub(super) fn manifest(method: &Method, manifest: &ServedManifest) -> Response<Body> {
    let bytes = &manifest.content.bytes;
    let body = if *method == Method::HEAD { empty() } else { full(bytes.clone()) };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, text(&manifest.content.media_type));
    headers.insert(CONTENT_LENGTH, bytes.len().into());
    headers.insert(DOCKER_CONTENT_DIGEST, text(&manifest.digest.to_string()));
    if manifest.stale {
        headers.insert(WARNING, STALE);
    }
    response
}

/// A blob, or a part of it.
pub(super) fn blob(
    digest: &Digest,
    size: u64,
    part: Option<ByteRange>,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, part.map_or(size, |part| part.length()).into());
    headers.insert(DOCKER_CONTENT_DIGEST, text(&digest.to_string()));
    if let Some(part) = part {
        headers.insert(CONTENT_RANGE, text(&part.content_range(size)));
    }
    response
}

/// 416, with the size that the client did not know.
pub(super) fn outside(size: u64) -> Response<Body> {
    let mut response = error(ErrorCode::RangeInvalid, "the range lies outside the blob");
    response.headers_mut().insert(CONTENT_RANGE, text(&format!("bytes */{size}")));
    response
}

/// A request that means nothing here.
pub(super) fn refused(refused: &Refused) -> Response<Body> {
    error(refused.code, &refused.message)
}

/// No secret, or the wrong one. It names no scheme: containerd would bring its user's credentials.
pub(super) fn unauthorized() -> Response<Body> {
    error(ErrorCode::Unauthorized, "the mirror asks for the secret of hosts.toml")
}

/// No first byte within the bound.
pub(super) fn too_late() -> Response<Body> {
    error(ErrorCode::Unavailable, "no byte within the mirror's bound")
}

/// Why a pull gave nothing. `resumes`: the client has a part already, and takes a 404 as leave to
/// ask its next host for the rest (tried on 1.6 to 2.1).
pub(super) fn pull_error(why: &PullError, resumes: bool) -> Response<Body> {
    let message = why.to_string();
    match why {
        PullError::NotFound { code, .. } => {
            let known = [
                ErrorCode::ManifestUnknown,
                ErrorCode::NameUnknown,
                ErrorCode::ManifestBlobUnknown,
            ];
            let code = known.into_iter().find(|known| known.as_str() == code);
            error(code.unwrap_or(ErrorCode::BlobUnknown), &message)
        }
        PullError::Denied(_) | PullError::GaveUp(BlobFailure::Denied(_)) => {
            error(ErrorCode::Denied, &message)
        }
        PullError::GaveUp(BlobFailure::NotFound) => error(ErrorCode::BlobUnknown, &message),
        PullError::GaveUp(_) if resumes => error(ErrorCode::BlobUnknown, &message),
        PullError::GaveUp(_)
        | PullError::Unavailable(_)
        | PullError::Invalid(_)
        | PullError::Store(_) => error(ErrorCode::Unavailable, &message),
    }
}

fn error(code: ErrorCode, message: &str) -> Response<Body> {
    let json = ErrorBody::new(code, message).to_json();
    let mut response = Response::new(full(json.into()));
    *response.status_mut() =
        StatusCode::from_u16(code.status()).expect("every code has an HTTP status");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A header's value; a media type that can not be one becomes plain octets.
fn text(value: &str) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(OCTETS))
}
