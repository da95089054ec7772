//! The tracker as the services see it: cells behind a lock, the clock, the counters.
//!
//! No call waits for anything: each holds the lock for its own computation only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longshore_proto::Digest;
use tokio_util::sync::CancellationToken;

use super::{Announce, Announced, Cell, Peer, PermitAnswer, PermitAsk};
use crate::auth::NodeSession;
use crate::metrics::TrackerMetrics;

/// Cells of one instance; nodes of further ones pull from the store by themselves.
const CELLS_MAX: usize = 4096;
/// Between two looks for what is over, when nobody asks.
const SWEEP: Duration = Duration::from_secs(1);

/// All cells of this instance.
#[derive(Debug)]
pub struct TrackerHandle {
    cells: Mutex<BTreeMap<String, Cell>>,
    started: Instant,
    period_ms: u64,
    first_permit: u64,
    metrics: TrackerMetrics,
}

impl TrackerHandle {
    /// No cells yet.
    pub fn new(period_ms: u64, metrics: TrackerMetrics) -> Self {
        // Far from any other instance's, and never so high that counting could end.
        let first_permit = u64::from(rand::random::<u32>()) << 31;
        let cells = Mutex::new(BTreeMap::new());
        Self { cells, started: Instant::now(), period_ms, first_permit, metrics }
    }

    /// A node joined here.
    pub fn join(&self, session: &NodeSession, addresses: Vec<String>) {
        let (peer_id, zone) = (session.peer_id.clone(), session.zone.clone());
        self.with(session, |cell, now| cell.join(now, Peer { peer_id, addresses, zone }));
    }

    /// A node says how it stands.
    pub fn announce(&self, session: &NodeSession, announce: Announce) -> Announced {
        self.metrics.announces.inc();
        self.with(session, |cell, now| {
            cell.announce(now, &session.peer_id, &session.zone, announce)
        })
    }

    /// A node begins to pull; who else has or fetches these blobs.
    pub fn plan(&self, session: &NodeSession, blobs: &[(Digest, u64)]) -> Vec<Peer> {
        self.with(session, |cell, now| cell.plan(now, &session.peer_id, &session.zone, blobs))
    }

    /// A node has room for pieces.
    pub fn permit(&self, session: &NodeSession, ask: &PermitAsk) -> PermitAnswer {
        self.with(session, |cell, now| cell.permit(now, &session.peer_id, &session.zone, ask))
    }

    /// Ends what is over until `shutdown`.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let now_ms = self.now_ms();
            let mut cells = self.lock();
            cells.values_mut().for_each(|cell| cell.sweep(now_ms));
            cells.values_mut().for_each(|cell| self.count(cell));
            cells.retain(|_, cell| cell.members() > 0);
            let members: usize = cells.values().map(Cell::members).sum();
            self.metrics.members.set(members as i64);
        }
    }

    fn with<T: Default>(&self, session: &NodeSession, call: impl FnOnce(&mut Cell, u64) -> T) -> T {
        let now_ms = self.now_ms();
        let mut cells = self.lock();
        let name = session.cell();
        if cells.len() >= CELLS_MAX && !cells.contains_key(&name) {
            return T::default();
        }
        // The instance's start, not the cell's: what nodes hold is missing here only after that.
        let cell =
            cells.entry(name).or_insert_with(|| Cell::new(self.period_ms, 0, self.first_permit));
        let answer = call(cell, now_ms);
        self.count(cell);
        answer
    }

    fn count(&self, cell: &mut Cell) {
        let tally = cell.take_tally();
        self.metrics.permits_given.inc_by(tally.given);
        self.metrics.permits_refused.inc_by(tally.refused);
        self.metrics.permits_expired.inc_by(tally.expired);
        self.metrics.permits_extra.inc_by(tally.extra);
        self.metrics.pieces_reopened.inc_by(tally.reopened);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A panic inside a call leaves a cell that is soft state all the same.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Cell>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
