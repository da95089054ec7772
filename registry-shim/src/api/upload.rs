//! Uploads: in one request, in two, or in chunks that must come in order.
//!
//! Source: distribution-spec 1.1.1, "Pushing blobs". Locations are relative, so that they hold
//! behind any proxy.

use std::time::Duration;

use http::header::{HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use longshore_proto::{Algorithm, Digest, ErrorCode, RepositoryName};
use uuid::Uuid;

use super::chunk;
use super::mount::Mount;
use super::receive::{Broken, Receiving};
use super::{
    Answer, ApiError, Body, CONTENT_DIGEST, Call, UPLOAD_UUID, empty, header_value, upstream,
};
use crate::auth::Action;
use crate::registry::now_ms;
use crate::storage::{Charge, Note, Progress, Session, UploadError};

/// How long the closing request waits for bytes that are read again: clients give up when an
/// answer takes 30 s.
const REHASH_PATIENCE: Duration = Duration::from_secs(20);
/// When the client may come back for what is still read then.
const REHASH_RETRY_AFTER: &str = "10";

pub(super) async fn begin(
    call: &Call<'_>,
    repository: &RepositoryName,
    body: &mut Incoming,
) -> Answer {
    let wanted = Mount::read(call)?;
    match &wanted {
        Some(mount) => mount.authorize(call, repository)?,
        None => call.authorize(Action::Push, repository)?,
    }
    let fronted = call.fronted_for_push(repository)?.is_some();
    // An upstream does not see what lies in other repositories here: its pusher uploads.
    if let Some(mount) = wanted
        && !fronted
        && mount.carry_out(call, repository).await?
    {
        return Ok(created(repository, mount.digest()));
    }
    if let Some(digest) = call.query.get("digest") {
        let digest: Digest = digest.parse()?;
        let progress = Progress::new(digest.algorithm());
        return commit(call, repository, None, progress, &digest, body).await;
    }
    let algorithm = announced_algorithm(call)?;
    let storage = call.storage(repository).storage();
    let session =
        storage.begin_upload(repository, &call.actor.label(), algorithm, now_ms()).await?;
    Ok(in_progress(StatusCode::ACCEPTED, &session, 0))
}

/// The hash to keep as bytes arrive: of the digest that could not be mounted, or the one that the
/// client names as the specification's next version has it. What is closed with another one is
/// read again.
fn announced_algorithm(call: &Call<'_>) -> Result<Algorithm, ApiError> {
    let mounted = call.query.get("mount").and_then(|digest| digest.parse::<Digest>().ok());
    match call.query.get("digest-algorithm").as_deref() {
        None => Ok(mounted.map_or(Algorithm::Sha256, |digest| digest.algorithm())),
        Some("sha256") => Ok(Algorithm::Sha256),
        Some("sha512") => Ok(Algorithm::Sha512),
        Some(_) => Err(ApiError::new(ErrorCode::DigestInvalid, "digest-algorithm is unknown")),
    }
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
    check_order(call, &session, progress.offset())?;
    let storage = call.storage(repository).storage();
    // Whoever comes back asks how far the upload is, so what came of a broken request counts.
    let relaying = upstream::relaying(call, repository, &progress, None)?;
    let receiving = Receiving::new(call, storage, progress, Broken::Kept(session.clone()));
    // What is kept of this request is no usage yet: its last one pays for all of it.
    let mut intake = call.registry.quota.intake(storage, repository, None);
    let receiving = receiving.passing_on(relaying);
    let (mut appender, relay) = receiving.all(call, body, &mut intake).await?;
    appender.annotate(relay.map(|relay| Note::new(relay.to_text())));
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
    check_order(call, &session, progress.offset())?;
    let progress = in_algorithm(call, &session, progress, digest.algorithm()).await?;
    commit(call, repository, Some(&session), progress, &digest, body).await
}

pub(super) async fn cancel(call: &Call<'_>, repository: &RepositoryName, id: &str) -> Answer {
    let (session, progress) = find(call, repository, id).await?;
    upstream::cancel_push(call, repository, &progress);
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

/// The progress under the algorithm of the closing digest. Bytes that are long to read again are
/// read on while the client is told to come back.
async fn in_algorithm(
    call: &Call<'_>,
    session: &Session,
    progress: Progress,
    algorithm: Algorithm,
) -> Result<Progress, ApiError> {
    if progress.offset() == 0 {
        return Ok(Progress::new(algorithm));
    }
    if progress.algorithm() == algorithm {
        return Ok(progress);
    }
    let storage = call.storage(&session.repository).storage().clone();
    let (session, tasks) = (session.clone(), call.registry.tasks.clone());
    let rehashed = within(REHASH_PATIENCE, async {
        let place = storage.hashing_place().await;
        let read = async move {
            let _place = place;
            storage.rehash(&session, progress, algorithm).await
        };
        tasks.spawn(read).await
    });
    match rehashed.await? {
        Ok(rehashed) => Ok(rehashed?),
        Err(_) => Err(ApiError::new(ErrorCode::Unavailable, "reading the bytes again failed")),
    }
}

/// What comes in time; else the client is told to come back.
async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(patience, work).await.map_err(|_| {
        let message = "the bytes are read again for their digest: close the upload later";
        ApiError::new(ErrorCode::Unavailable, message)
            .with_header(RETRY_AFTER, HeaderValue::from_static(REHASH_RETRY_AFTER))
    })
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
    // A PUT may be sent again as it was, so what came of a broken one is dropped.
    let relaying = upstream::relaying(call, repository, &progress, Some(*digest))?;
    let receiving = Receiving::new(call, storage, progress, Broken::Dropped).passing_on(relaying);
    let mut intake = call.registry.quota.intake(storage, repository, Some(*digest));
    let (appender, relay) = receiving.all(call, body, &mut intake).await?;
    let progress = appender.finish().await?;
    let progress = upstream::push_blob(call, repository, progress, digest, relay).await?;
    let verified = storage.verify(progress, digest).await;
    if let Err(UploadError::WrongDigest { .. }) = &verified {
        call.registry.metrics.upload_ended("refused");
    }
    let verified = verified?;
    let paid = match intake.pay(Charge { digest: *digest, size: verified.size() }).await {
        Ok(paid) => paid,
        Err(error) => {
            storage.discard_verified(verified).await;
            call.registry.metrics.upload_ended("refused");
            return Err(error.into());
        }
    };
    let pointer = storage.commit_verified(repository, session, verified).await?;
    paid.confirm().await?;
    call.registry.metrics.upload_ended("committed");
    call.registry.compose(repository, digest, &pointer);
    if let Some(session) = session
        && let Err(error) = storage.forget_upload(session).await
    {
        // The blob is there; the rest of the session is the collector's.
        tracing::warn!(%error, "ended upload is not forgotten");
    }
    Ok(created(repository, digest))
}

/// A chunk begins where the last one ended, or the client is told where that is.
fn check_order(call: &Call<'_>, session: &Session, offset: u64) -> Result<(), ApiError> {
    chunk::check_order(call.headers, offset)
        .map_err(|refused| refused.with_header(LOCATION, header_value(location(session))))
}

fn location(session: &Session) -> String {
    format!("/v2/{}/blobs/uploads/{}", session.repository, session.id)
}

fn in_progress(status: StatusCode, session: &Session, offset: u64) -> Response<Body> {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header_value(location(session)));
    headers.insert(RANGE, header_value(chunk::received(offset)));
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_is_answered_before_it_gives_up() {
        let begun = tokio::time::Instant::now();
        let slow = within(REHASH_PATIENCE, std::future::pending::<()>()).await;
        let response = slow.expect_err("nothing came").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], REHASH_RETRY_AFTER);
        assert!(begun.elapsed() < Duration::from_secs(25));
        assert_eq!(within(REHASH_PATIENCE, async { 7 }).await.ok(), Some(7));
    }
}
