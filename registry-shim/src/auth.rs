//! Who asks, and what they may do.
//!
//! Asked on every request, before any cache. Owns identities (passwords, tokens, sessions that Join
//! gives, client certificates), the policy, the tokens that are issued here and the permits that
//! open one range of one blob. Tokens, sessions and permits are stateless: any instance with the same
//! keys verifies what another gave. Secrets never leave it but to whom they are issued; none is ever
//! printed. Where no users, rules or issuers are configured, whoever brings no session is anonymous
//! and may do everything. A node may only pull, whatever the policy says.
//!
//! [`Auth::actor`] answers without waiting for what was verified before; [`Auth::identify`] does the
//! rest.

mod actor;
pub mod audit;
mod certificate;
mod challenge;
mod credential;
mod issuer;
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

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use longshore_proto::RepositoryName;
use longshore_proto::sign::{Layout, SigningKey, Statement};
use ring::hmac;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::StartError;
use crate::config::auth::Auth as AuthConfig;
use crate::serve::Peer;
use credential::{Credential, Password};
use issuer::{Issuers, is_jwt};
use policy::Policy;
use token::Tokens;
use users::Users;
use verified::{Kind, Verified};

pub use actor::{Actor, Principal};
pub use challenge::{Challenge, Wanted};
pub use metrics::AuthMetrics;
pub use permit::{Asked, PermitClaims, PermitRefused};
pub use scope::{Scope, TooManyScopes};
pub use session::{NodeSession, SESSION_SECONDS};
pub use token::Issued;
pub use token_file::{JoinTokens, TokenFileError};

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
    /// A gate as configured; secrets that no file gives come from the signing key.
    pub fn new(
        key: &SigningKey,
        config: &AuthConfig,
        metrics: AuthMetrics,
    ) -> Result<Self, StartError> {
        let derived = hmac::sign(&derive(key, "token"), b"secret");
        let tokens =
            Tokens::new(&config.token_keys, &derived, &config.service, config.token_seconds);
        let users = config.users_file.as_deref().map(Users::load).transpose();
        let issuers = Issuers::new(&config.issuer, &metrics);
        if config.rule.is_empty() && !config.issuer.is_empty() {
            let message = "no auth.rule says what identities of issuers may do";
            return Err(bad("auth.issuer", message));
        }
        Ok(Self {
            on: config.is_on(),
            basic: config.basic,
            service: config.service.clone(),
            realm: config.realm.clone(),
            policy: Policy::new(config).map_err(|error| bad("auth.rule", error))?,
            sessions: session::Sessions::new(derive(key, "session")),
            permits: permit::Permits::new(derive(key, "permit")),
            tokens: tokens.map_err(|error| bad("auth.token_keys", error))?,
            users: users.map_err(|error| bad("auth.users_file", error))?.map(Arc::new),
            issuers: issuers.map_err(|error| bad("auth.issuer", error))?,
            metrics,
            verified: Verified::new(),
        })
    }

    /// Whether anybody is asked who they are.
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// Who sent these headers, as far as it can be said at once. `None`: ask [`Auth::identify`].
    pub fn actor(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        now_ms: u64,
    ) -> Option<Result<Actor, AuthError>> {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return match &peer.certificate {
                Some(leaf) if self.on => {
                    self.verified.get(Kind::Certificate, leaf, now_ms / 1000).map(Ok)
                }
                _ => Some(Ok(Actor::Anonymous)),
            };
        };
        match Credential::parse(value.as_bytes()) {
            Err(_) => Some(Err(AuthError::Unauthorized)),
            Ok(Credential::Bearer(token)) => {
                self.verified.get(Kind::Token, token, now_ms / 1000).map(Ok)
            }
            // Clients send what they have for some other registry, too.
            Ok(_) if !self.on => Some(Ok(Actor::Anonymous)),
            Ok(Credential::Basic(_)) if !self.basic => Some(Err(AuthError::Unauthorized)),
            Ok(Credential::Basic(encoded)) => match Password::decode(encoded) {
                Err(_) => Some(Err(AuthError::Unauthorized)),
                Ok(shown) => self.recall(&shown, now_ms).map(Ok),
            },
            Ok(Credential::Other) => Some(Err(AuthError::Unauthorized)),
        }
    }

    /// Who sent these headers; verifies what is new.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        now_ms: u64,
    ) -> Result<Actor, AuthError> {
        if let Some(known) = self.actor(headers, peer, now_ms) {
            return known;
        }
        self.refresh_users(now_ms).await;
        let Some(value) = headers.get(AUTHORIZATION) else {
            return self.verify_certificate(peer, now_ms / 1000);
        };
        match Credential::parse(value.as_bytes()) {
            Ok(Credential::Bearer(token)) => self.verify_bearer(token, now_ms).await,
            Ok(Credential::Basic(encoded)) => {
                let shown = Password::decode(encoded).map_err(|_| AuthError::Unauthorized)?;
                self.login(shown, peer.address.ip(), now_ms).await
            }
            Ok(Credential::Other) | Err(_) => Err(AuthError::Unauthorized),
        }
    }

    /// Who asks for a token. Passwords are taken here even where requests may not bring them.
    pub async fn identify_for_token(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        now_ms: u64,
    ) -> Result<Actor, AuthError> {
        let value = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        match value.map(Credential::parse) {
            Some(Ok(Credential::Basic(encoded))) => {
                let shown = Password::decode(encoded).map_err(|_| AuthError::Unauthorized)?;
                self.refresh_users(now_ms).await;
                self.login(shown, peer.address.ip(), now_ms).await
            }
            _ => self.identify(headers, peer, now_ms).await,
        }
    }

    /// Who asks for a token by a form's name and password.
    pub async fn identify_by_password(
        &self,
        name: &str,
        password: &str,
        peer: &Peer,
        now_ms: u64,
    ) -> Result<Actor, AuthError> {
        let shown = Password::new(name, password).map_err(|_| AuthError::Unauthorized)?;
        self.refresh_users(now_ms).await;
        self.login(shown, peer.address.ip(), now_ms).await
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

    async fn refresh_users(&self, now_ms: u64) {
        if let Some(users) = &self.users
            && users.refresh(now_ms).await
        {
            // A token of somebody who is gone is verified again, and then refused.
            self.verified.forget();
        }
    }

    fn recall(&self, shown: &Password, now_ms: u64) -> Option<Actor> {
        if self.takes_tokens_as(shown) {
            return self.verified.get(Kind::Token, shown.password.as_bytes(), now_ms / 1000);
        }
        self.users.as_ref()?.recall(shown, now_ms).map(Actor::Known)
    }

    /// Whether a password is an issuer's token, under whatever name: clients that know passwords
    /// alone bring it so.
    fn takes_tokens_as(&self, shown: &Password) -> bool {
        !self.issuers.is_empty() && is_jwt(&shown.password)
    }

    async fn login(
        &self,
        shown: Password,
        client: IpAddr,
        now_ms: u64,
    ) -> Result<Actor, AuthError> {
        if self.takes_tokens_as(&shown) {
            return self.verify_external(&shown.password, now_ms).await;
        }
        let users = self.users.as_ref().ok_or(AuthError::Unauthorized)?;
        let principal = |name: &str| self.principal(vec![format!("user:{name}")], None);
        let verified = users.verify(shown, client, now_ms, principal).await.map(Actor::Known);
        match verified {
            Err(AuthError::Throttled { .. }) => _ = self.metrics.logins_throttled.inc(),
            Err(_) => _ = self.metrics.logins_failed.inc(),
            Ok(_) => {}
        }
        verified
    }

    /// A session, a token of ours, or one of an issuer's.
    async fn verify_bearer(&self, shown: &[u8], now_ms: u64) -> Result<Actor, AuthError> {
        let now_s = now_ms / 1000;
        if let Some(node) = self.verify_session(shown, now_s) {
            return Ok(Actor::Node(node));
        }
        let token = std::str::from_utf8(shown).map_err(|_| AuthError::Unauthorized)?;
        if !self.on || !is_jwt(token) {
            return Err(AuthError::Unauthorized);
        }
        if !self.tokens.signed(token) {
            return self.verify_external(token, now_ms).await;
        }
        let said = self.tokens.verify(token, now_s).ok_or(AuthError::Unauthorized)?;
        let name = said.subjects.first().and_then(|subject| subject.strip_prefix("user:"));
        if name.is_some_and(|name| !self.users.as_ref().is_some_and(|users| users.knows(name))) {
            return Err(AuthError::Unauthorized);
        }
        let actor = Actor::Known(self.principal(said.subjects, Some(said.scope)));
        self.verified.insert((Kind::Token, shown), actor.clone(), said.expires_at_s, now_s);
        Ok(actor)
    }

    fn verify_session(&self, shown: &[u8], now_s: u64) -> Option<Arc<NodeSession>> {
        let session = self.sessions.verify(std::str::from_utf8(shown).ok()?, now_s)?;
        let (expires_at_s, node) = (session.expires_at_s, Arc::new(session));
        self.verified.insert((Kind::Token, shown), Actor::Node(node.clone()), expires_at_s, now_s);
        Some(node)
    }

    async fn verify_external(&self, token: &str, now_ms: u64) -> Result<Actor, AuthError> {
        let named = self.issuers.verify(token, now_ms).await?;
        let actor = Actor::Known(self.principal(named.subjects, None));
        self.verified.insert(
            (Kind::Token, token.as_bytes()),
            actor.clone(),
            named.expires_at_s,
            now_ms / 1000,
        );
        Ok(actor)
    }

    /// The connection has verified the chain; what ended since then counts no more.
    fn verify_certificate(&self, peer: &Peer, now_s: u64) -> Result<Actor, AuthError> {
        let Some(leaf) = &peer.certificate else { return Ok(Actor::Anonymous) };
        let Some((subjects, expires_at_s)) = certificate::read(leaf) else {
            return Ok(Actor::Anonymous);
        };
        if expires_at_s <= now_s {
            return Err(AuthError::Unauthorized);
        }
        let actor = Actor::Known(self.principal(subjects, None));
        self.verified.insert(
            (Kind::Certificate, leaf.as_ref()),
            actor.clone(),
            expires_at_s,
            now_s,
        );
        Ok(actor)
    }

    fn principal(&self, subjects: Vec<String>, scope: Option<Scope>) -> Arc<Principal> {
        let grants = self.policy.grants(&subjects);
        Principal::new(subjects, grants, scope)
    }

    /// The session of a node, as gRPC calls show it.
    pub fn node(&self, headers: &HeaderMap, now_s: u64) -> Result<Arc<NodeSession>, AuthError> {
        let value = headers.get(AUTHORIZATION).ok_or(AuthError::Anonymous)?;
        let Ok(Credential::Bearer(token)) = Credential::parse(value.as_bytes()) else {
            return Err(AuthError::Unauthorized);
        };
        match self.verified.get(Kind::Token, token, now_s) {
            Some(Actor::Node(node)) => Ok(node),
            Some(_) => Err(AuthError::Unauthorized),
            None => self.verify_session(token, now_s).ok_or(AuthError::Unauthorized),
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
