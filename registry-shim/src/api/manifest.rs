//! Manifests: by tag or digest. One is taken only when everything it names is in the repository.
//!
//! Order of a push: manifest, referrer, catalog, tag; the tag is what others look for.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use longshore_proto::{
    Algorithm, Descriptor, Digest, ErrorCode, InvalidManifest, MANIFEST_BYTES_MAX, Manifest,
    Reference, RepositoryName, Tag, media_type,
};
use serde::Deserialize;

use super::body::read_whole;
use super::{
    Answer, ApiError, Body, CONTENT_DIGEST, Call, OCI_SUBJECT, OCI_TAG, empty, header_value,
    mark_stale, upstream,
};
use crate::auth::Action;
use crate::registry::now_ms;
use crate::storage::{Item, Referrer, StoredManifest, TagRecord};

/// References of one manifest that are looked for at once.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Tags that one push may give to a digest. The specification's next version asks for ten.
const TAGS_MAX: usize = 32;

/// What a referrer's listing needs beyond [`Manifest`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Annotated {
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    /// `null` is written by some.
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

pub(super) async fn get(call: &Call<'_>, repository: &RepositoryName, reference: &str) -> Answer {
    call.authorize(Action::Pull, repository)?;
    let storage = call.storage(repository);
    let fronted = call.fronted(repository);
    let (digest, stale, manifest) = match (reference.parse::<Reference>()?, &fronted) {
        (Reference::Digest(digest), _) => {
            (digest, false, storage.manifest(repository, &digest).await?)
        }
        (Reference::Tag(tag), None) => {
            let found = storage.tag(repository, &tag).await?.ok_or_else(unknown)?;
            let stale = found.stale || storage.storage().may_be_stale();
            (found.digest, stale, storage.manifest(repository, &found.digest).await?)
        }
        (Reference::Tag(tag), Some(fronted)) => {
            let tagged = upstream::tag(fronted, &tag).await?;
            (tagged.digest, tagged.stale, Some(tagged.manifest))
        }
    };
    let manifest = match (manifest, &fronted) {
        (Some(manifest), _) => manifest,
        (None, Some(fronted)) => upstream::manifest(fronted, &digest).await?,
        (None, None) => return Err(unknown()),
    };
    let etag = format!("\"{digest}\"");
    if call.header(&IF_NONE_MATCH).is_some_and(|known| known.contains(&etag)) {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        response.headers_mut().insert(ETAG, header_value(&etag));
        if stale {
            mark_stale(&mut response);
        }
        return Ok(response);
    }
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_str(&manifest.media_type)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, manifest.content.len().into());
    headers.insert(CONTENT_DIGEST, header_value(digest.to_string()));
    headers.insert(ETAG, header_value(&etag));
    if stale {
        mark_stale(&mut response);
    }
    if !call.is_head() {
        call.registry.metrics.sent("manifest").inc_by(manifest.content.len() as u64);
        *response.body_mut() = Body::Full(manifest.content.clone());
    }
    Ok(response)
}

pub(super) async fn put(
    call: &Call<'_>,
    repository: &RepositoryName,
    reference: &str,
    body: &mut Incoming,
) -> Answer {
    call.authorize(Action::Push, repository)?;
    let fronted = call.fronted_for_push(repository)?;
    let reference: Reference = reference.parse()?;
    let content = read_whole(body, MANIFEST_BYTES_MAX).await?.ok_or_else(too_large)?;
    let digest = named_digest(call, &reference, &content)?;
    let tags = named_tags(call, &reference)?;
    let came_as = content_type(call);
    let annotated = Annotated::parse(&content)?;
    let manifest = Manifest::parse(&content, came_as).map_err(invalid)?;
    let media_type = match (came_as, annotated.media_type.as_str()) {
        ("", "") => default_media_type(&manifest).to_owned(),
        ("", said) => said.to_owned(),
        (came, _) => came.to_owned(),
    };
    let (storage, size) = (call.storage(repository), content.len() as u64);
    let begun_ms = storage.storage().now_ms();
    let stored = StoredManifest { media_type: media_type.clone(), content };
    match &fronted {
        None => check_references(call, repository, &manifest).await?,
        // It knows what it has; not all of that needs to be here.
        Some(fronted) => {
            upstream::push_manifest(fronted, &reference, &stored).await?;
            for tag in tags.iter().filter(|&tag| reference != Reference::Tag(tag.clone())) {
                let tag = Reference::Tag(tag.clone());
                upstream::push_manifest(fronted, &tag, &stored).await?;
            }
        }
    }

    let quota = &call.registry.quota;
    let paid = quota.pay(storage.storage(), repository, digest, size).await?;
    storage.put_manifest(repository, &digest, stored.clone()).await?;
    let subject = manifest.subject().map(|subject| subject.digest);
    if let Some(subject) = &subject {
        let referrer = describe(&manifest, annotated, media_type.clone(), digest, size);
        storage.storage().put_referrer(repository, subject, &referrer).await?;
    }
    storage.storage().add_repository(repository).await?;
    paid.confirm().await?;
    // What it names was claimed before, and the collector looks at manifests for longer than that.
    storage.storage().still_holds(begun_ms)?;
    let record = TagRecord::new(digest, media_type, size, now_ms(), call.actor.label());
    for tag in &tags {
        storage.put_tag(repository, tag, record.clone()).await?;
        if storage.storage().is_immutable(repository, tag) {
            storage.storage().keep_manifest(repository, &digest, &stored).await?;
        }
    }
    let mut response = created(repository, &digest, subject.as_ref());
    if let Reference::Digest(_) = reference {
        let tags = tags.iter().map(|tag| (OCI_TAG, header_value(tag.as_str())));
        response.headers_mut().extend(tags);
    }
    Ok(response)
}

pub(super) async fn delete(
    call: &Call<'_>,
    repository: &RepositoryName,
    reference: &str,
) -> Answer {
    call.authorize(Action::Delete, repository)?;
    let storage = call.storage(repository);
    let deleted = match reference.parse::<Reference>()? {
        Reference::Tag(tag) => storage.delete_tag(repository, &tag).await?,
        Reference::Digest(digest) => {
            let stored = storage.manifest(repository, &digest).await?;
            let deleted = storage.delete_manifest(repository, &digest).await?;
            let subject = stored
                .and_then(|stored| Manifest::parse(&stored.content, &stored.media_type).ok())
                .and_then(|manifest| manifest.subject().map(|subject| subject.digest));
            if let Some(subject) = subject {
                storage.storage().delete_referrer(repository, &subject, &digest).await?;
            }
            deleted
        }
    };
    if deleted { Ok(empty(StatusCode::ACCEPTED)) } else { Err(unknown()) }
}

impl Annotated {
    fn parse(content: &[u8]) -> Result<Self, ApiError> {
        let refused = |message: String| ApiError::new(ErrorCode::ManifestInvalid, message);
        let parsed: Self =
            serde_json::from_slice(content).map_err(|error| refused(error.to_string()))?;
        match parsed.schema_version {
            None | Some(2) => Ok(parsed),
            Some(1) => Err(refused("docker's image manifest schema 1 is not taken".to_owned())),
            Some(other) => Err(refused(format!("schemaVersion is {other} and not 2"))),
        }
    }
}

/// The tags that the push moves: the path's, or beside a digest the query's, which the
/// specification's next version names.
fn named_tags(call: &Call<'_>, reference: &Reference) -> Result<Vec<Tag>, ApiError> {
    if let Reference::Tag(tag) = reference {
        return Ok(vec![tag.clone()]);
    }
    let tags: Vec<Tag> = call
        .query
        .all("tag")
        .take(TAGS_MAX + 1)
        .map(|tag| tag.parse())
        .collect::<Result<_, _>>()?;
    if tags.len() > TAGS_MAX {
        let message = format!("more than {TAGS_MAX} tags at once");
        let refused = ApiError::new(ErrorCode::ManifestInvalid, message);
        return Err(refused.with_status(StatusCode::URI_TOO_LONG));
    }
    Ok(tags)
}

/// The digest under which the content is kept: the path's or the query's where there is one.
fn named_digest(
    call: &Call<'_>,
    reference: &Reference,
    content: &[u8],
) -> Result<Digest, ApiError> {
    let claimed = match (reference, call.query.get("digest")) {
        (Reference::Digest(digest), _) => Some(*digest),
        (Reference::Tag(_), Some(digest)) => Some(digest.parse()?),
        (Reference::Tag(_), None) => None,
    };
    let algorithm = claimed.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let found = Digest::of(algorithm, content);
    match claimed {
        Some(claimed) if claimed != found => {
            let message = format!("manifest is {found} and not {claimed}");
            Err(ApiError::new(ErrorCode::DigestInvalid, message))
        }
        _ => Ok(found),
    }
}

/// The media type without parameters; empty when none was sent.
fn content_type<'a>(call: &'a Call<'_>) -> &'a str {
    let value = call.header(&CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

const fn default_media_type(manifest: &Manifest) -> &'static str {
    match manifest {
        Manifest::Index { .. } => media_type::OCI_INDEX,
        Manifest::Image { .. } => media_type::OCI_MANIFEST,
    }
}

/// A manifest names only what a puller can get here. A subject may be missing, and so may layers
/// that must not be distributed. An index may name blobs as well: build caches do.
async fn check_references(
    call: &Call<'_>,
    repository: &RepositoryName,
    manifest: &Manifest,
) -> Result<(), ApiError> {
    let storage = call.storage(repository);
    match manifest {
        Manifest::Index { manifests, .. } => {
            let check = |entry: Descriptor| async move {
                // Read after the claim: what is kept in memory may have been collected.
                storage.storage().claim(repository, Item::Manifest(entry.digest)).await?;
                let found = storage.storage().manifest(repository, &entry.digest).await?;
                if let Some(found) = found {
                    return same_size(&entry, found.content.len() as u64);
                }
                match storage.member_to_name(repository, &entry.digest).await? {
                    Some(pointer) => same_size(&entry, pointer.size),
                    None => Err(missing(&entry)),
                }
            };
            let entries = manifests.iter().map(|entry| entry.descriptor.clone());
            each(stream::iter(entries.collect::<Vec<_>>()).map(check)).await
        }
        Manifest::Image { config, layers, .. } => {
            let check = |blob: Descriptor| async move {
                match storage.member_to_name(repository, &blob.digest).await? {
                    Some(pointer) => same_size(&blob, pointer.size),
                    None if is_foreign(&blob) => Ok(()),
                    None => Err(missing(&blob)),
                }
            };
            let blobs: Vec<Descriptor> = std::iter::once(config).chain(layers).cloned().collect();
            each(stream::iter(blobs).map(check)).await
        }
    }
}

async fn each<F>(checks: impl futures::Stream<Item = F>) -> Result<(), ApiError>
where
    F: Future<Output = Result<(), ApiError>>,
{
    checks.buffered(READS_IN_FLIGHT_MAX).try_collect().await
}

/// Source: image-spec 1.1, "Non-Distributable Layers"; docker's name for the same.
fn is_foreign(blob: &Descriptor) -> bool {
    blob.media_type.contains(".nondistributable.") || blob.media_type.contains(".foreign.")
}

fn same_size(named: &Descriptor, size: u64) -> Result<(), ApiError> {
    if named.size == size {
        return Ok(());
    }
    let message = format!("{} has {size} bytes and not {}", named.digest, named.size);
    Err(ApiError::new(ErrorCode::ManifestInvalid, message))
}

fn missing(named: &Descriptor) -> ApiError {
    let message = format!("{} is not in the repository", named.digest);
    ApiError::new(ErrorCode::ManifestBlobUnknown, message)
}

/// The subject of a manifest that has one, and the manifest as its referrer.
pub(crate) fn referrer_of(
    manifest: &Manifest,
    stored: &StoredManifest,
    digest: Digest,
) -> Option<(Digest, Referrer)> {
    let subject = manifest.subject()?.digest;
    let annotated: Annotated = serde_json::from_slice(&stored.content).ok()?;
    let (media_type, size) = (stored.media_type.clone(), stored.content.len() as u64);
    Some((subject, describe(manifest, annotated, media_type, digest, size)))
}

fn describe(
    manifest: &Manifest,
    annotated: Annotated,
    media_type: String,
    digest: Digest,
    size: u64,
) -> Referrer {
    let artifact_type = match manifest {
        Manifest::Image { config, .. } if annotated.artifact_type.is_empty() => {
            config.media_type.clone()
        }
        _ => annotated.artifact_type,
    };
    Referrer {
        media_type,
        digest,
        size,
        artifact_type,
        annotations: annotated.annotations.unwrap_or_default(),
    }
}

fn created(
    repository: &RepositoryName,
    digest: &Digest,
    subject: Option<&Digest>,
) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header_value(format!("/v2/{repository}/manifests/{digest}")));
    headers.insert(CONTENT_DIGEST, header_value(digest.to_string()));
    if let Some(subject) = subject {
        headers.insert(OCI_SUBJECT, header_value(subject.to_string()));
    }
    response
}

fn unknown() -> ApiError {
    ApiError::new(ErrorCode::ManifestUnknown, "manifest is unknown")
}

fn too_large() -> ApiError {
    let message = format!("manifest has more than {MANIFEST_BYTES_MAX} bytes");
    ApiError::new(ErrorCode::SizeInvalid, message).with_status(StatusCode::PAYLOAD_TOO_LARGE)
}

fn invalid(error: InvalidManifest) -> ApiError {
    ApiError::new(ErrorCode::ManifestInvalid, error.to_string())
}
