//! In front of other registries: their repositories under a prefix of this one's names.
//!
//! Owns the table of upstreams, one client each, and the fills. What comes from an upstream is kept
//! in this registry's own storage under `<prefix>/<name>`, so that permission, caches, quota,
//! collection and tracker see ordinary repositories; permission was asked, on that name, before
//! anything here is called. Only configured upstreams are ever asked, whatever `ns` says. Nothing
//! unverified is kept, an outage is never a 404, and no secret is printed. Each instance asks for
//! itself: two that miss the same blob at the same moment read it twice.

mod answer;
mod ask;
mod budget;
mod challenge;
mod charge;
mod client;
mod error;
mod fill;
mod fills;
mod fresh;
mod limit;
mod listing;
mod manifest;
mod metrics;
mod pace;
mod push;
mod reach;
mod relay;
mod secret;
mod source;
mod spool;
mod token;
mod window;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use longshore_proto::{Digest, RepositoryName, Tag};
use moka::future::Cache;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub(crate) use error::UpstreamError;
pub(crate) use fills::Blob;
pub(crate) use manifest::Tagged;
pub use metrics::UpstreamsMetrics;
pub(crate) use push::Stored;
pub(crate) use relay::{Relay, Relaying};

use crate::cache::CachedStorage;
use crate::config::{self, PushMode, UpstreamRegistry};
use crate::quota::Quota;
use crate::storage::{Pointer, StoredManifest};
use budget::Budget;
use client::Client;
use fill::Filling;
use fills::{Fills, Reading};
use fresh::Freshness;
use manifest::WhileBelieved;
use metrics::UpstreamMetrics;

/// Tags of one upstream in memory, their manifests included.
const TAGS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Manifests of one upstream that the store may not have taken.
const MANIFESTS_BYTES_MAX: u64 = 8 * 1024 * 1024;
const MANIFESTS_KEPT: Duration = Duration::from_secs(10);
const SIZES_MAX: u64 = 10_000;
const SIZES_KEPT: Duration = Duration::from_secs(60);
/// A pusher that was told to come back does so within this.
const PUSHED_KEPT: Duration = Duration::from_secs(20);
const ANSWERS_MAX: u64 = 10_000;
/// What an entry costs beside its content.
const ENTRY_BYTES: usize = 512;

type InRepository<T> = (RepositoryName, T);

/// The registries that this one fronts.
#[derive(Debug)]
pub(crate) struct Upstreams {
    all: Vec<Arc<Upstream>>,
    own_ns: Vec<String>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Upstream {
    prefix: RepositoryName,
    ns: Vec<String>,
    client: Client,
    freshness: Freshness,
    push: PushMode,
    fills: Fills,
    tags: Cache<InRepository<Tag>, Tagged>,
    manifests: Cache<InRepository<Digest>, Arc<StoredManifest>>,
    sizes: Cache<InRepository<Digest>, Option<u64>>,
    /// Blobs that are being pushed, or were a moment ago.
    pushes: Cache<InRepository<Digest>, ()>,
    /// What it said no to, for some seconds.
    answers: Cache<InRepository<String>, UpstreamError>,
    metrics: UpstreamMetrics,
    shared: Arc<Shared>,
}

/// What all upstreams share.
#[derive(Debug)]
struct Shared {
    spool_directory: Option<PathBuf>,
    spools: Arc<Budget>,
    abandoned_bytes_max: u64,
    abandoned: Duration,
    quota: Arc<Quota>,
    push_wait: Duration,
    tasks: TaskTracker,
    ended: CancellationToken,
}

/// A repository of an upstream, as it is known here and there.
#[derive(Clone, Debug)]
pub(crate) struct Fronted {
    upstream: Arc<Upstream>,
    repository: RepositoryName,
    remote: RepositoryName,
    storage: CachedStorage,
}

impl Upstreams {
    /// Those of the configuration; fills run among `tasks` until `ended`. The error is one line.
    pub(crate) fn new(
        config: &config::Upstream,
        metrics: &UpstreamsMetrics,
        quota: Arc<Quota>,
        tasks: TaskTracker,
        ended: CancellationToken,
    ) -> Result<Self, String> {
        check_names(config)?;
        let shared = Arc::new(Shared {
            spool_directory: config.spool_directory.clone(),
            spools: Budget::new((config.spool_bytes_max > 0).then_some(config.spool_bytes_max)),
            abandoned_bytes_max: config.abandoned_bytes_max,
            abandoned: Duration::from_secs(config.abandoned_s),
            quota,
            push_wait: Duration::from_secs(config.push_wait_s),
            tasks,
            ended,
        });
        let absent = Duration::from_secs(config.absent_s);
        let one = |registry: &UpstreamRegistry| {
            let upstream = Upstream::new(registry, absent, metrics, shared.clone());
            upstream.map(Arc::new).map_err(|error| format!("{}: {error}", registry.prefix))
        };
        let all = config.registry.iter().map(one).collect::<Result<_, _>>()?;
        Ok(Self { all, own_ns: config.own_ns.clone() })
    }

    /// Whether there is none: `ns` then says nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What a repository that a client names together with `ns` is called here. `None`: no upstream
    /// of that name is configured, or the name gets too long.
    pub(crate) fn local_name(&self, ns: &str, name: RepositoryName) -> Option<RepositoryName> {
        if self.own_ns.iter().any(|own| own == ns) {
            return Some(name);
        }
        let upstream = self.all.iter().find(|upstream| upstream.ns.iter().any(|own| own == ns))?;
        format!("{}/{name}", upstream.prefix).parse().ok()
    }

    /// The upstream's side of `repository`, which `storage` keeps; `None` when it is this
    /// registry's own.
    pub(crate) fn front(
        &self,
        repository: &RepositoryName,
        storage: &CachedStorage,
    ) -> Option<Fronted> {
        let (upstream, remote) = self.all.iter().find_map(|upstream| {
            let rest = repository.as_str().strip_prefix(upstream.prefix.as_str())?;
            Some((upstream, rest.strip_prefix('/')?))
        })?;
        Some(Fronted {
            upstream: upstream.clone(),
            repository: repository.clone(),
            remote: remote.parse().ok()?,
            storage: storage.clone(),
        })
    }
}

/// Asks one upstream whether it would answer; what is well, or one line of what is not.
pub(crate) async fn try_out(registry: &UpstreamRegistry) -> Result<&'static str, String> {
    let metrics = UpstreamMetrics::of(&UpstreamsMetrics::default(), registry.prefix.as_str());
    let client = Client::new(registry, metrics)?;
    client.try_out().await.map_err(|error| error.to_string())
}

/// Names that could mean two upstreams are refused.
pub(crate) fn check_names(config: &config::Upstream) -> Result<(), String> {
    let mut ns: Vec<&String> = config.own_ns.iter().collect();
    for (at, one) in config.registry.iter().enumerate() {
        for other in &config.registry[..at] {
            let (a, b) = (format!("{}/", one.prefix), format!("{}/", other.prefix));
            if a.starts_with(&b) || b.starts_with(&a) {
                return Err(format!("prefixes {} and {} overlap", other.prefix, one.prefix));
            }
        }
        for name in &one.ns {
            if ns.contains(&name) {
                return Err(format!("ns {name:?} means two registries"));
            }
            ns.push(name);
        }
    }
    Ok(())
}

impl Upstream {
    fn new(
        config: &UpstreamRegistry,
        absent: Duration,
        metrics: &UpstreamsMetrics,
        shared: Arc<Shared>,
    ) -> Result<Self, String> {
        let metrics = UpstreamMetrics::of(metrics, config.prefix.as_str());
        let weight = |manifest: &StoredManifest| {
            u32::try_from(manifest.content.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Ok(Self {
            prefix: config.prefix.clone(),
            ns: config.ns.clone(),
            client: Client::new(config, metrics.clone())?,
            freshness: Freshness {
                fresh: Duration::from_secs(config.tag_fresh_s),
                stale_max: Duration::from_secs(config.tag_stale_max_s),
            },
            push: config.push,
            fills: Fills::default(),
            tags: Cache::builder()
                .max_capacity(TAGS_BYTES_MAX)
                .weigher(move |_, tagged: &Tagged| weight(&tagged.manifest))
                .expire_after(WhileBelieved)
                .build(),
            manifests: Cache::builder()
                .max_capacity(MANIFESTS_BYTES_MAX)
                .weigher(move |_, manifest: &Arc<StoredManifest>| weight(manifest))
                .time_to_live(MANIFESTS_KEPT)
                .build(),
            sizes: Cache::builder().max_capacity(SIZES_MAX).time_to_live(SIZES_KEPT).build(),
            pushes: Cache::builder().max_capacity(SIZES_MAX).time_to_live(PUSHED_KEPT).build(),
            answers: Cache::builder().max_capacity(ANSWERS_MAX).time_to_live(absent).build(),
            metrics,
            shared,
        })
    }

    fn prefix(&self) -> &str {
        self.prefix.as_str()
    }
}

impl Fronted {
    /// The blob, from the store or as it comes; one read at the upstream for all who ask.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Blob, UpstreamError> {
        self.believed_answer(&digest.to_string()).await?;
        self.join(digest).opened().await
    }

    /// The blob's size, where the upstream says it; the blob does not come for it.
    pub(crate) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let name = digest.to_string();
        self.believed_answer(&name).await?;
        if let Some(size) = self.upstream.fills.size(&self.repository, digest) {
            return Ok(Some(size));
        }
        let ask = self.upstream.client.blob_size(&self.remote, digest);
        let key = (self.repository.clone(), *digest);
        let size = self.upstream.sizes.try_get_with(key, ask).await;
        let size = size.map_err(|error| (*error).clone());
        if let Err(error) = &size {
            self.believe(&name, error).await;
        }
        size
    }

    /// The blob once it is in the store; an error when that takes longer than `within`. The fill
    /// goes on all the same.
    pub(crate) async fn kept_blob(
        &self,
        digest: &Digest,
        within: Duration,
    ) -> Result<Arc<Pointer>, UpstreamError> {
        self.believed_answer(&digest.to_string()).await?;
        self.join(digest).kept(within).await
    }

    fn join(&self, digest: &Digest) -> Reading {
        let upstream = &self.upstream;
        let readers = &upstream.metrics.all.readers;
        upstream.fills.join(&self.repository, digest, readers, |fill| {
            let filling = Filling { fronted: self.clone(), digest: *digest, fill };
            let digest = digest.fmt_short();
            let span =
                tracing::info_span!(parent: None, "fill", %digest, upstream = upstream.prefix());
            upstream.shared.tasks.spawn(filling.run().instrument(span));
        })
    }

    /// In a task of its own, which goes on when the caller goes away.
    async fn detached<T: Send + 'static>(
        &self,
        work: BoxFuture<'static, Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let ended = self.upstream.shared.ended.clone();
        let work = async move {
            ended.run_until_cancelled(work).await.unwrap_or(Err(UpstreamError::Ended))
        };
        let task = self.upstream.shared.tasks.spawn(work.in_current_span());
        task.await.unwrap_or(Err(UpstreamError::Ended))
    }

    /// The upstream's refusal of a moment ago.
    async fn believed_answer(&self, name: &str) -> Result<(), UpstreamError> {
        let key = (self.repository.clone(), name.to_owned());
        self.upstream.answers.get(&key).await.map_or(Ok(()), Err)
    }

    /// Remembers a refusal for some seconds, and nothing else.
    async fn believe(&self, name: &str, error: &UpstreamError) {
        if error.is_answer() {
            let key = (self.repository.clone(), name.to_owned());
            self.upstream.answers.insert(key, error.clone()).await;
        }
    }

    async fn disbelieve(&self, name: &str) {
        self.upstream.answers.invalidate(&(self.repository.clone(), name.to_owned())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::QuotaMetrics;

    fn upstreams(text: &str) -> Result<Upstreams, String> {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let config: config::Upstream = toml::from_str(text).unwrap();
        let metrics = UpstreamsMetrics::default();
        let quota = Arc::new(Quota::new(config::Quota::default(), QuotaMetrics::default()));
        Upstreams::new(&config, &metrics, quota, TaskTracker::new(), CancellationToken::new())
    }

    fn registry(prefix: &str, more: &str) -> String {
        format!("[[registry]]\nprefix = \"{prefix}\"\nurl = \"http://u.example\"\n{more}")
    }

    #[test]
    fn only_configured_namespaces_have_a_name_here() {
        let text = format!(
            "own_ns = [\"self.example\"]\n{}",
            registry("hub", "ns = [\"docker.io\", \"index.docker.io\"]\n")
        );
        let upstreams = upstreams(&text).unwrap();
        let name = |ns: &str, name: &str| {
            let local = upstreams.local_name(ns, name.parse().unwrap());
            local.map(|name| name.as_str().to_owned())
        };
        assert_eq!(name("docker.io", "library/web").as_deref(), Some("hub/library/web"));
        assert_eq!(name("self.example", "team/web").as_deref(), Some("team/web"));
        for unknown in ["169.254.169.254", "evil.example", "", "hub", "docker.io:443"] {
            assert_eq!(name(unknown, "library/web"), None, "{unknown}");
        }
    }

    #[test]
    fn names_that_could_mean_two_upstreams_are_refused() {
        let twice = |a: &str, b: &str| upstreams(&format!("{a}{b}")).err();
        let overlap = twice(&registry("a/b", ""), &registry("a", "")).unwrap();
        assert_eq!(overlap, "prefixes a/b and a overlap");
        assert!(twice(&registry("a", ""), &registry("a", "")).is_some());
        assert!(twice(&registry("a", ""), &registry("ab", "")).is_none());
        let ns = "ns = [\"x\"]\n";
        assert!(twice(&registry("a", ns), &registry("b", ns)).is_some());
        let own = format!("own_ns = [\"x\"]\n{}", registry("a", ns));
        assert!(upstreams(&own).is_err());
    }

    #[test]
    fn what_the_configuration_names_must_be_there() {
        let error = upstreams(&registry("a", "ca_file = \"/nowhere\"\n")).unwrap_err();
        assert!(error.starts_with("a: ca_file /nowhere: "), "{error}");
        let error = upstreams(&registry("a", "username = \"me\"\n")).unwrap_err();
        assert_eq!(error, "a: username has no password_file or password_env");
    }
}
