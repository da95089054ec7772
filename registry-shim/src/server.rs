//! The main port: OCI over HTTP/1.1 and HTTP/2, and gRPC, told apart by `content-type`.
//!
//! Owns the connections. Every one is bounded: in number, in the time that a head may take, and in
//! the time that a client may leave bytes untaken. It ends when the token is cancelled and every
//! request in flight has been answered, or the grace is over.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::Service as _;

use crate::api::{self, Body};
use crate::metrics::RequestLabels;
use crate::registry::Registry;
use crate::rpc::{self, Reached};
use crate::stalled::StalledWrites;

/// Open connections; further clients wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16_384;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// A client sends a request's head, or the next one on a kept connection, within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent HTTP/2 client is asked whether it lives, and has as long to answer.
const PING: Duration = Duration::from_secs(20);
/// After an error of `accept` (no file descriptors): others end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests in flight have this long to end.
const DRAIN_GRACE: Duration = Duration::from_secs(25);

/// Serves until `shutdown`, then drains.
pub(crate) async fn serve(
    registry: Arc<Registry>,
    listener: TcpListener,
    shutdown: CancellationToken,
) {
    let routes = rpc::routes(&registry);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accept = async {
            let permit = room.clone().acquire_owned().await.expect("the semaphore stays open");
            (listener.accept().await, permit)
        };
        let Some((accepted, permit)) = shutdown.run_until_cancelled(accept).await else { break };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connection(registry.clone(), routes.clone(), stream, graceful.watcher());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    let drained = async {
        graceful.shutdown().await;
        registry.tasks.close();
        registry.tasks.wait().await;
    };
    if tokio::time::timeout(DRAIN_GRACE, drained).await.is_err() {
        tracing::warn!(left = connections.len(), "connections are cut after the grace");
    }
    connections.shutdown().await;
}

async fn connection(
    registry: Arc<Registry>,
    routes: Routes,
    stream: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let Ok(remote) = stream.peer_addr() else { return };
    // Small answers must not wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    registry.metrics.connections.inc();
    let service = service_fn(|request: Request<Incoming>| {
        let (registry, routes) = (registry.clone(), routes.clone());
        async move { Ok::<_, Infallible>(answer(registry, routes, remote, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let io = TokioIo::new(StalledWrites::new(stream));
    if let Err(error) = watcher.watch(builder.serve_connection(io, service).into_owned()).await {
        tracing::debug!(%error, %remote, "connection ends early");
    }
    registry.metrics.connections.dec();
}

async fn answer(
    registry: Arc<Registry>,
    mut routes: Routes,
    remote: std::net::SocketAddr,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let is_rpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_rpc {
        return api::handle(&registry, request).await;
    }
    let authority = authority(&request);
    request.extensions_mut().insert(Reached { remote, authority });
    let response = match routes.call(request).await {
        Ok(response) => response.map(Body::Rpc),
        Err(never) => match never {},
    };
    let labels = RequestLabels { route: "rpc", method: "POST", status: response.status().as_u16() };
    registry.metrics.requests.get_or_create(&labels).inc();
    response
}

/// Where the client thinks that it talks to.
fn authority(request: &Request<Incoming>) -> Option<String> {
    let of_uri = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let of_header = || request.headers().get(HOST)?.to_str().ok().map(str::to_owned);
    of_uri.or_else(of_header)
}
