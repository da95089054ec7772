//! How the agent ends: one token, one order, one grace.
//!
//! Owns the signals and the token's tree. The order is: hosts.toml goes, so that containerd stops
//! coming; front doors take nothing new and finish what they have; then the rooms behind them
//! end. A second signal ends the process at once. Nothing waits longer than [`DRAIN`] and
//! [`SETTLE`].

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long the front doors may take: the mirror's own grace, and a little to say so.
pub const DRAIN: Duration = crate::mirror::DRAIN_GRACE.saturating_add(Duration::from_secs(1));
/// How long the rooms behind them may take after that. Both together are less than the unit's
/// TimeoutStopSec.
pub const SETTLE: Duration = Duration::from_secs(3);

/// The tokens of one agent.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled first: front doors drain.
    pub doors: CancellationToken,
    /// Cancelled when they have: swarm, origin and store end.
    pub rooms: CancellationToken,
    /// Cancelled last: what watches over the shutdown itself.
    pub watch: CancellationToken,
}

/// The signals that end the agent.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on; must be called within a runtime.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of them, by name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
