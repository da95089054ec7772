//! The front door: one port for the distribution API and for gRPC, told apart by `content-type`.
//!
//! The distribution API is the hot path and passes through no router. Every gRPC call has a bound on
//! the time until its answer begins. Here a request gets its name and its span, and its place among
//! those under way; here it is logged.

mod held;
mod request_id;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::uri::Authority;
use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use longshore_proto::ErrorCode;
use tonic::Status;
use tonic::service::Routes;
use tower::Service as _;
use tracing::{Instrument as _, Span};

use crate::api::{self, ApiError, Body};
use crate::config::Config;
use crate::limits::{Admission, Class, Pace, Proxies, Shed};
use crate::metrics::RequestLabels;
use crate::registry::Registry;
use crate::rpc::Reached;
use crate::serve::{Handler, Peer};
use crate::telemetry;
use held::Held;
use request_id::{REQUEST_ID, RequestId};

/// From a call's headers to its answer's, the message's arrival included.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Seconds after which whoever was turned away may come again: spread, so that they do not come
/// together.
const RETRY_SECONDS: std::ops::RangeInclusive<u32> = 1..=5;

/// Answers the main port.
#[derive(Clone, Debug)]
pub(crate) struct Front(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Arc<Registry>,
    rpc: Routes,
    admission: Admission,
    proxies: Proxies,
    /// An answer to a read that takes longer is logged.
    slow: Option<Duration>,
    /// Spans go to a collector.
    traced: bool,
}

impl Front {
    /// `rpc` takes what is gRPC, the API everything else.
    pub(crate) fn new(registry: Arc<Registry>, rpc: Routes, config: &Config) -> Self {
        let admission = Admission::new(config.limits.clone(), registry.metrics.admission.clone());
        let proxies = Proxies::new(config.limits.trusted_proxies.clone());
        let slow_ms = u64::from(config.log.slow_request_ms);
        let slow = (slow_ms > 0).then(|| Duration::from_millis(slow_ms));
        let traced = config.telemetry.otlp_endpoint.is_some();
        Self(Arc::new(Inner { registry, rpc, admission, proxies, slow, traced }))
    }
}

impl Handler for Front {
    type Body = Held;

    async fn handle(&self, request: Request<Incoming>, peer: &Peer) -> Response<Held> {
        let (this, started) = (&*self.0, Instant::now());
        let id = RequestId::of(request.headers());
        let (method, path) = (request.method(), request.uri().path());
        let span = tracing::info_span!("request", %id, %method, path);
        if this.traced {
            telemetry::follow(&span, request.headers());
        }
        let behind = this.proxies.client(peer.address, request.headers());
        let behind = behind.map(|address| Peer { address, ..peer.clone() });
        let peer = behind.as_ref().unwrap_or(peer);
        let class = class(&request);
        let mut response = this.admit(request, class, peer, &id).instrument(span.clone()).await;
        response.headers_mut().insert(REQUEST_ID, id.into_value());
        this.log(&response, class, peer, started.elapsed(), &span);
        response
    }
}

impl Inner {
    async fn admit(
        &self,
        request: Request<Incoming>,
        class: Class,
        peer: &Peer,
        id: &RequestId,
    ) -> Response<Held> {
        let mut place = match self.admission.enter(class, body_bytes(&request)) {
            Ok(place) => place,
            Err(shed) if class == Class::Call => {
                let status = Status::unavailable(shed.to_string());
                return status.into_http().map(|body| Held::new(Body::Rpc(body), None));
            }
            Err(shed) => return self.turn_away(request, shed).await,
        };
        let mut response = if class == Class::Call {
            self.call(request, peer).await
        } else {
            api::handle(&self.registry, request, peer, id.as_str()).await
        };
        // Nothing of the blob was read yet.
        if response.body().is_stream()
            && let Err(shed) = place.streams()
        {
            return busy(shed).into_response().map(|body| Held::new(body, None));
        }
        let pace = response.extensions_mut().remove::<Pace>();
        response.map(|body| Held::paced(body, place, pace))
    }

    async fn turn_away(&self, request: Request<Incoming>, shed: Shed) -> Response<Held> {
        api::refuse(&self.registry, request, busy(shed)).await.map(|body| Held::new(body, None))
    }

    async fn call(&self, mut request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let authority = authority(&request);
        request.extensions_mut().insert(Reached { peer: peer.clone(), authority });
        let mut rpc = self.rpc.clone();
        let response = match tokio::time::timeout(CALL_TIMEOUT, rpc.call(request)).await {
            Ok(Ok(response)) => response.map(Body::Rpc),
            Ok(Err(never)) => match never {},
            Err(_) => Status::deadline_exceeded("call took too long").into_http().map(Body::Rpc),
        };
        let status = response.status().as_u16();
        let labels = RequestLabels { route: "rpc", method: "POST", status };
        self.registry.metrics.requests.get_or_create(&labels).inc();
        response
    }

    /// One line for the access log where it is on (`access=debug`), one for a slow read.
    fn log(
        &self,
        response: &Response<Held>,
        class: Class,
        peer: &Peer,
        took: Duration,
        span: &Span,
    ) {
        let status = response.status().as_u16();
        let bytes = response.body().size_hint().exact();
        span.in_scope(|| {
            let ms = took.as_secs_f64() * 1000.0;
            tracing::debug!(target: "access", client = %peer.address.ip(), status, bytes, ms);
            // How long a write takes is up to its client.
            if class == Class::Read && self.slow.is_some_and(|slow| took >= slow) {
                tracing::warn!(status, ms, "slow");
            }
            if class == Class::Call && failed(response) {
                let code = response.headers().get("grpc-status");
                let error = response.headers().get("grpc-message");
                tracing::warn!(?code, ?error, "call failed");
            }
        });
    }
}

fn busy(shed: Shed) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, shed.to_string())
        .with_header(RETRY_AFTER, rand::random_range(RETRY_SECONDS).into())
}

fn class<B>(request: &Request<B>) -> Class {
    match *request.method() {
        _ if is_grpc(request) => Class::Call,
        Method::GET | Method::HEAD => Class::Read,
        _ => Class::Write,
    }
}

/// What the body may have, as far as it says.
fn body_bytes<B: http_body::Body>(request: &Request<B>) -> u64 {
    let body = request.body();
    if body.is_end_stream() { 0 } else { body.size_hint().upper().unwrap_or(u64::MAX) }
}

/// A fault of ours, by the status in the head: INTERNAL, UNAVAILABLE, DATA_LOSS, UNKNOWN.
fn failed<B>(response: &Response<B>) -> bool {
    let code = response.headers().get("grpc-status").map(http::HeaderValue::as_bytes);
    matches!(code, Some(b"2" | b"13" | b"14" | b"15"))
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Where the client thinks that it is: `:authority`, or `Host` in HTTP/1.1.
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    let named = request.uri().authority().cloned();
    named.or_else(|| Authority::try_from(request.headers().get(HOST)?.as_bytes()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_where_it_thinks_it_is() {
        let by_host = Request::get("/v2/").header(HOST, "r.example:5000").body(()).unwrap();
        assert_eq!(authority(&by_host).unwrap(), "r.example:5000");
        let by_uri = Request::get("http://10.0.0.1:5000/v2/").body(()).unwrap();
        assert_eq!(authority(&by_uri).unwrap(), "10.0.0.1:5000");
        assert_eq!(authority(&Request::get("/").header(HOST, "a b").body(()).unwrap()), None);
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let of = |value| is_grpc(&Request::post("/").header(CONTENT_TYPE, value).body(()).unwrap());
        assert!(of("application/grpc") && of("application/grpc+proto"));
        assert!(!of("application/octet-stream") && !is_grpc(&Request::new(())));
    }
}
