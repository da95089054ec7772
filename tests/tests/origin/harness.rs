//! What every test of the origin stands on: a directory, a store, a deadline, and logs when it
//! fails.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures::FutureExt as _;
use longshore_tests::testkit::backend::Store;
use longshore_tests::testkit::{Backend, Clock, LabError, Loopback, Result, Site};

/// A first run builds Garage; every other one takes seconds.
const START_DEADLINE: Duration = Duration::from_secs(3600);
/// No test may take longer.
const TEST_DEADLINE: Duration = Duration::from_secs(300);

/// One test's place and store.
pub(crate) struct Stage {
    pub(crate) loopback: Loopback,
    pub(crate) store: Store,
}

/// Runs a test over a store of its own; panics with the cause and the logs when it fails. A store
/// that cannot be had on this machine is named on stderr: a person must see what was not tested.
pub(crate) async fn on(backend: Backend, test: impl AsyncFnOnce(&Stage) -> Result<()>) {
    let loopback = Loopback::start().unwrap_or_else(|failed| panic!("{failed}"));
    on_loopback(loopback, backend, test).await;
}

/// As [`on`], with a clock that the test sets forward for all programs.
pub(crate) async fn on_clock(
    backend: Backend,
    test: impl AsyncFnOnce(&Stage, &Clock) -> Result<()>,
) {
    match tokio::task::spawn_blocking(Clock::loopback).await.expect("it does not panic") {
        Ok((loopback, clock)) => {
            on_loopback(loopback, backend, async |stage| test(stage, &clock).await).await;
        }
        Err(LabError::Unavailable { what, why }) => {
            let _ = writeln!(std::io::stderr(), "not tested: {what}: {why}");
        }
        Err(failed) => panic!("{failed}"),
    }
}

async fn on_loopback(
    loopback: Loopback,
    backend: Backend,
    test: impl AsyncFnOnce(&Stage) -> Result<()>,
) {
    let site = Site::Loopback(loopback.clone());
    let started = tokio::time::timeout(START_DEADLINE, backend.start(&site)).await;
    let store = match started {
        Ok(Ok(store)) => store,
        Ok(Err(LabError::Unavailable { what, why })) => {
            let _ = writeln!(std::io::stderr(), "not tested: {what}: {why}");
            return;
        }
        Ok(Err(failed)) => panic!("{failed}\n{}", loopback.tails()),
        Err(_) => panic!("{backend:?} did not start\n{}", loopback.tails()),
    };
    let stage = Stage { loopback, store };
    let run = AssertUnwindSafe(Box::pin(test(&stage))).catch_unwind();
    let outcome = tokio::time::timeout(TEST_DEADLINE, run).await;
    if !matches!(outcome, Ok(Ok(Ok(())))) {
        let _ = writeln!(std::io::stderr(), "{}", stage.loopback.tails());
    }
    match outcome {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(failed))) => panic!("{failed}"),
        Ok(Err(panicked)) => resume_unwind(panicked),
        Err(_) => panic!("the test did not end within {TEST_DEADLINE:?}"),
    }
}
