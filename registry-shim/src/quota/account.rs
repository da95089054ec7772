//! One project's account in one instance: pushes on one side, its keeper on the other.
//!
//! Owns the lock around the pool and the answers to those who wait. The lock is held for arithmetic
//! alone. Whatever a push holds goes back when its guard is dropped, wherever the push broke off.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::error::QuotaError;
use super::metrics::QuotaMetrics;
use super::pool::{Decision, Pool, Terms, Ticket, Written};
use crate::registry::now_ms;
use crate::storage::{Charge, Project, Storage};

/// A charge that takes longer is given up; it counts as written.
const CHARGE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Account {
    pub(super) storage: Storage,
    pub(super) project: Project,
    pub(super) limit: u64,
    pub(super) metrics: QuotaMetrics,
    /// Wakes the keeper.
    pub(super) stirred: Notify,
    wait: Duration,
    clock: Clock,
    /// Of the store from its primary, when the pool last heard of it.
    departures: AtomicU64,
    desk: Mutex<Desk>,
}

/// The pool, and those who wait at it.
#[derive(Debug)]
struct Desk {
    pool: Pool,
    answers: HashMap<Ticket, oneshot::Sender<Decision>>,
}

/// Wall time that never goes back, nor is slower than the machine: own leases end early, never late.
#[derive(Debug)]
struct Clock {
    started_ms: u64,
    started: Instant,
}

impl Clock {
    fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        now_ms().max(self.started_ms.saturating_add(passed))
    }
}

/// Why nothing was reserved.
#[derive(Debug)]
pub(super) enum Refusal {
    Denied { used: u64, largest: u64 },
    Held,
    Unavailable,
}

/// What a charge came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// Written by this push.
    Created,
    /// Somebody has paid.
    Found,
}

impl Account {
    pub(super) fn new(
        storage: Storage,
        project: Project,
        terms: Terms,
        instance: String,
        wait: Duration,
        metrics: QuotaMetrics,
    ) -> Self {
        let desk = Desk { pool: Pool::new(terms, instance), answers: HashMap::new() };
        Self {
            departures: AtomicU64::new(storage.departures()),
            storage,
            project,
            limit: terms.limit,
            metrics,
            stirred: Notify::new(),
            wait,
            clock: Clock { started_ms: now_ms(), started: Instant::now() },
            desk: Mutex::new(desk),
        }
    }

    /// Changes the pool and answers whom that decided on.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Pool, u64) -> T) -> T {
        let mut desk = self.desk();
        let now_ms = self.now_ms();
        let departures = self.storage.departures();
        if self.departures.swap(departures, Ordering::AcqRel) != departures {
            desk.pool.distrust();
        }
        let result = change(&mut desk.pool, now_ms);
        desk.answer(now_ms);
        result
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.desk().pool.is_idle()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves if the lease has enough.
    pub(super) fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let granted = self.with(|pool, now_ms| pool.reserve(bytes, now_ms));
        granted.then(|| Reservation { account: self.clone(), bytes })
    }

    /// Reserves, or waits for a decision.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Refusal> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Ok(reservation);
        }
        let mut waiting = self.enqueue(bytes);
        self.stirred.notify_one();
        match tokio::time::timeout(self.wait, &mut waiting.answer).await {
            Ok(Ok(Decision::Granted)) => Ok(Reservation { account: self.clone(), bytes }),
            Ok(Ok(Decision::Denied { used, largest })) => Err(Refusal::Denied { used, largest }),
            Ok(Ok(Decision::Unavailable) | Err(_)) => Err(Refusal::Unavailable),
            Err(_) => Err(Refusal::Held),
        }
    }

    fn enqueue(self: &Arc<Self>, bytes: u64) -> Waiting {
        let (sender, answer) = oneshot::channel();
        let mut desk = self.desk();
        let ticket = desk.pool.enqueue(bytes);
        desk.answers.insert(ticket, sender);
        self.metrics.waiting.inc();
        Waiting { account: self.clone(), ticket, bytes, answer }
    }

    pub(super) fn denied(&self, used: u64, needed: u64) -> QuotaError {
        self.metrics.denied.inc();
        QuotaError::Denied { project: self.project.clone(), used, limit: self.limit, needed }
    }

    pub(super) fn refused(&self, refusal: &Refusal, needed: u64) -> QuotaError {
        let project = self.project.clone();
        match *refusal {
            Refusal::Denied { used, .. } => self.denied(used, needed),
            Refusal::Held => {
                self.metrics.unavailable.inc();
                QuotaError::Held { project, needed }
            }
            Refusal::Unavailable => {
                self.metrics.unavailable.inc();
                QuotaError::Unavailable { project }
            }
        }
    }
}

impl Desk {
    fn answer(&mut self, now_ms: u64) {
        loop {
            let decided = self.pool.decided();
            if decided.is_empty() {
                return;
            }
            for (ticket, bytes, decision) in decided {
                let sender = self.answers.remove(&ticket);
                let told = sender.is_some_and(|sender| sender.send(decision).is_ok());
                if !told && decision == Decision::Granted {
                    self.pool.release(bytes, now_ms);
                }
            }
        }
    }
}

/// One who waits; leaves the queue when dropped.
struct Waiting {
    account: Arc<Account>,
    ticket: Ticket,
    bytes: u64,
    answer: oneshot::Receiver<Decision>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.account.metrics.waiting.dec();
        self.account.with(|pool, now_ms| {
            pool.withdraw(self.ticket);
            // Granted in the moment in which it gave up. Answers are sent under this lock.
            if self.answer.try_recv() == Ok(Decision::Granted) {
                pool.release(self.bytes, now_ms);
            }
        });
        self.account.desk().answers.remove(&self.ticket);
    }
}

/// Bytes promised to one push; they go back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    account: Arc<Account>,
    bytes: u64,
}

impl Reservation {
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One reservation of both.
    pub(super) fn join(mut self, mut other: Self) -> Self {
        debug_assert!(Arc::ptr_eq(&self.account, &other.account), "of one account");
        self.bytes += std::mem::take(&mut other.bytes);
        self
    }

    /// Writes the charge out of it. `None`: the lease ended meanwhile, ask again.
    pub(super) async fn spend(mut self, charge: &Charge) -> Option<Result<Spent, QuotaError>> {
        let (held, size) = (self.bytes, charge.size);
        let account = self.account.clone();
        let until_ms = account.with(|pool, now_ms| pool.begin_spend(held, size, now_ms))?;
        self.bytes = 0;
        let spending = Spending { account: account.clone(), bytes: Some(size) };
        let left = Duration::from_millis(until_ms.saturating_sub(account.now_ms()));
        let create = account.storage.create_charge(&account.project, charge);
        let written = tokio::time::timeout(left.min(CHARGE_TIMEOUT), create).await;
        let late = account.now_ms() > until_ms;
        Some(match written {
            Ok(Ok(false)) => {
                spending.end(Written::Found);
                account.metrics.found.inc();
                Ok(Spent::Found)
            }
            Ok(Ok(true)) if !late => {
                spending.end(Written::Created);
                account.metrics.charges.inc();
                Ok(Spent::Created)
            }
            Ok(Err(error)) => Err(error.into()),
            // It stands, or may stand, without a lease behind it: what nobody holds the collector
            // takes.
            Ok(Ok(true)) | Err(_) => Err(account.refused(&Refusal::Unavailable, size)),
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.with(|pool, now_ms| pool.release(self.bytes, now_ms));
            self.account.stirred.notify_one();
        }
    }
}

/// A charge that is being written; one that broke off may be there.
struct Spending {
    account: Arc<Account>,
    bytes: Option<u64>,
}

impl Spending {
    fn end(mut self, written: Written) {
        if let Some(bytes) = self.bytes.take() {
            self.account.with(|pool, now_ms| pool.end_spend(bytes, written, now_ms));
            self.account.stirred.notify_one();
        }
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            self.account.with(|pool, now_ms| pool.end_spend(bytes, Written::Unknown, now_ms));
            self.account.stirred.notify_one();
        }
    }
}
