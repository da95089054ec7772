//! From measurements to the numbers that the project is held to.

use serde::Serialize;

use super::Measured;
use super::docker::Docker;
use super::options::Options;
use super::ours::Ours;
use crate::load::Kind;

/// Requests a second.
const REQUESTS_MIN: f64 = 35_000.0;
const CPU_US_MAX: f64 = 20.0;
const P99_MS_MAX: f64 = 15.0;
const DOCKER_RATIO_MIN: f64 = 20.0;
const RSS_BYTES_MAX: u64 = 64 * 1024 * 1024;
const READY_MS_MAX: f64 = 300.0;

/// What `bench-origin.json` holds.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// All kinds of requests, warm, closed loop.
    pub requests_per_s: f64,
    /// Layers answered with a redirect.
    pub layer_requests_per_minute: f64,
    /// User and system time of the server.
    pub server_cpu_us_per_request: f64,
    /// Open loop at 80 % of that rate, from when each request was due.
    pub p50_ms: f64,
    /// As `p50_ms`.
    pub p99_ms: f64,
    /// As `p50_ms`.
    pub p999_ms: f64,
    /// In both warm runs.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Requests a second over docker-registry's.
    pub docker_registry_ratio: f64,
    /// Tokens, manifests and layers one by one.
    pub node_starts_per_minute: f64,
    /// One plan for all images.
    pub plan_node_starts_per_minute: f64,
    /// With [`Figures::known_images`] in memory.
    pub rss_idle_bytes: u64,
    /// From exec to the first ready answer.
    pub ready_ms: f64,
    /// In the bucket when memory and start were measured.
    pub known_images: usize,
    /// A new process, its first seconds.
    pub cold_requests_per_s: f64,
    /// The same images, the same machine.
    pub docker_registry: DockerFigures,
    /// Every number is within what the project promises.
    pub promises_kept: bool,
}

/// docker-registry on a directory, no authentication, HEAD for layers.
#[derive(Debug, Clone, Serialize)]
pub struct DockerFigures {
    /// Warm, closed loop.
    pub requests_per_s: f64,
    /// A new process, its first seconds.
    pub cold_requests_per_s: f64,
    /// User and system time of the server.
    pub server_cpu_us_per_request: f64,
    /// Open loop.
    pub p50_ms: f64,
    /// Open loop.
    pub p99_ms: f64,
    /// Open loop.
    pub p999_ms: f64,
    /// In both warm runs.
    pub errors: u64,
}

impl Figures {
    pub(super) fn of(options: &Options, ours: &Ours, docker: &Docker) -> Self {
        let warm = &ours.warm;
        let seconds = warm.closed.elapsed.as_secs_f64();
        let layers = warm.closed.of(Kind::Layer) as f64;
        let layers_of_start = (options.images * options.layers) as f64;
        let requests_per_s = warm.closed.per_second();
        let mut figures = Self {
            requests_per_s: rounded(requests_per_s),
            layer_requests_per_minute: rounded(layers * 60.0 / seconds),
            server_cpu_us_per_request: rounded(warm.cpu_us_per_request()),
            p50_ms: warm.open.quantile_ms(0.5),
            p99_ms: warm.open.quantile_ms(0.99),
            p999_ms: warm.open.quantile_ms(0.999),
            errors: errors(warm),
            first_error: warm.closed.first_error.clone().or(warm.open.first_error.clone()),
            docker_registry_ratio: rounded(requests_per_s / docker.warm.closed.per_second()),
            node_starts_per_minute: rounded(layers * 60.0 / seconds / layers_of_start),
            plan_node_starts_per_minute: rounded(ours.plans_per_minute),
            rss_idle_bytes: ours.rss_bytes,
            ready_ms: rounded(ours.ready_ms),
            known_images: options.known,
            cold_requests_per_s: rounded(ours.cold.per_second()),
            docker_registry: DockerFigures {
                requests_per_s: rounded(docker.warm.closed.per_second()),
                cold_requests_per_s: rounded(docker.cold.per_second()),
                server_cpu_us_per_request: rounded(docker.warm.cpu_us_per_request()),
                p50_ms: docker.warm.open.quantile_ms(0.5),
                p99_ms: docker.warm.open.quantile_ms(0.99),
                p999_ms: docker.warm.open.quantile_ms(0.999),
                errors: errors(&docker.warm),
            },
            promises_kept: false,
        };
        figures.promises_kept = figures.requests_per_s >= REQUESTS_MIN
            && figures.server_cpu_us_per_request <= CPU_US_MAX
            && figures.p99_ms < P99_MS_MAX
            && figures.errors == 0
            && figures.docker_registry_ratio >= DOCKER_RATIO_MIN
            && figures.rss_idle_bytes < RSS_BYTES_MAX
            && figures.ready_ms <= READY_MS_MAX;
        figures
    }
}

fn errors(measured: &Measured) -> u64 {
    measured.closed.errors + measured.open.errors
}

/// Two decimals.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
