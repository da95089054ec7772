//! Who asks: from the headers and the connection to an [`Actor`].
//!
//! [`Auth::actor`] answers at once for what was verified before; [`Auth::identify`] verifies the rest
//! and remembers it under the bytes of the credential. Must never decide what somebody may do, and
//! never tell a wrong password from an unknown name.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::credential::{Credential, Password};
use super::issuer::is_jwt;
use super::session::NodeSession;
use super::verified::Kind;
use super::{Actor, Auth, AuthError, Principal, Scope, certificate};
use crate::serve::Peer;

impl Auth {
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

    pub(super) fn principal(&self, subjects: Vec<String>, scope: Option<Scope>) -> Arc<Principal> {
        let grants = self.policy.grants(&subjects);
        Principal::new(subjects, grants, scope)
    }
}
