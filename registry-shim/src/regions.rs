//! Regions: two or more stores, each repository with one primary, and reads and writes that go on
//! without it.
//!
//! Each region is a whole layout in a store of its own, the *home* of the repositories that its
//! patterns name, and each home has a replica of all its objects under `replica/<home>/` in another
//! region's store. So no region's collector or deduplication ever meets another's objects, and a
//! blob is mounted within its home only. A home is one [`ObjectStore`] for the layout above it:
//!
//! - **In health** reads and writes go to the primary. What was written is owed to the replica and
//!   copied in the background. Before a repository is written, a *mark* in the replica's store says
//!   so; it goes when nothing is owed. The replica therefore lacks at most what was acknowledged
//!   within the lag that the metric `replication_lag_seconds` shows, and of which repositories is
//!   known even without the primary. Uploads under way are not copied.
//! - **When the primary fails**, a call is made again on the replica: at once, and without asking
//!   the primary once its breaker is open. Absence counts as an answer only where it is certain:
//!   a repository with a mark answers 503 for what is not found, never 404 (a `HEAD` of a blob may
//!   answer 404: its asker then uploads it). A tag may be older than the last push, never newer
//!   than its manifest. Writes go to the replica, each with an entry in a *journal* there before.
//! - **When it returns**, the journal is read before the primary is used. From then on each key
//!   that the journal names is read from and written to the replica, and every other key on the
//!   primary: nothing waits for the replay, which brings the named keys over, oldest first, and
//!   deletes their entries. Of two records of one tag that with the later time stays; the history
//!   has a key per push and keeps both. Clocks must agree better than two pushes of one tag follow
//!   each other.
//!   A tag or a list that the replica answers for carries a `Warning`.
//! - **An instance that starts in an outage** serves from the replica as soon as it has seen the
//!   outage. It has never read the marks in the primary's store, so that until the return whatever
//!   it does not find is 503.
//! - **With both stores away** a request is refused with 503, well within a client's patience.
//!
//! Several instances find each other through the replica's store alone: marks, journal, and leases
//! that save double work. They may disagree for some seconds whether the primary is there. What
//! one writes to the replica the other sees when it has read the journal; conditional creates hold
//! within one store, so that while not on its primary a home has no immutable tags, only
//! approximate quota, and no collection ([`Standing`](crate::storage::Standing)).
//!
//! It never changes a primary but by replaying, never decides by content but for the time of a
//! tag, and ends with its workers, which leave only what the next one finds.

mod backlog;
mod breaker;
mod copy;
mod home;
mod journal;
mod key;
mod lease;
mod list;
mod marks;
mod mend;
mod metrics;
mod projects;
mod redirect;
mod routes;
mod side;
mod store;
mod stream;
mod tend;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use longshore_proto::RepositoryName;
use tokio_util::sync::CancellationToken;

use crate::StartError;
use crate::cache::CachedStorage;
use crate::config::{Config, Region};
use crate::keys::Keyring;
use crate::quota::Quota;
use crate::storage::{OpenError, OpenedStore, Standing as _, Storage, StoreState};
use breaker::Policy;
use home::{Home, Parts, Timing, Whole};
pub use metrics::RegionMetrics;
use routes::Routes;
use store::RegionStore;

/// What an operator should know of a home that is not on its primary.
const PROMISES_LESS: &str = "quota is approximate, immutable tags are refused and collection waits";

/// All homes.
#[derive(Debug)]
pub struct Regions {
    homes: Vec<(Arc<Home>, CachedStorage)>,
    routes: Routes,
    default: usize,
}

/// What a load balancer and an operator are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether any home can be read: an instance that serves one is better than none.
    pub serves: bool,
    /// One line: `ok`, or what is not.
    pub text: String,
}

impl Regions {
    /// Opens the stores that the configuration names, in its order.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn open_stores(config: &Config) -> Result<Vec<OpenedStore>, StartError> {
        let bad = |message| StartError::Config { key: "regions.region", message };
        config.regions.check().map_err(bad)?;
        projects::check(config).map_err(bad)?;
        let open = |region: &Region| {
            region.storage.open().map_err(|error| match error {
                OpenError::Config { .. } => bad(format!("{}: {error}", region.name)),
                OpenError::Io(error) => StartError::Storage(format!("{}: {error}", region.name)),
            })
        };
        config.regions.region.iter().map(open).collect()
    }

    /// Over `opened`, a store for each region of a configuration that was checked. Returns once the
    /// stores that answer have been looked at; one that does not keeps nobody from starting.
    ///
    /// # Errors
    /// When a store that answers cannot keep what is configured.
    pub async fn open(
        config: &Config,
        opened: Vec<OpenedStore>,
        keys: &Keyring,
        metrics: &RegionMetrics,
    ) -> Result<Self, StartError> {
        let timing = Timing::new(Duration::from_millis(config.regions.timeout_ms));
        Self::with_timing(config, opened, keys, metrics, (Policy::default(), timing)).await
    }

    async fn with_timing(
        config: &Config,
        opened: Vec<OpenedStore>,
        keys: &Keyring,
        metrics: &RegionMetrics,
        (policy, timing): (Policy, Timing),
    ) -> Result<Self, StartError> {
        let regions = &config.regions;
        let stores: Vec<Whole> = opened
            .into_iter()
            .map(|opened| Whole { store: opened.store, presigner: opened.presigner })
            .collect();
        let tried = regions.probe_redirects && stores.iter().any(|store| store.presigner.is_some());
        let client = tried.then(reqwest::Client::new);
        let homes: Vec<Arc<Home>> = regions
            .region
            .iter()
            .zip(&stores)
            .map(|(region, primary)| {
                let other = regions.replica_of(region).expect("the configuration was checked");
                Arc::new(Home::new(Parts {
                    name: region.name.clone(),
                    replica_name: regions.region[other].name.clone(),
                    primary: primary.clone(),
                    other: stores[other].clone(),
                    policy,
                    timing,
                    metrics: metrics.home(&region.name),
                    client: client.clone(),
                }))
            })
            .collect();
        futures::future::join_all(homes.iter().map(|home| home.look())).await;
        let patterns = &config.storage.immutable_tags;
        for home in homes.iter().filter(|_| !patterns.is_empty()) {
            // Of a store that is away it is found out later: until then no tag is immutable there.
            if home.capabilities.get().is_some_and(|found| !found.conditional_create) {
                let name = &home.name;
                let message = format!("region {name} overwrites where it should refuse");
                return Err(StartError::Config { key: "storage.immutable_tags", message });
            }
        }
        for home in &homes {
            if let Some(found) = home.capabilities.get() {
                Quota::check_store(&config.quota, *found, &format!("region {}", home.name))?;
            }
        }
        let named = regions.region.iter().enumerate().flat_map(|(index, region)| {
            region.repositories.iter().map(move |pattern| (pattern.clone(), index))
        });
        let default = regions.region.iter().position(|region| region.default).unwrap_or(0);
        let routes = Routes::new(named, default);
        let cached = |home: Arc<Home>| {
            let store = Arc::new(RegionStore(home.clone()));
            let key = keys.signing().clone();
            let storage = Storage::standing(store, key.clone(), home.clone());
            let storage = storage.accepting(keys.verifying()).with_immutable_tags(patterns);
            (home, CachedStorage::new(storage, key, &config.cache))
        };
        Ok(Self { homes: homes.into_iter().map(cached).collect(), routes, default })
    }

    /// The storage of the repository's home.
    pub fn of(&self, repository: &RepositoryName) -> &CachedStorage {
        &self.homes[self.routes.home(repository)].1
    }

    /// The storage of what no pattern names.
    pub fn default_storage(&self) -> &CachedStorage {
        &self.homes[self.default].1
    }

    /// Whether blobs of the one may be mounted into the other.
    pub fn same_home(&self, a: &RepositoryName, b: &RepositoryName) -> bool {
        self.routes.home(a) == self.routes.home(b)
    }

    /// Every home's storage, in the order of the configuration.
    pub fn storages(&self) -> impl Iterator<Item = &CachedStorage> {
        self.homes.iter().map(|(_, storage)| storage)
    }

    /// Watches, replays and replicates until `ended`.
    pub async fn run(&self, ended: CancellationToken) {
        let mut workers: Vec<BoxFuture<'static, ()>> = Vec::new();
        for (home, _) in &self.homes {
            workers.push(Box::pin(home.clone().tend(ended.clone())));
            workers.push(Box::pin(home.clone().mend(ended.clone())));
        }
        futures::future::join_all(workers).await;
    }

    /// What state the homes are in.
    pub fn readiness(&self) -> Readiness {
        let homes = || self.homes.iter().map(|(home, _)| home);
        let wrong: Vec<String> = homes().filter_map(|home| home.complaint()).collect();
        let serves = homes().any(|home| home.can_serve());
        let text = match wrong.as_slice() {
            [] => "ok".to_owned(),
            wrong => format!("degraded: {}", wrong.join("; ")),
        };
        Readiness { serves, text }
    }
}

impl Home {
    /// What an operator should know; `None` in health.
    fn complaint(&self) -> Option<String> {
        let (name, replica) = (&self.name, &self.replica_name);
        if !self.can_serve() {
            return Some(format!("region {name} is away, and so is its replica in {replica}"));
        }
        let since = |ms: u64| {
            let at = std::time::UNIX_EPOCH + Duration::from_millis(ms);
            humantime::format_rfc3339_seconds(at).to_string()
        };
        let pending = self.journal.pending();
        match self.state() {
            StoreState::FailedOver { since_ms } => Some(format!(
                "region {name} failed over to {replica} since {}, {pending} writes to catch up, \
                 {PROMISES_LESS}",
                since(since_ms)
            )),
            StoreState::CatchingUp { since_ms } => Some(format!(
                "region {name} is back and catches up since {}, {pending} writes to go, \
                 {PROMISES_LESS}",
                since(since_ms)
            )),
            StoreState::Primary if !self.replica.is_up() => {
                Some(format!("region {name} cannot reach its replica in {replica}"))
            }
            StoreState::Primary => self.redirect_complaint(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
