//! What the engine is told, and what it answers. Plain data: a trace of both can be compared
//! byte for byte.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use longshore_proto::Digest;
use longshore_proto::piece::{PieceIndex, PieceSet};
use longshore_proto::rpc::origin as rpc;

use crate::pull::ledger::OriginReason;

/// Names a request to a peer; unique in an engine's life.
pub type RequestId = u64;
/// Names a read of the store; unique in an engine's life.
pub type ReadId = u64;

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A blob is to be fetched; again for a known digest changes its order only.
    Want(WantBlob),
    /// Nobody wants it any more.
    Unwant(Digest),
    /// A waiting client stands at this piece, or has gone.
    Cursor {
        /// Which blob.
        digest: Digest,
        /// Told apart by the caller.
        client: u64,
        /// The first piece that it still needs.
        piece: Option<PieceIndex>,
    },
    /// A peer's address is known.
    Meet {
        /// Who.
        peer: PeerId,
        /// It is in this node's zone.
        same_zone: bool,
    },
    /// A connection is whole.
    PeerUp {
        /// Who.
        peer: PeerId,
        /// It is in this node's zone.
        same_zone: bool,
    },
    /// A connection has ended.
    PeerDown(PeerId),
    /// A dial that the engine asked for led to nothing.
    DialFailed(PeerId),
    /// A peer serves these runs of pieces from now on.
    Have {
        /// Who.
        peer: PeerId,
        /// Of which blob.
        digest: Digest,
        /// First piece and count.
        runs: Vec<(PieceIndex, u32)>,
    },
    /// A peer no longer has the blob.
    Forget {
        /// Who.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
    },
    /// A peer wants to be told of pieces of these blobs.
    Interest {
        /// Who.
        peer: PeerId,
        /// Which blobs.
        digests: Vec<Digest>,
    },
    /// Payload bytes came from a peer.
    Progress {
        /// Who.
        peer: PeerId,
        /// How many since the last time.
        bytes: u64,
    },
    /// A request's payload is complete and being verified.
    Arrived(RequestId),
    /// The peer has no room: ask again, or elsewhere.
    Busy(RequestId),
    /// The peer does not serve this.
    Refused(RequestId),
    /// A piece is verified and stored.
    Verified {
        /// Of which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
        /// From where.
        from: From,
    },
    /// A piece was wrong and is thrown away.
    Bad {
        /// Of which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
        /// From where.
        from: From,
    },
    /// The store can not keep a piece, and so not the blob.
    WriteFailed {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
        /// From where.
        from: From,
    },
    /// The tracker answered.
    Permits(PermitReply),
    /// The tracker did not answer, or only that it is busy.
    PermitsFailed {
        /// As it said.
        retry_after: Option<Duration>,
    },
    /// Leave that came unasked, with a plan.
    Granted(Vec<Leave>),
    /// Bytes of a read arrived.
    ReadProgress {
        /// Which read.
        read: ReadId,
        /// How many since the last time.
        bytes: u64,
    },
    /// A read is over; pieces that it did not bring are missing still.
    ReadEnded {
        /// Which read.
        read: ReadId,
        /// How it went.
        end: ReadEnd,
    },
    /// A peer asks for a piece that may be served.
    Upload {
        /// Who.
        peer: PeerId,
        /// The peer's own name for it.
        request: RequestId,
    },
    /// A peer took bytes of what is sent to it.
    UploadProgress {
        /// Who.
        peer: PeerId,
    },
    /// An upload is over, sent or given up.
    UploadEnded {
        /// Who.
        peer: PeerId,
        /// The peer's own name for it.
        request: RequestId,
    },
    /// Time passes.
    Tick,
}

/// What is to be known of a blob to fetch it.
#[derive(Clone, Debug, PartialEq)]
pub struct WantBlob {
    /// Which.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Bytes of every piece but the last.
    pub piece_bytes: u64,
    /// Lower comes first.
    pub order: u64,
    /// What is here already; says how many pieces there are.
    pub held: PieceSet,
}

/// Where a piece came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Another node.
    Peer(PeerId),
    /// The store, by this read.
    Store(ReadId),
}

/// The tracker's leave to read a run of pieces from the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Leave {
    /// Of which blob.
    pub digest: Digest,
    /// As the tracker said it: first piece, count, deadline, how to read.
    pub permit: Arc<rpc::PiecePermit>,
}

/// The tracker's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PermitReply {
    /// What may be read.
    pub permits: Vec<Leave>,
    /// What may not, because these hold it or fetch it.
    pub refusals: Vec<(Digest, PieceIndex, Vec<PeerId>)>,
    /// When to ask again; `None`: when something changes.
    pub retry_after: Option<Duration>,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// All bytes came.
    Whole,
    /// The origin can not be reached or broke off.
    Unavailable,
    /// The origin asks for patience.
    Busy(Duration),
    /// The origin has no such blob, or refuses it to this node.
    Closed,
}

/// Something is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Ask a peer for a piece.
    Request {
        /// Whom.
        peer: PeerId,
        /// The request's name.
        request: RequestId,
        /// Of which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
    },
    /// Tell a peer that its piece is no longer wanted.
    Cancel {
        /// Whom.
        peer: PeerId,
        /// The request's name.
        request: RequestId,
        /// The blob, so that what is lost can be counted.
        digest: Digest,
        /// It made no progress: counted as stalled.
        stalled: bool,
    },
    /// Ask the tracker.
    AskPermits(PermitAsk),
    /// Read pieces from the store.
    Read {
        /// The read's name.
        read: ReadId,
        /// Of which blob.
        digest: Digest,
        /// From which piece on.
        first: PieceIndex,
        /// How many.
        pieces: u32,
        /// Why, as it is counted.
        why: OriginReason,
        /// The tracker's leave.
        permit: Option<Arc<rpc::PiecePermit>>,
    },
    /// End a read that makes no progress.
    CancelRead(ReadId),
    /// Tell peers what is here now.
    TellHave {
        /// Whom.
        peers: Vec<PeerId>,
        /// Of which blob.
        digest: Digest,
        /// First piece and count; `None`: all that the store holds.
        runs: Option<Vec<(PieceIndex, u32)>>,
    },
    /// Tell peers what is wanted.
    TellWant {
        /// Whom.
        peers: Vec<PeerId>,
        /// Which blobs.
        digests: Vec<Digest>,
    },
    /// Open a connection.
    Dial(PeerId),
    /// Close a connection.
    Drop {
        /// Whom.
        peer: PeerId,
        /// For what.
        why: DropReason,
    },
    /// Send the piece that the peer asked for.
    Serve {
        /// Whom.
        peer: PeerId,
        /// The peer's own name for it.
        request: RequestId,
    },
    /// Tell a peer to ask again, or elsewhere.
    TellBusy {
        /// Whom.
        peer: PeerId,
        /// The peer's own name for it.
        request: RequestId,
    },
    /// The last piece is verified.
    Done(Digest),
    /// Nothing more can be done for it.
    Failed {
        /// Which blob.
        digest: Digest,
        /// Why.
        why: FailReason,
    },
}

/// A question to the tracker.
#[derive(Clone, Debug, PartialEq)]
pub struct PermitAsk {
    /// Blobs in the order of want.
    pub wants: Vec<PermitWant>,
    /// Leave that is not used up yet: blob, piece, the permit's id.
    pub held: Vec<(Digest, PieceIndex, u64)>,
    /// Peers that did not serve what they were said to hold.
    pub unreachable: Vec<(PeerId, Digest, PieceIndex)>,
    /// For how many pieces there is room.
    pub pieces_max: u32,
}

/// One blob of a [`PermitAsk`].
#[derive(Clone, Debug, PartialEq)]
pub struct PermitWant {
    /// Which blob.
    pub digest: Digest,
    /// What is here.
    pub held: PieceSet,
    /// Pieces that clients wait for.
    pub urgent: Vec<PieceIndex>,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It sent wrong bytes.
    Bad,
    /// It took requests and sent nothing, again and again.
    Stalled,
    /// Nothing moves on it and others want the place.
    Idle,
}

/// Why a blob failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// The origin has no such blob or refuses it, and no peer has what is missing.
    Closed,
    /// Nothing moved for [`super::Limits::give_up`].
    NoProgress,
    /// The store can not keep it.
    Write,
    /// What the origin sends is not the blob.
    BadOrigin,
}
