//! Who asks, and what they may do.
//!
//! Asked on every request, before any cache. Owns identities (passwords, tokens, sessions that Join
//! gives, client certificates), the policy, the tokens that are issued here and the permits that
//! open one range of one blob. Tokens, sessions and permits are stateless: any instance with the same
//! keys verifies what another gave. Secrets never leave it but to whom they are issued; none is ever
//! printed. Where no users, rules or issuers are configured, whoever brings no session is anonymous
//! and may do everything. A node may only pull, whatever the policy says.
//!
//! Who asks is found in `identify`; here stand the gate itself, what it lets through and what it
//! issues.

mod actor;
pub mod audit;
mod certificate;
mod challenge;
mod credential;
mod identify;
mod issuer;
mod members;
mod metrics;
mod pattern;
mod permit;
mod policy;
mod scope;
mod session;
mod token;
mod token_file;
pub mod users;
mod verified;

use std::sync::Arc;

use longshore_proto::RepositoryName;
use longshore_proto::sign::{Layout, SigningKey, Statement};
use ring::hmac;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::StartError;
use crate::config::Join;
use crate::config::auth::Auth as AuthConfig;
use issuer::Issuers;
use members::Members;
use policy::Policy;
use token::Tokens;
use users::Users;
use verified::Verified;

pub use actor::{Actor, Principal};
pub use challenge::{Challenge, Wanted};
pub use metrics::AuthMetrics;
pub use permit::{Asked, PermitClaims, PermitRefused};
pub use scope::{Scope, TooManyScopes};
pub use session::{NodeSession, SESSION_SECONDS};
pub use token::{Issued, TokenKeyError, make_token_key, token_key_id};
pub use token_file::{JoinToken, JoinTokens, TokenFileError};

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
    #[error("credential is unknown or has expired")]
    Unauthorized,
    /// No credential was shown, and one could allow this.
    #[error("authentication is required")]
    Anonymous,
    /// The bearer may do this, and the token was not given for it: get another one.
    #[error("token was not given for this")]
    Scope,
    /// Who asks is known and may not do this.
    #[error("not allowed")]
    Denied,
    /// Too many failures, or too many at once: come back later.
    #[error("too many attempts to log in")]
    Throttled {
        /// Seconds.
        retry_after_s: u32,
    },
    /// What the credential is verified with cannot be had now.
    #[error("credential cannot be verified now")]
    Unavailable,
}

/// The gate.
#[derive(Debug)]
pub struct Auth {
    on: bool,
    basic: bool,
    service: String,
    realm: Option<String>,
    policy: Policy,
    sessions: session::Sessions,
    permits: permit::Permits,
    tokens: Tokens,
    users: Option<Arc<Users>>,
    issuers: Issuers,
    members: Members,
    metrics: AuthMetrics,
    verified: Verified,
}

impl Action {
    /// All of them.
    pub const EACH: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// As scopes and rules spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl Auth {
    /// A gate as configured; secrets that no file gives come from `keys`, of which the first signs
    /// and all count.
    pub fn new(
        keys: &[&SigningKey],
        config: &AuthConfig,
        join: &Join,
        metrics: AuthMetrics,
    ) -> Result<Self, StartError> {
        let derived = |purpose| keys.iter().map(|key| derive(key, purpose)).collect::<Vec<_>>();
        let secrets: Vec<_> =
            derived("token").iter().map(|key| hmac::sign(key, b"secret")).collect();
        let tokens =
            Tokens::new(&config.token_keys, &secrets, &config.service, config.token_seconds);
        let users = config.users_file.as_deref().map(Users::load).transpose();
        let issuers = Issuers::new(&config.issuer, &metrics);
        let members = Members::load(join, !config.issuer.is_empty())?;
        let for_nodes = !join.identity.is_empty();
        if config.rule.is_empty() && !config.issuer.is_empty() && !for_nodes {
            let message = "no auth.rule says what identities of issuers may do";
            return Err(bad("auth.issuer", message));
        }
        Ok(Self {
            on: config.is_on(),
            basic: config.basic,
            service: config.service.clone(),
            realm: config.realm.clone(),
            policy: Policy::new(config).map_err(|error| bad("auth.rule", error))?,
            sessions: session::Sessions::new(derived("session")),
            permits: permit::Permits::new(derived("permit")),
            tokens: tokens.map_err(|error| bad("auth.token_keys", error))?,
            users: users.map_err(|error| bad("auth.users_file", error))?.map(Arc::new),
            issuers: issuers.map_err(|error| bad("auth.issuer", error))?,
            members,
            metrics,
            verified: Verified::new(),
        })
    }

    /// Whether anybody is asked who they are.
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// Reads the secrets of tokens again whenever it is told, until `ended`. The users' file and the
    /// issuers' keys look after themselves.
    pub async fn watch(&self, mut reload: watch::Receiver<u64>, ended: CancellationToken) {
        while let Some(Ok(())) = ended.run_until_cancelled(reload.changed()).await {
            match self.tokens.reload() {
                // What a key signed that is gone is verified again, and then refused.
                Ok(()) => self.verified.forget(),
                Err(error) => tracing::error!(%error, "auth.token_keys: the keys before stand"),
            }
        }
    }

    /// Whether `actor` may do that.
    pub fn authorize(
        &self,
        actor: &Actor,
        action: Action,
        repository: &RepositoryName,
    ) -> Result<(), AuthError> {
        match actor {
            Actor::Anonymous if self.policy.anonymous().allow(action, repository) => Ok(()),
            Actor::Anonymous => Err(AuthError::Anonymous),
            Actor::Node(node) => {
                let may = action == Action::Pull && self.policy.node_may_pull(node, repository);
                if may { Ok(()) } else { Err(AuthError::Denied) }
            }
            Actor::Known(known) => {
                if !known.grants.allow(action, repository) {
                    let anonymous = actor.is_anonymous();
                    return Err(if anonymous { AuthError::Anonymous } else { AuthError::Denied });
                }
                let covers = |scope: &Scope| scope.covers(action, repository);
                let covered = known.scope.as_ref().is_none_or(covers);
                if covered { Ok(()) } else { Err(AuthError::Scope) }
            }
        }
    }

    /// Whether `actor` may look at `/v2/`: whoever shows something that holds, even a token that was
    /// given to nobody in particular.
    pub const fn authorize_base(&self, actor: &Actor) -> Result<(), AuthError> {
        match actor {
            Actor::Anonymous if self.on => Err(AuthError::Anonymous),
            _ => Ok(()),
        }
    }

    /// Whether `actor` may list the repositories that it may pull.
    pub fn authorize_catalog(&self, actor: &Actor) -> Result<(), AuthError> {
        match actor {
            Actor::Anonymous if self.policy.anonymous().is_empty() => Err(AuthError::Anonymous),
            Actor::Known(known)
                if known.scope.as_ref().is_some_and(|scope| !scope.covers_catalog()) =>
            {
                Err(AuthError::Scope)
            }
            _ => Ok(()),
        }
    }

    /// Whether the catalog shows `repository` to `actor`. A token's scope names no repository that
    /// is not known yet, so only the policy is asked.
    pub fn lists(&self, actor: &Actor, repository: &RepositoryName) -> bool {
        match actor {
            Actor::Known(known) => known.grants.allow(Action::Pull, repository),
            actor => self.authorize(actor, Action::Pull, repository).is_ok(),
        }
    }

    /// A token for `actor`, for what of `asked` it may have. Nobody in particular gets one only
    /// where the policy gives it something; and a token is no way to another one, or it would never
    /// end.
    pub fn issue_token(
        &self,
        actor: &Actor,
        asked: Scope,
        now_s: u64,
    ) -> Result<Issued, AuthError> {
        let issued = self.try_issue(actor, asked, now_s);
        match &issued {
            Ok(_) => self.metrics.tokens_issued.inc(),
            Err(_) => self.metrics.tokens_refused.inc(),
        };
        issued
    }

    fn try_issue(&self, actor: &Actor, asked: Scope, now_s: u64) -> Result<Issued, AuthError> {
        let nobody = [actor::ANONYMOUS.to_owned()];
        let (subjects, grants) = match actor {
            Actor::Node(_) => return Err(AuthError::Denied),
            Actor::Known(known) if known.scope.is_some() => return Err(AuthError::Unauthorized),
            Actor::Known(known) => (known.subjects(), &known.grants),
            Actor::Anonymous if self.policy.anonymous().is_empty() => {
                return Err(AuthError::Anonymous);
            }
            Actor::Anonymous => (nobody.as_slice(), self.policy.anonymous()),
        };
        let granted = asked.granted(|repository| grants.actions(repository));
        Ok(self.tokens.issue(subjects, &granted, now_s))
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
        asked: &Asked<'_>,
        now_ms: u64,
    ) -> Result<String, PermitRefused> {
        self.permits.check(permit, asked, now_ms)
    }
}

/// How many public keys an identity provider gives now; one line where it gives none.
pub(crate) async fn try_issuer(config: &crate::config::auth::Issuer) -> Result<usize, String> {
    issuer::try_out(config).await
}

fn bad(key: &'static str, error: impl std::fmt::Display) -> StartError {
    StartError::Config { key, message: error.to_string() }
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
mod tests;
