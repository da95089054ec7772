//! One agent, put together: which room knows which, what starts before what, and what ends first.
//!
//! Owns the order. Ports and the disk are taken before anything runs, so that a start that can
//! not succeed says one line and changes nothing. hosts.toml is written last and removed first.
//! Everything that runs is a worker of one of two sets, doors and rooms, and both are joined.

mod direct;
mod error;
mod probe;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use error::StartError;

use crate::admin::{Admin, Readiness};
use crate::config::Config;
use crate::containerd::{Hosts, MirrorHost, MirrorSecret, WrittenHosts, remove_ours};
use crate::control::{self, ControlSocket};
use crate::identity;
use crate::metrics::{self, AgentMetrics};
use crate::mirror::{Mirror, MirrorMetrics, MirrorOptions};
use crate::notify::Notify;
use crate::origin::{ClientConfig, JoinAs, Membership, OriginClient, OriginMetrics};
use crate::pull::{PullConfig, PullMetrics, Puller, Registries, own_platform};
use crate::shutdown::{DRAIN, SETTLE, Shutdown};
use crate::store::{PieceStore, StoreMetrics};
use crate::watchdog::Watchdog;
use crate::worker::{Step, Workers};

use direct::Direct;
use view::AgentView;

/// How long a start waits for the first attempt to join; then the agent serves without.
const JOIN_PATIENCE: Duration = Duration::from_secs(3);

/// Where a running agent is found; of interest where the configuration said port 0.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// containerd's.
    pub mirror: SocketAddr,
    /// Metrics and health.
    pub admin: SocketAddr,
}

/// A running agent. Dropping it leaves its tasks to the runtime; [`Agent::stop`] ends them.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    addresses: Addresses,
    secret: Option<MirrorSecret>,
    doors: Workers,
    rooms: Workers,
    shutdown: Shutdown,
    readiness: watch::Sender<Readiness>,
    metrics: AgentMetrics,
    notify: Arc<Notify>,
}

/// What a start takes before anything runs.
struct Taken {
    mirror: TcpListener,
    admin: TcpListener,
    control: ControlSocket,
    store: PieceStore,
    identity: libp2p::identity::Keypair,
}

impl Agent {
    /// Starts an agent and returns when it is ready: a member of its pool, or serving without
    /// its origin. The runtime's pulse goes to `watchdog`.
    pub async fn start(
        config: Config,
        notify: Arc<Notify>,
        watchdog: Option<&Watchdog>,
    ) -> Result<Self, StartError> {
        // An agent of this process may have installed the same one before.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let mut registry = metrics::registry();
        let store_metrics = StoreMetrics::register(metrics::room(&mut registry, "store"));
        let taken = Taken::take(&config, store_metrics).await?;
        let addresses = taken.addresses()?;
        let (doors, rooms, shutdown) =
            (Workers::default(), Workers::default(), Shutdown::default());
        let agent_metrics = AgentMetrics::register(metrics::room(&mut registry, "agent"));
        let (readiness, ready) = watch::channel(Readiness::Not("starting"));
        if let Some(watchdog) = watchdog {
            let pulse = pulse(&agent_metrics, &notify);
            let beat = watchdog.beat(shutdown.watch.clone(), pulse);
            rooms.spawn("heartbeat", &shutdown.watch, |_, _| beat);
        }
        tracing::info!(
            mirror = %addresses.mirror,
            store = %taken.store.root().display(),
            origin = %config.origin.url,
            "starting"
        );

        let origin = Arc::new(OriginClient::new(
            &ClientConfig { url: config.origin.url.clone(), join: join_as(&config, &taken) },
            OriginMetrics::register(metrics::room(&mut registry, "origin")),
        )?);
        let fetcher = Arc::new(Direct::new(origin.clone(), shutdown.rooms.clone()));
        let puller = Puller::new(
            PullConfig {
                registries: Registries::new(config.containerd.registries.clone()),
                keys: config.origin.signing_keys.clone(),
                platform: own_platform(),
                tag_stale_max: config.mirror.tag_stale_max,
                stall_timeout: config.mirror.stall_timeout,
            },
            taken.store.clone(),
            origin.clone(),
            fetcher,
            PullMetrics::register(metrics::room(&mut registry, "pull")),
            shutdown.rooms.clone(),
        );
        let secret = (!config.mirror.open).then(MirrorSecret::generate);
        let options = MirrorOptions {
            secret: secret.clone(),
            first_byte_timeout: config.mirror.first_byte_timeout,
        };
        let mirror_metrics = MirrorMetrics::register(metrics::room(&mut registry, "mirror"));
        let mirror = Mirror::new(taken.mirror, options, puller.clone(), mirror_metrics.clone());
        let hosts = watch::Sender::new(WrittenHosts::default());
        let view = AgentView {
            config: config.clone(),
            addresses,
            started: Instant::now(),
            peer_id: taken.identity.public().to_peer_id(),
            origin: origin.clone(),
            puller: puller.clone(),
            store: taken.store.clone(),
            mirror: mirror_metrics,
            workers: [doors.clone(), rooms.clone()],
            ready: ready.clone(),
            hosts: hosts.subscribe(),
        };

        rooms.spawn("join", &shutdown.rooms, |end, _| origin.clone().keep_joined(end));
        rooms.spawn("recovery", &shutdown.rooms, |end, step| recover(taken.store, end, step));
        rooms.spawn("pulls", &shutdown.rooms, |end, _| async move {
            end.cancelled().await;
            puller.join().await;
        });
        doors.spawn("mirror", &shutdown.doors, |end, _| mirror.run(end));
        doors.spawn("control", &shutdown.doors, |end, _| {
            control::serve(taken.control, Arc::new(view), end)
        });
        // It tells how the shutdown goes, so it ends last.
        let admin = Admin::new(Arc::new(registry), ready);
        rooms.spawn("admin", &shutdown.watch, |end, _| admin.serve(taken.admin, end));
        #[cfg(feature = "test-hooks")]
        crate::hooks::wedge_at_sigusr2().map_err(StartError::Runtime)?;

        let agent = Self {
            config,
            addresses,
            secret,
            doors,
            rooms,
            shutdown,
            readiness,
            metrics: agent_metrics,
            notify,
        };
        match agent.open(&origin, &hosts).await {
            Ok(()) => Ok(agent),
            Err(error) => {
                agent.stop().await;
                Err(error)
            }
        }
    }

    /// Where it is found.
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What the mirror asks of its clients; none when it is open.
    pub const fn secret(&self) -> Option<&MirrorSecret> {
        self.secret.as_ref()
    }

    /// Waits until a part of it has ended before its time: it should be stopped then.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.doors.failed() => {}
            () = self.rooms.failed() => {}
        }
    }

    /// Ends it in order: hosts.toml, the front doors, the rooms. False when something had to be
    /// left behind.
    pub async fn stop(self) -> bool {
        self.notify.stopping();
        self.readiness.send_replace(Readiness::Not("stopping"));
        self.metrics.ready.set(0);
        let directory = self.config.containerd.hosts_dir.clone();
        match tokio::task::spawn_blocking(move || remove_ours(&directory)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "hosts.toml stays"),
            Err(error) => tracing::error!(%error, "hosts.toml stays"),
        }
        self.metrics.hosts_written.set(0);
        self.shutdown.doors.cancel();
        let drained = self.doors.join(DRAIN).await;
        tracing::debug!(drained, "front doors are shut");
        self.shutdown.rooms.cancel();
        self.shutdown.watch.cancel();
        let settled = self.rooms.join(SETTLE).await;
        if !drained || !settled {
            tracing::warn!(drained, settled, "some workers did not end in time");
        }
        tracing::info!("stopped");
        drained && settled
    }

    /// Lets containerd in, once there is something to let it into.
    async fn open(
        &self,
        origin: &OriginClient,
        hosts: &watch::Sender<WrittenHosts>,
    ) -> Result<(), StartError> {
        self.await_origin(origin).await;
        probe::mirror_answers(self.addresses.mirror, self.secret.as_ref())
            .await
            .map_err(StartError::Mirror)?;
        let files = Hosts::new(
            self.config.containerd.hosts_dir.clone(),
            self.config.containerd.registries.clone(),
        );
        let mirror = MirrorHost {
            address: self.addresses.mirror,
            secret: self.secret.clone(),
            origin: self.config.origin.url.clone(),
        };
        let written = tokio::task::spawn_blocking(move || files.write(&mirror))
            .await
            .map_err(|error| StartError::Runtime(error.into()))??;
        for (registry, path) in &written.foreign {
            tracing::warn!(
                %registry, path = %path.display(),
                "left alone: this hosts.toml is not ours, so pulls do not go through the mirror"
            );
        }
        self.metrics.hosts_written.set(written.written.len() as i64);
        self.metrics.hosts_foreign.set(written.foreign.len() as i64);
        hosts.send_replace(written);
        self.readiness.send_replace(Readiness::Ready);
        self.metrics.ready.set(1);
        self.notify.ready();
        tracing::info!(mirror = %self.addresses.mirror, "ready");
        Ok(())
    }

    /// Until the first attempt to join has ended, within bounds.
    async fn await_origin(&self, origin: &OriginClient) {
        self.readiness.send_replace(Readiness::Not("joining the origin"));
        self.notify.status("joining the origin");
        let mut membership = origin.sessions().changes();
        let tried = membership.wait_for(|now| !matches!(now, Membership::Joining));
        if !matches!(tokio::time::timeout(JOIN_PATIENCE, tried).await, Ok(Ok(_))) {
            tracing::warn!("the origin does not answer; serving without it until it does");
        }
    }
}

impl Taken {
    async fn take(config: &Config, store_metrics: StoreMetrics) -> Result<Self, StartError> {
        let mirror = listen("mirror.listen", config.mirror.listen).await?;
        let admin = listen("admin.listen", config.admin_listen).await?;
        let (settings, hosts_dir) = (config.store.clone(), config.containerd.hosts_dir.clone());
        let disk = tokio::task::spawn_blocking(move || {
            let store = PieceStore::open(&settings, store_metrics)?;
            let identity = identity::load_or_make(&settings.path)?;
            // Ports and store are ours: what is there was left by an agent that is dead, and
            // leads to a port that nobody answers yet.
            remove_ours(&hosts_dir)?;
            Ok::<_, StartError>((store, identity))
        });
        let (store, identity) = disk.await.map_err(|error| StartError::Runtime(error.into()))??;
        let control = ControlSocket::bind(&config.control_socket)?;
        Ok(Self { mirror, admin, control, store, identity })
    }

    fn addresses(&self) -> Result<Addresses, StartError> {
        Ok(Addresses {
            mirror: self.mirror.local_addr().map_err(StartError::Runtime)?,
            admin: self.admin.local_addr().map_err(StartError::Runtime)?,
        })
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::listen(key, address, source))
}

fn join_as(config: &Config, taken: &Taken) -> JoinAs {
    JoinAs {
        node_name: config.node.name.clone(),
        pool: config.node.pool.clone(),
        zone: config.node.zone.clone(),
        public_key: taken.identity.public().encode_protobuf(),
        token_file: config.origin.token_file.clone(),
    }
}

/// At each beat of the runtime: tells the manager, and notes how long the runtime was silent.
fn pulse(metrics: &AgentMetrics, notify: &Arc<Notify>) -> impl Fn() + Send + 'static {
    let (longest, notify) = (metrics.runtime_silence_longest.clone(), Arc::clone(notify));
    let last = std::sync::Mutex::new(Instant::now());
    move || {
        notify.alive();
        let mut last = last.lock().expect("nothing panics while it holds the time");
        let silent = i64::try_from(last.elapsed().as_millis()).unwrap_or(i64::MAX);
        longest.set(longest.get().max(silent));
        *last = Instant::now();
    }
}

/// Verifies what another boot left, so that peers can have it before anybody here asks for it.
async fn recover(store: PieceStore, end: tokio_util::sync::CancellationToken, step: Step) {
    let stale: Vec<_> = store
        .blobs()
        .into_iter()
        .filter(|blob| blob.needs_recovery())
        .map(|blob| blob.digest())
        .collect();
    for (at, digest) in stale.iter().enumerate() {
        step.set(format!("verifying blob {} of {}", at + 1, stale.len()));
        let Some(blob) = store.peek(digest) else { continue };
        tokio::select! {
            () = end.cancelled() => return,
            () = blob.recover() => {}
        }
    }
    step.set(format!("{} blobs of an earlier boot verified", stale.len()));
    end.cancelled().await;
}

#[cfg(test)]
mod tests;
