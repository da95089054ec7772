//! What a handler does when its repository fronts an upstream: the miss path of reads, the passing
//! on of pushes, and what the client is told of an upstream's failure.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER,
};
use http::{Response, StatusCode};
use longshore_proto::{ByteRange, Digest, ErrorCode, Reference, RepositoryName, Tag};

use super::blob::asked_range;
use super::{ApiError, Body, CONTENT_DIGEST, Call, chunk, header_value};
use crate::storage::{Pointer, Progress, Referrer, StoredManifest};
use crate::upstream::{Blob, Fronted, Relay, Relaying, Stored, Tagged, UpstreamError};

/// A push of fewer bytes goes to the upstream with its closing request: one round trip less.
const RELAY_BYTES_MIN: u64 = 1024 * 1024;
/// When a pusher may come back whose upstream takes longer than clients wait.
const PUSH_RETRY_AFTER: &str = "10";

impl Call<'_> {
    /// The upstream's side of a repository; none of this registry's own.
    pub(super) fn fronted(&self, repository: &RepositoryName) -> Option<Fronted> {
        self.registry.fronted(repository)
    }

    /// As [`Call::fronted`], for a push: an error where pushes are not passed on.
    pub(super) fn fronted_for_push(
        &self,
        repository: &RepositoryName,
    ) -> Result<Option<Fronted>, ApiError> {
        match self.fronted(repository) {
            Some(fronted) if !fronted.takes_pushes() => {
                let message = "repository is another registry's and takes no pushes here";
                Err(ApiError::new(ErrorCode::Denied, message))
            }
            fronted => Ok(fronted),
        }
    }
}

/// The answer to a read of a blob that the store does not hold; the pointer when it turns out that
/// it does.
pub(super) async fn blob(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    kind: &'static str,
) -> Result<Result<Arc<Pointer>, Response<Body>>, ApiError> {
    let unknown = || ApiError::new(ErrorCode::BlobUnknown, "blob is unknown");
    let fronted = call.fronted(repository).ok_or_else(unknown)?;
    let etag = format!("\"{digest}\"");
    if call.is_head() {
        let size = fronted.blob_size(digest).await.map_err(|error| answer(error, unknown))?;
        let mut response = head(digest, &etag, size, None);
        if size.is_none() {
            // Of an empty body one would say that it has no bytes.
            let sent = call.registry.metrics.sent(kind);
            *response.body_mut() = Body::Growing(stream::pending().boxed(), sent);
        }
        return Ok(Err(response));
    }
    let growing = match fronted.blob(digest).await.map_err(|error| answer(error, unknown))? {
        Blob::Kept(pointer) => return Ok(Ok(pointer)),
        Blob::Growing(growing) => growing,
    };
    let size = growing.size();
    // Of a blob whose end nobody knows a range cannot be told: all of it is as good an answer.
    let range = match size {
        Some(size) => asked_range(call, size, &etag)?,
        None => None,
    };
    let mut response = head(digest, &etag, size, range);
    let whole = (0, size.unwrap_or(u64::MAX));
    let (from, to) = range.map_or(whole, |range| (range.offset(), range.end()));
    if from < to {
        let sent = call.registry.metrics.sent(kind);
        *response.body_mut() = Body::Growing(growing.stream(from, to), sent);
    }
    Ok(Err(response))
}

fn head(
    digest: &Digest,
    etag: &str,
    size: Option<u64>,
    range: Option<ByteRange>,
) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DIGEST, header_value(digest.to_string()));
    headers.insert(ETAG, header_value(etag));
    let Some(size) = size else { return response };
    headers.insert(CONTENT_LENGTH, range.map_or(size, |range| range.length()).into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(range) = range {
        headers.insert(CONTENT_RANGE, header_value(range.content_range(size)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// A manifest that the store does not hold.
pub(super) async fn manifest(
    fronted: &Fronted,
    digest: &Digest,
) -> Result<Arc<StoredManifest>, ApiError> {
    fronted.manifest(digest).await.map_err(|error| answer(error, unknown_manifest))
}

/// What a fronted tag names.
pub(super) async fn tag(fronted: &Fronted, tag: &Tag) -> Result<Tagged, ApiError> {
    fronted.tag(tag).await.map_err(|error| answer(error, unknown_manifest))
}

/// A page of an upstream's tags; `None` when it cannot be asked and something is kept.
pub(super) async fn tags(
    call: &Call<'_>,
    fronted: &Fronted,
    repository: &RepositoryName,
    items: usize,
    last: Option<&str>,
) -> Result<Option<(Vec<String>, bool)>, ApiError> {
    match fronted.tags(items, last).await {
        Ok(list) => Ok(Some(list.into_parts())),
        Err(error) => {
            let known = call.storage(repository).storage().knows_repository(repository).await?;
            kept_or(error, known, || ApiError::new(ErrorCode::NameUnknown, "repository is unknown"))
        }
    }
}

/// An upstream's referrers; `None` when it cannot be asked: what is kept has to do.
pub(super) async fn referrers(
    fronted: &Fronted,
    subject: &Digest,
) -> Result<Option<Vec<Referrer>>, ApiError> {
    match fronted.referrers(subject).await {
        Ok(list) => Ok(Some(list)),
        Err(error) => kept_or(error, true, unknown_manifest),
    }
}

fn kept_or<T>(
    error: UpstreamError,
    known: bool,
    unknown: impl FnOnce() -> ApiError,
) -> Result<Option<T>, ApiError> {
    if known && error.is_outage() {
        return Ok(None);
    }
    Err(answer(error, unknown))
}

/// Passes a request's bytes on as they come; `None` where they are nobody's, or so few that the
/// closing request sends them. `digest` is that of a closing request.
pub(super) fn relaying(
    call: &Call<'_>,
    repository: &RepositoryName,
    progress: &Progress,
    digest: Option<Digest>,
) -> Result<Option<Relaying>, ApiError> {
    let Some(fronted) = call.fronted_for_push(repository)? else { return Ok(None) };
    let (relay, length) = (relay_of(progress), chunk::content_length(call.headers));
    let few = length.is_some_and(|length| length <= RELAY_BYTES_MIN);
    if few && digest.is_some() && relay.is_none() {
        return Ok(None);
    }
    Ok(Some(fronted.relaying(relay, progress.offset(), length, digest)))
}

/// What the upstream has of an upload does not go on either.
pub(super) fn cancel_push(call: &Call<'_>, repository: &RepositoryName, progress: &Progress) {
    if let (Some(fronted), Some(relay)) = (call.fronted(repository), relay_of(progress)) {
        fronted.give_up(relay);
    }
}

fn relay_of(progress: &Progress) -> Option<Relay> {
    Relay::from_text(progress.note()?.text())
}

/// Gives the upstream a blob whose bytes have all arrived here. An upstream that takes longer than
/// clients wait goes on with it, and the client is told to come back; a push that fails leaves
/// nothing of its last request.
pub(super) async fn push_blob(
    call: &Call<'_>,
    repository: &RepositoryName,
    progress: Progress,
    digest: &Digest,
    relay: Option<Relay>,
) -> Result<Progress, ApiError> {
    let Some(fronted) = call.fronted_for_push(repository)? else { return Ok(progress) };
    let storage = call.storage(repository).storage().clone();
    let found = progress.digest();
    if found.algorithm() == digest.algorithm() && found != *digest {
        relay.into_iter().for_each(|relay| fronted.give_up(relay));
        storage.discard_unsaved(&progress).await;
        let message = format!("uploaded bytes are {found} and not {digest}");
        return Err(ApiError::new(ErrorCode::DigestInvalid, message));
    }
    let stored: Stored = {
        let (storage, progress) = (storage.clone(), progress.clone());
        Box::new(move || storage.stream_progress(&progress))
    };
    let patience = fronted.push_wait();
    let (digest, size) = (*digest, progress.offset());
    let mut push = Box::pin(async move { fronted.push_blob(digest, size, relay, stored).await });
    match tokio::time::timeout(patience, &mut push).await {
        Ok(Ok(())) => Ok(progress),
        Ok(Err(error)) => {
            storage.discard_unsaved(&progress).await;
            Err(push_refused(error))
        }
        Err(_) => {
            call.registry.tasks.spawn(async move {
                // Its end is counted and logged there.
                let _ = push.await;
                storage.discard_unsaved(&progress).await;
            });
            let message = "the upstream still takes the blob: close the upload later";
            Err(ApiError::new(ErrorCode::Unavailable, message)
                .with_header(RETRY_AFTER, HeaderValue::from_static(PUSH_RETRY_AFTER)))
        }
    }
}

/// What a pusher is told of an upstream's failure.
pub(super) fn push_refused(error: UpstreamError) -> ApiError {
    answer(error, unknown_name)
}

/// Gives the upstream a manifest.
pub(super) async fn push_manifest(
    fronted: &Fronted,
    reference: &Reference,
    manifest: &StoredManifest,
) -> Result<(), ApiError> {
    let pushed = fronted.push_manifest(reference, &manifest.media_type, &manifest.content).await;
    pushed.map_err(push_refused)
}

fn unknown_manifest() -> ApiError {
    ApiError::new(ErrorCode::ManifestUnknown, "manifest is unknown")
}

fn unknown_name() -> ApiError {
    ApiError::new(ErrorCode::NameUnknown, "repository is unknown to the upstream")
}

/// What the client is told. Only an upstream's own "no" is a 404, and nothing is a 401: a client's
/// credentials are for this registry. Nor a 429, which clients handle badly.
pub(crate) fn answer(error: UpstreamError, unknown: impl FnOnce() -> ApiError) -> ApiError {
    let status = match &error {
        UpstreamError::NotFound => return unknown(),
        UpstreamError::Denied => return ApiError::new(ErrorCode::Denied, error.to_string()),
        UpstreamError::Refused { code, message } => {
            return ApiError::new(*code, format!("upstream: {message}"));
        }
        UpstreamError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        UpstreamError::Unavailable(_)
        | UpstreamError::BadAnswer(_)
        | UpstreamError::WrongDigest(_) => StatusCode::BAD_GATEWAY,
        UpstreamError::SpoolFull => StatusCode::INSUFFICIENT_STORAGE,
        UpstreamError::Limited { .. }
        | UpstreamError::Spool(_)
        | UpstreamError::Storage
        | UpstreamError::Abandoned
        | UpstreamError::Ended => StatusCode::SERVICE_UNAVAILABLE,
    };
    // Causes name addresses and paths: the log is told.
    let message = match &error {
        UpstreamError::Unavailable(_) => "upstream cannot be reached or fails".to_owned(),
        UpstreamError::Spool(_) => "spool fails".to_owned(),
        error => error.to_string(),
    };
    tracing::warn!(%error, "upstream");
    ApiError::new(ErrorCode::Unavailable, message)
        .with_status(status)
        .with_header(RETRY_AFTER, header_value(error.retry_after_s().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_never_a_404_and_says_when_to_come_back() {
        let told = |error: UpstreamError| {
            let response = answer(error, unknown_manifest).into_response();
            let again = response.headers().get(RETRY_AFTER).cloned();
            (response.status().as_u16(), again.map(|value| value.to_str().unwrap().to_owned()))
        };
        let again = |text: &str| Some(text.to_owned());
        assert_eq!(told(UpstreamError::NotFound), (404, None));
        assert_eq!(told(UpstreamError::Denied), (403, None));
        assert_eq!(told(UpstreamError::Limited { retry_after_s: 30 }), (503, again("30")));
        assert_eq!(told(UpstreamError::TimedOut), (504, again("2")));
        assert_eq!(told(UpstreamError::Unavailable("x".to_owned())), (502, again("2")));
        assert_eq!(told(UpstreamError::BadAnswer("x".to_owned())), (502, again("2")));
        assert_eq!(told(UpstreamError::SpoolFull), (507, again("2")));
        let code = ErrorCode::ManifestBlobUnknown;
        let refused = UpstreamError::Refused { code, message: "no blob".to_owned() };
        assert_eq!(told(refused), (404, None));
    }
}
