//! Pulls: what a manifest or a blob is, found once however many ask.
//!
//! Owns the plans under way and what becomes of them. Equal requests share one plan, which goes
//! on when the first of them hangs up. Content in the store is given only for a repository whose
//! plan named it. Its tasks end with the token given at the start; [`Puller::join`] waits for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared as SharedFuture};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::PublicKeys;
use longshore_proto::{ByteRange, Digest, Manifest, Reference, RepositoryName, Tag};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::PullError;
use super::download::Downloads;
use super::fetcher::Fetcher;
use super::image::{Image, Images};
use super::metrics::PullMetrics;
use super::place::{Place, Registries};
use super::plan::{Plan, Wanted, read_plan, replay_plan};
use super::tail::{self, Tail};
use crate::origin::Origin;
use crate::store::{BlobFailure, Content, PieceStore, StoredBlob, StoredTag, decode_relayed};

/// However long the origin says that a tag is fresh, after this it is asked again.
const TAG_FRESH_MAX: Duration = Duration::from_secs(60);
/// Blobs up to this size are wanted inside the plan.
const INLINE_BYTES_MAX: u64 = 256 * 1024;
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
}

type PlanKey = (Place, Wanted);
type SharedPlan = SharedFuture<BoxFuture<'static, Result<Planned, PullError>>>;

/// What came of a plan.
#[derive(Clone, Debug)]
struct Planned {
    image: Arc<Image>,
    stale: bool,
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

    /// The plan of `wanted`, asked for once however many wait.
    async fn planned(&self, place: &Place, wanted: Wanted) -> Result<Planned, PullError> {
        let key = (place.clone(), wanted);
        let plan = {
            let mut plans = self.locked_plans();
            match plans.get(&key) {
                Some(plan) => plan.clone(),
                None => {
                    let plan = self.begin_plan(&key);
                    plans.insert(key, plan.clone());
                    plan
                }
            }
        };
        plan.await
    }

    /// A task of its own, so that it goes on when the first who asked hangs up.
    fn begin_plan(&self, key: &PlanKey) -> SharedPlan {
        let (puller, key) = (self.clone(), key.clone());
        let span = tracing::info_span!("plan", repository = %key.0.repository());
        let task = self.0.tasks.spawn(
            async move {
                let planned = puller.plan(&key.0, &key.1).await;
                if let Err(error) = &planned {
                    tracing::info!(wanted = ?key.1, %error, "no plan");
                }
                puller.locked_plans().remove(&key);
                planned
            }
            .instrument(span),
        );
        let lost = |_| Err(PullError::Unavailable("the agent stops".into()));
        task.map(move |joined| joined.unwrap_or_else(lost)).boxed().shared()
    }

    async fn plan(&self, place: &Place, wanted: &Wanted) -> Result<Planned, PullError> {
        // What is named by digest never changes: the plan on disk is as good as a new one.
        if let Wanted::Manifest(digest) = wanted
            && let Some(planned) = self.plan_from_disk(place, *digest)
        {
            return Ok(planned);
        }
        let asked = self.plan_from_origin(place, wanted).await;
        let Err(error) = &asked else { return asked };
        if !error.is_outage() {
            return asked;
        }
        match self.plan_from_peers(place, wanted).await {
            Some(planned) => Ok(planned),
            None => asked,
        }
    }

    async fn plan_from_origin(&self, place: &Place, wanted: &Wanted) -> Result<Planned, PullError> {
        self.0.metrics.plans.inc();
        let known = match wanted {
            Wanted::Tag(tag) => self.0.store.tag(place.repository(), tag).map(|tag| tag.digest),
            _ => None,
        };
        let known = known.filter(|digest| self.0.store.plan(place.repository(), digest).is_some());
        let stream = self.0.origin.plan(self.request(place, wanted, known)).await?;
        let plan = read_plan(stream, place.repository(), wanted, &self.0.config.keys).await?;
        match plan.unchanged {
            Some(digest) if Some(digest) == known => {
                let planned = self.plan_from_disk(place, digest).ok_or_else(gone)?;
                let stale = plan.stale;
                self.keep_tag(place, wanted, digest, &plan).await?;
                if let Wanted::Tag(tag) = wanted {
                    self.0.images.set_tag(&planned.image, tag);
                }
                self.fetcher().meet(plan.peers);
                Ok(Planned { stale, ..planned })
            }
            Some(_) => Err(PullError::Invalid("the origin left out content".into())),
            None => self.accept(place, wanted, plan).await,
        }
    }

    fn request(&self, place: &Place, wanted: &Wanted, known: Option<Digest>) -> rpc::PlanRequest {
        use rpc::plan_item::Wanted as Asked;
        let asked = match wanted {
            Wanted::Tag(tag) => Asked::Tag(tag.as_str().to_owned()),
            Wanted::Manifest(digest) => Asked::ManifestDigest(digest.to_string()),
            Wanted::Blob(digest) => Asked::BlobDigest(digest.to_string()),
        };
        rpc::PlanRequest {
            items: vec![rpc::PlanItem {
                item: 0,
                repository: place.repository().to_string(),
                wanted: Some(asked),
                namespace: String::new(),
                known_digest: known.map(|digest| digest.to_string()).unwrap_or_default(),
            }],
            platform: Some(self.0.config.platform.clone()),
            forms: vec!["blob".into()],
            inline_bytes_max: INLINE_BYTES_MAX,
        }
    }

    /// Takes over a plan that holds: content into the store, the image into memory.
    async fn accept(
        &self,
        place: &Place,
        wanted: &Wanted,
        plan: Plan,
    ) -> Result<Planned, PullError> {
        let root = match (wanted, plan.manifests.first()) {
            (Wanted::Blob(digest), _) => *digest,
            (_, Some((descriptor, _))) => descriptor.digest,
            (_, None) => return Err(gone()),
        };
        let plan = Arc::new(plan);
        self.keep(place, Arc::clone(&plan)).await?;
        self.keep_tag(place, wanted, root, &plan).await?;
        let image = self.0.images.remember(place, root, &plan);
        if let Wanted::Tag(tag) = wanted {
            self.0.images.set_tag(&image, tag);
        }
        if !plan.peers.is_empty() {
            self.fetcher().meet(plan.peers.clone());
        }
        Ok(Planned { image, stale: plan.stale })
    }

    async fn keep(&self, place: &Place, plan: Arc<Plan>) -> Result<(), PullError> {
        let (store, local) = (self.0.store.clone(), place.repository().clone());
        let kept = tokio::task::spawn_blocking(move || {
            for (descriptor, bytes) in plan.manifests.iter().chain(&plan.inline) {
                let media_type = descriptor.media_type.clone();
                let content = Content { media_type, bytes: bytes.clone() };
                store.put_content(&local, &descriptor.digest, &content)?;
            }
            let manifests: Vec<_> = plan.manifests.iter().map(|(d, _)| d.digest).collect();
            store.put_plan(&local, &manifests, &plan.events)
        });
        kept.await.map_err(|error| PullError::Store(error.to_string()))?.map_err(Into::into)
    }

    async fn keep_tag(
        &self,
        place: &Place,
        wanted: &Wanted,
        digest: Digest,
        plan: &Plan,
    ) -> Result<(), PullError> {
        let Wanted::Tag(tag) = wanted else { return Ok(()) };
        if plan.stale {
            // Its age is unknown here: it is used now and not remembered as an answer.
            return Ok(());
        }
        let fresh = Duration::from_millis(plan.fresh_ms.into());
        let (store, local, tag) = (self.0.store.clone(), place.repository().clone(), tag.clone());
        tokio::task::spawn_blocking(move || store.put_tag(&local, &tag, &digest, fresh))
            .await
            .map_err(|error| PullError::Store(error.to_string()))?
            .map_err(Into::into)
    }

    /// The plan as it was kept, proven again.
    fn plan_from_disk(&self, place: &Place, digest: Digest) -> Option<Planned> {
        if let Some(image) = self.0.images.find(place, &digest)
            && self.known_manifest(place, &digest).is_some()
        {
            return Some(Planned { image, stale: false });
        }
        let events = self.0.store.plan(place.repository(), &digest)?;
        let wanted = Wanted::Manifest(digest);
        let plan = replay_plan(events, place.repository(), &wanted, &self.0.config.keys).ok()?;
        let root = plan.manifests.first()?.0.digest;
        Some(Planned { image: self.0.images.remember(place, root, &plan), stale: false })
    }

    async fn plan_from_peers(&self, place: &Place, wanted: &Wanted) -> Option<Planned> {
        let reference = match wanted {
            Wanted::Tag(tag) => Reference::Tag(tag.clone()),
            Wanted::Manifest(digest) => Reference::Digest(*digest),
            Wanted::Blob(_) => return None,
        };
        let told = self.fetcher().ask_plan(place.repository(), &reference).await?;
        let events = decode_relayed(told)?;
        match replay_plan(events, place.repository(), wanted, &self.0.config.keys) {
            Ok(plan) => {
                self.0.metrics.plans_without_origin.inc();
                let stale = matches!(wanted, Wanted::Tag(_));
                let plan = Plan { stale, peers: Vec::new(), permits: Vec::new(), ..plan };
                self.accept(place, wanted, plan).await.ok()
            }
            Err(error) => {
                tracing::warn!(%error, "a peer told a plan that does not hold");
                None
            }
        }
    }

    fn locked_plans(&self) -> MutexGuard<'_, HashMap<PlanKey, SharedPlan>> {
        self.0.plans.lock().expect("nothing panics while it holds the plans")
    }
}

fn gone() -> PullError {
    PullError::Invalid("the plan has no manifest".into())
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
