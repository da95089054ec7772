//! What operators and load balancers ask: `/metrics`, `/livez`, `/readyz`, also during a drain.
//!
//! Alive means that requests are answered at all; ready, that the store can be written and read
//! and no drain has begun. It answers nothing else and changes nothing but the store's probe.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::process;
use crate::regions::Readiness;
use crate::registry::Registry;
use crate::serve::{BoxError, Handler, Peer};

/// A store that takes longer serves nobody in time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// However often it is asked, the store is probed this seldom.
const PROBE_FRESH: Duration = Duration::from_secs(1);
const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers the admin port.
#[derive(Clone, Debug)]
pub(crate) struct Admin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Arc<Registry>,
    metrics: prometheus_client::registry::Registry,
    draining: CancellationToken,
    probed: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Admin {
    /// Shows the instance; it is not ready from the moment `draining` is cancelled.
    pub(crate) fn new(registry: Arc<Registry>, draining: CancellationToken) -> Self {
        let mut metrics = prometheus_client::registry::Registry::default();
        process::register(&mut metrics);
        registry.metrics.register(metrics.sub_registry_with_prefix("longshore"));
        Self(Arc::new(Inner { registry, metrics, draining, probed: Mutex::default() }))
    }

    fn metrics(&self) -> (StatusCode, &'static str, String) {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.0.metrics) {
            Ok(()) => (StatusCode::OK, OPEN_METRICS, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, error.to_string()),
        }
    }

    async fn readiness(&self) -> (StatusCode, &'static str, String) {
        if self.0.draining.is_cancelled() {
            return (StatusCode::SERVICE_UNAVAILABLE, PLAIN, "draining\n".to_owned());
        }
        if let Some(regions) = &self.0.registry.regions {
            // They probe on their own, and serve on with one store of two.
            let Readiness { serves, text } = regions.readiness();
            let status = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            return (status, PLAIN, format!("{text}\n"));
        }
        match self.probe().await {
            Ok(()) => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("storage: {error}\n")),
        }
    }

    /// One probe for all who ask at once.
    async fn probe(&self) -> Result<(), String> {
        let mut probed = self.0.probed.lock().await;
        if let Some((when, result)) = &*probed
            && when.elapsed() < PROBE_FRESH
        {
            return result.clone();
        }
        let probe = self.0.registry.storage.storage().probe();
        let result = match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        *probed = Some((Instant::now(), result.clone()));
        result
    }
}

impl Handler for Admin {
    type Body = UnsyncBoxBody<Bytes, BoxError>;

    async fn handle(&self, request: Request<Incoming>, _peer: &Peer) -> Response<Self::Body> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let (status, content_type, text) = match request.uri().path() {
            _ if !reads => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned()),
            "/metrics" => self.metrics(),
            "/livez" => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
            "/readyz" => self.readiness().await,
            _ => (StatusCode::NOT_FOUND, PLAIN, "/metrics /livez /readyz\n".to_owned()),
        };
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}
