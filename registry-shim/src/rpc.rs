//! The gRPC door: the services of `longshore.origin.v1`, and what they share.
//!
//! It stands on the same port as the distribution API; a request is its by `content-type`.

use std::fmt::Display;
use std::sync::Arc;

use http::Extensions;
use http::uri::Authority;
use longshore_proto::rpc::origin::membership_server::MembershipServer;
use longshore_proto::rpc::origin::planner_server::PlannerServer;
use longshore_proto::rpc::origin::tracker_server::TrackerServer;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;

use crate::auth::NodeSession;
use crate::join::MembershipService;
use crate::plan::PlannerService;
use crate::registry::{Registry, now_ms};
use crate::serve::Peer;
use crate::tracker::TrackerService;

/// Largest request: an announce of some thousand holdings.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How the client reached us.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    /// From where, and with what certificate.
    pub(crate) peer: Peer,
    /// `Host` or `:authority`.
    pub(crate) authority: Option<Authority>,
}

/// All services of this instance.
pub(crate) fn routes(registry: &Arc<Registry>) -> Routes {
    let membership = MembershipServer::new(MembershipService::new(registry.clone()));
    let planner = PlannerServer::new(PlannerService::new(registry.clone()));
    let tracker = TrackerServer::new(TrackerService::new(registry.clone()));
    Routes::new(membership.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(planner.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(tracker.max_decoding_message_size(REQUEST_BYTES_MAX))
        .prepare()
}

/// The session that every call but Join shows.
pub(crate) fn node(
    registry: &Registry,
    metadata: &MetadataMap,
) -> Result<Arc<NodeSession>, Status> {
    let session = registry.auth.node(metadata.as_ref(), now_ms() / 1000);
    session.map_err(|_| Status::unauthenticated("session is unknown or has expired"))
}

/// Where this registry is reached, as permits name it.
pub(crate) fn base_url(registry: &Registry, extensions: &Extensions) -> String {
    if let Some(advertise) = &registry.advertise {
        return advertise.clone();
    }
    let reached = extensions.get::<Reached>();
    let scheme = if reached.is_some_and(|reached| reached.peer.tls) { "https" } else { "http" };
    let authority = reached.and_then(|reached| reached.authority.as_ref());
    format!("{scheme}://{}", authority.map_or("localhost", Authority::as_str))
}

/// A message that means nothing.
pub(crate) fn invalid(error: impl Display) -> Status {
    Status::invalid_argument(error.to_string())
}
