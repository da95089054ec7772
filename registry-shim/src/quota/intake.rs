//! One push's way through a quota: reserve while bytes come, pay when they are verified, confirm
//! when what was paid for is visible.

use std::sync::Arc;

use longshore_proto::Digest;

use super::account::{Account, Refusal, Reservation, Spent};
use super::error::QuotaError;
use super::keeper::tally;
use super::metrics::QuotaMetrics;
use crate::storage::{Charge, Project, Storage};

/// A stream of unknown length reserves ahead by what has come, within these.
const STEP_BYTES_MIN: u64 = 1024 * 1024;
const STEP_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A lease that ends between reservation and charge this often is no accident.
const SPENDS_MAX: usize = 4;

/// A push that asks a quota; dropped, it gives back what it holds.
#[derive(Debug)]
pub(crate) struct Intake(Kind);

#[derive(Debug)]
enum Kind {
    Off,
    /// Unlimited, or failed over.
    WithoutLease(WithoutLease),
    Leased(Leased),
}

#[derive(Debug)]
struct WithoutLease {
    storage: Storage,
    project: Project,
    limit: Option<u64>,
    metrics: QuotaMetrics,
}

#[derive(Debug)]
struct Leased {
    account: Arc<Account>,
    known: Option<Digest>,
    reservation: Option<Reservation>,
    /// It may be paid for already: whether it is shows at the end.
    unreserved: bool,
}

/// What was paid; to be confirmed when it is visible.
#[derive(Debug)]
#[must_use]
pub(crate) struct Paid(Option<Found>);

#[derive(Debug)]
struct Found {
    storage: Storage,
    project: Project,
    charge: Charge,
    account: Option<Arc<Account>>,
    metrics: QuotaMetrics,
}

impl Intake {
    pub(super) const fn off() -> Self {
        Self(Kind::Off)
    }

    pub(super) const fn without_lease(
        storage: Storage,
        project: Project,
        limit: Option<u64>,
        metrics: QuotaMetrics,
    ) -> Self {
        Self(Kind::WithoutLease(WithoutLease { storage, project, limit, metrics }))
    }

    pub(super) const fn leased(account: Arc<Account>, known: Option<Digest>) -> Self {
        let (reservation, unreserved) = (None, false);
        Self(Kind::Leased(Leased { account, known, reservation, unreserved }))
    }

    /// The blob will have `total` bytes, as far as its client says; asked before they are taken.
    pub(crate) async fn announced(&mut self, total: u64) -> Result<(), QuotaError> {
        let Kind::Leased(leased) = &mut self.0 else { return Ok(()) };
        if leased.covers(total) || leased.try_cover(total) {
            return Ok(());
        }
        if let Some(digest) = leased.known {
            let charge = Charge { digest, size: total };
            if leased.account.storage.has_charge(&leased.account.project, &charge).await? {
                leased.unreserved = true;
                return Ok(());
            }
        }
        leased.cover(total).await
    }

    /// The blob has `total` bytes by now; asked before they go to the store.
    pub(crate) async fn arrived(&mut self, total: u64) -> Result<(), QuotaError> {
        let Kind::Leased(leased) = &mut self.0 else { return Ok(()) };
        if leased.covers(total) {
            return Ok(());
        }
        let ahead = total + total.clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        // Nearer to the limit a step may be too much where the bytes themselves are not.
        if leased.try_cover(ahead) || leased.try_cover(total) {
            return Ok(());
        }
        leased.cover(total).await
    }

    /// Makes the project pay. What fails later leaves the charge to the collector.
    pub(crate) async fn pay(self, charge: Charge) -> Result<Paid, QuotaError> {
        match self.0 {
            Kind::Off => Ok(Paid(None)),
            Kind::WithoutLease(intake) => intake.pay(charge).await,
            Kind::Leased(intake) => intake.pay(charge).await,
        }
    }
}

impl Leased {
    fn held(&self) -> u64 {
        self.reservation.as_ref().map_or(0, Reservation::bytes)
    }

    fn covers(&self, total: u64) -> bool {
        self.unreserved || total <= self.held()
    }

    fn add(&mut self, more: Reservation) {
        self.reservation = Some(match self.reservation.take() {
            None => more,
            Some(held) => held.join(more),
        });
    }

    fn try_cover(&mut self, total: u64) -> bool {
        let more = self.account.try_reserve(total - self.held());
        more.map(|more| self.add(more)).is_some()
    }

    async fn cover(&mut self, total: u64) -> Result<(), QuotaError> {
        match self.account.reserve(total - self.held()).await {
            Ok(more) => self.add(more),
            // As large as something that is paid for: it may be the same.
            Err(Refusal::Denied { largest, .. }) if total <= largest => {
                self.unreserved = true;
                self.reservation = None;
            }
            Err(refusal) => return Err(self.account.refused(&refusal, total)),
        }
        Ok(())
    }

    async fn pay(mut self, charge: Charge) -> Result<Paid, QuotaError> {
        self.unreserved = false;
        let account = self.account.clone();
        for _ in 0..SPENDS_MAX {
            if !self.covers(charge.size) && !self.try_cover(charge.size) {
                // Asked before anybody waits, and again after: many may push the same at once.
                if account.storage.has_charge(&account.project, &charge).await? {
                    return Ok(self.found(charge));
                }
                let needed = charge.size - self.held();
                match account.reserve(needed).await {
                    Ok(more) => self.add(more),
                    Err(_) if account.storage.has_charge(&account.project, &charge).await? => {
                        return Ok(self.found(charge));
                    }
                    Err(refusal) => return Err(account.refused(&refusal, charge.size)),
                }
            }
            let Some(reservation) = self.reservation.take() else {
                // Nothing has no bytes; it is charged all the same, so that it can be listed.
                let created = account.storage.create_charge(&account.project, &charge).await?;
                return Ok(if created { Paid(None) } else { self.found(charge) });
            };
            match reservation.spend(&charge).await {
                None => {}
                Some(Ok(Spent::Created)) => return Ok(Paid(None)),
                Some(Ok(Spent::Found)) => return Ok(self.found(charge)),
                Some(Err(error)) => return Err(error),
            }
        }
        Err(account.refused(&Refusal::Unavailable, charge.size))
    }

    fn found(self, charge: Charge) -> Paid {
        let account = self.account;
        let (storage, project) = (account.storage.clone(), account.project.clone());
        let metrics = account.metrics.clone();
        Paid(Some(Found { storage, project, charge, account: Some(account), metrics }))
    }
}

impl WithoutLease {
    async fn pay(self, charge: Charge) -> Result<Paid, QuotaError> {
        let Self { storage, project, limit, metrics } = self;
        if let Some(limit) = limit
            && !storage.has_charge(&project, &charge).await?
        {
            let used = tally(&storage, &project).await?.used;
            if used.saturating_add(charge.size) > limit {
                metrics.denied.inc();
                return Err(QuotaError::Denied { project, used, limit, needed: charge.size });
            }
            metrics.approximate.inc();
        }
        if storage.create_charge(&project, &charge).await? {
            metrics.charges.inc();
            return Ok(Paid(None));
        }
        metrics.found.inc();
        Ok(Paid(Some(Found { storage, project, charge, account: None, metrics })))
    }
}

impl Paid {
    /// Call it when what was paid for is visible: the collector may have taken a charge that was
    /// found, in the moment before. What is visible is charged again, whatever room is left.
    pub(crate) async fn confirm(self) -> Result<(), QuotaError> {
        let Some(Found { storage, project, charge, account, metrics }) = self.0 else {
            return Ok(());
        };
        if storage.has_charge(&project, &charge).await? {
            return Ok(());
        }
        if let Some(account) = &account
            && let Some(reservation) = account.try_reserve(charge.size)
            && let Some(spent) = reservation.spend(&charge).await
        {
            return spent.map(|_| ());
        }
        tracing::warn!(%project, digest = %charge.digest, "charged again beside a collection");
        metrics.approximate.inc();
        storage.create_charge(&project, &charge).await?;
        Ok(())
    }
}
