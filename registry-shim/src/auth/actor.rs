//! Who sent a request.
//!
//! An actor carries what the policy allows it, picked out once; to keep one costs a reference.

use std::fmt;
use std::sync::Arc;

use super::NodeSession;
use super::policy::Grants;
use super::scope::Scope;

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody in particular.
    Anonymous,
    /// A node that joined.
    Node(Arc<NodeSession>),
    /// Whom a password, a token or a certificate names.
    Known(Arc<Principal>),
}

/// Somebody whom a credential names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// What rules call it: `user:alice`, `group:ci`. The first one is what logs and history name.
    subjects: Vec<String>,
    /// What the policy gives these subjects.
    pub(super) grants: Grants,
    /// What its token was given for; `None`: everything.
    pub(super) scope: Option<Scope>,
}

/// The subject of a token that was given to nobody in particular.
pub(super) const ANONYMOUS: &str = "anonymous";

impl Actor {
    /// What an upload is bound to and what history names.
    pub fn label(&self) -> String {
        self.to_string()
    }

    /// Whether more might be allowed to whoever says who they are.
    pub fn is_anonymous(&self) -> bool {
        match self {
            Self::Anonymous => true,
            Self::Node(_) => false,
            Self::Known(principal) => principal.label() == ANONYMOUS,
        }
    }
}

impl Principal {
    /// `subjects` has at least one.
    pub(super) fn new(subjects: Vec<String>, grants: Grants, scope: Option<Scope>) -> Arc<Self> {
        debug_assert!(!subjects.is_empty(), "somebody known has a name");
        Arc::new(Self { subjects, grants, scope })
    }

    /// The first subject.
    pub fn label(&self) -> &str {
        self.subjects.first().map_or(ANONYMOUS, String::as_str)
    }

    /// All names that rules may call it by.
    pub fn subjects(&self) -> &[String] {
        &self.subjects
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str(ANONYMOUS),
            Self::Node(session) => write!(f, "node:{}", session.peer_id),
            Self::Known(principal) => f.write_str(principal.label()),
        }
    }
}
