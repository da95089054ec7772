//! Join: makes a node a member of a pool.
//!
//! The node proves that it knows a token, or that an issuer vouches for it; the session that it gets is bound to the
//! PeerId of the key that it shows. Fleet certificates will sit here: the answer has their place.

use std::sync::Arc;

use libp2p_identity::{PeerId, PublicKey};
use longshore_proto::SWARM_VERSION;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::credential::Kind;
use longshore_proto::rpc::origin::membership_server::Membership;
use tonic::{Request, Response, Status};

use crate::address;
use crate::auth::{AuthError, NodeSession, SESSION_SECONDS};
use crate::registry::{Registry, now_ms};
use crate::rpc::{Reached, base_url, invalid};

/// Longest name of a pool or zone.
const NAME_CHARS_MAX: usize = 64;
/// An Ed25519 key has 36 bytes in libp2p's encoding.
const PUBLIC_KEY_BYTES_MAX: usize = 128;

/// Serves `longshore.origin.v1.Membership`.
#[derive(Clone, Debug)]
pub(crate) struct MembershipService {
    registry: Arc<Registry>,
}

impl MembershipService {
    /// A service of this instance.
    pub(crate) const fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    async fn admit(&self, shown: Option<rpc::Credential>, pool: &str) -> Result<(), Status> {
        let token = match shown.and_then(|credential| credential.kind) {
            Some(Kind::Token(token)) => token,
            None | Some(Kind::Anonymous(_)) => String::new(),
            Some(Kind::Document(_) | Kind::Certificate(_)) => {
                return Err(Status::unimplemented("this origin takes no such credential"));
            }
        };
        let Err(refused) = self.registry.auth.admit_node(&token, pool, now_ms()).await else {
            return Ok(());
        };
        self.registry.metrics.joins_refused.inc();
        Err(match refused {
            AuthError::Unavailable => Status::unavailable("token cannot be verified now"),
            AuthError::Denied => Status::permission_denied("may not join that pool"),
            _ => Status::unauthenticated("join token is wrong or missing"),
        })
    }
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn join(
        &self,
        request: Request<rpc::JoinRequest>,
    ) -> Result<Response<rpc::JoinResponse>, Status> {
        let reached = request.extensions().get::<Reached>().cloned();
        let remote = reached.ok_or_else(|| Status::internal("connection is unknown"))?.peer.address;
        let url = base_url(&self.registry, request.extensions());
        let message = request.into_inner();
        let pool = name(&message.pool)?;
        self.admit(message.credential, &pool).await?;
        if message.swarm_version != SWARM_VERSION {
            let spoken = message.swarm_version;
            let reason = format!("swarm version is {spoken} and not {SWARM_VERSION}");
            return Err(Status::failed_precondition(reason));
        }
        let peer = peer_id(&message.public_key)?;
        let observed = remote.ip().to_canonical();
        let session = NodeSession {
            peer_id: peer.to_base58(),
            pool,
            zone: name(&message.zone)?,
            expires_at_s: now_ms() / 1000 + u64::from(SESSION_SECONDS),
        };
        self.registry
            .tracker
            .join(&session, address::reachable(&message.addresses, &peer, observed));
        self.registry.metrics.joins.inc();
        tracing::info!(
            peer = session.peer_id,
            cell = session.cell(),
            node = message.node_name.chars().take(NAME_CHARS_MAX).collect::<String>(),
            "node joined"
        );
        let origin_key = |public: &longshore_proto::sign::PublicKey| rpc::OriginKey {
            kid: public.kid().to_string(),
            public_key: bytes::Bytes::copy_from_slice(public.as_bytes()),
        };
        Ok(Response::new(rpc::JoinResponse {
            session: self.registry.auth.issue_session(&session),
            session_seconds: SESSION_SECONDS,
            certificate_chain: Vec::new(),
            origin_keys: self.registry.keys.public().iter().map(origin_key).collect(),
            instances: vec![rpc::Instance { id: self.registry.instance_id.clone(), url }],
            cell: session.cell(),
            pool: session.pool,
            zone: session.zone,
            policy_epoch: 0,
            announce_period_ms: self.registry.announce_period_ms,
            observed_ip: observed.to_string(),
        }))
    }
}

/// A pool's or zone's name; none means `default`.
fn name(text: &str) -> Result<String, Status> {
    if text.is_empty() {
        return Ok("default".to_owned());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.len() > NAME_CHARS_MAX || !text.chars().all(fits) {
        return Err(invalid("pool and zone are at most 64 letters, digits, '-', '_' and '.'"));
    }
    Ok(text.to_owned())
}

fn peer_id(public_key: &[u8]) -> Result<PeerId, Status> {
    let invalid = |_| invalid("public_key is not libp2p's encoding of a known key");
    let bounded = public_key.get(..public_key.len().min(PUBLIC_KEY_BYTES_MAX)).unwrap_or_default();
    PublicKey::try_decode_protobuf(bounded).map(|key| key.to_peer_id()).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_a_plain_name() {
        assert_eq!(name("").unwrap(), "default");
        assert_eq!(name("eu-1.a_b").unwrap(), "eu-1.a_b");
        assert!(name("a/b").is_err() && name(&"a".repeat(65)).is_err());
    }
}
