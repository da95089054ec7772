//! Passes HTTP/1.1 and h2c requests on, gRPC included, and picks some of them by rules.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::{Fault, Step};
use crate::testkit::error::{Context, Result};
use crate::testkit::host::Host;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type ProxyBody = UnsyncBoxBody<Bytes, BoxError>;

/// Requests remembered for the test; later ones are counted by the rules alone.
const REQUESTS_KEPT: usize = 10_000;

/// Which requests a fault hits.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<http::Method>,
    path: String,
    spared: Option<&'static str>,
    fault: Fault,
    times: Option<u32>,
}

impl Rule {
    /// Requests whose path and query contain `path`.
    pub fn on(path: &str, fault: Fault) -> Self {
        Self { method: None, path: path.to_owned(), spared: None, fault, times: None }
    }

    /// Of this method only.
    pub fn method(mut self, method: http::Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only the first so many of them.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Not of clients whose `User-Agent` begins so: `containerd` when only the agent is to suffer.
    pub fn sparing(mut self, agent: &'static str) -> Self {
        self.spared = Some(agent);
        self
    }

    fn matches(&self, request: &Request<Incoming>, path: &str) -> bool {
        let agent = request.headers().get(http::header::USER_AGENT);
        let agent = agent.and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.times != Some(0)
            && self.method.as_ref().is_none_or(|wanted| wanted == request.method())
            && path.contains(&self.path)
            && !self.spared.is_some_and(|spared| agent.starts_with(spared))
    }
}

/// A proxy in front of one HTTP server.
#[derive(Debug)]
pub struct HttpProxy {
    address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    http1: Client<ToUpstream, Incoming>,
    http2: Client<ToUpstream, Incoming>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<String>>,
    hits: AtomicU64,
}

impl HttpProxy {
    /// Listens on `port` of `host` and passes requests to `upstream`.
    pub async fn start(host: &Host, port: u16, upstream: SocketAddr) -> Result<Self> {
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = host.namespace().run(TcpListener::bind(bind)).await?;
        let listener = listener.during(|| format!("{bind} on {}", host.role()))?;
        let bound = listener.local_addr().during(|| "a listener's address".to_owned())?;
        let state = Arc::new(State {
            upstream,
            http1: Client::builder(TokioExecutor::new()).build(ToUpstream(upstream)),
            http2: Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build(ToUpstream(upstream)),
            rules: Mutex::default(),
            requests: Mutex::default(),
            hits: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        let serve = serve(listener, Arc::clone(&state), stop.clone());
        host.namespace().spawn(stop.clone().run_until_cancelled_owned(serve));
        let address = SocketAddr::from((host.address(), bound.port()));
        Ok(Self { address, state, _stop: stop.drop_guard() })
    }

    /// `host:port` as it stands in image names.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Where other hosts reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on these rules hold, the first that matches; none lets all requests pass.
    pub fn set(&self, rules: Vec<Rule>) {
        *self.state.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// How many requests a rule has hit so far.
    pub fn hits(&self) -> u64 {
        self.state.hits.load(Ordering::Relaxed)
    }

    /// `METHOD path` of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let connection = async move {
            let service = hyper::service::service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            // A connection that breaks is what some tests want.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<ProxyBody> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        self.remember(format!("{} {path}", request.method()));
        let fault = self.fault(&request, &path);
        if let Fault::Status(status) = fault {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return plain(status, "ordered by the test");
        }
        if let Fault::Delay(delay) = fault {
            sleep(delay).await;
        }
        match self.forward(request, &path).await {
            Ok(response) => response.map(|body| {
                let body = FaultyBody { inner: body, fault, passed: 0, broken: false };
                body.boxed_unsync()
            }),
            Err(failed) => plain(StatusCode::BAD_GATEWAY, &failed.to_string()),
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        path: &str,
    ) -> Result<Response<Incoming>, BoxError> {
        // The client's own authority goes on: registries make URLs of it, which must lead back here.
        let own = request.uri().authority().map(|authority| authority.as_str().to_owned());
        let named = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
        let authority = own.or(named.map(str::to_owned)).unwrap_or(self.upstream.to_string());
        *request.uri_mut() = format!("http://{authority}{path}").parse::<Uri>()?;
        let client = if request.version() == Version::HTTP_2 { &self.http2 } else { &self.http1 };
        Ok(client.request(request).await?)
    }

    fn fault(&self, request: &Request<Incoming>, path: &str) -> Fault {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rule) = rules.iter_mut().find(|rule| rule.matches(request, path)) else {
            return Fault::Pass;
        };
        self.hits.fetch_add(1, Ordering::Relaxed);
        rule.times = rule.times.map(|times| times - 1);
        rule.fault
    }

    fn remember(&self, request: String) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() < REQUESTS_KEPT {
            requests.push(request);
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<ProxyBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Connects to the upstream whatever the URI's authority is.
#[derive(Debug, Clone, Copy)]
struct ToUpstream(SocketAddr);

impl tower::Service<Uri> for ToUpstream {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let upstream = self.0;
        Box::pin(async move { TcpStream::connect(upstream).await.map(TokioIo::new) })
    }
}

/// A response's body on which a fault acts.
struct FaultyBody {
    inner: Incoming,
    fault: Fault,
    passed: u64,
    broken: bool,
}

impl Body for FaultyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.broken {
            return match self.fault {
                // Nothing wakes it: the client gives up.
                Fault::StallAfter(_) => Poll::Pending,
                _ => Poll::Ready(Some(Err("cut by the test".into()))),
            };
        }
        let frame = match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(failed))) => return Poll::Ready(Some(Err(failed.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        let step = self.fault.step(self.passed, bytes);
        self.broken = !matches!(step, Step::Pass(_));
        let (Step::Pass(bytes) | Step::Stall(bytes) | Step::Cut(bytes)) = step;
        if bytes.is_empty() && self.broken {
            return self.poll_frame(context);
        }
        self.passed += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        // Keeps Content-Length as it was: a cut must look like one.
        self.inner.size_hint()
    }
}
