//! The tracker: who holds what in a cell, and who may read which piece from the store.
//!
//! The part that decides ([`Cell`]) is a plain state machine: no I/O, no clock, no randomness; time
//! is an argument in milliseconds on any steady scale. [`TrackerHandle`] is the thin shell that the
//! services call. State is soft: a node that is not heard of for [`LIVE_PERIODS`] announce periods
//! is gone, and what nodes send rebuilds a tracker that was just started.

mod cell;
mod handle;
mod peers;
mod permits;
mod service;
#[cfg(test)]
mod simulation;
mod swarm;

use longshore_proto::Digest;
use longshore_proto::piece::{PieceIndex, PieceSet};

pub use cell::Cell;
pub use handle::TrackerHandle;
pub use service::TrackerService;
pub(crate) use service::peer_message;

/// Announce periods without a word after which a member does not count.
pub const LIVE_PERIODS: u64 = 3;
/// Peers that one answer names.
pub const PEERS_MAX: usize = 40;
/// Other members that one answer names.
pub const MEMBER_SAMPLE: usize = 24;
/// Members of one cell; further ones are not tracked and pull from the store by themselves.
pub const MEMBERS_MAX: usize = 65_536;
/// Blobs that one member may be known to hold or want.
pub const BLOBS_PER_MEMBER_MAX: usize = 8192;
/// Pieces of these.
pub const PIECES_PER_MEMBER_MAX: u64 = 1 << 20;
/// Refused pieces that one answer names.
pub const REFUSALS_MAX: usize = 16;
/// Holders that one refusal names.
pub const HOLDERS_MAX: usize = 8;
/// Permits that one request may restore.
pub const HELD_MAX: usize = 64;
/// Reports of unreachable holders that one request may bring.
pub const REPORTS_MAX: usize = 256;

/// A node as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// libp2p PeerId, base58.
    pub peer_id: String,
    /// Multiaddrs.
    pub addresses: Vec<String>,
    /// Its zone.
    pub zone: String,
}

/// Some pieces of one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What is held.
    pub have: PieceSet,
}

/// A permit that a node says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The blob.
    pub digest: Digest,
    /// The piece.
    pub piece: PieceIndex,
    /// The permit.
    pub permit_id: u64,
}

/// A holder that did not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The holder.
    pub peer_id: String,
    /// The blob.
    pub digest: Digest,
    /// The piece.
    pub piece: PieceIndex,
}

/// What a node says from time to time.
#[derive(Clone, Debug, Default)]
pub struct Announce {
    /// Counts up by one.
    pub sequence: u64,
    /// `holdings` is everything.
    pub complete: bool,
    /// Where it is reached; empty: as before.
    pub addresses: Vec<String>,
    /// What it holds.
    pub holdings: Vec<Holding>,
    /// What it holds no more.
    pub dropped: Vec<Digest>,
    /// What it is fetching from the store.
    pub held: Vec<Held>,
    /// Who did not serve.
    pub reports: Vec<Report>,
    /// What it still downloads.
    pub wanted: Vec<Digest>,
    /// It goes away.
    pub leaving: bool,
}

/// What an announce is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Who has or fetches what the node wants.
    pub peers: Vec<Peer>,
    /// Others of the cell.
    pub members: Vec<Peer>,
    /// Something is missing here: announce completely.
    pub resync: bool,
}

/// One blob that a node wants from the store.
#[derive(Clone, Debug)]
pub struct Want {
    /// What it has already; names the blob.
    pub holding: Holding,
    /// Pieces at which a client waits.
    pub urgent: Vec<PieceIndex>,
}

/// A node that has room for pieces.
#[derive(Clone, Debug, Default)]
pub struct PermitAsk {
    /// In the order of want.
    pub wants: Vec<Want>,
    /// What it is fetching from the store.
    pub held: Vec<Held>,
    /// Who did not serve.
    pub reports: Vec<Report>,
    /// Room now.
    pub pieces_max: usize,
}

/// One piece to read from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The blob.
    pub digest: Digest,
    /// The piece.
    pub piece: PieceIndex,
    /// Names the permit.
    pub permit_id: u64,
    /// After this long the piece may be given to another.
    pub deadline_ms: u64,
}

/// A piece that others hold or fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The blob.
    pub digest: Digest,
    /// The piece.
    pub piece: PieceIndex,
    /// Whom to ask.
    pub holders: Vec<Peer>,
}

/// What an ask is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermitAnswer {
    /// To read now.
    pub grants: Vec<Grant>,
    /// To ask of others.
    pub refused: Vec<Refused>,
    /// Ask again after this long; 0: when something changes.
    pub retry_after_ms: u64,
}

/// Counts since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pieces handed out.
    pub given: u64,
    /// Asks refused.
    pub refused: u64,
    /// Permits past their deadline.
    pub expired: u64,
    /// Handed out beyond one copy.
    pub extra: u64,
    /// Pieces reopened by reports.
    pub reopened: u64,
}
