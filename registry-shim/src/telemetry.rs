//! The log, and traces for a collector (OTLP over gRPC) where one is configured.
//!
//! Owns the process's subscriber. Without a collector nothing of the traces exists, and a request
//! pays nothing. A collector that is slow or away costs spans, never a request: they wait in a
//! bounded queue, and what finds no room is dropped.

use std::io::IsTerminal as _;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::telemetry::Telemetry as Config;
use crate::config::{Log, LogFormat};

/// For one batch of spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last batch, at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
const SAMPLED_OF: f64 = 10_000.0;
/// Whose spans are exported: the exporter's own would never end.
const OURS: &str = "longshore_registry";

/// What is sent somewhere while the process runs.
#[derive(Debug, Default)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts the log, and the traces where `config` names a collector. Inside a runtime.
///
/// # Errors
/// One line, when the exporter cannot be made.
pub fn start(log: &Log, filter: &str, config: &Config) -> Result<Telemetry, String> {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for people: in a file or a journal they are noise.
    let colours = std::io::stderr().is_terminal();
    let Some(endpoint) = &config.otlp_endpoint else {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(colours)
            .with_writer(std::io::stderr);
        match log.format {
            LogFormat::Text => builder.init(),
            LogFormat::Json => builder.json().init(),
        }
        return Ok(Telemetry::default());
    };
    let provider = provider(endpoint, config)?;
    let traces = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(OURS))
        .with_filter(Targets::new().with_target(OURS, LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    Registry::default().with(lines).with(traces).init();
    Ok(Telemetry(Some(provider)))
}

fn provider(endpoint: &str, config: &Config) -> Result<SdkTracerProvider, String> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let ratio = Sampler::TraceIdRatioBased(f64::from(config.sampled_per_10000) / SAMPLED_OF);
    let resource = Resource::builder().with_service_name(config.service_name.clone()).build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(ratio)))
        .with_resource(resource)
        .build())
}

impl Telemetry {
    /// Sends what waits, for a bounded time. Not inside a runtime.
    pub fn end(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last traces are lost");
        }
    }
}

/// Makes `span` part of the client's trace, if the client says which (W3C `traceparent`).
pub(crate) fn follow(span: &Span, headers: &HeaderMap) {
    if !headers.contains_key("traceparent") {
        return;
    }
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    if context.span().span_context().is_valid() {
        // Refused only for a span that is not exported.
        let _refused = span.set_parent(context);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
