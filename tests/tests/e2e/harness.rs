//! What every end-to-end test stands on: a slot, a lab, a deadline, and logs when it fails.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures::FutureExt;
use longshore_tests::image::{Image, debian, synthetic};
use longshore_tests::testkit::lab::require_root;
use longshore_tests::testkit::slots::Slot;
use longshore_tests::testkit::{
    Cache, ContainerdVersion, Lab, LabError, NodeParts, Programs, Result,
};

/// No test may take longer; most take seconds.
const TEST_DEADLINE: Duration = Duration::from_secs(300);

/// A megabyte, as link rates and image sizes count it.
pub(crate) const MB: u64 = 1_000_000;

/// A lab for one test and the programs it may use.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) programs: Programs,
}

impl Stage {
    /// containerd 1.6, which the machines under test run.
    pub(crate) async fn parts(&self) -> Result<NodeParts> {
        NodeParts::get(&self.programs, ContainerdVersion::V1_6).await
    }

    /// The real image of the demo.
    pub(crate) async fn debian_image(&self) -> Result<Image> {
        let programs = self.programs.clone();
        tokio::task::spawn_blocking(move || debian::image(&programs))
            .await
            .map_err(|failed| LabError::Unexpected(failed.to_string()))?
    }

    /// A small image with layers of these sizes.
    pub(crate) async fn image(&self, seed: u64, layers: &'static [u64]) -> Result<Image> {
        let programs = self.programs.clone();
        tokio::task::spawn_blocking(move || synthetic::image(&programs, seed, layers))
            .await
            .map_err(|failed| LabError::Unexpected(failed.to_string()))?
    }
}

/// Runs a test in a lab of its own; panics with the cause and the logs of the lab when it fails.
#[expect(clippy::print_stderr, reason = "the logs belong beside the test's failure")]
pub(crate) async fn in_lab(test: impl AsyncFnOnce(&Stage) -> Result<()>) {
    require_root().unwrap_or_else(|failed| panic!("{failed}"));
    let programs = Cache::open().map(Programs::new).unwrap_or_else(|failed| panic!("{failed}"));
    let _slot = Slot::one(programs.cache()).await.unwrap_or_else(|failed| panic!("{failed}"));
    let lab = Lab::start().unwrap_or_else(|failed| panic!("{failed}"));
    let stage = Stage { lab, programs };
    let run = AssertUnwindSafe(Box::pin(test(&stage))).catch_unwind();
    let outcome = tokio::time::timeout(TEST_DEADLINE, run).await;
    if !matches!(outcome, Ok(Ok(Ok(())))) {
        eprintln!("{}", stage.lab.tails());
    }
    match outcome {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(failed))) => panic!("{failed}"),
        Ok(Err(panicked)) => resume_unwind(panicked),
        Err(_) => panic!("the test did not end within {TEST_DEADLINE:?}"),
    }
}
