//! The rooms behind the front doors, each started on the one before: origin, swarm, pulls.
//!
//! Owns how their settings follow from the configuration; what they do is theirs. Everything that
//! runs is a worker.

use std::sync::Arc;

use libp2p::identity::Keypair;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::{Crew, StartError};
use crate::config::Config;
use crate::metrics::room;
use crate::origin::{ClientConfig, JoinAs, OriginClient, OriginMetrics};
use crate::pull::{PullConfig, PullMetrics, Puller, Registries, own_platform};
use crate::store::PieceStore;
use crate::swarm::{Swarm, SwarmConfig, SwarmMetrics};
use crate::worker::Step;

/// Handles of the rooms.
#[derive(Clone, Debug)]
pub(super) struct Rooms {
    pub(super) origin: Arc<OriginClient>,
    pub(super) swarm: Swarm,
    pub(super) puller: Puller,
    pub(super) store: PieceStore,
}

impl Rooms {
    /// Starts them.
    pub(super) async fn start(
        config: &Config,
        store: PieceStore,
        identity: Keypair,
        registry: &mut Registry,
        crew: &Crew,
    ) -> Result<Self, StartError> {
        let origin = OriginClient::new(
            &ClientConfig { url: config.origin.url.clone(), join: join_as(config, &identity) },
            OriginMetrics::register(room(registry, "origin")),
        )?;
        let origin = Arc::new(origin);
        let swarm_metrics = SwarmMetrics::register(registry);
        // Bytes that came inside a plan came from the origin too: one counter tells all.
        let pull_metrics = PullMetrics {
            inline_bytes: swarm_metrics.inline_bytes(),
            ..PullMetrics::register(room(registry, "pull"))
        };
        let (swarm, driver) = Swarm::start(
            swarm_config(config),
            identity,
            store.clone(),
            origin.clone(),
            swarm_metrics,
            crew.shutdown.rooms.clone(),
        )
        .await?;
        origin.sessions().set_addresses(swarm.addresses());
        let puller = Puller::new(
            pull_config(config),
            store.clone(),
            origin.clone(),
            Arc::new(swarm.clone()),
            pull_metrics,
            crew.shutdown.rooms.clone(),
        );
        let rooms = Self { origin, swarm, puller, store };
        crew.room("swarm", async |_, _| match driver.await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ended => {}
        });
        rooms.employ(crew);
        Ok(rooms)
    }

    fn employ(&self, crew: &Crew) {
        let Self { origin, puller, store, .. } = self.clone();
        crew.room("join", |end, _| origin.keep_joined(end));
        crew.room("recovery", |end, step| recover(store, end, step));
        crew.room("pulls", async move |end: CancellationToken, _| {
            end.cancelled().await;
            puller.join().await;
        });
    }
}

fn join_as(config: &Config, identity: &Keypair) -> JoinAs {
    JoinAs {
        node_name: config.node.name.clone(),
        pool: config.node.pool.clone(),
        zone: config.node.zone.clone(),
        public_key: identity.public().encode_protobuf(),
        token_file: config.origin.token_file.clone(),
    }
}

fn swarm_config(config: &Config) -> SwarmConfig {
    SwarmConfig {
        enabled: config.swarm.enabled,
        listen: config.swarm.listen,
        advertise: config.swarm.advertise,
        pool: config.node.pool.clone(),
        zone: config.node.zone.clone(),
        stall_timeout: config.mirror.stall_timeout,
    }
}

fn pull_config(config: &Config) -> PullConfig {
    PullConfig {
        registries: Registries::new(config.containerd.registries.clone()),
        keys: config.origin.signing_keys.clone(),
        platform: own_platform(),
        tag_stale_max: config.mirror.tag_stale_max,
        stall_timeout: config.mirror.stall_timeout,
    }
}

/// Verifies what another boot left, so that peers can have it before anybody here asks for it.
async fn recover(store: PieceStore, end: CancellationToken, step: Step) {
    let blobs = store.blobs();
    let stale: Vec<_> = blobs.iter().filter(|blob| blob.needs_recovery()).collect();
    let stale: Vec<_> = stale.into_iter().map(|blob| blob.digest()).collect();
    // Holding a blob keeps it from being evicted.
    drop(blobs);
    for (at, digest) in stale.iter().enumerate() {
        step.set(format!("verifying blob {} of {}", at + 1, stale.len()));
        let Some(blob) = store.peek(digest) else { continue };
        tokio::select! {
            () = end.cancelled() => return,
            () = blob.recover() => {}
        }
    }
    step.set(match stale.len() {
        0 => "nothing of an earlier boot".to_owned(),
        blobs => format!("verified {blobs} blobs of an earlier boot"),
    });
    end.cancelled().await;
}
