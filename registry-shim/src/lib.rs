//! `longshore-registry`: an OCI registry on object storage without a database, and the origin of a
//! Longshore fleet.
//!
//! [`Instance::start`] opens the store, the keys and both ports; [`Instance::run`] serves until its
//! token is cancelled and has drained. Tests and `main` use the same two doors.

mod admin;
mod api;
pub mod auth;
pub mod cache;
pub mod config;
mod join;
pub mod keys;
pub mod metrics;
mod plan;
pub mod registry;
mod rpc;
mod server;
pub mod shutdown;
mod stalled;
pub mod storage;
pub mod tracker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_proto::sign::PublicKey;
use object_store::ObjectStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use auth::{Auth, JoinTokens, TokenFileError};
use cache::CachedStorage;
use config::Config;
use keys::KeyFileError;
use metrics::Metrics;
use registry::Registry;
use storage::Storage;
use tracker::TrackerHandle;

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
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be used: exit 1.
    #[error("cannot use storage: {0}")]
    Storage(String),
}

/// An instance that has its ports and does not answer yet.
#[derive(Debug)]
pub struct Instance {
    registry: Arc<Registry>,
    listener: TcpListener,
    admin: TcpListener,
}

impl Instance {
    /// Opens everything that the configuration names.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let store =
            config.storage.url.open().map_err(|error| {
                StartError::Storage(format!("{:?}: {error}", config.storage.url))
            })?;
        Self::start_over(config, store).await
    }

    /// Over a store that the caller opened; `storage.url` then only says whether a key may be made.
    pub async fn start_over(
        config: &Config,
        store: Arc<dyn ObjectStore>,
    ) -> Result<Self, StartError> {
        let key = load_key(config)?;
        let tokens = JoinTokens::load(config.join.token_file.as_deref()).map_err(bad_tokens)?;
        let listener = listen(config.serve.listen).await?;
        let admin = listen(config.admin.listen).await?;
        let storage = Storage::new(store, key.clone());
        storage.probe().await.map_err(|error| StartError::Storage(causes(&error)))?;
        let metrics = Metrics::new();
        let period_ms = config.tracker.announce_period_ms;
        let registry = Arc::new(Registry {
            storage: CachedStorage::new(storage, key.clone()),
            auth: Auth::new(&key),
            tokens,
            tracker: TrackerHandle::new(period_ms, metrics.tracker.clone()),
            key,
            metrics,
            advertise: config.serve.advertise.clone(),
            announce_period_ms: period_ms,
            tasks: TaskTracker::new(),
        });
        Ok(Self { registry, listener, admin })
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
        self.registry.key.public().clone()
    }

    /// Serves until `shutdown`, then drains; metrics and health until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let draining = Arc::new(AtomicBool::new(false));
        let ended = CancellationToken::new();
        let admin =
            admin::serve(self.registry.clone(), self.admin, draining.clone(), ended.clone());
        let sweep = self.registry.tracker.sweep(ended.clone());
        let main = async {
            let served = server::serve(self.registry.clone(), self.listener, shutdown.clone());
            let marked = async {
                shutdown.cancelled().await;
                draining.store(true, Ordering::Relaxed);
            };
            tokio::join!(served, marked);
            ended.cancel();
        };
        tokio::join!(admin, sweep, main);
    }
}

/// The signing key that the configuration names, made where it may be.
pub fn load_key(config: &Config) -> Result<Arc<longshore_proto::sign::SigningKey>, StartError> {
    let may_make = config.storage.url.is_local();
    let loaded = keys::load(&config.identity.signing_key_file, may_make);
    loaded.map(Arc::new).map_err(|error: KeyFileError| StartError::Config {
        key: "identity.signing_key_file",
        message: error.to_string(),
    })
}

fn bad_tokens(error: TokenFileError) -> StartError {
    StartError::Config { key: "join.token_file", message: error.to_string() }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

/// An error and its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
