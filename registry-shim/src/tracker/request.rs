//! Requests, parsed into the crate's types before anything is believed.

use longshore_proto::piece::{PIECE_BYTES_MAX, PieceSet};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{ByteRange, Digest, RepositoryName};

use super::TrackerError;
use super::limits::{
    HELD_MAX, HOLDINGS_MAX, PIECES_PER_BLOB_MAX, REPORTS_PER_REQUEST_MAX, URGENT_MAX, WANTED_MAX,
    WANTS_MAX,
};

/// A blob as somebody cuts it. Two that disagree on size or piece length talk of two blobs, so
/// that a liar's claim never changes what an honest node's bitmap means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlobKey {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) piece_bytes: u64,
}

/// A permit request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) wants: Vec<Want>,
    pub(super) held: Vec<(Digest, u32, u64)>,
    pub(super) reports: Vec<Unreachable>,
    pub(super) pieces_max: u32,
}

/// One blob of an [`Ask`].
#[derive(Debug)]
pub(super) struct Want {
    pub(super) repository: RepositoryName,
    pub(super) key: BlobKey,
    pub(super) have: PieceSet,
    pub(super) urgent: Vec<u32>,
}

/// An announce.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) sequence: u64,
    pub(super) complete: bool,
    pub(super) leaving: bool,
    pub(super) addresses: Vec<String>,
    pub(super) holdings: Vec<(BlobKey, Held)>,
    pub(super) dropped: Vec<Digest>,
    pub(super) held: Vec<(Digest, u32, u64)>,
    pub(super) reports: Vec<Unreachable>,
    pub(super) wanted: Vec<Digest>,
}

/// What is held of a blob. All of it is the common case, and costs no bitmap.
#[derive(Debug)]
pub(super) enum Held {
    Whole,
    Pieces(PieceSet),
}

/// A report that a holder did not serve a piece.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub(super) peer_id: String,
    pub(super) digest: Digest,
    pub(super) piece: u32,
}

impl BlobKey {
    /// Bounded as a piece list is.
    fn parse(digest: &str, size: u64, piece_bytes: u64) -> Result<Self, TrackerError> {
        let digest = parse_digest("digest", digest)?;
        let block = digest.algorithm().block_bytes() as u64;
        if piece_bytes == 0 || piece_bytes > PIECE_BYTES_MAX || !piece_bytes.is_multiple_of(block) {
            let why = format!("{piece_bytes} is no piece length of {digest}");
            return Err(invalid("piece_length", why));
        }
        if size.div_ceil(piece_bytes) > PIECES_PER_BLOB_MAX {
            let why = format!("{size} bytes are more than {PIECES_PER_BLOB_MAX} pieces");
            return Err(invalid("size", why));
        }
        Ok(Self { digest, size, piece_bytes })
    }

    pub(super) const fn pieces(&self) -> u32 {
        self.size.div_ceil(self.piece_bytes) as u32
    }

    /// The bytes of a run of pieces; `None` outside the blob.
    pub(super) fn range(&self, first: u32, pieces: u32) -> Option<ByteRange> {
        let offset = u64::from(first) * self.piece_bytes;
        let length = u64::from(pieces) * self.piece_bytes;
        ByteRange::new(offset, length.min(self.size.checked_sub(offset)?))
    }

    /// The bytes of one piece.
    pub(super) fn piece_length(&self, piece: u32) -> u64 {
        self.range(piece, 1).map_or(0, |range| range.length())
    }

    fn bitmap(&self, bitmap: &[u8]) -> Result<PieceSet, TrackerError> {
        PieceSet::from_bitmap(self.pieces(), bitmap)
            .ok_or_else(|| invalid("bitmap", format!("names pieces that {} lacks", self.digest)))
    }
}

impl Ask {
    pub(super) fn parse(request: rpc::PermitRequest) -> Result<Self, TrackerError> {
        bound("wants", request.wants.len(), WANTS_MAX)?;
        let urgent = request.wants.iter().map(|want| want.urgent.len()).sum();
        bound("urgent", urgent, URGENT_MAX)?;
        Ok(Self {
            wants: request.wants.into_iter().map(Want::parse).collect::<Result<_, _>>()?,
            held: parse_held(&request.held)?,
            reports: parse_reports(request.unreachable)?,
            pieces_max: request.pieces_max,
        })
    }

    /// Pieces of all blobs wanted: the pool that is shared out.
    pub(super) fn pool_pieces(&self) -> u64 {
        self.wants.iter().map(|want| u64::from(want.key.pieces())).sum()
    }
}

impl Want {
    fn parse(want: rpc::PermitWant) -> Result<Self, TrackerError> {
        let repository = want
            .repository
            .parse()
            .map_err(|e: longshore_proto::InvalidName| invalid("repository", e.to_string()))?;
        let key = BlobKey::parse(&want.digest, want.size, want.piece_length)?;
        let have = key.bitmap(&want.have_bitmap)?;
        if want.urgent.iter().any(|piece| *piece >= key.pieces()) {
            return Err(invalid("urgent", format!("names pieces that {} lacks", key.digest)));
        }
        Ok(Self { repository, key, have, urgent: want.urgent })
    }
}

impl Telling {
    pub(super) fn parse(request: rpc::AnnounceRequest) -> Result<Self, TrackerError> {
        bound("holdings", request.holdings.len(), HOLDINGS_MAX)?;
        bound("dropped_digests", request.dropped_digests.len(), HOLDINGS_MAX)?;
        bound("wanted_digests", request.wanted_digests.len(), WANTED_MAX)?;
        let holdings = request.holdings.into_iter().map(parse_holding);
        Ok(Self {
            sequence: request.sequence,
            complete: request.complete,
            leaving: request.leaving,
            addresses: request.addresses,
            holdings: holdings.collect::<Result<_, _>>()?,
            dropped: parse_digests("dropped_digests", &request.dropped_digests)?,
            held: parse_held(&request.permits)?,
            reports: parse_reports(request.unreachable)?,
            wanted: parse_digests("wanted_digests", &request.wanted_digests)?,
        })
    }
}

fn parse_holding(holding: rpc::Holding) -> Result<(BlobKey, Held), TrackerError> {
    let key = BlobKey::parse(&holding.digest, holding.size, holding.piece_length)?;
    if holding.whole {
        return Ok((key, Held::Whole));
    }
    let pieces = key.bitmap(&holding.bitmap)?;
    Ok((key, if pieces.is_full() { Held::Whole } else { Held::Pieces(pieces) }))
}

fn parse_held(held: &[rpc::HeldPermit]) -> Result<Vec<(Digest, u32, u64)>, TrackerError> {
    bound("held", held.len(), HELD_MAX)?;
    let permit = |permit: &rpc::HeldPermit| {
        Ok((parse_digest("held", &permit.digest)?, permit.piece, permit.permit_id))
    };
    held.iter().map(permit).collect()
}

/// Reports past the bound are left out: the rest of the request still counts.
fn parse_reports(reports: Vec<rpc::Unreachable>) -> Result<Vec<Unreachable>, TrackerError> {
    let report = |report: rpc::Unreachable| {
        let digest = parse_digest("unreachable", &report.digest)?;
        Ok(Unreachable { peer_id: report.peer_id, digest, piece: report.piece })
    };
    reports.into_iter().take(REPORTS_PER_REQUEST_MAX).map(report).collect()
}

fn parse_digests(field: &'static str, digests: &[String]) -> Result<Vec<Digest>, TrackerError> {
    digests.iter().map(|digest| parse_digest(field, digest)).collect()
}

fn parse_digest(field: &'static str, digest: &str) -> Result<Digest, TrackerError> {
    digest.parse().map_err(|e: longshore_proto::InvalidDigest| invalid(field, e.to_string()))
}

fn bound(field: &'static str, found: usize, max: usize) -> Result<(), TrackerError> {
    let why = || format!("{found} entries, at most {max} are taken");
    if found > max { Err(invalid(field, why())) } else { Ok(()) }
}

const fn invalid(field: &'static str, why: String) -> TrackerError {
    TrackerError::Invalid { field, why }
}
