//! `longshore-registry`: an OCI registry on object storage without a database, and the origin of a
//! Longshore fleet.
//!
//! [`Instance::start`] opens the store, the keys and both ports; [`Instance::run`] serves until its
//! token is cancelled and has drained. Tests and `main` use the same two doors.

mod address;
mod admin;
mod api;
pub mod auth;
pub mod cache;
pub mod commands;
mod compose;
pub mod config;
mod front;
pub mod gc;
mod join;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod notify;
mod plan;
pub mod process;
pub mod quota;
pub mod regions;
pub mod registry;
pub mod reload;
mod rpc;
pub mod serve;
pub mod shutdown;
pub mod storage;
pub mod telemetry;
pub mod tracker;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use longshore_proto::sign::PublicKey;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use admin::Admin;
use auth::Auth;
use auth::audit::{Audit, AuditFile};
use cache::CachedStorage;
use compose::Composing;
use config::{Config, Serve};
use front::Front;
use keys::{KeyFileError, Keyring};
use limits::{Pacer, Throttle};
use metrics::Metrics;
use quota::Quota;
use regions::Regions;
use registry::Registry;
use reload::Reload;
use serve::{Ends, Limits, ServeMetrics, Tls, TlsError};
use storage::{OpenError, OpenedStore, Storage};
use tracker::TrackerHandle;
use upstream::Upstreams;

/// Why an instance does not start, by who has to act.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong: exit 64.
    #[error("config: {key}: {message}")]
    Config {
        /// `identity.signing_key_file`
        key: &'static str,
        /// One line.
        message: String,
    },
    /// A port is taken or not ours to take: exit 69.
    #[error("{key}: cannot listen on {address}: {}", why(source))]
    Listen {
        /// `serve.listen`
        key: &'static str,
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be used: exit 1.
    #[error("storage.url: cannot use storage: {0}")]
    Storage(String),
}

/// An instance that has its ports and does not answer yet.
#[derive(Debug)]
pub struct Instance {
    config: Config,
    registry: Arc<Registry>,
    tls: Option<Tls>,
    listener: TcpListener,
    admin: TcpListener,
    audit_file: Option<AuditFile>,
    composing: Composing,
}

impl Instance {
    /// Opens everything that the configuration names.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        // Before the store: a missing key is told whatever else is wrong.
        load_keys(config, true)?;
        if config.regions.region.is_empty() {
            return Self::start_over(config, config.storage.open()?).await;
        }
        Self::start_over_regions(config, Regions::open_stores(config)?).await
    }

    /// Over a store that the caller opened; `storage.url` then only says whether a key may be made.
    pub async fn start_over(
        config: &Config,
        opened: impl Into<OpenedStore>,
    ) -> Result<Self, StartError> {
        Self::start_with(config, Stores::One(opened.into())).await
    }

    /// Over the stores of the regions that the configuration names, in its order.
    pub async fn start_over_regions(
        config: &Config,
        opened: Vec<OpenedStore>,
    ) -> Result<Self, StartError> {
        Self::start_with(config, Stores::Regions(opened)).await
    }

    async fn start_with(config: &Config, stores: Stores) -> Result<Self, StartError> {
        config.check()?;
        let keys = load_keys(config, true)?;
        let metrics = Metrics::new();
        let auth = Auth::new(&keys.all(), &config.auth, &config.join, metrics.auth.clone())?;
        let reload = Reload::new();
        let (audit, audit_file) = open_audit(config, &metrics, &reload)?;
        let tls = Tls::open(&config.tls, metrics.tls.clone()).map_err(bad_tls)?;
        let listener = listen("serve.listen", config.serve.listen)?;
        let admin = listen("admin.listen", config.admin.listen)?;
        let (storage, regions) = stores.open(config, &keys, &metrics).await?;
        let period_ms = config.tracker.announce_period_ms;
        let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
        let quota = Arc::new(Quota::new(config.quota.clone(), metrics.quota.clone()));
        let upstreams = Upstreams::new(
            &config.upstream,
            &metrics.upstream,
            quota.clone(),
            tasks.clone(),
            ended.clone(),
        )
        .map_err(|message| StartError::Config { key: "upstream.registry", message })?;
        let (composer, composing) = compose::queue(metrics.compose.clone());
        let registry = Arc::new(Registry {
            storage,
            regions,
            auth,
            audit,
            upstreams,
            tracker: TrackerHandle::new(period_ms, metrics.tracker.clone()),
            throttle: Throttle::new(&config.limits, metrics.throttled.clone()),
            pacer: Pacer::new(&config.limits, metrics.body_pauses.clone()),
            keys,
            composer: config.storage.compose.then_some(composer),
            quota,
            metrics,
            advertise: config.serve.advertise.clone(),
            announce_period_ms: period_ms,
            instance_id: Uuid::new_v4().to_string(),
            reload,
            tasks,
            ended,
        });
        Ok(Self { config: config.clone(), registry, tls, listener, admin, audit_file, composing })
    }

    /// Where the OCI API and gRPC are served.
    ///
    /// # Panics
    /// Never: the listener is bound.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    /// Where metrics and health are served.
    ///
    /// # Panics
    /// Never: the listener is bound.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.local_addr().expect("a bound listener has an address")
    }

    /// What agents take as `origin.signing_keys`.
    pub fn public_key(&self) -> PublicKey {
        self.registry.keys.signing().public().clone()
    }

    /// Makes every room read its files anew, as SIGHUP does.
    pub fn reload(&self) -> Reload {
        self.registry.reload.clone()
    }

    /// Serves until `shutdown`, then drains; metrics and health until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        self.run_until(Ends { drain: shutdown, cut: CancellationToken::new() }).await;
    }

    /// As [`Self::run`]; `ends.cut` ends the drain early.
    pub async fn run_until(self, ends: Ends) {
        let (registry, ended) = (self.registry, CancellationToken::new());
        let admin = serve::run(
            self.admin,
            None,
            Admin::new(registry.clone(), ends.drain.clone()),
            Limits::ADMIN,
            ServeMetrics::default(),
            Ends { drain: ended.clone(), ..Ends::default() },
        );
        let sweep = registry.tracker.sweep(ended.clone());
        let regions = async {
            if let Some(regions) = &registry.regions {
                regions.run(ended.clone()).await;
            }
        };
        let files = async {
            if let Some(tls) = &self.tls {
                tls.watch(registry.reload.subscribe(), ended.clone()).await;
            }
        };
        let token_keys = registry.auth.watch(registry.reload.subscribe(), ended.clone());
        if let Some(file) = self.audit_file {
            registry.tasks.spawn(file.run(registry.ended.clone()));
        }
        let collect = {
            let storages = registry.storages().map(|each| each.storage().clone()).collect();
            let metrics = registry.metrics.gc.clone();
            gc::collect_now_and_then(storages, &self.config.gc, metrics, ends.drain.clone())
        };
        let compose = self.composing.run(ends.drain.clone());
        let Serve { drain_delay_ms, drain_grace_ms, .. } = self.config.serve;
        // Load balancers see `/readyz` and send nobody more before the port is closed.
        let (close, cut) = (CancellationToken::new(), ends.cut.clone());
        let notice = async {
            ends.drain.cancelled().await;
            let delay = tokio::time::sleep(Duration::from_millis(drain_delay_ms.into()));
            let _either = cut.run_until_cancelled(delay).await;
            close.cancel();
        };
        let front = async {
            let door = Front::new(registry.clone(), rpc::routes(&registry), &self.config);
            let metrics = registry.metrics.serve.clone();
            let limits = Limits {
                drain_grace: Duration::from_millis(drain_grace_ms.into()),
                ..Limits::FRONT
            };
            let ends = Ends { drain: close.clone(), cut: cut.clone() };
            serve::run(self.listener, self.tls.clone(), door, limits, metrics, ends).await;
            // The connections are gone: what still answers finds nobody.
            registry.ended.cancel();
            registry.tasks.close();
            registry.tasks.wait().await;
            registry.quota.close().await;
            ended.cancel();
        };
        tokio::join!(admin, sweep, regions, files, token_keys, collect, compose, notice, front);
    }
}

/// One store, or one for each region.
#[derive(Debug)]
enum Stores {
    One(OpenedStore),
    Regions(Vec<OpenedStore>),
}

impl Stores {
    async fn open(
        self,
        config: &Config,
        keys: &Keyring,
        metrics: &Metrics,
    ) -> Result<(CachedStorage, Option<Regions>), StartError> {
        match self {
            Self::One(opened) => {
                let key = keys.signing().clone();
                let storage = open_storage(config, opened, key.clone()).await?;
                let storage = storage.accepting(keys.verifying());
                Ok((CachedStorage::new(storage, key, &config.cache), None))
            }
            Self::Regions(opened) => {
                let regions = Regions::open(config, opened, keys, &metrics.regions).await?;
                Ok((regions.default_storage().clone(), Some(regions)))
            }
        }
    }
}

/// Finds out what the store does, and whether that is enough for what is configured.
///
/// # Errors
/// When the store cannot be used, or a feature cannot be right on it.
pub async fn open_storage(
    config: &Config,
    opened: OpenedStore,
    key: Arc<longshore_proto::sign::SigningKey>,
) -> Result<Storage, StartError> {
    let OpenedStore { store, presigner, name } = opened;
    let failed = |error| StartError::Storage(format!("{name}: {}", causes(&error)));
    let storage = Storage::open(store, key).await.map_err(failed)?;
    let patterns = &config.storage.immutable_tags;
    let storage = storage.with_presigner(presigner).with_immutable_tags(patterns);
    let storage = storage.listing_in_order(config.storage.url.lists_in_order());
    let conditional_create = storage.capabilities().conditional_create;
    let redirects = storage.redirects();
    tracing::info!(store = %name, conditional_create, redirects, "storage is open");
    if !patterns.is_empty() && !conditional_create {
        return Err(StartError::Config {
            key: "storage.immutable_tags",
            message: format!("{name} overwrites where it should refuse: no tag is immutable there"),
        });
    }
    Quota::check_store(&config.quota, storage.capabilities(), &name)?;
    Ok(storage)
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Config { key, message } => Self::Config { key, message },
            OpenError::Io(error) => Self::Storage(error.to_string()),
        }
    }
}

/// Whether this machine alone has what is stored.
fn is_local(config: &Config) -> bool {
    let regions = &config.regions.region;
    match regions.is_empty() {
        true => config.storage.url.is_local(),
        false => regions.iter().all(|region| region.storage.url.is_local()),
    }
}

/// The signing key that the configuration names; at a first start it is made where it may be.
pub fn load_key(
    config: &Config,
    first_start: bool,
) -> Result<Arc<longshore_proto::sign::SigningKey>, StartError> {
    let may_make = first_start && is_local(config);
    let loaded = keys::load(&config.identity.signing_key_file, may_make);
    loaded.map(Arc::new).map_err(|error: KeyFileError| StartError::Config {
        key: "identity.signing_key_file",
        message: error.to_string(),
    })
}

/// The signing key as [`load_key`] has it, and the keys that are accepted beside it.
pub fn load_keys(config: &Config, first_start: bool) -> Result<Keyring, StartError> {
    let signing = load_key(config, first_start)?;
    let ring = Keyring::of(signing).accepting(&config.identity.accepted_key_files);
    ring.map_err(|error| StartError::Config {
        key: "identity.accepted_key_files",
        message: error.to_string(),
    })
}

fn bad_tls(error: TlsError) -> StartError {
    StartError::Config { key: error.key, message: error.message }
}

fn open_audit(
    config: &Config,
    metrics: &Metrics,
    reload: &Reload,
) -> Result<(Audit, Option<AuditFile>), StartError> {
    let path = config.auth.audit_file.as_deref();
    let opened = Audit::open(path, metrics.auth.audit_lost.clone(), reload.subscribe());
    opened.map_err(|error| StartError::Config {
        key: "auth.audit_file",
        message: format!("cannot open it: {error}"),
    })
}

fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    serve::bind(address).map_err(|source| StartError::Listen { key, address, source })
}

fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another process has the port".to_owned(),
        _ => error.to_string(),
    }
}

/// An error and its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
