//! The OCI distribution API: one file per noun.
//!
//! Source: OCI distribution-spec 1.1.1. Every request is parsed into types, then asks the gate,
//! then the caches. A blob streams both ways through bounded buffers; nothing here holds one whole.

mod absence;
mod base;
mod blob;
mod body;
mod catalog;
mod chunk;
mod error;
mod gate;
mod manifest;
mod mount;
mod receive;
mod referrer;
mod route;
mod tag;
mod token;
mod trail;
mod upload;
mod upstream;

use std::sync::Arc;
use std::time::Instant;

use http::header::{ALLOW, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, WARNING};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use longshore_proto::{ErrorCode, RepositoryName};

pub(crate) use body::Body;
pub(crate) use error::ApiError;
pub(crate) use manifest::referrer_of;
use route::{Query, Route};
use trail::Trail;
pub(crate) use upstream::answer as upstream_answer;

use crate::auth::Actor;
use crate::cache::CachedStorage;
use crate::limits::Pace;
use crate::metrics::RequestLabels;
use crate::registry::Registry;
use crate::serve::Peer;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// What the answer tells may have changed, and the store or the upstream that would know cannot be
/// asked. The specification's "Warnings" leaves no code but 299, not even HTTP's own for this.
const STALE: HeaderValue = HeaderValue::from_static("299 - \"Response is stale\"");

type Answer = Result<Response<Body>, ApiError>;

/// What every handler is given: the instance and the request without its body.
struct Call<'a> {
    registry: &'a Registry,
    method: &'a Method,
    headers: &'a HeaderMap,
    query: Query<'a>,
    peer: &'a Peer,
    authority: Option<&'a str>,
    actor: Actor,
}

/// Answers one request of the API; `id` is what logs call it.
pub(crate) async fn handle(
    registry: &Arc<Registry>,
    request: Request<Incoming>,
    peer: &Peer,
    id: &str,
) -> Response<Body> {
    let started = Instant::now();
    let (parts, mut body) = request.into_parts();
    let query = Query(parts.uri.query().unwrap_or_default());
    let mut trail = Trail::default();
    let (label, answer) = match Route::parse(parts.uri.path()) {
        None => ("unknown", Err(not_found())),
        // Where nobody is asked who they are, nobody needs a token.
        Some(Ok(Route::Token)) if !registry.auth.is_on() => ("unknown", Err(not_found())),
        Some(Err(error)) => ("unknown", Err(error)),
        Some(Ok(route)) => {
            let label = route.label();
            trail = Trail::begin(&route, parts.method.as_str(), query);
            // Only regions have two stores, of which one may be away.
            let regional = registry.regions.as_ref().and_then(|_| route.repository().cloned());
            let answer = dispatch(registry, &parts, peer, route, &mut body, &mut trail).await;
            let certain = |error: ApiError| match &regional {
                Some(name) => error.if_certain(registry, name, &parts.method),
                None => error,
            };
            (label, answer.map_err(certain))
        }
    };
    let response = match answer {
        Ok(response) => response,
        Err(error) => refusal(&parts, &mut body, error).await,
    };
    if trail.is_noted() {
        let (status, headers) = (response.status(), response.headers());
        Box::pin(trail.end(registry, peer, query, id, status, headers)).await;
    }
    answered(registry, label, &parts, started, response)
}

/// Refuses one request of the API, whatever it asks.
pub(crate) async fn refuse(
    registry: &Registry,
    request: Request<Incoming>,
    error: ApiError,
) -> Response<Body> {
    let started = Instant::now();
    let (parts, mut body) = request.into_parts();
    let response = refusal(&parts, &mut body, error).await;
    answered(registry, "refused", &parts, started, response)
}

async fn refusal(parts: &Parts, body: &mut Incoming, error: ApiError) -> Response<Body> {
    error.log();
    // A client that waits to be invited has sent nothing and shall not begin.
    if !parts.headers.contains_key(EXPECT) {
        body::drain(body).await;
    }
    let mut response = error.into_response();
    if parts.method == Method::HEAD {
        *response.body_mut() = Body::Empty;
    }
    response
}

fn answered(
    registry: &Registry,
    route: &'static str,
    parts: &Parts,
    started: Instant,
    mut response: Response<Body>,
) -> Response<Body> {
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    let (method, status) = (method_label(&parts.method), response.status().as_u16());
    let labels = RequestLabels { route, method, status };
    registry.metrics.requests.get_or_create(&labels).inc();
    registry.metrics.seconds.observe(started.elapsed().as_secs_f64());
    response
}

async fn dispatch(
    registry: &Registry,
    parts: &Parts,
    peer: &Peer,
    route: Route<'_>,
    body: &mut Incoming,
    trail: &mut Trail,
) -> Answer {
    let query = Query(parts.uri.query().unwrap_or_default());
    let (method, headers, authority) = (&parts.method, &parts.headers, gate::authority(parts));
    let call = |actor| Call { registry, method, headers, query, peer, authority, actor };
    // A permit stands for itself, whatever else the request shows.
    if let (Route::Blob(repository, digest), Some(permit)) = (&route, query.get("permit")) {
        return blob::get_by_permit(&call(Actor::Anonymous), repository, digest, &permit).await;
    }
    if let (Route::Token, "GET" | "POST") = (&route, method.as_str()) {
        return Box::pin(token::issue(registry, parts, peer, body, trail)).await;
    }
    let namespace = query.get("ns").filter(|_| !registry.upstreams.is_empty());
    let route = match &namespace {
        Some(ns) => route.renamed(|name| {
            let local = registry.upstreams.local_name(ns, name);
            local.ok_or_else(|| ApiError::new(ErrorCode::NameUnknown, "ns is not fronted here"))
        })?,
        None => route,
    };
    let actor = gate::actor(registry, parts, peer, &route).await;
    if let Some(throttle) = &registry.throttle {
        throttle.ask(actor.as_ref().ok(), peer.address.ip())?;
    }
    let call = call(actor?);
    if trail.is_noted() {
        trail.actor = Some(call.actor.clone());
    }
    let answer = act(&call, route, body).await.map(|response| paced(&call, response));
    match namespace.and_then(|ns| HeaderValue::from_str(&ns).ok()) {
        Some(ns) => within_namespace(answer, ns),
        None => answer,
    }
}

/// A body that streams is held to its client's share by whoever sends it.
fn paced(call: &Call<'_>, mut response: Response<Body>) -> Response<Body> {
    if response.body().is_stream()
        && let Some(pace) = call.pace()
    {
        response.extensions_mut().insert(pace);
    }
    response
}

/// Tells that the request was read within `ns`.
fn within_namespace(answer: Answer, ns: HeaderValue) -> Answer {
    match answer {
        Ok(mut response) => {
            response.headers_mut().insert(OCI_NAMESPACE, ns);
            Ok(response)
        }
        Err(error) => Err(error.with_header(OCI_NAMESPACE, ns)),
    }
}

async fn act(call: &Call<'_>, route: Route<'_>, body: &mut Incoming) -> Answer {
    match (route, call.method.as_str()) {
        (Route::Base, "GET" | "HEAD") => base::get(call),
        (Route::Catalog, "GET" | "HEAD") => catalog::list(call).await,
        (Route::Tags(name), "GET" | "HEAD") => tag::list(call, &name).await,
        (Route::Referrers(name, digest), "GET" | "HEAD") => {
            referrer::list(call, &name, &digest).await
        }
        (Route::Manifest(name, reference), "GET" | "HEAD") => {
            manifest::get(call, &name, &reference).await
        }
        (Route::Manifest(name, reference), "PUT") => {
            manifest::put(call, &name, &reference, body).await
        }
        (Route::Manifest(name, reference), "DELETE") => {
            manifest::delete(call, &name, &reference).await
        }
        (Route::Blob(name, digest), "GET" | "HEAD") => blob::get(call, &name, &digest).await,
        (Route::Blob(name, digest), "DELETE") => blob::delete(call, &name, &digest).await,
        (Route::Uploads(name), "POST") => upload::begin(call, &name, body).await,
        (Route::Upload(name, id), "GET" | "HEAD") => upload::status(call, &name, id).await,
        (Route::Upload(name, id), "PATCH") => upload::append(call, &name, id, body).await,
        (Route::Upload(name, id), "PUT") => upload::finish(call, &name, id, body).await,
        (Route::Upload(name, id), "DELETE") => upload::cancel(call, &name, id).await,
        (route, _) => Err(not_allowed(&route)),
    }
}

impl Call<'_> {
    /// The store that holds the repository.
    fn storage(&self, repository: &RepositoryName) -> &CachedStorage {
        self.registry.storage_of(repository)
    }

    /// The client's share of bytes, where it has one.
    fn pace(&self) -> Option<Pace> {
        self.registry.pacer.as_ref()?.of(Some(&self.actor), self.peer.address.ip())
    }

    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Page size of a list: `n`, clamped.
    fn page_items(&self) -> Result<usize, ApiError> {
        const PAGE_ITEMS_MAX: usize = 1000;
        let Some(n) = self.query.get("n") else { return Ok(PAGE_ITEMS_MAX) };
        if n.is_empty() || !n.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(ApiError::new(ErrorCode::Unsupported, "n is not a number")
                .with_status(StatusCode::BAD_REQUEST));
        }
        // A number that is too long for one asks for more than a page has.
        Ok(n.parse().unwrap_or(PAGE_ITEMS_MAX).min(PAGE_ITEMS_MAX))
    }
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "OTHER",
    }
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::Unsupported, "no such path").with_status(StatusCode::NOT_FOUND)
}

fn not_allowed(route: &Route<'_>) -> ApiError {
    let allowed = match route {
        Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        Route::Token => "GET, POST",
    };
    ApiError::new(ErrorCode::Unsupported, "method is not allowed here")
        .with_header(ALLOW, HeaderValue::from_static(allowed))
}

/// A header value from text that holds nothing but names, digests and numbers.
fn header_value(text: impl AsRef<str>) -> HeaderValue {
    HeaderValue::from_str(text.as_ref()).expect("names, digests and numbers are header values")
}

/// An answer without a body.
fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// A tag or a list that may not be the latest.
fn mark_stale(response: &mut Response<Body>) {
    response.headers_mut().insert(WARNING, STALE);
}

/// A JSON answer; a HEAD gets its length only.
fn json(
    call: &Call<'_>,
    media_type: &'static str,
    content: &impl serde::Serialize,
) -> Response<Body> {
    let content = serde_json::to_vec(content).expect("lists hold only texts and numbers");
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, content.len().into());
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if !call.is_head() {
        *response.body_mut() = Body::Full(content.into());
    }
    response
}
