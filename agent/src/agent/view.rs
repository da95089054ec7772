//! What operators see: the rooms' states in the words of `longshore.control.v1`.

use std::time::Instant;

use longshore_proto::ImageName;
use longshore_proto::rpc::control as rpc;
use longshore_proto::rpc::control::explain_response::{Layer, OriginReason as AskedOrigin};
use longshore_proto::rpc::control::status_response as parts;
use tokio::sync::watch;

use super::Addresses;
use super::rooms::Rooms;
use crate::admin::Readiness;
use crate::config::Config;
use crate::containerd::WrittenHosts;
use crate::control::View;
use crate::mirror::MirrorMetrics;
use crate::pull::LayerExplanation;
use crate::pull::ledger::OriginReason;
use crate::worker::Workers;

/// Handles of what there is to see.
#[derive(Debug)]
pub(super) struct AgentView {
    pub(super) config: Config,
    pub(super) addresses: Addresses,
    pub(super) started: Instant,
    pub(super) rooms: Rooms,
    pub(super) mirror: MirrorMetrics,
    pub(super) workers: [Workers; 2],
    pub(super) ready: watch::Receiver<Readiness>,
    pub(super) hosts: watch::Receiver<WrittenHosts>,
}

impl View for AgentView {
    fn status(&self) -> rpc::StatusResponse {
        rpc::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name: self.config.node.name.clone(),
            peer_id: self.rooms.swarm.peer_id().to_string(),
            pool: self.config.node.pool.clone(),
            zone: self.config.node.zone.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            not_ready: match &*self.ready.borrow() {
                Readiness::Ready => String::new(),
                Readiness::Not(why) => (*why).to_owned(),
            },
            origin: Some(self.origin()),
            mirror: Some(self.mirror()),
            swarm: Some(self.swarm()),
            store: Some(parts::Store {
                path: self.rooms.store.root().display().to_string(),
                blobs: self.rooms.store.blobs().len() as u64,
                bytes: self.rooms.store.bytes(),
                bytes_max: self.rooms.store.bytes_max(),
            }),
            bytes: Some(self.bytes()),
            workers: self.workers(),
            pulls: self.pulls(),
        }
    }

    fn explain(&self, image: &ImageName) -> Option<rpc::ExplainResponse> {
        let explained = self.rooms.puller.explain(image)?;
        Some(rpc::ExplainResponse {
            image: image.to_string(),
            digest: explained.digest.to_string(),
            state: explained.state.name().to_owned(),
            layers: explained.layers.iter().map(layer).collect(),
        })
    }
}

impl AgentView {
    fn origin(&self) -> parts::Origin {
        let status = self.rooms.origin.status();
        let error = status.error.unwrap_or_else(|| match status.joined {
            true => String::new(),
            false => "no attempt has ended yet".to_owned(),
        });
        parts::Origin {
            url: self.config.origin.url.as_str().trim_end_matches('/').to_owned(),
            joined: status.joined,
            error,
            session_expires_in_s: status.session_expires_in.as_secs(),
        }
    }

    fn mirror(&self) -> parts::Mirror {
        let hosts = self.hosts.borrow();
        let foreign = hosts.foreign.iter().map(|(_, path)| path.display().to_string());
        parts::Mirror {
            address: self.addresses.mirror.to_string(),
            hosts_written: !hosts.written.is_empty(),
            open: self.config.mirror.open,
            requests: self.mirror.answers.get(),
            handed_to_next_host: self.mirror.handed_on.get(),
            foreign_hosts: foreign.collect(),
        }
    }

    fn swarm(&self) -> parts::Swarm {
        let status = self.rooms.swarm.status();
        let count = |peers: usize| u32::try_from(peers).unwrap_or(u32::MAX);
        parts::Swarm {
            address: status.address.to_string(),
            enabled: status.enabled,
            peers: count(status.peers),
            same_zone_peers: count(status.same_zone_peers),
            bad_pieces: status.bad_pieces,
            stalled_requests: status.stalled_requests,
        }
    }

    fn bytes(&self) -> rpc::Bytes {
        let status = self.rooms.swarm.status();
        rpc::Bytes {
            origin: status.origin_bytes,
            peers: status.peer_bytes,
            local: self.rooms.puller.local_bytes(),
            sent_to_peers: status.sent_bytes,
            wasted: status.wasted_bytes,
        }
    }

    fn workers(&self) -> Vec<parts::Worker> {
        let shown = self.workers.iter().flat_map(|workers| workers.shown());
        let named = shown.map(|(name, shown)| parts::Worker {
            name: name.to_owned(),
            status: shown.status.to_owned(),
            step: shown.step,
        });
        named.collect()
    }

    fn pulls(&self) -> Vec<parts::Pull> {
        let pulls = self.rooms.puller.pulls().into_iter();
        let told = pulls.map(|pull| parts::Pull {
            image: pull.image,
            state: pull.state.name().to_owned(),
            bytes_total: pull.bytes_total,
            bytes_verified: pull.bytes_verified,
        });
        told.collect()
    }
}

fn layer(layer: &LayerExplanation) -> Layer {
    let entries = &layer.entries;
    let reasons = OriginReason::ALL.into_iter().map(|why| {
        let amount = entries.origin[why as usize];
        AskedOrigin { why: why.name().to_owned(), pieces: amount.pieces, bytes: amount.bytes }
    });
    Layer {
        digest: layer.descriptor.digest.to_string(),
        media_type: layer.descriptor.media_type.clone(),
        size: layer.descriptor.size,
        pieces: layer.pieces,
        verified_pieces: layer.verified_pieces,
        origin_bytes: entries.origin_bytes(),
        peer_bytes: entries.peers.bytes,
        local_bytes: entries.local.bytes,
        wasted_bytes: entries.wasted.bytes,
        elapsed_ms: u64::try_from(entries.elapsed().as_millis()).unwrap_or(u64::MAX),
        origin_reasons: reasons.filter(|reason| reason.pieces > 0).collect(),
        state: layer.state.name().to_owned(),
        peers: entries.delivering_peers,
    }
}
