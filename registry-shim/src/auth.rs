//! Who asks, and what they may do.
//!
//! Asked on every request, before any cache. Owns the sessions that Join gives, the permits that
//! open one range of one blob, and the policy. Everything here is stateless: any instance with the
//! same signing key verifies what another gave. Until the registry has users, whoever brings no
//! session is anonymous and may do everything; a node may only pull.

mod permit;
mod session;
mod token_file;

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use longshore_proto::RepositoryName;
use longshore_proto::sign::{Layout, SigningKey, Statement};
use ring::hmac;

pub use permit::{PermitClaims, PermitRefused};
pub use session::{NodeSession, SESSION_SECONDS};
pub use token_file::{JoinTokens, TokenFileError};

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody in particular.
    Anonymous,
    /// A node that joined.
    Node(Arc<NodeSession>),
}

/// What a request wants to do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read manifests, blobs, tags.
    Pull,
    /// Write them.
    Push,
    /// Delete them.
    Delete,
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The credential is malformed, forged or expired: get a new one.
    #[error("session is unknown or has expired")]
    Unauthorized,
    /// The credential is good and does not cover this.
    #[error("not allowed")]
    Denied,
}

/// The gate.
#[derive(Debug)]
pub struct Auth {
    sessions: session::Sessions,
    permits: permit::Permits,
}

impl Auth {
    /// A gate whose secrets come from the signing key.
    pub fn new(key: &SigningKey) -> Self {
        Self {
            sessions: session::Sessions::new(derive(key, "session")),
            permits: permit::Permits::new(derive(key, "permit")),
        }
    }

    /// Who sent these headers. Credentials of other kinds (a client's `Basic` for some other
    /// registry) say nothing here and leave it anonymous.
    pub fn actor(&self, headers: &HeaderMap, now_s: u64) -> Result<Actor, AuthError> {
        let Some(value) = headers.get(AUTHORIZATION) else { return Ok(Actor::Anonymous) };
        let Some(token) = value.to_str().ok().and_then(bearer) else {
            return Ok(Actor::Anonymous);
        };
        let session = self.sessions.verify(token, now_s).ok_or(AuthError::Unauthorized)?;
        Ok(Actor::Node(Arc::new(session)))
    }

    /// Whether `actor` may do that.
    pub fn authorize(
        &self,
        actor: &Actor,
        action: Action,
        _repository: &RepositoryName,
    ) -> Result<(), AuthError> {
        match (actor, action) {
            (Actor::Anonymous, _) | (Actor::Node(_), Action::Pull) => Ok(()),
            (Actor::Node(_), Action::Push | Action::Delete) => Err(AuthError::Denied),
        }
    }

    /// A session's text.
    pub fn issue_session(&self, session: &NodeSession) -> String {
        self.sessions.issue(session)
    }

    /// The query of a URL that opens what `claims` say, without any other credential.
    pub fn issue_permit(&self, claims: &PermitClaims<'_>) -> String {
        self.permits.issue(claims)
    }

    /// Whether `permit` opens exactly this range of this blob, now; whose it is.
    pub fn check_permit(
        &self,
        permit: &str,
        asked: &permit::Asked<'_>,
        now_ms: u64,
    ) -> Result<String, PermitRefused> {
        self.permits.check(permit, asked, now_ms)
    }
}

pub use permit::Asked;

impl Actor {
    /// What an upload is bound to and what history names.
    pub fn label(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Node(session) => write!(f, "node:{}", session.peer_id),
        }
    }
}

/// The token of `Bearer TOKEN`, the scheme in any case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A secret for one purpose. Ed25519 signs deterministically, so every instance that has the key
/// derives the same, and nobody without it can.
fn derive(key: &SigningKey, purpose: &'static str) -> hmac::Key {
    struct Derivation(&'static str);
    impl Statement for Derivation {
        const DOMAIN: &'static str = "longshore/derived-key/1";
        fn fields(&self, layout: &mut Layout) {
            layout.text(self.0);
        }
    }
    hmac::Key::new(hmac::HMAC_SHA256, &key.sign(&Derivation(purpose)).bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn knows_a_node_by_its_session() {
        let (key, _) = SigningKey::generate();
        let auth = Auth::new(&key);
        let session = NodeSession {
            peer_id: "p".into(),
            pool: "default".into(),
            zone: "a".into(),
            expires_at_s: 100,
        };
        let token = auth.issue_session(&session);
        let actor = auth.actor(&headers(&format!("bearer {token}")), 99);
        assert_eq!(actor, Ok(Actor::Node(Arc::new(session))));
        assert_eq!(
            auth.actor(&headers(&format!("Bearer {token}")), 100),
            Err(AuthError::Unauthorized)
        );
        assert_eq!(auth.actor(&headers("Bearer forged"), 0), Err(AuthError::Unauthorized));
        assert_eq!(auth.actor(&headers("Basic YTpi"), 0), Ok(Actor::Anonymous));
    }

    #[test]
    fn any_instance_with_the_key_knows_the_session_and_no_other() {
        let (key, pem) = SigningKey::generate();
        let session = NodeSession {
            peer_id: "p".into(),
            pool: "default".into(),
            zone: "a".into(),
            expires_at_s: 100,
        };
        let token = format!("Bearer {}", Auth::new(&key).issue_session(&session));
        let same = Auth::new(&SigningKey::from_pem(&pem).unwrap());
        let other = Auth::new(&SigningKey::generate().0);
        assert!(same.actor(&headers(&token), 0).is_ok());
        assert_eq!(other.actor(&headers(&token), 0), Err(AuthError::Unauthorized));
    }

    #[test]
    fn a_node_may_pull_and_not_push() {
        let auth = Auth::new(&SigningKey::generate().0);
        let node = Actor::Node(Arc::new(NodeSession {
            peer_id: "p".into(),
            pool: "default".into(),
            zone: "a".into(),
            expires_at_s: 100,
        }));
        let repository = "a".parse().unwrap();
        assert_eq!(auth.authorize(&node, Action::Pull, &repository), Ok(()));
        assert_eq!(auth.authorize(&node, Action::Push, &repository), Err(AuthError::Denied));
        assert_eq!(auth.authorize(&Actor::Anonymous, Action::Push, &repository), Ok(()));
    }
}
