//! Join: makes a node a member of a pool.
//!
//! The node proves nothing yet but that it knows a token; the session that it gets is bound to the
//! PeerId of the key that it shows. Fleet certificates will sit here: the answer has their place.

use std::net::IpAddr;
use std::sync::Arc;

use libp2p_identity::PublicKey;
use longshore_proto::SWARM_VERSION;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::credential::Kind;
use longshore_proto::rpc::origin::membership_server::Membership;
use tonic::{Request, Response, Status};

use crate::auth::{NodeSession, SESSION_SECONDS};
use crate::registry::{Registry, now_ms};
use crate::rpc::{Reached, invalid};

/// Longest name of a pool or zone.
const NAME_CHARS_MAX: usize = 64;
/// Addresses of one node.
const ADDRESSES_MAX: usize = 16;
/// Longest multiaddr.
const ADDRESS_CHARS_MAX: usize = 256;

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

    fn admit(&self, credential: Option<rpc::Credential>) -> Result<(), Status> {
        let token = match credential.and_then(|credential| credential.kind) {
            Some(Kind::Token(token)) => token,
            None | Some(Kind::Anonymous(_)) => String::new(),
            Some(Kind::Document(_) | Kind::Certificate(_)) => {
                return Err(Status::unimplemented("this origin takes no such credential"));
            }
        };
        if self.registry.tokens.admit(&token) {
            return Ok(());
        }
        self.registry.metrics.joins_refused.inc();
        Err(Status::unauthenticated("join token is wrong or missing"))
    }
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn join(
        &self,
        request: Request<rpc::JoinRequest>,
    ) -> Result<Response<rpc::JoinResponse>, Status> {
        let reached = request.extensions().get::<Reached>().cloned();
        let remote = reached.ok_or_else(|| Status::internal("connection is unknown"))?.remote;
        let message = request.into_inner();
        self.admit(message.credential)?;
        if message.swarm_version != SWARM_VERSION {
            let spoken = message.swarm_version;
            let reason = format!("swarm version is {spoken} and not {SWARM_VERSION}");
            return Err(Status::failed_precondition(reason));
        }
        let key = PublicKey::try_decode_protobuf(&message.public_key)
            .map_err(|_| invalid("public_key is not libp2p's encoding of a known key"))?;
        let observed = canonical(remote.ip());
        let session = NodeSession {
            peer_id: key.to_peer_id().to_base58(),
            pool: name(&message.pool)?,
            zone: name(&message.zone)?,
            expires_at_s: now_ms() / 1000 + u64::from(SESSION_SECONDS),
        };
        self.registry.tracker.join(&session, reachable(&message.addresses, observed));
        self.registry.metrics.joins.inc();
        tracing::info!(
            peer = session.peer_id,
            cell = session.cell(),
            node = message.node_name.chars().take(NAME_CHARS_MAX).collect::<String>(),
            "node joined"
        );
        let public = self.registry.key.public();
        let origin_key = rpc::OriginKey {
            kid: public.kid().to_string(),
            public_key: bytes::Bytes::copy_from_slice(public.as_bytes()),
        };
        Ok(Response::new(rpc::JoinResponse {
            session: self.registry.auth.issue_session(&session),
            session_seconds: SESSION_SECONDS,
            certificate_chain: Vec::new(),
            origin_keys: vec![origin_key],
            instances: Vec::new(),
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

/// An IPv4 address that came over a socket for both families.
const fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => ip,
        },
        IpAddr::V4(_) => ip,
    }
}

/// Addresses with the one that the origin sees where the node could not say its own.
pub(crate) fn reachable(addresses: &[String], observed: IpAddr) -> Vec<String> {
    let fits = |address: &&String| {
        address.len() <= ADDRESS_CHARS_MAX && address.starts_with('/') && address.is_ascii()
    };
    let observed = match canonical(observed) {
        IpAddr::V4(v4) => format!("/ip4/{v4}"),
        IpAddr::V6(v6) => format!("/ip6/{v6}"),
    };
    let seen = |address: &String| {
        let rest = ["/ip4/0.0.0.0", "/ip6/::"].iter().find_map(|unspecified| {
            address.strip_prefix(unspecified).filter(|rest| rest.starts_with('/'))
        });
        rest.map_or_else(|| address.clone(), |rest| format!("{observed}{rest}"))
    };
    addresses.iter().filter(fits).take(ADDRESSES_MAX).map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_stands_for_the_one_that_was_seen() {
        let addresses = ["/ip4/0.0.0.0/tcp/7770", "/ip6/::/tcp/7770", "/ip4/10.0.0.9/tcp/1", "x"];
        let addresses = addresses.map(str::to_owned);
        let seen = reachable(&addresses, "10.0.0.5".parse().unwrap());
        let expected = ["/ip4/10.0.0.5/tcp/7770", "/ip4/10.0.0.5/tcp/7770", "/ip4/10.0.0.9/tcp/1"];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_pool_has_a_plain_name() {
        assert_eq!(name("").unwrap(), "default");
        assert_eq!(name("eu-1.a_b").unwrap(), "eu-1.a_b");
        assert!(name("a/b").is_err() && name(&"a".repeat(65)).is_err());
    }

    #[test]
    fn a_socket_for_both_families_shows_plain_addresses() {
        assert_eq!(canonical("::ffff:10.0.0.1".parse().unwrap()).to_string(), "10.0.0.1");
    }
}
