//! One of the two stores of a home, and the breaker on the way to it.
//!
//! Every call has a deadline and reports to the breaker how it ended. Refusals that only a store
//! which works can give ("not there", "there already", "full") are answers and no failures.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutPayload, Result};
use tokio::time::Instant;

use super::breaker::{Breaker, Change, Policy};
use super::metrics::HomeMetrics;
use super::redirect::Redirect;
use crate::storage::is_full;

/// Written and read by probes, beside the layout.
pub(super) const PROBE_KEY: &str = "probe";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The home's own store.
    Primary,
    /// Its copy in another region's.
    Replica,
}

impl Which {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// A store and the breaker on the way to it.
#[derive(Debug)]
pub(super) struct Side {
    which: Which,
    home: String,
    /// The layout of the home.
    pub(super) store: Arc<dyn ObjectStore>,
    /// Journal, marks and leases: in the same store and outside of the layout.
    pub(super) control: Arc<dyn ObjectStore>,
    /// The way of clients to it, where they can be sent.
    pub(super) redirect: Option<Redirect>,
    breaker: Mutex<Breaker>,
    /// What the breaker says, for the hot path.
    up: AtomicBool,
    openings: AtomicU64,
    metrics: HomeMetrics,
}

impl Side {
    pub(super) fn new(
        which: Which,
        home: &str,
        [store, control]: [Arc<dyn ObjectStore>; 2],
        redirect: Option<Redirect>,
        policy: Policy,
        metrics: HomeMetrics,
    ) -> Self {
        let breaker = Mutex::new(Breaker::new(policy, Instant::now()));
        let (home, up, openings) = (home.to_owned(), true.into(), AtomicU64::new(0));
        Self { which, home, store, control, redirect, breaker, up, openings, metrics }
    }

    /// Whether requests may ask it.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// How often it went away.
    pub(super) fn openings(&self) -> u64 {
        self.openings.load(Ordering::Acquire)
    }

    /// Waits for `asked` and reports its end.
    pub(super) async fn call<T>(
        &self,
        within: Duration,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outcome = match tokio::time::timeout(within, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(late()),
        };
        self.report(outcome.as_ref().err());
        outcome
    }

    /// A call ended, in `error` or well.
    pub(super) fn report(&self, error: Option<&Error>) {
        let went_well = error.is_none_or(is_answer);
        if !went_well {
            tracing::debug!(home = self.home, store = self.which.label(), ?error, "store failed");
        }
        let change = self.breaker().called(went_well, Instant::now());
        self.changed(change);
    }

    /// Whether a probe is due.
    pub(super) fn probe_due(&self) -> bool {
        self.breaker().probe_due(Instant::now())
    }

    /// Writes and reads one key, and leaves it to the caller to report the end.
    pub(super) async fn probe(&self, within: Duration) -> Result<()> {
        let key = Path::from(PROBE_KEY);
        let asked = async {
            self.control.put(&key, PutPayload::from_static(b"longshore")).await?;
            self.control.get(&key).await?.bytes().await.map(|_| ())
        };
        let outcome = tokio::time::timeout(within, asked).await.unwrap_or_else(|_| Err(late()));
        self.metrics.probed(self.which.label(), outcome.is_ok());
        outcome
    }

    /// A probe ended.
    pub(super) fn probed(&self, went_well: bool) {
        let change = self.breaker().probed(went_well, Instant::now(), rand::random());
        self.changed(change);
    }

    fn changed(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Opened => {
                self.openings.fetch_add(1, Ordering::AcqRel);
                self.up.store(false, Ordering::Release);
                if self.which == Which::Primary {
                    self.metrics.failovers.inc();
                }
                tracing::warn!(home = self.home, store = self.which.label(), "store is away");
            }
            Change::Closed => {
                self.up.store(true, Ordering::Release);
                tracing::info!(home = self.home, store = self.which.label(), "store is back");
            }
        }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a store that works says so.
pub(super) fn is_answer(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
    ) || is_full(error)
}

/// The store was not asked or did not answer.
pub(super) fn failure(message: &'static str) -> Error {
    Error::Generic { store: "regions", source: message.into() }
}

pub(super) fn late() -> Error {
    failure("no answer in time")
}

/// "Not there" as an answer and no error.
pub(super) fn present<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
