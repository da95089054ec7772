//! The tracker as the services see it: sessions for members, and the clock.
//!
//! No call waits for anything: each holds its cell's lock for its own computation only.

use std::time::{Duration, Instant};

use longshore_proto::Digest;
use longshore_proto::rpc::origin as rpc;
use tokio_util::sync::CancellationToken;

use super::{Member, PermitAnswer, Tracker, TrackerConfig, TrackerError, TrackerMetrics};
use crate::auth::NodeSession;

/// Between two looks for what is over, when nobody asks.
const SWEEP: Duration = Duration::from_secs(1);

/// The tracker of this instance.
#[derive(Debug)]
pub struct TrackerHandle {
    tracker: Tracker,
    /// Zero of the tracker's clock, which no change of the wall's touches.
    started: Instant,
}

impl TrackerHandle {
    /// No cells yet.
    pub fn new(announce_period_ms: u32, metrics: TrackerMetrics) -> Self {
        let seed = rand::random();
        let config = TrackerConfig { announce_period_ms, seed, ..TrackerConfig::default() };
        Self { tracker: Tracker::new(config, metrics), started: Instant::now() }
    }

    /// A node joined here.
    pub fn join(&self, session: &NodeSession, addresses: Vec<String>) {
        self.tracker.join(self.now_ms(), member(session, addresses));
    }

    /// A node says how it stands.
    pub fn announce(
        &self,
        session: &NodeSession,
        announce: rpc::AnnounceRequest,
    ) -> Result<rpc::AnnounceResponse, TrackerError> {
        self.tracker.announce(self.now_ms(), &member(session, Vec::new()), announce)
    }

    /// A node begins to pull; who else has or fetches these blobs. A tracker without room for it
    /// is no reason to fail a plan.
    pub fn plan(&self, session: &NodeSession, digests: &[Digest]) -> Vec<rpc::Peer> {
        let (now_ms, member) = (self.now_ms(), member(session, Vec::new()));
        let peers = self.tracker.peers_for(now_ms, &member, digests, usize::MAX);
        if let Err(error) = self.tracker.begin(now_ms, &member, digests) {
            tracing::debug!(peer = %member.peer_id, %error, "plan is not tracked");
        }
        peers
    }

    /// A node has room for pieces.
    pub fn permit(
        &self,
        session: &NodeSession,
        ask: rpc::PermitRequest,
    ) -> Result<PermitAnswer, TrackerError> {
        self.tracker.permit(self.now_ms(), &member(session, Vec::new()), ask)
    }

    /// Ends what is over until `shutdown`.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.tracker.sweep(self.now_ms());
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn member(session: &NodeSession, addresses: Vec<String>) -> Member {
    Member {
        peer_id: session.peer_id.clone(),
        pool: session.pool.clone(),
        zone: session.zone.clone(),
        cell: session.cell(),
        addresses,
    }
}
