//! `/token`: where a client that says who it is gets a token for what it is about to do.
//!
//! Source: Docker Registry v2 "Token Authentication Specification" (GET) and "OAuth2 Token
//! Authentication" (POST, `password`, and `refresh_token` for identity providers' tokens). No refresh
//! tokens are issued: `offline_token` and `access_type` are ignored. An answer is never cached.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use longshore_proto::ErrorCode;
use serde::Serialize;

use super::body::read_whole;
use super::trail::Trail;
use super::{Answer, ApiError, Body};
use crate::auth::{Actor, AuthError, Issued, Scope};
use crate::registry::{Registry, now_ms};
use crate::serve::Peer;

/// A form holds a few scopes and at most one identity provider's token.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// Under both names that clients read.
#[derive(Serialize)]
struct Answered<'a> {
    token: &'a str,
    access_token: &'a str,
    expires_in: u32,
    issued_at: String,
}

pub(super) async fn issue(
    registry: &Registry,
    parts: &Parts,
    peer: &Peer,
    body: &mut Incoming,
    trail: &mut Trail,
) -> Answer {
    let now_ms = now_ms();
    let (actor, scope) = if parts.method == Method::POST {
        let form = read_whole(body, FORM_BYTES_MAX).await?.ok_or_else(too_large)?;
        let scope = scope(&form)?;
        (by_form(registry, parts, peer, &form, now_ms).await, scope)
    } else {
        let scope = scope(parts.uri.query().unwrap_or_default().as_bytes())?;
        (registry.auth.identify_for_token(&parts.headers, peer, now_ms).await, scope)
    };
    let issued = actor.and_then(|actor| {
        let issued = registry.auth.issue_token(&actor, scope, now_ms / 1000);
        trail.actor = Some(actor);
        issued
    });
    let issued = issued.map_err(|error| refused(registry, error))?;
    trail.names(&issued.id);
    Ok(answer(&issued))
}

async fn by_form(
    registry: &Registry,
    parts: &Parts,
    peer: &Peer,
    form: &[u8],
    now_ms: u64,
) -> Result<Actor, AuthError> {
    let field = |name: &str| {
        let found = form_urlencoded::parse(form).find(|(key, _)| key == name);
        found.map(|(_, value)| value).unwrap_or_default()
    };
    match &*field("grant_type") {
        "password" => {
            let (name, password) = (field("username"), field("password"));
            registry.auth.identify_by_password(&name, &password, peer, now_ms).await
        }
        "refresh_token" => {
            let token = field("refresh_token");
            registry.auth.identify_by_password("", &token, peer, now_ms).await
        }
        // Whoever says nothing in the form may have said it in the header.
        "" => registry.auth.identify_for_token(&parts.headers, peer, now_ms).await,
        _ => Err(AuthError::Unauthorized),
    }
}

fn scope(query: &[u8]) -> Result<Scope, ApiError> {
    let scopes: Vec<_> = form_urlencoded::parse(query)
        .filter(|(key, _)| key == "scope")
        .map(|(_, value)| value)
        .collect();
    Scope::parse(scopes.iter().map(AsRef::as_ref)).map_err(|error| {
        ApiError::new(ErrorCode::Unsupported, error.to_string())
            .with_status(StatusCode::BAD_REQUEST)
    })
}

fn answer(issued: &Issued) -> Response<Body> {
    let issued_at = UNIX_EPOCH + Duration::from_secs(issued.issued_at_s);
    let answered = Answered {
        token: &issued.token,
        access_token: &issued.token,
        expires_in: issued.expires_in,
        issued_at: humantime::format_rfc3339_seconds(issued_at).to_string(),
    };
    let content = serde_json::to_vec(&answered).expect("texts and numbers are JSON");
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, content.len().into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.body_mut() = Body::Full(content.into());
    response
}

fn refused(registry: &Registry, error: AuthError) -> ApiError {
    let refused = ApiError::from(error);
    match error {
        AuthError::Unauthorized | AuthError::Anonymous | AuthError::Scope => {
            refused.with_header(WWW_AUTHENTICATE, registry.auth.token_challenge())
        }
        _ => refused,
    }
}

fn too_large() -> ApiError {
    let message = format!("form has more than {FORM_BYTES_MAX} bytes");
    ApiError::new(ErrorCode::SizeInvalid, message).with_status(StatusCode::PAYLOAD_TOO_LARGE)
}
