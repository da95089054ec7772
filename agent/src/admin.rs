//! The admin port: `/metrics`, `/livez` and `/readyz`.
//!
//! Owns its listener and connections; it changes nothing. Every connection has a bound in time
//! and their number one too. It ends when its token is cancelled.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Scrapers and probes are few.
const CONNECTIONS_MAX: usize = 32;
/// For a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a connection as a whole: a scraper that keeps one open longer connects anew.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// After a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the agent can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet, or no more: why.
    Not(&'static str),
    /// It does.
    Ready,
}

/// What the port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    metrics: Arc<Registry>,
    ready: watch::Receiver<Readiness>,
}

impl Admin {
    /// Shows these.
    pub const fn new(metrics: Arc<Registry>, ready: watch::Receiver<Readiness>) -> Self {
        Self { metrics, ready }
    }

    /// Serves until `shutdown`; answers under way are cut, they are short.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let service = TowerToHyperService::new(self.routes());
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_ended) = connections.join_next() => continue,
                stream = accept(&listener, &places) => stream,
            };
            let Some((stream, place)) = stream else { continue };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service.clone());
            connections.spawn(async move {
                // A client that went away or was too slow is no news.
                let _ended = tokio::time::timeout(CONNECTION_MAX, connection).await;
                drop(place);
            });
        }
    }

    fn routes(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .with_state(self)
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("nobody closes the semaphore");
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "admin: cannot accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.ready.borrow().clone() {
        Readiness::Ready => "ok\n".into_response(),
        Readiness::Not(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::metrics::{AgentMetrics, registry, room};

    struct Running {
        address: std::net::SocketAddr,
        ready: watch::Sender<Readiness>,
        shutdown: CancellationToken,
        served: tokio::task::JoinHandle<()>,
    }

    async fn start() -> Running {
        let mut registry = registry();
        AgentMetrics::register(room(&mut registry, "agent"));
        let (ready, readiness) = watch::channel(Readiness::Not("joining the origin"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let admin = Admin::new(Arc::new(registry), readiness);
        let served = tokio::spawn(admin.serve(listener, shutdown.clone()));
        Running { address, ready, shutdown, served }
    }

    impl Running {
        async fn get(&self, path: &str) -> (String, String) {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].to_owned(), body.to_owned())
        }
    }

    #[tokio::test]
    async fn readiness_says_why_not() {
        let running = start().await;
        assert_eq!(running.get("/livez").await, ("200".into(), "ok\n".into()));
        assert_eq!(running.get("/readyz").await, ("503".into(), "joining the origin\n".into()));
        running.ready.send_replace(Readiness::Ready);
        assert_eq!(running.get("/readyz").await, ("200".into(), "ok\n".into()));
        let (status, text) = running.get("/metrics").await;
        assert!(status == "200" && text.ends_with("# EOF\n"), "{text}");
        running.shutdown.cancel();
        running.served.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_let_go() {
        let running = start().await;
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        tokio::time::pause();
        let mut nothing = Vec::new();
        let closed = silent.read_to_end(&mut nothing).await;
        assert!(closed.is_err() || nothing.is_empty() || nothing.starts_with(b"HTTP/1.1 408"));
        running.shutdown.cancel();
    }
}
