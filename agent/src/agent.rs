//! One agent, put together: which room knows which, what starts before what, and what ends first.
//!
//! Owns the order. Ports and the disk are taken before anything runs, so that a start that can
//! not succeed says one line and changes nothing. hosts.toml is written last and removed first.
//! Everything that runs is a worker of one of two sets, doors and rooms, and both are joined.

mod error;
mod probe;
mod rooms;
mod taken;
mod view;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use error::StartError;

use crate::admin::{Admin, Readiness};
use crate::config::Config;
use crate::containerd::{Hosts, HostsError, MirrorHost, MirrorSecret, WrittenHosts, remove_ours};
use crate::control;
use crate::metrics::{self, AgentMetrics};
use crate::mirror::{Mirror, MirrorMetrics, MirrorOptions};
use crate::notify::Notify;
use crate::origin::{Membership, OriginClient};
use crate::shutdown::{DRAIN, SETTLE, Shutdown};
use crate::store::StoreMetrics;
use crate::watchdog::Watchdog;
use crate::worker::{Step, Workers};

use rooms::Rooms;
use taken::Taken;
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
    /// Peers'.
    pub swarm: SocketAddr,
}

/// A running agent. Dropping it leaves its tasks to the runtime; [`Agent::stop`] ends them.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    addresses: Addresses,
    secret: Option<MirrorSecret>,
    crew: Crew,
    readiness: watch::Sender<Readiness>,
    hosts: watch::Sender<WrittenHosts>,
    metrics: AgentMetrics,
    notify: Arc<Notify>,
}

/// All that runs, and how it is told to end.
#[derive(Clone, Debug, Default)]
struct Crew {
    doors: Workers,
    rooms: Workers,
    shutdown: Shutdown,
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
        let metrics = AgentMetrics::register(metrics::room(&mut registry, "agent"));
        let taken = Taken::take(&config, store_metrics).await?;
        let crew = Crew::default();
        if let Some(watchdog) = watchdog {
            let beat = watchdog.beat(crew.shutdown.watch.clone(), pulse(&metrics, &notify));
            crew.watch("heartbeat", |_, _| beat);
        }
        #[cfg(feature = "test-hooks")]
        crate::hooks::wedge_at_sigusr2().map_err(StartError::Runtime)?;
        match Self::staff(config, taken, registry, metrics, notify, &crew).await {
            Ok(agent) => Ok(agent),
            Err(error) => {
                crew.end().await;
                Err(error)
            }
        }
    }

    /// Starts the rooms, the doors before them, and lets containerd in.
    async fn staff(
        config: Config,
        taken: Taken,
        mut registry: Registry,
        metrics: AgentMetrics,
        notify: Arc<Notify>,
        crew: &Crew,
    ) -> Result<Self, StartError> {
        let Taken { mirror, admin, control, store, identity } = taken;
        let rooms = Rooms::start(&config, store, identity, &mut registry, crew).await?;
        let addresses = Addresses {
            mirror: mirror.local_addr().map_err(StartError::Runtime)?,
            admin: admin.local_addr().map_err(StartError::Runtime)?,
            swarm: rooms.swarm.local_addr(),
        };
        tracing::info!(
            mirror = %addresses.mirror,
            swarm = %addresses.swarm,
            store = %rooms.store.root().display(),
            origin = %config.origin.url,
            peer = %rooms.swarm.peer_id(),
            "starting"
        );
        let secret = (!config.mirror.open).then(MirrorSecret::generate);
        let options = MirrorOptions {
            secret: secret.clone(),
            first_byte_timeout: config.mirror.first_byte_timeout,
        };
        let mirror_metrics = MirrorMetrics::register(metrics::room(&mut registry, "mirror"));
        let mirror = Mirror::new(mirror, options, rooms.puller.clone(), mirror_metrics.clone());
        let readiness = watch::Sender::new(Readiness::Not("starting"));
        let hosts = watch::Sender::new(WrittenHosts::default());
        let view = Arc::new(AgentView {
            config: config.clone(),
            addresses,
            started: Instant::now(),
            rooms: rooms.clone(),
            mirror: mirror_metrics,
            workers: [crew.doors.clone(), crew.rooms.clone()],
            ready: readiness.subscribe(),
            hosts: hosts.subscribe(),
        });
        let shown = Admin::new(Arc::new(registry), readiness.subscribe());
        crew.door("mirror", |end, _| mirror.run(end));
        crew.door("control", |end, _| control::serve(control, view, end));
        crew.watch("admin", |end, _| shown.serve(admin, end));

        let crew = crew.clone();
        let agent = Self { config, addresses, secret, crew, readiness, hosts, metrics, notify };
        agent.open(&rooms.origin).await?;
        Ok(agent)
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
            () = self.crew.doors.failed() => {}
            () = self.crew.rooms.failed() => {}
        }
    }

    /// Ends it in order: hosts.toml, the front doors, the rooms. False when something had to be
    /// left behind.
    pub async fn stop(self) -> bool {
        self.notify.stopping();
        self.readiness.send_replace(Readiness::Not("stopping"));
        self.metrics.ready.set(0);
        let directory = self.config.containerd.hosts_dir.clone();
        let removed = on_disk(move || remove_ours(&directory)).await;
        if let Err(error) = &removed {
            tracing::error!(%error, "hosts.toml stays");
        }
        self.metrics.hosts_written.set(0);
        self.crew.end().await && removed.is_ok()
    }

    /// Lets containerd in, once there is something to let it into.
    async fn open(&self, origin: &OriginClient) -> Result<(), StartError> {
        self.await_origin(origin).await;
        probe::mirror_answers(self.addresses.mirror, self.secret.as_ref())
            .await
            .map_err(StartError::Mirror)?;
        let containerd = self.config.containerd.clone();
        let files = Hosts::new(containerd.hosts_dir, containerd.registries);
        let mirror = MirrorHost {
            address: self.addresses.mirror,
            secret: self.secret.clone(),
            origin: self.config.origin.url.clone(),
        };
        let written = on_disk(move || files.write(&mirror)).await?;
        for (registry, path) in &written.foreign {
            tracing::warn!(
                %registry, path = %path.display(),
                "left alone: this hosts.toml is not ours, so pulls do not go through the mirror"
            );
        }
        self.metrics.hosts_written.set(written.written.len() as i64);
        self.metrics.hosts_foreign.set(written.foreign.len() as i64);
        self.hosts.send_replace(written);
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

impl Crew {
    /// Something that containerd or an operator talks to.
    fn door<F>(&self, name: &'static str, work: impl FnOnce(CancellationToken, Step) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.doors.spawn(name, &self.shutdown.doors, work);
    }

    /// Something that a door leads to.
    fn room<F>(&self, name: &'static str, work: impl FnOnce(CancellationToken, Step) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.rooms.spawn(name, &self.shutdown.rooms, work);
    }

    /// Something that still watches while all others end.
    fn watch<F>(&self, name: &'static str, work: impl FnOnce(CancellationToken, Step) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.rooms.spawn(name, &self.shutdown.watch, work);
    }

    /// Ends all of it; false when something had to be left behind.
    async fn end(&self) -> bool {
        self.shutdown.doors.cancel();
        let drained = self.doors.join(DRAIN).await;
        tracing::debug!(drained, "front doors are shut");
        self.shutdown.rooms.cancel();
        self.shutdown.watch.cancel();
        let settled = self.rooms.join(SETTLE).await;
        if !drained || !settled {
            tracing::warn!(drained, settled, "some workers did not end in time");
        }
        tracing::debug!("stopped");
        drained && settled
    }
}

/// hosts.toml lies on a disk, and disks block.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostsError> + Send + 'static,
) -> Result<T, StartError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| StartError::Runtime(error.into()))??)
}

/// At each beat of the runtime: tells the manager, and notes how long the runtime was silent.
fn pulse(metrics: &AgentMetrics, notify: &Arc<Notify>) -> impl Fn() + Send + use<> + 'static {
    let (longest, notify) = (metrics.runtime_silence_longest.clone(), Arc::clone(notify));
    let last = Mutex::new(Instant::now());
    move || {
        notify.alive();
        let mut last = last.lock().expect("nothing panics while it holds the time");
        let silent = i64::try_from(last.elapsed().as_millis()).unwrap_or(i64::MAX);
        longest.set(longest.get().max(silent));
        *last = Instant::now();
    }
}

#[cfg(test)]
mod tests;
