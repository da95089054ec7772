//! The tracker's gRPC service: messages into types, the gate, the tracker, and back.

use std::sync::Arc;

use http::header::RANGE;
use longshore_proto::piece::{PieceIndex, PieceSet, piece_bytes_for};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::tracker_server::Tracker;
use longshore_proto::{ByteRange, Digest, RepositoryName};
use tonic::{Request, Response, Status};

use super::{
    Announce, BLOBS_PER_MEMBER_MAX, Grant, HELD_MAX, Held, Holding, PIECES_PER_MEMBER_MAX, Peer,
    PermitAsk, REPORTS_MAX, Refused, Report, Want,
};
use crate::auth::{Action, Actor, NodeSession, PermitClaims};
use crate::registry::{Registry, now_ms};
use crate::rpc::{base_url, invalid, node};

/// Blobs that one request may want.
const WANTS_MAX: usize = 1024;
/// Urgent pieces of one want.
const URGENT_MAX: usize = 64;
/// Addresses of one node.
const ADDRESSES_MAX: usize = 16;
/// Time for a request to begin after the piece's own deadline.
const URL_GRACE_MS: u64 = 30_000;

/// Serves `longshore.origin.v1.Tracker`.
#[derive(Clone, Debug)]
pub struct TrackerService {
    registry: Arc<Registry>,
}

impl TrackerService {
    /// A service of this instance.
    pub const fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[tonic::async_trait]
impl Tracker for TrackerService {
    async fn announce(
        &self,
        request: Request<rpc::AnnounceRequest>,
    ) -> Result<Response<rpc::AnnounceResponse>, Status> {
        let session = node(&self.registry, request.metadata())?;
        let announced = self.registry.tracker.announce(&session, announce(request.into_inner())?);
        Ok(Response::new(rpc::AnnounceResponse {
            peers: announced.peers.into_iter().map(peer_message).collect(),
            members: announced.members.into_iter().map(peer_message).collect(),
            policy_epoch: 0,
            next_announce_ms: self.registry.announce_period_ms,
            resync: announced.resync,
        }))
    }

    async fn permit(
        &self,
        request: Request<rpc::PermitRequest>,
    ) -> Result<Response<rpc::PermitResponse>, Status> {
        let session = node(&self.registry, request.metadata())?;
        let base = base_url(&self.registry, request.extensions());
        let message = request.into_inner();
        if message.wants.len() > WANTS_MAX {
            return Err(invalid("too many wants"));
        }
        let mut wants = Vec::with_capacity(message.wants.len());
        let mut repositories = Vec::with_capacity(message.wants.len());
        for want in &message.wants {
            if let Some((repository, want)) = self.want(&session, want).await? {
                repositories.push((want.holding.digest, repository));
                wants.push(want);
            }
        }
        let ask = PermitAsk {
            wants,
            held: held(&message.held)?,
            reports: reports(&message.unreachable)?,
            pieces_max: message.pieces_max as usize,
        };
        let answer = self.registry.tracker.permit(&session, &ask);
        let permit = |grant: &Grant| {
            let (_, repository) =
                repositories.iter().find(|(digest, _)| *digest == grant.digest)?;
            let want = ask.wants.iter().find(|want| want.holding.digest == grant.digest)?;
            Some(self.permit_message(&session, &base, repository, want.holding.size, grant))
        };
        Ok(Response::new(rpc::PermitResponse {
            permits: answer.grants.iter().filter_map(permit).collect(),
            refusals: answer.refused.into_iter().map(refusal).collect(),
            retry_after_ms: u32::try_from(answer.retry_after_ms).unwrap_or(u32::MAX),
        }))
    }
}

impl TrackerService {
    /// A want of a blob that the node may pull and that is what it says; others are left out.
    async fn want(
        &self,
        session: &Arc<NodeSession>,
        message: &rpc::PermitWant,
    ) -> Result<Option<(RepositoryName, Want)>, Status> {
        let repository: RepositoryName = message.repository.parse().map_err(invalid)?;
        let digest: Digest = message.digest.parse().map_err(invalid)?;
        let actor = Actor::Node(session.clone());
        if self.registry.auth.authorize(&actor, Action::Pull, &repository).is_err() {
            return Ok(None);
        }
        let member = self.registry.storage.member(&repository, &digest).await;
        let pointer = member.map_err(|error| Status::unavailable(error.to_string()))?;
        if pointer.is_none_or(|pointer| pointer.size != message.size) {
            return Ok(None);
        }
        let (size, length) = (message.size, message.piece_length);
        let Some(pieces) = pieces(size, length) else { return Err(invalid("piece_length")) };
        let have = PieceSet::from_bitmap(pieces, &message.have_bitmap);
        let have = have.ok_or_else(|| invalid("have_bitmap is not of this blob"))?;
        let urgent = message.urgent.iter().take(URGENT_MAX).copied().map(PieceIndex).collect();
        Ok(Some((repository, Want { holding: Holding { digest, size, have }, urgent })))
    }

    fn permit_message(
        &self,
        session: &NodeSession,
        base: &str,
        repository: &RepositoryName,
        size: u64,
        grant: &Grant,
    ) -> rpc::PiecePermit {
        let length = piece_bytes_for(size);
        let offset = u64::from(grant.piece.0) * length;
        let range = ByteRange::new(offset, length.min(size - offset))
            .expect("the tracker grants pieces of the blob");
        let query = self.registry.auth.issue_permit(&PermitClaims {
            repository,
            digest: &grant.digest,
            range,
            peer_id: &session.peer_id,
            expires_at_ms: now_ms() + grant.deadline_ms + URL_GRACE_MS,
        });
        let header = rpc::Header { name: RANGE.to_string(), value: range.header_value() };
        rpc::PiecePermit {
            digest: grant.digest.to_string(),
            first_piece: grant.piece.0,
            pieces: 1,
            offset: range.offset(),
            length: range.length(),
            url: format!("{base}/v2/{repository}/blobs/{}?{query}", grant.digest),
            headers: vec![header],
            deadline_ms: u32::try_from(grant.deadline_ms).unwrap_or(u32::MAX),
            permit_id: grant.permit_id,
        }
    }
}

/// How many pieces; `None` where the lengths are not everyone's.
fn pieces(size: u64, piece_length: u64) -> Option<u32> {
    let count = size.div_ceil(piece_bytes_for(size));
    let fits = piece_length == piece_bytes_for(size) && count <= PIECES_PER_MEMBER_MAX;
    fits.then(|| u32::try_from(count).ok())?
}

fn announce(message: rpc::AnnounceRequest) -> Result<Announce, Status> {
    let blobs = message.holdings.len().max(message.wanted_digests.len());
    if blobs.max(message.dropped_digests.len()) > BLOBS_PER_MEMBER_MAX {
        return Err(invalid("too many blobs"));
    }
    let digests = |texts: &[String]| {
        texts.iter().map(|text| text.parse()).collect::<Result<Vec<Digest>, _>>().map_err(invalid)
    };
    Ok(Announce {
        sequence: message.sequence,
        complete: message.complete,
        holdings: message.holdings.iter().map(holding).collect::<Result<_, _>>()?,
        dropped: digests(&message.dropped_digests)?,
        wanted: digests(&message.wanted_digests)?,
        held: held(&message.permits)?,
        reports: reports(&message.unreachable)?,
        addresses: message.addresses.into_iter().take(ADDRESSES_MAX).collect(),
        leaving: message.leaving,
    })
}

fn holding(message: &rpc::Holding) -> Result<Holding, Status> {
    let digest: Digest = message.digest.parse().map_err(invalid)?;
    let pieces = pieces(message.size, message.piece_length);
    let pieces = pieces.ok_or_else(|| invalid("piece_length is not the usual one"))?;
    let have = if message.whole {
        PieceSet::full(pieces)
    } else {
        PieceSet::from_bitmap(pieces, &message.bitmap)
            .ok_or_else(|| invalid("bitmap is not of this blob"))?
    };
    Ok(Holding { digest, size: message.size, have })
}

fn held(messages: &[rpc::HeldPermit]) -> Result<Vec<Held>, Status> {
    let parse = |message: &rpc::HeldPermit| {
        let digest = message.digest.parse().map_err(invalid)?;
        let (piece, permit_id) = (PieceIndex(message.piece), message.permit_id);
        Ok(Held { digest, piece, permit_id })
    };
    messages.iter().take(HELD_MAX).map(parse).collect()
}

fn reports(messages: &[rpc::Unreachable]) -> Result<Vec<Report>, Status> {
    let parse = |message: &rpc::Unreachable| {
        let digest = message.digest.parse().map_err(invalid)?;
        let piece = PieceIndex(message.piece);
        Ok(Report { peer_id: message.peer_id.clone(), digest, piece })
    };
    messages.iter().take(REPORTS_MAX).map(parse).collect()
}

fn refusal(refused: Refused) -> rpc::Refusal {
    rpc::Refusal {
        digest: refused.digest.to_string(),
        piece: refused.piece.0,
        holders: refused.holders.into_iter().map(peer_message).collect(),
    }
}

/// A peer as messages carry it.
pub(crate) fn peer_message(peer: Peer) -> rpc::Peer {
    rpc::Peer { peer_id: peer.peer_id, addresses: peer.addresses, zone: peer.zone }
}
