//! The keeper of one account: does in the store what the pool decides.
//!
//! One task per project that is pushed to, and one step at a time: look at the slots, count if that
//! is needed, take a slot, tidy, give back. It ends when nobody has asked for anything for a while,
//! or with its token, after it has given back what nobody holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::account::Account;
use super::bid::{Bid, Tally};
use super::pool::Outcome;
use super::{KEEP_IDLE, QuotaError};
use crate::storage::{Project, Slot, Storage, StorageError};

/// For the slots: small and few.
const SLOTS_TIMEOUT: Duration = Duration::from_secs(10);
/// For a listing of all charges.
const COUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// At the end of the process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// After the store failed.
const FAILED_PAUSE: Duration = Duration::from_millis(500);
/// Two that lost one slot to each other do not meet again at once.
const JITTER_MS_MAX: u64 = 30;

pub(super) struct Keeper {
    account: Arc<Account>,
    ended: CancellationToken,
}

/// Bytes, charges and the largest of a project, from its keys.
pub(super) async fn tally(storage: &Storage, project: &Project) -> Result<Tally, StorageError> {
    let add = |mut tally: Tally, charge: crate::storage::Charge| async move {
        tally.add(charge.size);
        Ok(tally)
    };
    storage.charges(project).try_fold(Tally::default(), add).await
}

impl Keeper {
    pub(super) fn new(account: Arc<Account>, ended: CancellationToken) -> Self {
        Self { account, ended }
    }

    /// Runs until `leave` says that nobody can ask any more.
    pub(super) async fn run(self, leave: impl Fn(&Arc<Account>) -> bool + Send) {
        let span = tracing::info_span!("quota", project = %self.account.project);
        self.keep(leave).instrument(span).await;
    }

    async fn keep(self, leave: impl Fn(&Arc<Account>) -> bool + Send) {
        loop {
            let (due, wakes_at_ms) =
                self.account.with(|pool, now_ms| (pool.wants_round(now_ms), pool.wakes_at_ms()));
            if self.ended.is_cancelled() {
                return self.close().await;
            }
            if due {
                self.round_or_fail().await;
                continue;
            }
            if let Some(slot) = self.account.with(|pool, now_ms| pool.shrink(now_ms)) {
                self.give_back(&slot).await;
                continue;
            }
            let now_ms = self.account.now_ms();
            let sleep = wakes_at_ms
                .map_or(KEEP_IDLE, |at| Duration::from_millis(at.saturating_sub(now_ms).max(1)));
            tokio::select! {
                () = self.ended.cancelled() => {}
                () = self.account.stirred.notified() => {}
                () = tokio::time::sleep(sleep) => {
                    if wakes_at_ms.is_none() && leave(&self.account) {
                        return;
                    }
                }
            }
        }
    }

    async fn round_or_fail(&self) {
        let began_ms = self.account.now_ms();
        let round = tokio::select! {
            round = self.round() => round,
            () = self.ended.cancelled() => Ok(()),
        };
        if let Err(error) = &round {
            tracing::warn!(%error, "no lease could be asked for");
            self.account.with(|pool, _| pool.fail_waiting());
        }
        let jitter_ms = rand::random_range(0..=JITTER_MS_MAX);
        let pause_ms = if round.is_err() { FAILED_PAUSE.as_millis() as u64 } else { 0 };
        self.account.with(|pool, now_ms| pool.end_round(began_ms, now_ms, jitter_ms + pause_ms));
    }

    async fn round(&self) -> Result<(), QuotaError> {
        let account = &self.account;
        let looked_ms = account.now_ms();
        let slots = self.within(SLOTS_TIMEOUT, account.storage.slots(&account.project)).await?;
        let bid = account.with(|pool, now_ms| pool.bid_by_earlier_count(&slots, now_ms));
        let bid = match bid {
            Some(bid) => Some(bid),
            None => self.count(&slots).await?,
        };
        let Some(bid) = bid else { return Ok(()) };
        let outcome = self.take(&bid).await;
        let over = account.with(|pool, now_ms| {
            pool.settle(outcome, now_ms);
            pool.over(&slots, looked_ms)
        });
        if outcome == Outcome::Won {
            self.tidy(over).await;
        }
        Ok(())
    }

    async fn count(&self, slots: &[Slot]) -> Result<Option<Bid>, QuotaError> {
        let account = &self.account;
        account.with(|pool, now_ms| pool.begin_count(now_ms));
        let began = Instant::now();
        let tally = self.within(COUNT_TIMEOUT, tally(&account.storage, &account.project)).await?;
        account.metrics.count_seconds.observe(began.elapsed().as_secs_f64());
        Ok(account.with(|pool, now_ms| pool.bid_by_count(slots, tally, now_ms)))
    }

    async fn take(&self, bid: &Bid) -> Outcome {
        let account = &self.account;
        let create = account.storage.create_slot(&account.project, &bid.slot);
        match self.within(SLOTS_TIMEOUT, create).await {
            Ok(true) => {
                account.metrics.leases.inc();
                Outcome::Won
            }
            Ok(false) => {
                account.metrics.leases_lost.inc();
                Outcome::Lost
            }
            Err(error) => {
                tracing::warn!(%error, "nobody knows whether a lease was taken");
                Outcome::Unknown
            }
        }
    }

    async fn tidy(&self, over: Vec<u64>) {
        for number in over {
            let delete = self.account.storage.delete_slot(&self.account.project, number);
            if let Err(error) = self.within(SLOTS_TIMEOUT, delete).await {
                tracing::debug!(%error, number, "a slot that is over stays for the next one");
            }
        }
    }

    async fn give_back(&self, slot: &Slot) {
        let write = self.account.storage.shrink_slot(&self.account.project, slot);
        if let Err(error) = self.within(SLOTS_TIMEOUT, write).await {
            tracing::debug!(%error, "headroom comes back when its lease ends");
        }
    }

    async fn close(self) {
        let Some(slot) = self.account.with(|pool, _| pool.close()) else { return };
        let _closed = tokio::time::timeout(CLOSE_TIMEOUT, self.give_back(&slot)).await;
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, QuotaError> {
        match tokio::time::timeout(timeout, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(QuotaError::Unavailable { project: self.account.project.clone() }),
        }
    }
}
