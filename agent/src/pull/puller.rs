//! Pulls: what a manifest or a blob is, found once however many ask.
//!
//! Owns what becomes of plans; how one comes is told in [`planning`]. Content in the store is given only for a repository whose
//! plan named it. Its tasks end with the token given at the start; [`Puller::join`] waits for them.

mod planning;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::PublicKeys;
use longshore_proto::{ByteRange, Digest, Manifest, Reference, RepositoryName, Tag};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::PullError;
use super::download::Downloads;
use super::fetcher::Fetcher;
use super::image::{Image, Images};
use super::metrics::PullMetrics;
use super::place::{Place, Registries};
use super::plan::Wanted;
use super::tail::{self, Tail};
use crate::origin::Origin;
use crate::store::{BlobFailure, Content, PieceStore, StoredBlob, StoredTag};

use planning::{PlanKey, Planned, SharedPlan};

/// However long the origin says that a tag is fresh, after this it is asked again.
const TAG_FRESH_MAX: Duration = Duration::from_secs(60);
/// Layers of one image come one after another, all before those of an image started later.
const LAYERS_MAX: u64 = 1 << 16;

/// What a pull needs to know.
#[derive(Clone, Debug)]
pub struct PullConfig {
    /// Whose images are pulled.
    pub registries: Registries,
    /// The only keys whose word counts.
    pub keys: PublicKeys,
    /// The platform whose image of an index is fetched.
    pub platform: rpc::Platform,
    /// Oldest answer for a tag while the origin is down.
    pub tag_stale_max: Duration,
    /// How long the swarm lets a waiting client stand before it takes extra bytes.
    pub stall_timeout: Duration,
}

/// A manifest to serve.
#[derive(Clone, Debug)]
pub struct ServedManifest {
    /// Its name.
    pub digest: Digest,
    /// Its bytes and media type.
    pub content: Content,
    /// The origin could not confirm the tag.
    pub stale: bool,
}

/// A blob to serve.
#[derive(Clone, Debug)]
pub enum ServedBlob {
    /// Small, and whole.
    Inline(Content),
    /// In the store, perhaps still on its way.
    Stored(Arc<StoredBlob>),
}

/// The door to pulls. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Puller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: PullConfig,
    store: PieceStore,
    origin: Arc<dyn Origin>,
    downloads: Downloads,
    images: Images,
    metrics: PullMetrics,
    tasks: TaskTracker,
    plans: Mutex<HashMap<PlanKey, SharedPlan>>,
    /// When the origin was last waited for in vain.
    silent_since: Mutex<Option<Instant>>,
}

impl Puller {
    /// A puller over these parts.
    pub fn new(
        config: PullConfig,
        store: PieceStore,
        origin: Arc<dyn Origin>,
        fetcher: Arc<dyn Fetcher>,
        metrics: PullMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        let downloads = Downloads::new(fetcher, metrics.clone(), tasks.clone(), shutdown);
        Self(Arc::new(Shared {
            config,
            store,
            origin,
            downloads,
            images: Images::default(),
            metrics,
            tasks,
            plans: Mutex::default(),
            silent_since: Mutex::default(),
        }))
    }

    /// The manifest that a reference means.
    pub async fn manifest(
        &self,
        place: &Place,
        reference: &Reference,
    ) -> Result<ServedManifest, PullError> {
        match reference {
            Reference::Digest(digest) => {
                if let Some(content) = self.known_manifest(place, digest) {
                    return Ok(ServedManifest { digest: *digest, content, stale: false });
                }
                let planned = self.planned(place, Wanted::Manifest(*digest)).await?;
                self.served(&planned, digest)
            }
            Reference::Tag(tag) => self.tagged(place, tag).await,
        }
    }

    /// Fetches all layers of the image that this manifest belongs to, in their order.
    pub async fn start(&self, place: &Place, manifest: &Digest) {
        let known = self.0.images.find(place, manifest);
        let image = match known {
            Some(image) => image,
            // After a restart: the plan is on disk, or the origin is asked once more.
            None => match self.planned(place, Wanted::Manifest(*manifest)).await {
                Ok(planned) => planned.image,
                Err(error) => {
                    tracing::debug!(digest = manifest.fmt_short(), %error, "cannot plan ahead");
                    return;
                }
            },
        };
        for at in 0..image.layers.len() {
            if let Err(error) = self.fetch_layer(&image, at) {
                tracing::warn!(%error, "cannot fetch a layer ahead");
            }
        }
        let permits = image.take_permits();
        if !permits.is_empty() {
            self.fetcher().use_permits(permits);
        }
    }

    /// The same, without waiting for it.
    pub fn start_soon(&self, place: &Place, manifest: Digest) {
        let (puller, place) = (self.clone(), place.clone());
        let span = tracing::info_span!("start", digest = manifest.fmt_short());
        let task = async move { puller.start(&place, &manifest).await };
        self.0.tasks.spawn(task.instrument(span));
    }

    /// A blob; its fetching has begun.
    pub async fn blob(&self, place: &Place, digest: &Digest) -> Result<ServedBlob, PullError> {
        if let Some(failure) = self.0.downloads.recent_failure(digest) {
            return Err(PullError::GaveUp(failure));
        }
        if let Some(served) = self.known_blob(place, digest)? {
            return Ok(served);
        }
        self.planned(place, Wanted::Blob(*digest)).await?;
        self.known_blob(place, digest)?.ok_or_else(|| PullError::NotFound {
            code: "BLOB_UNKNOWN".into(),
            message: "the origin has no piece list for it".into(),
        })
    }

    /// Reads a range of a blob in order; `None` reads nothing.
    pub fn tail(&self, blob: Arc<StoredBlob>, range: Option<ByteRange>) -> Tail {
        Tail::new(self.clone(), blob, range)
    }

    /// Bytes that were here already when a pull of their blob began.
    pub fn local_bytes(&self) -> u64 {
        self.0.metrics.local_bytes.get()
    }

    /// Whose images are pulled.
    pub fn registries(&self) -> &Registries {
        &self.0.config.registries
    }

    pub(super) fn recent_failure(&self, digest: &Digest) -> Option<BlobFailure> {
        self.0.downloads.recent_failure(digest)
    }

    /// The images that were planned.
    pub fn images(&self) -> &Images {
        &self.0.images
    }

    /// The store behind.
    pub fn store(&self) -> &PieceStore {
        &self.0.store
    }

    /// Waits until the tasks have ended, which they do with their token.
    pub async fn join(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(super) fn fetcher(&self) -> &Arc<dyn Fetcher> {
        self.0.downloads.fetcher()
    }

    pub(super) fn patience(&self) -> Duration {
        tail::patience(self.0.config.stall_timeout)
    }

    pub(super) fn note_failure(&self, digest: Digest, why: BlobFailure) {
        self.0.downloads.note_failure(digest, why);
    }

    /// A piece was damaged on disk: the blob is not whole any longer.
    pub(super) fn fetch_again(&self, blob: &Arc<StoredBlob>) {
        let Some(repository) = blob.repositories().into_iter().next() else { return };
        self.fetch_alone(blob, &repository);
    }

    async fn tagged(&self, place: &Place, tag: &Tag) -> Result<ServedManifest, PullError> {
        let stored = self.0.store.tag(place.repository(), tag);
        let fresh = stored.as_ref().filter(|tag| tag.age < tag.fresh.min(TAG_FRESH_MAX));
        if let Some(served) = fresh.and_then(|tag| self.kept_manifest(place, tag, false)) {
            return Ok(served);
        }
        let error = match self.planned(place, Wanted::Tag(tag.clone())).await {
            Ok(planned) => return self.served(&planned, &planned.image.root),
            Err(error) if error.is_outage() => error,
            Err(error) => return Err(error),
        };
        let usable = stored.as_ref().filter(|tag| tag.age <= self.0.config.tag_stale_max);
        let served = usable.and_then(|tag| self.kept_manifest(place, tag, true)).ok_or(error)?;
        self.0.metrics.stale_tags.inc();
        tracing::warn!(%tag, repository = %place.repository(), "served a tag that the origin can not confirm");
        Ok(served)
    }

    fn kept_manifest(&self, place: &Place, tag: &StoredTag, stale: bool) -> Option<ServedManifest> {
        let content = self.known_manifest(place, &tag.digest)?;
        Some(ServedManifest { digest: tag.digest, content, stale })
    }

    fn known_manifest(&self, place: &Place, digest: &Digest) -> Option<Content> {
        let content = self.0.store.content(place.repository(), digest)?;
        Manifest::parse(&content.bytes, &content.media_type).is_ok().then_some(content)
    }

    fn served(&self, planned: &Planned, digest: &Digest) -> Result<ServedManifest, PullError> {
        let content = self.known_manifest(&planned.image.place, digest);
        // It was put there a moment ago: only a store without room lacks it.
        let content = content.ok_or_else(|| PullError::Store("the manifest is gone".into()))?;
        Ok(ServedManifest { digest: *digest, content, stale: planned.stale })
    }

    /// What can be served without a new plan; starts the fetching of what is not whole.
    fn known_blob(&self, place: &Place, digest: &Digest) -> Result<Option<ServedBlob>, PullError> {
        let store = &self.0.store;
        if let Some(content) = store.content(place.repository(), digest) {
            return Ok(Some(ServedBlob::Inline(content)));
        }
        if let Some(image) = self.0.images.find_layer(place, digest)
            && let Some((at, _)) = image.layer(digest)
        {
            return Ok(self.fetch_layer(&image, at)?.map(ServedBlob::Stored));
        }
        // Of an earlier process: its list was proven then, and is signed.
        let Some(blob) = store.blob(digest) else { return Ok(None) };
        if !blob.repositories().contains(place.repository()) {
            return Ok(None);
        }
        self.fetch_alone(&blob, place.repository());
        Ok(Some(ServedBlob::Stored(blob)))
    }

    /// Fetches what is missing of a blob that no image in memory names; it comes first.
    fn fetch_alone(&self, blob: &Arc<StoredBlob>, repository: &RepositoryName) {
        let ledger = self.0.images.ledger(&blob.digest());
        self.0.downloads.ensure(blob, repository, 0, &ledger);
    }

    /// Begins to fetch a layer; `None` when there is nothing to fetch, or no way to verify it.
    fn fetch_layer(
        &self,
        image: &Arc<Image>,
        at: usize,
    ) -> Result<Option<Arc<StoredBlob>>, PullError> {
        let layer = &image.layers[at];
        let Some(list) = layer.planned.list.as_ref().filter(|_| !layer.inline) else {
            return Ok(None);
        };
        let repository = image.place.repository();
        let blob = self.0.store.open_blob(list, repository)?;
        let order = self.0.images.start_order(image) * LAYERS_MAX + at as u64;
        self.0.downloads.ensure(&blob, repository, order, &layer.ledger);
        Ok(Some(blob))
    }
}
/// This machine's platform in Go's words.
pub fn own_platform() -> rpc::Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "x86" => ("386", ""),
        other => (other, ""),
    };
    rpc::Platform {
        os: std::env::consts::OS.into(),
        architecture: architecture.into(),
        variant: variant.into(),
    }
}
