//! `make bench-origin`: how many node starts an instance of the origin serves, warm, beside
//! Debian's docker-registry on the same images and the same machine.
//!
//! One node start is a token, each image's manifest by tag and by digest, and every layer, answered
//! with a redirect to the store that is signed here. No byte of a layer is read.

mod docker;
mod figures;
mod images;
mod known;
mod options;
mod ours;
mod plans;
mod report;
mod script;

use std::net::SocketAddr;
use std::time::Duration;

pub use figures::Figures;
pub use options::Options;

use crate::bench::process::cpu_time;
use crate::load::{Load, Outcome, Pace, Script};
use crate::testkit::{LabError, Loopback, Result};

/// The open-loop run's rate over the closed one's.
const OPEN_SHARE: f64 = 0.8;

/// One registry under load.
#[derive(Debug)]
struct Measured {
    /// As fast as answers come.
    closed: Outcome,
    /// At [`OPEN_SHARE`] of that, timed from when each request was due.
    open: Outcome,
    /// User and system time of the registry in the closed run.
    cpu: Duration,
}

impl Measured {
    fn cpu_us_per_request(&self) -> f64 {
        let requests = self.closed.total().max(1);
        self.cpu.as_secs_f64() * 1_000_000.0 / requests as f64
    }
}

/// Runs everything and prints the table.
///
/// # Errors
/// When a program cannot be started or an image cannot be pushed.
pub async fn run(options: &Options) -> Result<Figures> {
    let loopback = Loopback::start()?;
    let images = images::node_start(options.images, options.layers);
    report::announce(options);
    let ours = ours::measure(&loopback, options, &images).await?;
    report::say("docker-registry serves the same images");
    let docker = docker::measure(&loopback, options, &images).await?;
    let figures = Figures::of(options, &ours, &docker);
    report::print(&figures);
    if let Some(path) = &options.figures {
        crate::figures::write(&figures, path)?;
    }
    Ok(figures)
}

/// The first answers of a process that has read nothing yet.
async fn cold(options: &Options, address: SocketAddr, script: &Script) -> Result<Outcome> {
    under_load(options, address, script, Pace::Closed, options.cold_seconds).await
}

async fn warm(
    options: &Options,
    address: SocketAddr,
    pid: u32,
    script: &Script,
) -> Result<Measured> {
    under_load(options, address, script, Pace::Closed, options.warm_up_seconds).await?;
    let before = cpu_time(pid)?;
    let closed = under_load(options, address, script, Pace::Closed, options.seconds).await?;
    let cpu = cpu_time(pid)?.saturating_sub(before);
    let pace = Pace::Open { per_second: closed.per_second() * OPEN_SHARE };
    let open = under_load(options, address, script, pace, options.seconds).await?;
    Ok(Measured { closed, open, cpu })
}

/// The generator has a thread of its own: the runtime's others wait.
async fn under_load(
    options: &Options,
    address: SocketAddr,
    script: &Script,
    pace: Pace,
    seconds: u64,
) -> Result<Outcome> {
    let (script, connections) = (script.clone(), options.connections);
    let run = move || {
        let duration = Duration::from_secs(seconds);
        crate::load::run(&Load { address, connections, script: &script, pace, duration })
    };
    let ended = tokio::task::spawn_blocking(run).await;
    let ended = ended.map_err(|lost| LabError::Unexpected(lost.to_string()))?;
    ended.map_err(|error| LabError::Unexpected(format!("load on {address}: {error}")))
}
