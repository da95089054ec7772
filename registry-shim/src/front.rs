//! The front door: one port for the distribution API and for gRPC, told apart by `content-type`.
//!
//! The distribution API is the hot path and passes through no router. Every gRPC call has a bound on
//! the time until its answer begins.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::service::Routes;
use tower::Service as _;

use crate::api::{self, Body};
use crate::metrics::RequestLabels;
use crate::registry::Registry;
use crate::rpc::Reached;
use crate::serve::{Handler, Peer};

/// From a call's headers to its answer's, the message's arrival included.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers the main port.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    registry: Arc<Registry>,
    rpc: Routes,
}

impl Front {
    /// `rpc` takes what is gRPC, the API everything else.
    pub(crate) const fn new(registry: Arc<Registry>, rpc: Routes) -> Self {
        Self { registry, rpc }
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
}

impl Handler for Front {
    type Body = Body;

    async fn handle(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        if is_grpc(&request) {
            self.call(request, peer).await
        } else {
            api::handle(&self.registry, request, peer).await
        }
    }
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
