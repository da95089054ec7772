//! Manifests of a fronted repository: what is kept by digest stands for ever, a tag for a while.
//!
//! Concurrent questions for one manifest are one question, in a task of its own. Content counts
//! once it hashes to its digest. A tag is confirmed by a HEAD, which the public registries do not
//! count against their limits. What the store does not take is served all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use longshore_proto::{Digest, MANIFEST_BYTES_MAX, Manifest, Tag};
use reqwest::Response;

use super::answer::read_bounded;
use super::ask::Ask;
use super::charge::confirm;
use super::error::UpstreamError;
use super::fresh::STALE_KEPT;
use super::{Fronted, InRepository};
use crate::api::referrer_of;
use crate::registry::now_ms;
use crate::storage::{StoredManifest, TagRecord};

/// For the confirmation of a tag that is kept.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// A manifest by tag.
#[derive(Clone, Debug)]
pub(crate) struct Tagged {
    /// What the tag names.
    pub(crate) digest: Digest,
    /// The content.
    pub(crate) manifest: Arc<StoredManifest>,
    /// The upstream could not be asked.
    pub(crate) stale: bool,
    /// How long it is believed.
    pub(super) believed: Duration,
}

/// For as long as each says.
pub(super) struct WhileBelieved;

impl moka::Expiry<InRepository<Tag>, Tagged> for WhileBelieved {
    fn expire_after_create(
        &self,
        _: &InRepository<Tag>,
        tagged: &Tagged,
        _: Instant,
    ) -> Option<Duration> {
        Some(tagged.believed)
    }
}

impl Fronted {
    /// What the tag names, as fresh as the configuration wants it.
    pub(crate) async fn tag(&self, tag: &Tag) -> Result<Tagged, UpstreamError> {
        self.believed_answer(tag.as_str()).await?;
        let key = (self.repository.clone(), tag.clone());
        let (this, asked) = (self.clone(), tag.clone());
        let check = self.detached(Box::pin(async move { this.check_tag(&asked).await }));
        let tagged = self.upstream.tags.try_get_with(key, check).await;
        let tagged = tagged.map_err(|error| (*error).clone());
        if let Err(error) = &tagged {
            self.believe(tag.as_str(), error).await;
        }
        let tagged = tagged?;
        if tagged.stale {
            self.upstream.metrics.stale();
        }
        Ok(tagged)
    }

    /// The manifest of that digest.
    pub(crate) async fn manifest(
        &self,
        digest: &Digest,
    ) -> Result<Arc<StoredManifest>, UpstreamError> {
        let name = digest.to_string();
        self.believed_answer(&name).await?;
        let key = (self.repository.clone(), *digest);
        let (this, asked) = (self.clone(), *digest);
        let fetch = self.detached(Box::pin(async move { this.fetch_digest(&asked).await }));
        let manifest = self.upstream.manifests.try_get_with(key, fetch).await;
        let manifest = manifest.map_err(|error| (*error).clone());
        if let Err(error) = &manifest {
            self.believe(&name, error).await;
        }
        manifest
    }

    async fn check_tag(&self, tag: &Tag) -> Result<Tagged, UpstreamError> {
        let Some((record, manifest)) = self.kept_tag(tag).await else {
            return self.fetch_tag(tag).await;
        };
        let digest = record.digest;
        let said_ms = record.time_ms;
        // There is something to answer with: a silent upstream costs less than a client's patience.
        let head = tokio::time::timeout(CONFIRM_TIMEOUT, self.head_tag(tag, &digest)).await;
        let answered = match head.unwrap_or(Err(UpstreamError::TimedOut)) {
            Ok(Some(now)) if now == digest => Ok(None),
            Ok(Some(now)) => match self.manifest(&now).await {
                Ok(manifest) => Ok(Some(self.move_tag(tag, now, manifest).await)),
                Err(error) => Err(error),
            },
            // It does not say the digest: the content does.
            Ok(None) => self.fetch_tag(tag).await.map(Some),
            Err(error) => Err(error),
        };
        let freshness = self.upstream.freshness;
        match answered {
            Ok(Some(moved)) => Ok(moved),
            Ok(None) => {
                if freshness.renews(said_ms, now_ms()) {
                    let renewed = self.record(digest, &manifest);
                    let written = self.storage.touch_tag(&self.repository, tag, renewed).await;
                    written.unwrap_or_else(not_kept);
                }
                Ok(Tagged { digest, manifest, stale: false, believed: freshness.fresh })
            }
            Err(error) if freshness.serves_stale(&error, said_ms, now_ms()) => {
                let upstream = self.upstream.prefix();
                tracing::warn!(%upstream, %error, "serves a tag stale");
                Ok(Tagged { digest, manifest, stale: true, believed: STALE_KEPT })
            }
            Err(error) => {
                if error == UpstreamError::NotFound {
                    // It must not come back as stale.
                    let deleted = self.storage.delete_tag(&self.repository, tag).await;
                    deleted.map(drop).unwrap_or_else(not_kept);
                }
                Err(error)
            }
        }
    }

    /// The tag as it was last heard of, with its manifest.
    async fn kept_tag(&self, tag: &Tag) -> Option<(TagRecord, Arc<StoredManifest>)> {
        let found = async {
            let record = self.storage.tag(&self.repository, tag).await?;
            let Some(record) = record else { return Ok(None) };
            let manifest = self.storage.manifest(&self.repository, &record.digest).await?;
            Ok(manifest.map(|manifest| ((*record).clone(), manifest)))
        };
        found.await.unwrap_or_else(|error: Arc<crate::storage::StorageError>| {
            tracing::warn!(%error, "kept tag cannot be read");
            None
        })
    }

    /// The digest that the tag names now, if the upstream says it.
    async fn head_tag(&self, tag: &Tag, known: &Digest) -> Result<Option<Digest>, UpstreamError> {
        let ask = Ask::head(&self.remote, format!("manifests/{tag}"));
        let ask = ask.unless(&format!("\"{known}\""));
        let response = self.upstream.client.ask(&ask).await?;
        if response.status() == http::StatusCode::NOT_MODIFIED {
            return Ok(Some(*known));
        }
        Ok(said_digest(response.headers()))
    }

    async fn fetch_tag(&self, tag: &Tag) -> Result<Tagged, UpstreamError> {
        let ask = Ask::get(&self.remote, format!("manifests/{tag}"));
        let response = self.upstream.client.ask(&ask).await?;
        let said = said_digest(response.headers());
        let manifest = read_manifest(response).await?;
        let algorithm = said.map_or(longshore_proto::Algorithm::Sha256, |said| said.algorithm());
        let digest = Digest::of(algorithm, &manifest.content);
        if let Some(said) = said.filter(|said| *said != digest) {
            return Err(UpstreamError::WrongDigest(said));
        }
        let manifest = self.keep(digest, manifest).await?;
        Ok(self.move_tag(tag, digest, manifest).await)
    }

    async fn fetch_digest(&self, digest: &Digest) -> Result<Arc<StoredManifest>, UpstreamError> {
        let ask = Ask::get(&self.remote, format!("manifests/{digest}"));
        let manifest = read_manifest(self.upstream.client.ask(&ask).await?).await?;
        if Digest::of(digest.algorithm(), &manifest.content) != *digest {
            return Err(UpstreamError::WrongDigest(*digest));
        }
        self.keep(*digest, manifest).await
    }

    /// Writes a verified manifest down; the caller has it in any case.
    async fn keep(
        &self,
        digest: Digest,
        manifest: StoredManifest,
    ) -> Result<Arc<StoredManifest>, UpstreamError> {
        let bad = |error: &dyn std::fmt::Display| UpstreamError::BadAnswer(error.to_string());
        let parsed = Manifest::parse(&manifest.content, &manifest.media_type);
        let parsed = parsed.map_err(|error| bad(&error))?;
        let repository = &self.repository;
        let size = manifest.content.len() as u64;
        let Some(paid) = self.pay(digest, size).await else { return Ok(Arc::new(manifest)) };
        let written = async {
            self.storage.put_manifest(repository, &digest, manifest.clone()).await?;
            if let Some((subject, referrer)) = referrer_of(&parsed, &manifest, digest) {
                self.storage.storage().put_referrer(repository, &subject, &referrer).await?;
            }
            self.storage.storage().add_repository(repository).await
        };
        match written.await {
            Ok(()) => confirm(paid).await,
            Err(error) => not_kept(error),
        }
        Ok(Arc::new(manifest))
    }

    async fn move_tag(&self, tag: &Tag, digest: Digest, manifest: Arc<StoredManifest>) -> Tagged {
        let record = self.record(digest, &manifest);
        let written = self.storage.put_tag(&self.repository, tag, record).await;
        written.unwrap_or_else(not_kept);
        let believed = self.upstream.freshness.fresh;
        Tagged { digest, manifest, stale: false, believed }
    }

    fn record(&self, digest: Digest, manifest: &StoredManifest) -> TagRecord {
        let actor = format!("upstream:{}", self.upstream.prefix());
        let (media_type, size) = (manifest.media_type.clone(), manifest.content.len() as u64);
        TagRecord::new(digest, media_type, size, now_ms(), actor)
    }
}

fn said_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

async fn read_manifest(response: Response) -> Result<StoredManifest, UpstreamError> {
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let media_type = media_type.to_owned();
    let content = read_bounded(response, MANIFEST_BYTES_MAX).await?;
    Ok(StoredManifest { media_type, content })
}

fn not_kept(error: crate::storage::StorageError) {
    tracing::warn!(%error, "manifest of an upstream is not kept");
}
