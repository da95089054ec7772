//! The tracker: who is in a cell, who holds which piece, and who may read the next one from the store.
//!
//! Owns members, holdings and permits, in memory only: everything is rebuilt from what nodes send,
//! so an instance that has just started is whole again after one round of calls. Each cell is a
//! state machine without I/O, clock or randomness of its own (`cell`, `grant`, `report`, …); this
//! file is the thread-safe shell around them, `handle` gives it the clock, `service` the wire and
//! the gate: the state machine never signs, names URLs or asks who may read a repository. It must
//! never hand a piece out twice while a live member of the cell holds or fetches it, but for the
//! budget of extra copies. It ends with its owner; [`TrackerHandle::sweep`] runs until it is told.

mod blob;
mod cell;
mod grant;
mod handle;
mod holdings;
mod limits;
mod member;
mod metrics;
mod peers;
mod permits;
mod report;
mod request;
mod service;
#[cfg(test)]
mod tests;
mod window;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{ByteRange, Digest, RepositoryName};

use cell::Cell;
pub use handle::TrackerHandle;
use limits::{CELL_CHARS_MAX, CELLS_MAX};
pub use metrics::TrackerMetrics;
use request::{Ask, Telling};
pub use service::TrackerService;

/// What an operator may set; times are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackerConfig {
    /// How often a node announces. One that says nothing for three of these holds nothing.
    pub announce_period_ms: u32,
    /// A permit whose piece has not arrived after this long is given to another node.
    pub permit_deadline_ms: u32,
    /// Pieces that one node may be reading from the store at a time.
    pub outstanding_per_node: u32,
    /// Nodes too few to reach this many bytes by the above divide them among each other, so that
    /// one alone loses nothing against a pull without a swarm.
    pub outstanding_cell_bytes: u64,
    /// Asks for fewer pieces than this are a small pool: a second copy comes soon.
    pub small_pool_pieces: u32,
    /// In a small pool: how long a client, or a node without progress, waits for a second copy.
    pub small_pool_wait_ms: u32,
    /// In a large pool: how long a client waits at a piece before it may be read again.
    pub slow_piece_ms: u32,
    /// Extra copies in large pools, in percent of the permits given.
    pub extra_percent: u32,
    /// Most peers in one answer.
    pub peers_max: usize,
    /// Members in the sample of an answer.
    pub members_sample: usize,
    /// A cell that begins with nodes in mid-pull (this instance has just started) first listens
    /// this long, so that what they hold is not read again.
    pub recovery_ms: u32,
    /// Makes permit ids differ between instances; choose it at random at every start.
    pub seed: u64,
}

/// A node, as its session names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// libp2p PeerId, base58.
    pub peer_id: String,
    /// Its pool.
    pub pool: String,
    /// Its zone.
    pub zone: String,
    /// Where it shares: one origin copy is paid per cell.
    pub cell: String,
    /// Multiaddrs; empty keeps those already known.
    pub addresses: Vec<String>,
}

/// Leave to read a run of pieces; the service adds how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermitGrant {
    /// As the asker named it.
    pub repository: RepositoryName,
    /// The blob.
    pub digest: Digest,
    /// First piece.
    pub first: PieceIndex,
    /// How many, at least 1.
    pub pieces: u32,
    /// The bytes of the run.
    pub range: ByteRange,
    /// After this long the pieces may be given to another node.
    pub deadline_ms: u32,
    /// Unique in this instance; never 0.
    pub permit_id: u64,
}

/// What an asker may read, and whom to ask for what it may not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PermitAnswer {
    /// Urgent pieces first, each alone.
    pub grants: Vec<PermitGrant>,
    /// Urgent pieces first; at most 16, each with at most 8 holders.
    pub refusals: Vec<rpc::Refusal>,
    /// When to ask again.
    pub retry_after_ms: u32,
}

/// Why a call changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// The request makes no sense: do not send it again.
    #[error("{field}: {why}")]
    Invalid {
        /// The request's field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No room for another cell or member: go on without the tracker, ask again later.
    #[error("tracker has no room for another {0}")]
    Full(&'static str),
}

/// All cells of this instance. Every call takes `now_ms`, a clock that need not be wall time.
#[derive(Debug)]
pub struct Tracker {
    config: TrackerConfig,
    metrics: TrackerMetrics,
    cells: RwLock<BTreeMap<String, Arc<Mutex<Cell>>>>,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            announce_period_ms: 5_000,
            permit_deadline_ms: 15_000,
            outstanding_per_node: 4,
            outstanding_cell_bytes: 32 << 20,
            small_pool_pieces: 64,
            small_pool_wait_ms: 500,
            slow_piece_ms: 2_000,
            extra_percent: 5,
            peers_max: 40,
            members_sample: 16,
            recovery_ms: 1_000,
            seed: 0,
        }
    }
}

impl Tracker {
    /// A tracker that knows nobody.
    pub fn new(config: TrackerConfig, metrics: TrackerMetrics) -> Self {
        Self { config, metrics, cells: RwLock::default() }
    }

    /// A node joined. A tracker without room forgets it; its next call says so.
    pub fn join(&self, now_ms: u64, member: Member) {
        let joined = self.with_cell(now_ms, &member, |cell| cell.join(now_ms, &member).map(drop));
        if let Err(error) = joined {
            tracing::warn!(peer = %member.peer_id, %error, "member is not tracked");
        }
    }

    /// A node tells what it holds, and learns of peers. `policy_epoch` is left 0, for the caller.
    pub fn announce(
        &self,
        now_ms: u64,
        member: &Member,
        request: rpc::AnnounceRequest,
    ) -> Result<rpc::AnnounceResponse, TrackerError> {
        let telling = Telling::parse(request)?;
        self.with_cell(now_ms, member, |cell| cell.announce(now_ms, member, telling))
    }

    /// A node asks for pieces to read from the store. The caller has checked that it may read
    /// the repositories, and that they have the blobs.
    pub fn permit(
        &self,
        now_ms: u64,
        member: &Member,
        request: rpc::PermitRequest,
    ) -> Result<PermitAnswer, TrackerError> {
        let ask = Ask::parse(request)?;
        self.with_cell(now_ms, member, |cell| cell.permit(now_ms, member, ask))
    }

    /// A node begins to pull these: it wants them until its next announce says what it wants.
    pub fn begin(
        &self,
        now_ms: u64,
        member: &Member,
        digests: &[Digest],
    ) -> Result<(), TrackerError> {
        self.with_cell(now_ms, member, |cell| {
            let id = cell.join(now_ms, member)?;
            cell.begin(id, digests);
            Ok(())
        })
    }

    /// Peers of the member's cell that hold or want any of `digests`, for a plan.
    pub fn peers_for(
        &self,
        now_ms: u64,
        member: &Member,
        digests: &[Digest],
        max: usize,
    ) -> Vec<rpc::Peer> {
        self.with_cell(now_ms, member, |cell| Ok(cell.peers_for(now_ms, member, digests, max)))
            .unwrap_or_default()
    }

    /// Forgets members that fell silent, permits past their deadline and cells without members.
    /// Call it about once a second; every call on a cell does the same for that cell.
    pub fn sweep(&self, now_ms: u64) {
        let cells: Vec<_> = self.read_cells().values().cloned().collect();
        for cell in &cells {
            let mut cell = self.lock(cell);
            cell.sweep(now_ms);
            self.metrics.add(cell.take_tally());
        }
        drop(cells);
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| Arc::strong_count(cell) > 1 || !self.lock(cell).is_empty());
    }

    fn with_cell<T>(
        &self,
        now_ms: u64,
        member: &Member,
        act: impl FnOnce(&mut Cell) -> Result<T, TrackerError>,
    ) -> Result<T, TrackerError> {
        let cell = self.cell(now_ms, &member.cell)?;
        let mut cell = self.lock(&cell);
        let result = act(&mut cell);
        self.metrics.add(cell.take_tally());
        result
    }

    fn cell(&self, now_ms: u64, name: &str) -> Result<Arc<Mutex<Cell>>, TrackerError> {
        if let Some(cell) = self.read_cells().get(name) {
            return Ok(Arc::clone(cell));
        }
        if name.len() > CELL_CHARS_MAX {
            let why = format!("cell has more than {CELL_CHARS_MAX} characters");
            return Err(TrackerError::Invalid { field: "session", why });
        }
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        if !cells.contains_key(name) && cells.len() >= CELLS_MAX {
            return Err(TrackerError::Full("cell"));
        }
        let cell = cells
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Mutex::new(Cell::new(self.config, now_ms))));
        Ok(Arc::clone(cell))
    }

    fn read_cells(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Mutex<Cell>>>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cell that a bug left half changed is replaced by a new one: nodes tell it all again.
    fn lock<'a>(&self, cell: &'a Mutex<Cell>) -> MutexGuard<'a, Cell> {
        cell.lock().unwrap_or_else(|poisoned| {
            let mut guard = poisoned.into_inner();
            let fresh = Cell::new(self.config, guard.now_ms());
            let lost = std::mem::replace(&mut *guard, fresh);
            self.metrics.members.dec_by(lost.members_counted());
            cell.clear_poison();
            guard
        })
    }
}
