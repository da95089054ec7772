//! The engine's bounds. Sources: `facts/swarm.md` of the design for windows and queues.

use std::time::Duration;

/// Every bound of the engine; the defaults are what the simulations liked best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight to all peers together.
    pub requests: usize,
    /// Requests in flight to one peer.
    pub requests_per_peer: u32,
    /// Payloads that arrived and wait for their verification.
    pub verifying: usize,
    /// Uploads that move at the same time before others are told BUSY: with fewer, links that
    /// are shared fairly stand idle in simulations of 50 nodes; with more, pieces come late.
    pub uploads: usize,
    /// Uploads to one peer while others want something too.
    pub uploads_per_peer: usize,
    /// Uploads accepted at all, those to readers that stopped reading included.
    pub uploads_total: usize,
    /// Connections, at most 64.
    pub peers: usize,
    /// Up to this many connections the engine dials of its own accord.
    pub peers_sought: usize,
    /// Up to this many it dials holders that the tracker names.
    pub peers_named: usize,
    /// As `peers_sought`, while nothing is fetched: enough to know somebody when something is.
    pub peers_idle: usize,
    /// HAVE waits this long for company.
    pub have_delay: Duration,
    /// A peer that owes pieces and sends no bytes for this long has stalled.
    pub request_stall: Duration,
    /// A read of the store without bytes for this long is replaced.
    pub read_stall: Duration,
    /// A client that waits at a piece without bytes for this long gets extra origin bytes.
    pub cursor_stall: Duration,
    /// The tracker may be silent for this long before the store is read without it.
    pub tracker_grace: Duration,
    /// A wanted blob is given up after this long without any progress.
    pub give_up: Duration,
    /// So many last pieces are asked of two peers.
    pub endgame_pieces: u64,
    /// A request gets a rival in the endgame after this long.
    pub endgame_age: Duration,
    /// How much is read from the store at once: what arrives in this time.
    pub read_ahead: Duration,
    /// A peer that sent wrong bytes is not talked to for this long.
    pub ban: Duration,
    /// Direct reads at once for clients whose piece stalled.
    pub stall_reads: usize,
    /// No peers: everything comes from the store without leave.
    pub direct: bool,
}

/// Smallest amount that is read from the store at once: one usual piece.
pub(super) const READ_BYTES_MIN: u64 = 1 << 20;
/// Largest amount that is read from the store at once.
pub(super) const READ_BYTES_MAX: u64 = 64 << 20;
/// Reads of the store at once, whatever their lengths.
pub(super) const READS_MAX: usize = 8;
/// Pieces in one direct read.
pub(super) const DIRECT_RUN_MAX: u32 = 8;
/// Blobs in one question to the tracker.
pub(super) const PERMIT_WANTS_MAX: usize = 32;
/// Reports of unreachable holders that wait for the next question.
pub(super) const UNREACHABLE_MAX: usize = 64;
/// Peers whose addresses are remembered.
pub(super) const KNOWN_MAX: usize = 1024;
/// Blobs that one peer may be interested in.
pub(super) const INTEREST_MAX: usize = 4096;
/// Stalls after which a peer is dropped.
pub(super) const STALLS_MAX: u32 = 3;
/// Wrong pieces from the store after which a blob fails.
pub(super) const BAD_READS_MAX: u32 = 4;
/// Bytes that count as progress: less is a peer that drips to stay.
pub(super) const PROGRESS_BYTES_MIN: u64 = 8 * 1024;
/// Ready pieces that are looked at for one request.
pub(super) const SCAN_MAX: usize = 256;
/// Of those, pieces that could be asked for now and are compared.
pub(super) const COMPARE_MAX: usize = 32;
/// First wait after a BUSY of a peer that owes nothing; doubles once. Less than a turn lasts.
pub(super) const BUSY_WAIT: Duration = Duration::from_millis(80);
/// First wait after a failed dial; quadruples up to [`REDIAL_MAX`].
pub(super) const REDIAL_MIN: Duration = Duration::from_millis(500);
/// Longest wait after failed dials.
pub(super) const REDIAL_MAX: Duration = Duration::from_secs(60);
/// An idle connection may be closed after this long when there are many.
pub(super) const IDLE: Duration = Duration::from_secs(30);

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 8,
            requests_per_peer: 4,
            verifying: 8,
            uploads: 10,
            uploads_per_peer: 2,
            uploads_total: 16,
            peers: 40,
            peers_sought: 12,
            peers_named: 20,
            peers_idle: 4,
            have_delay: Duration::from_millis(60),
            request_stall: Duration::from_secs(2),
            read_stall: Duration::from_millis(2500),
            cursor_stall: Duration::from_secs(5),
            tracker_grace: Duration::from_secs(1),
            give_up: Duration::from_secs(20),
            endgame_pieces: 8,
            endgame_age: Duration::from_millis(400),
            read_ahead: Duration::from_millis(700),
            ban: Duration::from_secs(600),
            stall_reads: 2,
            direct: false,
        }
    }
}
