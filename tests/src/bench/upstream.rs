//! `make bench-upstream`: many clients ask the registry for one cold blob of an upstream at once.
//!
//! Each reads its first MiB; some read to the end and verify, the others hang up. The upstream
//! counts how often it is read.

#![allow(clippy::print_stdout, reason = "the benchmark speaks to a person")]

mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use comfy_table::{Table, presets};
use futures::future::join_all;
use longshore_proto::{Algorithm, Digest, DigestHasher};
use serde::Serialize;
use tokio::time::Instant;

use source::{Content, Source};

use crate::bench::process::resident_bytes;
use crate::testkit::backend::Backend;
use crate::testkit::error::LabError;
use crate::testkit::object_servers::Site;
use crate::testkit::origin::Origin;
use crate::testkit::settings::Settings;
use crate::testkit::{Loopback, Result};

/// What a client reads before it hangs up.
const FIRST_BYTES: u64 = 1024 * 1024;
/// Between two looks at the registry's memory.
const SAMPLE_PERIOD: Duration = Duration::from_millis(50);
/// Without a byte, a client has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Measures the pull-through of one cold blob.
#[derive(Debug, Clone, Parser)]
#[command(name = "longshore-bench-upstream")]
pub struct Options {
    /// Clients that ask at once.
    #[arg(long, default_value_t = 800)]
    pub clients: usize,
    /// Of them, those that read to the end and verify.
    #[arg(long, default_value_t = 40)]
    pub verifying: usize,
    /// Size of the blob.
    #[arg(long, default_value_t = 1024)]
    pub mebibytes: u64,
    /// How fast the upstream sends.
    #[arg(long, default_value_t = 125)]
    pub mebibytes_per_s: u64,
    /// Until the upstream's head.
    #[arg(long, default_value_t = 100)]
    pub latency_ms: u64,
    /// Writes the figures there, as JSON.
    #[arg(long)]
    pub figures: Option<PathBuf>,
}

/// What `bench-upstream.json` holds.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// That asked at once.
    pub clients: usize,
    /// Of the blob.
    pub blob_bytes: u64,
    /// Bodies that the upstream was asked for.
    pub upstream_reads: u64,
    /// From the upstream's first byte to the last client's first byte.
    pub first_byte_max_ms: f64,
    /// The registry's resident memory at its most, over that before.
    pub rss_growth_bytes: u64,
    /// Clients that had the whole blob, and it was the right one.
    pub verified_clients: usize,
    /// Clients that got less than they wanted.
    pub failed_clients: usize,
    /// Until the last client was done.
    pub seconds: f64,
    expected_verified: usize,
}

impl Figures {
    /// Whether every answer was right.
    pub const fn is_right(&self) -> bool {
        self.upstream_reads == 1
            && self.failed_clients == 0
            && self.verified_clients == self.expected_verified
    }
}

/// What one client saw.
struct Seen {
    first_byte: Instant,
    verified: bool,
}

/// Runs it and prints the table.
///
/// # Errors
/// When the registry cannot be started.
pub async fn run(options: &Options) -> Result<Figures> {
    let loopback = Loopback::start()?;
    println!("bench-upstream: makes {} MiB up and hashes them", options.mebibytes);
    let content = Content::new(options.mebibytes);
    let (digest, blob_bytes) = (content.digest(), content.size());
    let latency = Duration::from_millis(options.latency_ms);
    let pace = options.mebibytes_per_s * 1024 * 1024;
    let (source, address) = Source::start(content, pace, latency).await?;
    let file = format!("[[upstream.registry]]\nprefix = \"hub\"\nurl = \"http://{address}\"\n");
    let store = Backend::Directory.start(&Site::Loopback(loopback.clone())).await?;
    let mut settings = Settings::default();
    settings.set("upstream.spool_directory", loopback.directory().display());
    let origin = Origin::start_from(&loopback, &store, "registry", &settings, &file).await?;

    println!("bench-upstream: {} clients ask", options.clients);
    let pid = origin.process().pid();
    let (before, ended) = (resident_bytes(pid)?, Arc::new(AtomicBool::new(false)));
    let sampled = tokio::spawn(peak_of(pid, ended.clone()));
    let url = format!("{}/v2/hub/library/big/blobs/{digest}", origin.url());
    let client = reqwest::Client::builder().build();
    let client = client.map_err(|error| LabError::Unexpected(error.to_string()))?;
    let begun = Instant::now();
    let tasks = (0..options.clients).map(|at| {
        let (client, url) = (client.clone(), url.clone());
        let whole = (at < options.verifying).then_some(digest);
        tokio::spawn(async move { ask(&client, &url, whole).await })
    });
    let seen: Vec<Option<Seen>> =
        join_all(tasks).await.into_iter().map(|seen| seen.ok().flatten()).collect();
    let seconds = begun.elapsed().as_secs_f64();
    ended.store(true, Ordering::Relaxed);
    let peak = sampled.await.unwrap_or_default();
    let sent = source.first_byte.get().copied().unwrap_or(begun);
    let got = seen.iter().flatten();
    let waits = got.clone().map(|one| one.first_byte.saturating_duration_since(sent));
    let figures = Figures {
        clients: options.clients,
        blob_bytes,
        upstream_reads: source.reads.load(Ordering::Relaxed),
        first_byte_max_ms: waits.max().unwrap_or_default().as_secs_f64() * 1000.0,
        rss_growth_bytes: peak.saturating_sub(before),
        verified_clients: got.filter(|one| one.verified).count(),
        failed_clients: seen.iter().filter(|one| one.is_none()).count(),
        seconds,
        expected_verified: options.verifying.min(options.clients),
    };
    origin.stop().await?;
    print(&figures);
    if let Some(path) = &options.figures {
        crate::figures::write(&figures, path)?;
    }
    Ok(figures)
}

/// One client; nothing when it got less than it wanted.
async fn ask(client: &reqwest::Client, url: &str, whole: Option<Digest>) -> Option<Seen> {
    let mut response = client.get(url).send().await.ok()?.error_for_status().ok()?;
    let mut hasher = DigestHasher::new(Algorithm::Sha256);
    let (mut read, mut first_byte) = (0, None);
    loop {
        let chunk = tokio::time::timeout(STALL_TIMEOUT, response.chunk()).await.ok()?.ok()?;
        let Some(chunk) = chunk else { break };
        first_byte.get_or_insert_with(Instant::now);
        read += chunk.len() as u64;
        if whole.is_some() {
            hasher.update(&chunk);
        } else if read >= FIRST_BYTES {
            return Some(Seen { first_byte: first_byte?, verified: false });
        }
    }
    let verified = whole? == hasher.finish();
    verified.then_some(Seen { first_byte: first_byte?, verified })
}

/// The most memory that the process had until the end.
async fn peak_of(pid: u32, ended: Arc<AtomicBool>) -> u64 {
    let mut peak = 0;
    let mut ticks = tokio::time::interval(SAMPLE_PERIOD);
    while !ended.load(Ordering::Relaxed) {
        ticks.tick().await;
        peak = peak.max(resident_bytes(pid).unwrap_or_default());
    }
    peak
}

fn print(figures: &Figures) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "measured", "promised"]);
    let mebibytes = |bytes: u64| format!("{:.0} MiB", bytes as f64 / 1024.0 / 1024.0);
    for (what, measured, promised) in [
        ("clients", figures.clients.to_string(), ""),
        ("blob", mebibytes(figures.blob_bytes), ""),
        ("reads of the upstream", figures.upstream_reads.to_string(), "1"),
        ("first byte, slowest", format!("{:.0} ms", figures.first_byte_max_ms), "≤ 1000 ms"),
        ("memory growth", mebibytes(figures.rss_growth_bytes), "bounded"),
        ("verified clients", figures.verified_clients.to_string(), ""),
        ("failed clients", figures.failed_clients.to_string(), "0"),
        ("until the last was done", format!("{:.1} s", figures.seconds), ""),
    ] {
        table.add_row([what.to_owned(), measured, promised.to_owned()]);
    }
    println!("\n{table}");
}
