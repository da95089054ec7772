//! The operators' port: metrics and health. It answers while the main port drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;

/// The store has this long to take and give a few bytes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Admin {
    registry: Arc<Registry>,
    metrics: Arc<prometheus_client::registry::Registry>,
    draining: Arc<AtomicBool>,
}

/// Serves until `shutdown`; `draining` is set once no new requests are welcome.
pub(crate) async fn serve(
    registry: Arc<Registry>,
    listener: TcpListener,
    draining: Arc<AtomicBool>,
    shutdown: CancellationToken,
) {
    let mut metrics = prometheus_client::registry::Registry::with_prefix("longshore");
    registry.metrics.register(&mut metrics);
    let admin = Admin { registry, metrics: Arc::new(metrics), draining };
    let router = axum::Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(encode))
        .with_state(admin);
    let ended = axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await;
    if let Err(error) = ended {
        tracing::error!(%error, "admin port ends");
    }
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    let probe = admin.registry.storage.storage().probe();
    match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "storage does not answer\n".to_owned()),
    }
}

async fn encode(State(admin): State<Admin>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.metrics) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(_) => {
            let plain = [(header::CONTENT_TYPE, "text/plain")];
            (StatusCode::INTERNAL_SERVER_ERROR, plain, "metrics cannot be written\n".to_owned())
        }
    }
}
