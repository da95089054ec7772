//! Quota per project: how many bytes the repositories of one first path segment may hold.
//!
//! Usage IS the set of charge keys that `storage` keeps for a project, each digest once, blobs and
//! manifests alike; it is counted from a listing and never added up from deltas. The path of a
//! push is [`Quota::intake`] (early, while bytes come) → [`Intake::pay`] (the bytes are verified,
//! nothing is visible) → membership or manifest → [`Paid::confirm`].
//!
//! - **Exact over any number of instances, without a hot row.** Instances lease headroom in numbered
//!   slots (`storage::Slot`); a push takes its bytes from its own instance's lease and writes no
//!   object but its charge. `pool` decides, without I/O; `keeper` asks the store, one project at a
//!   time; `account` joins pushes to them.
//! - **A refusal is proven.** 403 is said only after a count that began after the push asked, when
//!   the charges alone leave no room. Headroom that others have leased or reserved is waited for
//!   (idle leases are given back within a tick), and then the answer is 503.
//! - **What is paid for costs nothing.** A digest whose charge exists is let in however full the
//!   project is; while a digest is not known yet, bytes are taken as long as some charge is as large.
//! - **A push that fails gives its reservation back, never a charge.** Another push may have found
//!   it. Charges go through [`crate::storage::Storage::release_charge`] alone, by the collector.
//!
//! A quota is kept on the store that holds the repository; with regions a project that has one has
//! one home, or the start is refused. While that store is failed over, leases cannot be exact: usage is
//! counted, and charges are written without one; what was counted and leased before counts no more
//! when it is back. Bytes of an upload that nobody has finished are no
//! usage; the collector bounds their life. What is filled from upstream
//! registries costs what a push costs; where it does not fit it is passed on and not kept.
//!
//! It must never hold up a pull, never delete a charge, and never answer from memory that a project
//! is full. Keepers are joined by [`Quota::close`], which gives every unused lease back.

mod account;
mod bid;
mod error;
mod intake;
mod keeper;
mod metrics;
mod pool;
mod recompute;
mod report;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_proto::{Digest, RepositoryName};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use bid::Tally;
pub use error::QuotaError;
pub(crate) use intake::{Intake, Paid};
pub use metrics::QuotaMetrics;
pub use recompute::{Recomputed, recompute};
pub use report::{ProjectUsage, Usage, count, usage, usage_in_all, usages};

use account::Account;
use pool::Terms;

use crate::StartError;
use crate::config;
use crate::storage::{Capabilities, Charge, Project, Storage};

/// Idle keepers end after this; what they counted is forgotten.
const KEEP_IDLE: Duration = Duration::from_secs(300);
/// Unused headroom is looked at this often, or ten times in a short lease.
const TICK_MS_MAX: u64 = 2000;
/// How old a count may be that headroom is leased by. A refusal always counts anew.
const COUNT_AGE_MS_MAX: u64 = 300_000;

/// The quotas of all projects, as one instance keeps them.
#[derive(Debug)]
pub struct Quota {
    config: config::Quota,
    instance: String,
    metrics: QuotaMetrics,
    /// By store and project.
    accounts: Arc<Mutex<HashMap<AccountKey, Arc<Account>>>>,
    keepers: TaskTracker,
    ended: CancellationToken,
}

type AccountKey = (usize, Project);

impl Quota {
    /// Nothing is leased before the first push.
    pub fn new(config: config::Quota, metrics: QuotaMetrics) -> Self {
        Self {
            config,
            instance: Uuid::new_v4().simple().to_string(),
            metrics,
            accounts: Arc::default(),
            keepers: TaskTracker::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Whether the store does what leases need.
    ///
    /// # Errors
    /// When a quota is configured and it does not.
    pub fn check_store(
        config: &config::Quota,
        capabilities: Capabilities,
        store: &impl std::fmt::Display,
    ) -> Result<(), StartError> {
        match config.first_key() {
            Some(key) if !capabilities.conditional_create => Err(StartError::Config {
                key,
                message: format!(
                    "{store} overwrites where it should refuse: no quota is exact there"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Takes part in a push into `repository`; `known` where its digest is known already.
    pub(crate) fn intake(
        &self,
        storage: &Storage,
        repository: &RepositoryName,
        known: Option<Digest>,
    ) -> Intake {
        if !self.config.is_on() {
            return Intake::off();
        }
        let project = Project::of(repository);
        let limit = self.config.limit_of(&project);
        if limit.is_none() || !storage.state().is_primary() {
            let metrics = self.metrics.clone();
            return Intake::without_lease(storage.clone(), project, limit, metrics);
        }
        Intake::leased(self.account(storage, project, limit.unwrap_or(u64::MAX)), known)
    }

    /// Pays at once for what is known whole: a manifest, a mounted blob.
    pub(crate) async fn pay(
        &self,
        storage: &Storage,
        repository: &RepositoryName,
        digest: Digest,
        size: u64,
    ) -> Result<Paid, QuotaError> {
        self.intake(storage, repository, Some(digest)).pay(Charge { digest, size }).await
    }

    /// Gives every unused lease back; keepers are joined. Pushes have ended before.
    pub async fn close(&self) {
        self.ended.cancel();
        self.keepers.close();
        self.keepers.wait().await;
    }

    fn account(&self, storage: &Storage, project: Project, limit: u64) -> Arc<Account> {
        let key = (storage.identity(), project.clone());
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(&key) {
            return account.clone();
        }
        let (terms, wait) = (self.terms(limit), Duration::from_millis(self.config.wait_ms));
        let instance = self.instance.clone();
        let metrics = self.metrics.clone();
        let account =
            Arc::new(Account::new(storage.clone(), project, terms, instance, wait, metrics));
        accounts.insert(key.clone(), account.clone());
        let keeper = keeper::Keeper::new(account.clone(), self.ended.clone());
        let accounts = self.accounts.clone();
        self.keepers.spawn(keeper.run(move |account| leave(&accounts, &key, account)));
        account
    }

    fn terms(&self, limit: u64) -> Terms {
        Terms {
            limit,
            lease_bytes_max: self.config.lease_bytes_max,
            use_ms: self.config.lease_ms,
            grace_ms: self.config.lease_ms / 2,
            tick_ms: (self.config.lease_ms / 10).clamp(1, TICK_MS_MAX),
            count_age_ms_max: COUNT_AGE_MS_MAX,
        }
    }
}

/// Takes an account out that nobody uses; whether it is out. New users are made under the same
/// lock, so that a keeper never ends under one.
fn leave(
    accounts: &Mutex<HashMap<AccountKey, Arc<Account>>>,
    key: &AccountKey,
    account: &Arc<Account>,
) -> bool {
    /// The map's and the keeper's own.
    const OWN_REFERENCES: usize = 2;
    let mut accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
    let unused = Arc::strong_count(account) <= OWN_REFERENCES && account.is_idle();
    if unused {
        accounts.remove(key);
    }
    unused
}

#[cfg(test)]
mod tests;
