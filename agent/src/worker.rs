//! Background loops: each has a name, an owner and an end, and shows in `longshore status`.
//!
//! Owns the tasks that it started and joins them. A loop that ends before its time is an error of
//! ours: it is logged, shown as `failed`, and [`Workers::failed`] tells the agent, which ends, so
//! that the service manager starts a whole one instead of a half one going on.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The agent's loops. Clones are handles of the same set.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    tasks: TaskTracker,
    shown: Arc<Mutex<BTreeMap<&'static str, Shown>>>,
    failed: CancellationToken,
}

/// How a loop stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// `running`, `ended` or `failed`.
    pub status: &'static str,
    /// What it did last, in its own words.
    pub step: String,
}

/// What a loop tells of itself.
#[derive(Clone, Debug)]
pub struct Step {
    name: &'static str,
    shown: Arc<Mutex<BTreeMap<&'static str, Shown>>>,
}

impl Workers {
    /// Starts a loop, which must end soon after `shutdown` is cancelled.
    pub fn spawn<F>(
        &self,
        name: &'static str,
        shutdown: &CancellationToken,
        work: impl FnOnce(CancellationToken, Step) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let step = Step { name, shown: Arc::clone(&self.shown) };
        step.show("running", String::new());
        let work = AssertUnwindSafe(work(shutdown.clone(), step.clone())).catch_unwind();
        let (shutdown, failed) = (shutdown.clone(), self.failed.clone());
        let watched = async move {
            let ended = work.await;
            if ended.is_ok() && shutdown.is_cancelled() {
                step.show("ended", String::new());
            } else {
                tracing::error!(worker = name, panicked = ended.is_err(), "a worker ended early");
                step.show("failed", String::new());
                failed.cancel();
            }
        };
        self.tasks.spawn(watched.instrument(tracing::info_span!("worker", name)));
    }

    /// All loops, by name.
    pub fn shown(&self) -> BTreeMap<&'static str, Shown> {
        self.shown.lock().expect("nothing panics while it holds the table").clone()
    }

    /// Waits until a loop has ended before its time.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Waits for all loops to end, at most this long; false when some did not.
    pub async fn join(&self, at_most: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(at_most, self.tasks.wait()).await.is_ok()
    }
}

impl Step {
    /// What the loop does now.
    pub fn set(&self, step: impl Into<String>) {
        self.show("running", step.into());
    }

    fn show(&self, status: &'static str, step: String) {
        let mut shown = self.shown.lock().expect("nothing panics while it holds the table");
        shown.insert(self.name, Shown { status, step });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_shows_its_step_and_ends_with_its_token() {
        let (workers, shutdown) = (Workers::default(), CancellationToken::new());
        workers.spawn("counting", &shutdown, |shutdown, step| async move {
            step.set("one");
            shutdown.cancelled().await;
        });
        tokio::task::yield_now().await;
        assert_eq!(workers.shown()["counting"], Shown { status: "running", step: "one".into() });
        shutdown.cancel();
        assert!(workers.join(Duration::from_secs(5)).await);
        assert_eq!(workers.shown()["counting"].status, "ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_shown_and_one_that_stays_is_told() {
        let (workers, shutdown) = (Workers::default(), CancellationToken::new());
        workers.spawn("breaking", &shutdown, |_, _| async { panic!("as planned") });
        workers.spawn("staying", &shutdown, |_, _| std::future::pending());
        workers.failed().await;
        assert!(!workers.join(Duration::from_secs(1)).await);
        assert_eq!(workers.shown()["breaking"].status, "failed");
    }
}
