//! The tracker's gRPC service: the gate, the tracker, and permits that open what it decided.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::header::RANGE;
use longshore_proto::piece::piece_bytes_for;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::tracker_server::Tracker;
use longshore_proto::{Digest, RepositoryName};
use tonic::{Request, Response, Status};

use super::limits::WANTS_MAX;
use super::{PermitGrant, TrackerError};
use crate::address;
use crate::auth::{Action, Actor, NodeSession, PermitClaims};
use crate::registry::{Registry, now_ms};
use crate::rpc::{Reached, base_url, invalid, node};

/// Looks into the store for one request at once.
const READS_IN_FLIGHT_MAX: usize = 16;
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
        let reached = request.extensions().get::<Reached>().cloned();
        let mut message = request.into_inner();
        if let Some(reached) = reached {
            let (given, ip) = (&message.addresses, reached.peer.address.ip());
            message.addresses = address::reachable_of(&session, given, ip);
        }
        for holding in &message.holdings {
            check_pieces(holding.size, holding.piece_length)?;
        }
        let answer = self.registry.tracker.announce(&session, message);
        Ok(Response::new(answer.map_err(|error| status(&error))?))
    }

    async fn permit(
        &self,
        request: Request<rpc::PermitRequest>,
    ) -> Result<Response<rpc::PermitResponse>, Status> {
        let session = node(&self.registry, request.metadata())?;
        let base = base_url(&self.registry, request.extensions());
        let mut message = request.into_inner();
        if message.wants.len() > WANTS_MAX {
            return Err(invalid("too many wants"));
        }
        message.wants = self.readable(&session, message.wants).await?;
        let answer = self.registry.tracker.permit(&session, message);
        let answer = answer.map_err(|error| status(&error))?;
        let permit = |grant: &PermitGrant| self.permit_message(&session, &base, grant);
        Ok(Response::new(rpc::PermitResponse {
            permits: answer.grants.iter().map(permit).collect(),
            refusals: answer.refusals,
            retry_after_ms: answer.retry_after_ms,
        }))
    }
}

impl TrackerService {
    /// The wants of blobs that the node may pull and that are what it says; others are left out.
    async fn readable(
        &self,
        session: &Arc<NodeSession>,
        wants: Vec<rpc::PermitWant>,
    ) -> Result<Vec<rpc::PermitWant>, Status> {
        let actor = Actor::Node(session.clone());
        let check = |want: rpc::PermitWant| async {
            Ok::<_, Status>(self.is_readable(&actor, &want).await?.then_some(want))
        };
        let checked = stream::iter(wants).map(check).buffered(READS_IN_FLIGHT_MAX);
        checked.try_filter_map(async |want| Ok(want)).try_collect().await
    }

    async fn is_readable(&self, actor: &Actor, want: &rpc::PermitWant) -> Result<bool, Status> {
        let repository: RepositoryName = want.repository.parse().map_err(invalid)?;
        let digest: Digest = want.digest.parse().map_err(invalid)?;
        check_pieces(want.size, want.piece_length)?;
        if self.registry.auth.authorize(actor, Action::Pull, &repository).is_err() {
            return Ok(false);
        }
        let member = self.registry.storage_of(&repository).member(&repository, &digest).await;
        let pointer = member.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(pointer.is_some_and(|pointer| pointer.size == want.size))
    }

    fn permit_message(
        &self,
        session: &NodeSession,
        base: &str,
        grant: &PermitGrant,
    ) -> rpc::PiecePermit {
        let PermitGrant { repository, digest, range, .. } = grant;
        let query = self.registry.auth.issue_permit(&PermitClaims {
            repository,
            digest,
            range: *range,
            peer_id: &session.peer_id,
            expires_at_ms: now_ms() + u64::from(grant.deadline_ms) + URL_GRACE_MS,
        });
        rpc::PiecePermit {
            digest: digest.to_string(),
            first_piece: grant.first.0,
            pieces: grant.pieces,
            offset: range.offset(),
            length: range.length(),
            url: format!("{base}/v2/{repository}/blobs/{digest}?{query}"),
            headers: vec![rpc::Header { name: RANGE.to_string(), value: range.header_value() }],
            deadline_ms: grant.deadline_ms,
            permit_id: grant.permit_id,
        }
    }
}

/// A blob has the same pieces for everyone, or else each cut of it would leave the store once.
fn check_pieces(size: u64, piece_length: u64) -> Result<(), Status> {
    if piece_length == piece_bytes_for(size) {
        return Ok(());
    }
    Err(invalid("piece_length is not the usual one for this size"))
}

fn status(error: &TrackerError) -> Status {
    match error {
        TrackerError::Invalid { .. } => invalid(error),
        TrackerError::Full(_) => Status::resource_exhausted(error.to_string()),
    }
}
