//! Signals: SIGTERM and SIGINT end, twice they end at once; SIGHUP reads files anew.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::reload::Reload;
use crate::serve::Ends;

/// The signals that the registry answers, from now on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Until they are answered they wait.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Answers them, without end.
    pub async fn answer(mut self, reload: &Reload, ends: &Ends) {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: reads files anew");
                    reload.now();
                    continue;
                }
            };
            if ends.drain.is_cancelled() {
                tracing::warn!("{name} again: cuts what is under way");
                ends.cut.cancel();
            } else {
                tracing::info!("{name}: draining");
                ends.drain.cancel();
            }
        }
    }
}
