//! What all doors of one instance share: the store, the gate, the tracker, the keys, the counters.
//!
//! Owns nothing that cannot be lost: truth is in the store, everything else is rebuilt.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use longshore_proto::{Digest, RepositoryName};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::auth::audit::Audit;
use crate::cache::CachedStorage;
use crate::compose::Composer;
use crate::keys::Keyring;
use crate::limits::{Pacer, Throttle};
use crate::metrics::Metrics;
use crate::quota::Quota;
use crate::regions::Regions;
use crate::reload::Reload;
use crate::storage::Pointer;
use crate::tracker::TrackerHandle;
use crate::upstream::{Fronted, Upstreams};

/// One instance of the registry.
#[derive(Debug)]
pub struct Registry {
    /// The store, with memory; with regions that of the default. Handlers ask
    /// [`Registry::storage_of`].
    pub storage: CachedStorage,
    /// Where there is more than one store.
    pub regions: Option<Regions>,
    /// Who asks, what they may do.
    pub auth: Auth,
    /// Who did what.
    pub audit: Audit,
    /// Members, holdings, permits.
    pub tracker: TrackerHandle,
    /// The registries in front of which this one stands.
    pub(crate) upstreams: Upstreams,
    /// Sign what agents verify: the first does, all count.
    pub keys: Keyring,
    /// Requests per second of one client, where they are limited.
    pub(crate) throttle: Option<Throttle>,
    /// Bytes of layers per second of one client, where they are limited.
    pub(crate) pacer: Option<Pacer>,
    /// Brings together blobs that came in several requests; `None`: they stay as they came.
    pub(crate) composer: Option<Composer>,
    /// What projects may hold.
    pub quota: Arc<Quota>,
    /// Counters of all doors.
    pub metrics: Metrics,
    /// Base URL that permits name; `None`: the address that the client used.
    pub advertise: Option<String>,
    /// Between two announces of a node.
    pub announce_period_ms: u32,
    /// Names this instance for as long as it runs.
    pub instance_id: String,
    /// Tells every room that has files to read them anew.
    pub reload: Reload,
    /// Streams that answer beyond their handler; the drain waits for them.
    pub tasks: TaskTracker,
    /// Ends them, after the drain.
    pub ended: CancellationToken,
}

impl Registry {
    /// The store that holds `repository`.
    pub fn storage_of(&self, repository: &RepositoryName) -> &CachedStorage {
        self.regions.as_ref().map_or(&self.storage, |regions| regions.of(repository))
    }

    /// Has a blob of several segments brought together, in its own time.
    pub(crate) fn compose(&self, repository: &RepositoryName, digest: &Digest, pointer: &Pointer) {
        if let Some(composer) = &self.composer {
            composer.offer(self.storage_of(repository), digest, pointer);
        }
    }

    /// Every storage, for what concerns all repositories.
    pub fn storages(&self) -> impl Iterator<Item = &CachedStorage> {
        let only = self.regions.is_none().then_some(&self.storage);
        only.into_iter().chain(self.regions.iter().flat_map(Regions::storages))
    }

    /// Whether a blob of the one repository can be mounted into the other.
    pub fn same_home(&self, a: &RepositoryName, b: &RepositoryName) -> bool {
        self.regions.as_ref().is_none_or(|regions| regions.same_home(a, b))
    }

    /// The upstream's side of `repository`; none of this registry's own.
    pub(crate) fn fronted(&self, repository: &RepositoryName) -> Option<Fronted> {
        self.upstreams.front(repository, self.storage_of(repository))
    }
}

/// Unix milliseconds, for what other processes compare.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
