//! Blobs: whole or a range of one, by whoever may pull or by a permit.
//!
//! Who may pull is sent to the store where it can sign; a permit is answered here, as its bytes are
//! counted against it, and so are `HEAD` and whatever compares versions.

use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH,
    IF_RANGE, LOCATION, RANGE,
};
use http::{Response, StatusCode};
use longshore_proto::{ByteRange, Digest, ErrorCode, RepositoryName, RequestedRange};

use super::{Answer, ApiError, Body, CONTENT_DIGEST, Call, empty, header_value, upstream};
use crate::auth::{Action, Asked};
use crate::registry::now_ms;
use crate::storage::Pointer;

pub(super) async fn get(call: &Call<'_>, repository: &RepositoryName, digest: &str) -> Answer {
    call.authorize(Action::Pull, repository)?;
    send(call, repository, &digest.parse()?, "blob").await
}

/// A ranged GET that the tracker permitted: the permit alone opens it.
pub(super) async fn get_by_permit(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &str,
    permit: &str,
) -> Answer {
    if call.method != http::Method::GET {
        return Err(ApiError::new(ErrorCode::Denied, "permit opens a GET only"));
    }
    let digest: Digest = digest.parse()?;
    let asked = Asked { repository, digest: &digest, range: call.header(&RANGE) };
    call.registry.auth.check_permit(permit, &asked, now_ms())?;
    send(call, repository, &digest, "permit").await
}

async fn send(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    kind: &'static str,
) -> Answer {
    let pointer = call.storage(repository).member(repository, digest).await?;
    let pointer = match pointer {
        Some(pointer) => pointer,
        None => match upstream::blob(call, repository, digest, kind).await? {
            Ok(pointer) => pointer,
            Err(growing) => return Ok(growing),
        },
    };
    let etag = format!("\"{digest}\"");
    if call.header(&IF_NONE_MATCH).is_some_and(|known| known.contains(&etag)) {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        response.headers_mut().insert(ETAG, header_value(&etag));
        return Ok(response);
    }
    let range = asked_range(call, pointer.size, &etag)?;
    if kind == "blob"
        && let Some(response) = redirect(call, repository, digest, &pointer).await
    {
        return Ok(response);
    }
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    let length = range.map_or(pointer.size, |range| range.length());
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_DIGEST, header_value(digest.to_string()));
    headers.insert(ETAG, header_value(&etag));
    if let Some(range) = range {
        headers.insert(CONTENT_RANGE, header_value(range.content_range(pointer.size)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if !call.is_head() && length > 0 {
        let bytes = call.storage(repository).storage().stream(&pointer, range);
        *response.body_mut() = Body::Blob(bytes, call.registry.metrics.sent(kind));
    }
    Ok(response)
}

/// To the store, which answers a `Range` itself. An `If-Range` names our version and not its, and
/// not every store knows the last N bytes.
async fn redirect(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    pointer: &Pointer,
) -> Option<Response<Body>> {
    let asked = call.header(&RANGE).and_then(RequestedRange::parse);
    let ours = call.header(&IF_RANGE).is_some() || matches!(asked, Some(RequestedRange::Last(_)));
    if call.is_head() || pointer.size == 0 || ours {
        return None;
    }
    let Some(location) = call.storage(repository).redirect(digest, pointer).await else {
        call.registry.compose(repository, digest, pointer);
        return None;
    };
    let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CONTENT_DIGEST, header_value(digest.to_string()));
    Some(response)
}

/// `None`: the whole blob. `Range` means nothing on HEAD, nor beside another version's `If-Range`.
pub(super) fn asked_range(
    call: &Call<'_>,
    size: u64,
    etag: &str,
) -> Result<Option<ByteRange>, ApiError> {
    let other_version = call.header(&IF_RANGE).is_some_and(|known| known != etag);
    if call.is_head() || other_version {
        return Ok(None);
    }
    let Some(range) = call.header(&RANGE).and_then(RequestedRange::parse) else {
        return Ok(None);
    };
    let resolved = range.resolve(size).map_err(|error| {
        // The table of codes has none for ranges; this one is about lengths that do not fit.
        ApiError::new(ErrorCode::SizeInvalid, error.to_string())
            .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
            .with_header(CONTENT_RANGE, header_value(format!("bytes */{size}")))
    })?;
    Ok(Some(resolved))
}

pub(super) async fn delete(call: &Call<'_>, repository: &RepositoryName, digest: &str) -> Answer {
    call.authorize(Action::Delete, repository)?;
    let digest: Digest = digest.parse()?;
    if !call.storage(repository).remove_member(repository, &digest).await? {
        return Err(ApiError::new(ErrorCode::BlobUnknown, "blob is unknown"));
    }
    Ok(empty(StatusCode::ACCEPTED))
}
