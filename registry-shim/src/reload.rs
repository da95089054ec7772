//! "Read your files again": SIGHUP, told to every room that has some.

use tokio::sync::watch;

/// Tells it; clones tell the same listeners.
#[derive(Clone, Debug)]
pub struct Reload(watch::Sender<u64>);

impl Reload {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Whoever listens reads anew, soon.
    pub fn now(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Changes with every call.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

impl Default for Reload {
    fn default() -> Self {
        Self::new()
    }
}
