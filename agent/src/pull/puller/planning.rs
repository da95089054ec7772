//! Planning: from what is wanted to an image in memory.
//!
//! Asks the disk where the name is a digest, then the origin, then peers when the origin is out.
//! Equal wants share one plan, which goes on when the first who asked hangs up. Whatever its
//! source, a plan is proven before anything of it is kept.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared as SharedFuture};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Digest, Reference};
use tokio::time::Instant;
use tracing::Instrument;

use super::Puller;
use crate::origin::PlanStream;
use crate::pull::PullError;
use crate::pull::image::{Image, PlanSource};
use crate::pull::place::Place;
use crate::pull::plan::{Plan, Wanted, read_plan, replay_plan};
use crate::store::{Content, decode_relayed};

/// How long the origin may take to begin a plan; then peers are asked, and the disk.
const ORIGIN_PATIENCE: Duration = Duration::from_secs(4);
/// After the origin was silent for that long: it is not waited for again so soon, because one
/// pull asks for many things.
const SILENCE_MEMORY: Duration = Duration::from_secs(5);
/// Blobs up to this size are wanted inside the plan.
const INLINE_BYTES_MAX: u64 = 256 * 1024;

pub(super) type PlanKey = (Place, Wanted);
pub(super) type SharedPlan = SharedFuture<BoxFuture<'static, Result<Planned, PullError>>>;

/// What came of a plan.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) image: Arc<Image>,
    pub(super) stale: bool,
}

impl Puller {
    /// The plan of `wanted`, asked for once however many wait.
    pub(super) async fn planned(
        &self,
        place: &Place,
        wanted: Wanted,
    ) -> Result<Planned, PullError> {
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
        let stream = self.ask_origin(self.request(place, wanted, known)).await?;
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
            None => {
                let sizes = plan.manifests.iter().chain(&plan.inline).map(|(d, _)| d.size);
                self.0.metrics.inline_bytes.inc_by(sizes.sum());
                self.accept(place, wanted, plan, PlanSource::Origin).await
            }
        }
    }

    /// Begins a plan within the patience, or at once says that there is no use in waiting.
    async fn ask_origin(&self, request: rpc::PlanRequest) -> Result<PlanStream, PullError> {
        let silent = || self.0.silent_since.lock().expect("nothing panics while it holds it");
        if silent().is_some_and(|since| since.elapsed() < SILENCE_MEMORY) {
            return Err(PullError::Unavailable("the origin was silent a moment ago".into()));
        }
        match tokio::time::timeout(ORIGIN_PATIENCE, self.0.origin.plan(request)).await {
            Ok(answer) => {
                *silent() = None;
                Ok(answer?)
            }
            Err(_) => {
                *silent() = Some(Instant::now());
                Err(PullError::Unavailable("the origin is silent".into()))
            }
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
        source: PlanSource,
    ) -> Result<Planned, PullError> {
        let root = match (wanted, plan.manifests.first()) {
            (Wanted::Blob(digest), _) => *digest,
            (_, Some((descriptor, _))) => descriptor.digest,
            (_, None) => return Err(gone()),
        };
        let plan = Arc::new(plan);
        self.keep(place, Arc::clone(&plan)).await?;
        self.keep_tag(place, wanted, root, &plan).await?;
        let image = self.0.images.remember(place, root, &plan, source);
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
        let image = self.0.images.remember(place, root, &plan, PlanSource::Disk);
        Some(Planned { image, stale: false })
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
                self.accept(place, wanted, plan, PlanSource::Peer).await.ok()
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
