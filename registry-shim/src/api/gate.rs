//! The gate as the API asks it: a refusal tells the client what to ask for next, and where.

use http::header::{HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use longshore_proto::RepositoryName;

use super::route::Route;
use super::{ApiError, Call};
use crate::auth::{Action, Actor, AuthError, Challenge, Wanted};
use crate::registry::{Registry, now_ms};
use crate::serve::Peer;

/// Who sent the request.
pub(super) async fn actor(
    registry: &Registry,
    parts: &Parts,
    peer: &Peer,
    route: &Route<'_>,
) -> Result<Actor, ApiError> {
    let (headers, now_ms) = (&parts.headers, now_ms());
    let known = match registry.auth.actor(headers, peer, now_ms) {
        Some(known) => known,
        // Boxed: what is verified anew is no part of the hot path's state.
        None => Box::pin(registry.auth.identify(headers, peer, now_ms)).await,
    };
    known.map_err(|error| refusal(registry, error, wanted(parts, route), authority(parts), peer))
}

/// Where the client thinks that it is.
pub(super) fn authority(parts: &Parts) -> Option<&str> {
    let by_uri = parts.uri.authority().map(http::uri::Authority::as_str);
    by_uri.or_else(|| parts.headers.get(HOST)?.to_str().ok())
}

fn wanted<'a>(parts: &Parts, route: &'a Route<'_>) -> Wanted<'a> {
    let action = match (parts.method.as_str(), route) {
        ("GET" | "HEAD", Route::Uploads(_) | Route::Upload(..)) => Action::Push,
        ("GET" | "HEAD", _) => Action::Pull,
        ("DELETE", Route::Manifest(..) | Route::Blob(..)) => Action::Delete,
        _ => Action::Push,
    };
    match route {
        Route::Base | Route::Token => Wanted::Base,
        Route::Catalog => Wanted::Catalog,
        Route::Tags(name)
        | Route::Manifest(name, _)
        | Route::Blob(name, _)
        | Route::Uploads(name)
        | Route::Upload(name, _)
        | Route::Referrers(name, _) => Wanted::Repository(action, name),
    }
}

fn refusal(
    registry: &Registry,
    error: AuthError,
    wanted: Wanted<'_>,
    authority: Option<&str>,
    peer: &Peer,
) -> ApiError {
    let at = Challenge { tls: peer.tls, authority, advertise: registry.advertise.as_deref() };
    let refused = ApiError::from(error);
    match registry.auth.challenge(error, wanted, at) {
        Some(value) => refused.with_header(WWW_AUTHENTICATE, value),
        None => refused,
    }
}

impl Call<'_> {
    /// Asks the gate; every handler begins with it.
    pub(super) fn authorize(
        &self,
        action: Action,
        repository: &RepositoryName,
    ) -> Result<(), ApiError> {
        self.authorize_for(Wanted::Repository(action, repository), action, repository)
    }

    /// As [`Call::authorize`], where the request wants more than that and its refusal says so.
    pub(super) fn authorize_for(
        &self,
        wanted: Wanted<'_>,
        action: Action,
        repository: &RepositoryName,
    ) -> Result<(), ApiError> {
        let allowed = self.registry.auth.authorize(&self.actor, action, repository);
        allowed.map_err(|error| self.refuse(error, wanted))
    }

    /// Whether the caller may look at `/v2/`.
    pub(super) fn authorize_base(&self) -> Result<(), ApiError> {
        let allowed = self.registry.auth.authorize_base(&self.actor);
        allowed.map_err(|error| self.refuse(error, Wanted::Base))
    }

    /// Whether the caller may list repositories.
    pub(super) fn authorize_catalog(&self) -> Result<(), ApiError> {
        let allowed = self.registry.auth.authorize_catalog(&self.actor);
        allowed.map_err(|error| self.refuse(error, Wanted::Catalog))
    }

    pub(super) fn refuse(&self, error: AuthError, wanted: Wanted<'_>) -> ApiError {
        refusal(self.registry, error, wanted, self.authority, self.peer)
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        use longshore_proto::ErrorCode;
        /// For whoever meets an identity provider that is down.
        const RETRY_SECONDS: u32 = 5;
        let (code, retry_after_s) = match error {
            AuthError::Unauthorized | AuthError::Anonymous | AuthError::Scope => {
                (ErrorCode::Unauthorized, None)
            }
            AuthError::Denied => (ErrorCode::Denied, None),
            AuthError::Throttled { retry_after_s } => {
                (ErrorCode::TooManyRequests, Some(retry_after_s))
            }
            AuthError::Unavailable => (ErrorCode::Unavailable, Some(RETRY_SECONDS)),
        };
        let refused = Self::new(code, error.to_string());
        match retry_after_s {
            Some(seconds) => refused.with_header(RETRY_AFTER, seconds.into()),
            None => refused,
        }
    }
}
