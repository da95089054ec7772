//! Uploads: in one request, in two, or in chunks that must come in order.
//!
//! Source: distribution-spec 1.1.1, "Pushing blobs". Locations are relative, so that they hold
//! behind any proxy. A chunk that breaks off leaves the upload where it stood.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use longshore_proto::{Algorithm, Digest, ErrorCode, RepositoryName};
use uuid::Uuid;

use super::body::next_bytes;
use super::route::repository as repository_name;
use super::{Answer, ApiError, Body, CONTENT_DIGEST, Call, UPLOAD_UUID, empty, header_value};
use crate::auth::Action;
use crate::registry::now_ms;
use crate::storage::{Appender, Progress, Session, UploadError};

pub(super) async fn begin(
    call: &Call<'_>,
    repository: &RepositoryName,
    body: &mut Incoming,
) -> Answer {
    call.authorize(Action::Push, repository)?;
    if let Some(digest) = call.query.get("mount")
        && mount(call, repository, &digest).await?
    {
        return Ok(created(repository, &digest.parse()?));
    }
    if let Some(digest) = call.query.get("digest") {
        let digest: Digest = digest.parse()?;
        let progress = Progress::new(digest.algorithm());
        return commit(call, repository, None, progress, &digest, body).await;
    }
    let algorithm = match call.query.get("digest-algorithm").as_deref() {
        None | Some("sha256") => Algorithm::Sha256,
        Some("sha512") => Algorithm::Sha512,
        Some(_) => {
            return Err(ApiError::new(ErrorCode::DigestInvalid, "digest-algorithm is unknown"));
        }
    };
    let storage = call.storage(repository).storage();
    let session =
        storage.begin_upload(repository, &call.actor.label(), algorithm, now_ms()).await?;
    Ok(in_progress(StatusCode::ACCEPTED, &session, 0))
}

/// Makes a blob of another repository a member of this one. A miss is no error: the client then
/// uploads. Without `from` nothing is looked for, as that would tell what other repositories hold.
async fn mount(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &str,
) -> Result<bool, ApiError> {
    let Some(from) = call.query.get("from") else { return Ok(false) };
    let digest: Digest = digest.parse()?;
    let from = repository_name(&from)?;
    if call.authorize(Action::Pull, &from).is_err() {
        return Ok(false);
    }
    let Some(pointer) = call.storage(&from).member(&from, &digest).await? else { return Ok(false) };
    let storage = call.storage(repository).storage();
    if !storage.add_member(repository, &digest, &pointer).await? {
        return Ok(false);
    }
    call.registry.metrics.upload_ended("mounted");
    Ok(true)
}

pub(super) async fn status(call: &Call<'_>, repository: &RepositoryName, id: &str) -> Answer {
    let (session, progress) = find(call, repository, id).await?;
    Ok(in_progress(StatusCode::NO_CONTENT, &session, progress.offset()))
}

pub(super) async fn append(
    call: &Call<'_>,
    repository: &RepositoryName,
    id: &str,
    body: &mut Incoming,
) -> Answer {
    let (session, progress) = find(call, repository, id).await?;
    check_order(call.headers, &session, progress.offset())?;
    let storage = call.storage(repository).storage();
    let appender = receive(call, repository, progress, body).await?;
    let progress = storage.save_upload(&session, appender).await?;
    Ok(in_progress(StatusCode::ACCEPTED, &session, progress.offset()))
}

pub(super) async fn finish(
    call: &Call<'_>,
    repository: &RepositoryName,
    id: &str,
    body: &mut Incoming,
) -> Answer {
    let (session, progress) = find(call, repository, id).await?;
    let digest = call.query.get("digest");
    let digest = digest.ok_or_else(|| {
        ApiError::new(ErrorCode::DigestInvalid, "query has no digest to finish the upload with")
    })?;
    let digest: Digest = digest.parse()?;
    check_order(call.headers, &session, progress.offset())?;
    commit(call, repository, Some(&session), progress, &digest, body).await
}

pub(super) async fn cancel(call: &Call<'_>, repository: &RepositoryName, id: &str) -> Answer {
    let (session, progress) = find(call, repository, id).await?;
    call.storage(repository).storage().cancel_upload(&session, &progress).await?;
    call.registry.metrics.upload_ended("cancelled");
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn find(
    call: &Call<'_>,
    repository: &RepositoryName,
    id: &str,
) -> Result<(Session, Progress), ApiError> {
    call.authorize(Action::Push, repository)?;
    let unknown = || ApiError::new(ErrorCode::BlobUploadUnknown, "upload is unknown");
    let id = Uuid::try_parse(id).map_err(|_| unknown())?;
    let storage = call.storage(repository).storage();
    let found = storage.upload(id, repository, &call.actor.label(), now_ms()).await?;
    found.ok_or_else(unknown)
}

/// Reads the request's body behind what has arrived.
async fn receive(
    call: &Call<'_>,
    repository: &RepositoryName,
    progress: Progress,
    body: &mut Incoming,
) -> Result<Appender, ApiError> {
    let expected = announced_length(call.headers)?;
    let before = progress.offset();
    let mut appender = call.storage(repository).storage().append(progress);
    let read = async {
        while let Some(bytes) = next_bytes(body).await? {
            call.registry.metrics.received_bytes.inc_by(bytes.len() as u64);
            appender.write(bytes).await?;
        }
        match expected {
            Some(length) if before + length != appender.offset() => Err(ApiError::new(
                ErrorCode::SizeInvalid,
                "body does not have the length that Content-Range says",
            )),
            _ => Ok(()),
        }
    };
    match read.await {
        Ok(()) => Ok(appender),
        Err(error) => {
            appender.abort().await;
            Err(error)
        }
    }
}

async fn commit(
    call: &Call<'_>,
    repository: &RepositoryName,
    session: Option<&Session>,
    progress: Progress,
    digest: &Digest,
    body: &mut Incoming,
) -> Answer {
    let storage = call.storage(repository).storage();
    let progress = receive(call, repository, progress, body).await?.finish().await?;
    let committed = storage.commit(repository, session, progress, digest).await;
    if let Err(UploadError::WrongDigest { .. }) = &committed {
        call.registry.metrics.upload_ended("refused");
    }
    committed?;
    call.registry.metrics.upload_ended("committed");
    if let Some(session) = session
        && let Err(error) = storage.forget_upload(session).await
    {
        // The blob is there; the rest of the session is the collector's.
        tracing::warn!(%error, "ended upload is not forgotten");
    }
    Ok(created(repository, digest))
}

/// A chunk begins where the last one ended, or the client is told where that is.
fn check_order(headers: &HeaderMap, session: &Session, offset: u64) -> Result<(), ApiError> {
    match content_range(headers)? {
        Some((first, _)) if first != offset => {
            let message = format!("chunk begins at {first} and not at {offset}");
            Err(ApiError::new(ErrorCode::BlobUploadInvalid, message)
                .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
                .with_header(RANGE, header_value(received(offset)))
                .with_header(LOCATION, header_value(location(session))))
        }
        _ => Ok(()),
    }
}

/// Bytes that the body must have, where `Content-Range` says it.
fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    Ok(content_range(headers)?.map(|(first, last)| last - first + 1))
}

/// `Content-Range: <first>-<last>` of a chunk, with or without HTTP's own unit in front.
fn content_range(headers: &HeaderMap) -> Result<Option<(u64, u64)>, ApiError> {
    let Some(value) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    // An empty last request is written `0--1` or so by some: it adds nothing, wherever it begins.
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0") {
        return Ok(None);
    }
    let parse = || {
        let text = value.to_str().ok()?;
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let text = text.split('/').next()?;
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last && last < u64::MAX).then_some((first, last))
    };
    let malformed =
        || ApiError::new(ErrorCode::BlobUploadInvalid, "Content-Range is not FIRST-LAST");
    parse().ok_or_else(malformed).map(Some)
}

fn location(session: &Session) -> String {
    format!("/v2/{}/blobs/uploads/{}", session.repository, session.id)
}

/// What has arrived, as the last byte's position; nothing looks like one byte, as in every
/// registry since docker's.
fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn in_progress(status: StatusCode, session: &Session, offset: u64) -> Response<Body> {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header_value(location(session)));
    headers.insert(RANGE, header_value(received(offset)));
    headers.insert(UPLOAD_UUID, header_value(session.id.to_string()));
    response
}

fn created(repository: &RepositoryName, digest: &Digest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header_value(format!("/v2/{repository}/blobs/{digest}")));
    headers.insert(CONTENT_DIGEST, header_value(digest.to_string()));
    response
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn reads_the_ranges_of_chunks() {
        let read = |text: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(text))]);
            content_range(&headers).ok()
        };
        assert_eq!(read("0-9"), Some(Some((0, 9))));
        assert_eq!(read("bytes 5-9/10"), Some(Some((5, 9))));
        for bad in ["", "9-5", "a-b", "0-18446744073709551615", "-1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
