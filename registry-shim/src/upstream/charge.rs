//! What a fill costs the project that it lands in: the same as a push.
//!
//! A pull never waits long for a quota and never fails by one. Room for a blob is asked for beside
//! its bytes, and it is paid for when its readers have theirs; what somebody waits for meanwhile is
//! given little time. What does not fit, or gets no answer, goes to its readers and is not kept.

use std::time::Duration;

use futures::FutureExt as _;
use longshore_proto::Digest;
use tokio_util::task::AbortOnDropHandle;

use super::Fronted;
use crate::quota::{Intake, Paid, QuotaError};
use crate::storage::Charge;

/// For what a reader waits for: a manifest, a blob that is here already.
const PAY_TIMEOUT: Duration = Duration::from_secs(2);

/// Room that was asked for; dropped, it is given back.
#[derive(Debug)]
pub(super) struct Room(Answer);

#[derive(Debug)]
enum Answer {
    Awaited(AbortOnDropHandle<Result<Intake, QuotaError>>),
    Given(Box<Intake>),
    Refused,
}

impl Fronted {
    /// Asks for room for a blob that begins to come.
    pub(super) fn ask_for_room(&self, digest: Digest, size: u64) -> Room {
        let shared = &self.upstream.shared;
        let storage = self.storage.storage();
        let mut intake = shared.quota.intake(storage, &self.repository, Some(digest));
        let asked = async move {
            intake.announced(size).await?;
            Ok(intake)
        };
        Room(Answer::Awaited(AbortOnDropHandle::new(shared.tasks.spawn(asked))))
    }

    /// Pays for what is here whole. `None`: it is not to be kept.
    pub(super) async fn pay(&self, digest: Digest, size: u64) -> Option<Paid> {
        let storage = self.storage.storage();
        let pay = self.upstream.shared.quota.pay(storage, &self.repository, digest, size);
        match tokio::time::timeout(PAY_TIMEOUT, pay).await {
            Ok(paid) => paid.map_err(not_paid).ok(),
            Err(_) => {
                tracing::info!("not kept: the quota has no answer in time");
                None
            }
        }
    }
}

impl Room {
    /// Whether it is known by now that there is none.
    pub(super) fn is_refused(&mut self) -> bool {
        if let Answer::Awaited(asked) = &mut self.0
            && let Some(answer) = asked.now_or_never()
        {
            self.0 = Answer::of(answer);
        }
        matches!(self.0, Answer::Refused)
    }

    /// Pays for the blob, whose readers have it. `None`: it is not to be kept.
    pub(super) async fn pay(self, charge: Charge) -> Option<Paid> {
        let answer = match self.0 {
            Answer::Awaited(asked) => Answer::of(asked.await),
            answer => answer,
        };
        match answer {
            Answer::Given(intake) => intake.pay(charge).await.map_err(not_paid).ok(),
            _ => None,
        }
    }
}

impl Answer {
    fn of(answer: Result<Result<Intake, QuotaError>, tokio::task::JoinError>) -> Self {
        match answer {
            Ok(Ok(intake)) => Self::Given(Box::new(intake)),
            Ok(Err(error)) => {
                not_paid(error);
                Self::Refused
            }
            // The instance ends.
            Err(_) => Self::Refused,
        }
    }
}

/// What was paid for is visible: its charge is looked for once more.
pub(super) async fn confirm(paid: Paid) {
    if let Err(error) = paid.confirm().await {
        tracing::warn!(%error, "what was filled may not be charged");
    }
}

fn not_paid(error: QuotaError) {
    tracing::info!(%error, "not kept");
}
