//! A proxy in front of an object store that counts its writes and ends at one of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Whether the write at which the gate closes was still done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// It was not.
    Lost,
    /// It was, and nobody was told.
    Done,
}

/// What a request meets at a closed gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Silence.
    Silent,
    /// A connection that breaks.
    Breaks,
}

/// At which write the gate closes, from 0, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) at: usize,
    pub(crate) last: Last,
    pub(crate) closed: Closed,
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct State {
    upstream: String,
    client: Client<HttpConnector, Full<Bytes>>,
    writes: AtomicUsize,
    order: Mutex<Option<Order>>,
    closed: watch::Sender<bool>,
}

impl Gate {
    /// Passes requests to the server at `upstream`, `http://ADDRESS:PORT`.
    pub(crate) async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            writes: AtomicUsize::new(0),
            order: Mutex::new(None),
            closed: watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        let serve = serve(listener, state.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
        Self { address, state, _stop: stop.drop_guard() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Counts from 0 again and closes as ordered; open until then.
    pub(crate) fn arm(&self, order: Order) {
        *self.state.order() = Some(order);
        self.state.writes.store(0, Ordering::SeqCst);
        self.state.closed.send_replace(false);
    }

    /// Opens for good; whether it was closed.
    pub(crate) fn open(&self) -> bool {
        *self.state.order() = None;
        self.state.closed.send_replace(false)
    }

    /// Ends when the gate closes.
    pub(crate) async fn closes(&self) {
        let mut closed = self.state.closed.subscribe();
        closed.wait_for(|closed| *closed).await.expect("the gate is there");
    }
}

async fn serve(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let connection = async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { state.answer(request).await.ok_or("the gate is closed") }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A connection that breaks is what the tests want.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

impl State {
    fn order(&self) -> std::sync::MutexGuard<'_, Option<Order>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the connection breaks.
    async fn answer(&self, request: Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let order = *self.order();
        let Some(order) = order else { return self.forward(request).await };
        if *self.closed.borrow() {
            return refuse(order.closed).await;
        }
        let writes = !matches!(*request.method(), Method::GET | Method::HEAD);
        if !writes || self.writes.fetch_add(1, Ordering::SeqCst) < order.at {
            return self.forward(request).await;
        }
        if order.last == Last::Done {
            let _unheard = self.forward(request).await;
        }
        self.closed.send_replace(true);
        refuse(order.closed).await
    }

    async fn forward(&self, request: Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = format!("{}{path}", self.upstream).parse::<Uri>().ok()?;
        let body = body.collect().await.ok()?.to_bytes();
        let response = self.client.request(Request::from_parts(parts, Full::new(body))).await;
        let (parts, body) = response.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Response::from_parts(parts, Full::new(body)))
    }
}

async fn refuse<T>(closed: Closed) -> Option<T> {
    match closed {
        Closed::Breaks => None,
        Closed::Silent => std::future::pending::<Option<T>>().await,
    }
}
