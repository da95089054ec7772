//! One run: its lease, its stages, its progress, and every deletion that it makes.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use longshore_proto::RepositoryName;
use object_store::path::Path;
use uuid::Uuid;

use super::bloom::Bloom;
use super::decide::Policy;
use super::gone::Gone;
use super::progress::{LEASE, LEASE_MS, Lease, PROGRESS, Progress, RENEW_MS, RESUME_MS, Stage};
use super::{Kind, Options, Report};
use crate::storage::{CLOCK_SKEW_MS, Item, Keys, Project, Seen, Storage, StorageError};

/// How long a window counts as open without being renewed.
const WINDOW_MS: u64 = 60 * 1000;
/// A window is renewed when it is as old.
const WINDOW_RENEW_MS: u64 = 15 * 1000;
/// A run that finds its window as old was asleep, and deletes nothing more in it. What is left of
/// the window is enough for the deletion that is begun before.
const WINDOW_LOST_MS: u64 = 40 * 1000;

/// Collects what is in one store.
#[derive(Debug)]
pub struct Collector {
    storage: Storage,
    options: Options,
}

/// Why a run did not finish. What it did is done, and the next one goes on there.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Another run is at work.
    #[error("another collection is at work on this store (its lease ends in {} s)", left_ms / 1000)]
    Busy {
        /// Until its lease ends.
        left_ms: u64,
    },
    /// The store does not stand on its primary: nobody knows what was written there.
    #[error("collection waits while the store is failed over")]
    FailedOver,
    /// Another run has taken over.
    #[error("another collection has taken over")]
    Superseded,
    /// The process stood still while it had a window open.
    #[error("collection stood still for too long to go on in a repository")]
    Asleep,
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) storage: &'a Storage,
    pub(super) options: &'a Options,
    pub(super) id: Uuid,
    pub(super) progress: Progress,
    /// Segments of pointers that this run deleted: they need not get old.
    pub(super) unnamed: BTreeSet<u128>,
    /// What a dry run has counted as deleted, for what depends on it.
    gone: Gone,
    pace: Option<DefaultDirectRateLimiter>,
    renewed_ms: u64,
    window: Option<(RepositoryName, u64)>,
    held: Option<Bloom>,
}

impl Collector {
    /// Over a store.
    pub const fn new(storage: Storage, options: Options) -> Self {
        Self { storage, options }
    }

    /// Runs once, or goes on where the last run stopped.
    ///
    /// # Errors
    /// See [`GcError`]; the next run goes on.
    pub async fn run(&self) -> Result<Report, GcError> {
        let mut run = Run::begin(&self.storage, &self.options).await?;
        for stage in Stage::ALL {
            if stage < run.progress.stage {
                continue;
            }
            if stage > run.progress.stage {
                run.progress.stage = stage;
                run.progress.after.clear();
                run.save().await?;
            }
            match stage {
                Stage::Uploads => run.uploads().await?,
                Stage::Repositories => run.repositories().await?,
                Stage::Catalog => run.catalog().await?,
                Stage::Blobs => run.blobs().await?,
                Stage::Segments => run.segments().await?,
                Stage::Charges => run.charges().await?,
                Stage::Probes => run.probes().await?,
            }
        }
        run.end().await
    }
}

impl<'a> Run<'a> {
    async fn begin(storage: &'a Storage, options: &'a Options) -> Result<Self, GcError> {
        let pace = NonZeroU32::new(options.deletes_per_s)
            .map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        let mut run = Self {
            storage,
            options,
            id: Uuid::new_v4(),
            progress: Progress::begin(),
            unnamed: BTreeSet::new(),
            gone: Gone::new(options.segments_max),
            pace,
            renewed_ms: 0,
            window: None,
            held: None,
        };
        run.stands()?;
        if options.dry_run {
            run.progress.report.dry_run = true;
            return Ok(run);
        }
        run.acquire().await?;
        if let Some(found) = run.found().await? {
            run.progress = found;
            run.progress.report.resumed = true;
        }
        Ok(run)
    }

    /// A run that stopped, unless that was long ago or its record says nothing.
    async fn found(&self) -> Result<Option<Progress>, GcError> {
        let found = match self.storage.note::<Progress>(PROGRESS).await {
            Err(StorageError::Corrupt { .. }) => None,
            found => found?,
        };
        let now_ms = self.storage.now_ms();
        Ok(found.filter(|found| {
            found.v == Progress::VERSION && found.at_ms.saturating_add(RESUME_MS) > now_ms
        }))
    }

    async fn acquire(&mut self) -> Result<(), GcError> {
        let now_ms = self.storage.now_ms();
        let found = match self.storage.note::<Lease>(LEASE).await {
            Err(StorageError::Corrupt { .. }) => None,
            found => found?,
        };
        if let Some(lease) = found
            && !self.options.take_over
            && lease.until_ms.saturating_add(CLOCK_SKEW_MS) > now_ms
        {
            let left_ms = lease.until_ms.saturating_add(CLOCK_SKEW_MS) - now_ms;
            return Err(GcError::Busy { left_ms });
        }
        self.write_lease().await?;
        // Of two that found none the later one goes on; both would be harmless.
        self.check_lease().await
    }

    async fn write_lease(&mut self) -> Result<(), GcError> {
        self.renewed_ms = self.storage.now_ms();
        let owner = self.id.simple().to_string();
        let lease = Lease { owner, until_ms: self.renewed_ms + LEASE_MS };
        Ok(self.storage.keep_note(LEASE, &lease).await?)
    }

    async fn check_lease(&self) -> Result<(), GcError> {
        let lease = self.storage.note::<Lease>(LEASE).await?;
        if lease.is_some_and(|lease| lease.owner == self.id.simple().to_string()) {
            return Ok(());
        }
        Err(GcError::Superseded)
    }

    fn stands(&self) -> Result<(), GcError> {
        if self.storage.state().is_primary() { Ok(()) } else { Err(GcError::FailedOver) }
    }

    /// When it last said that it is at work.
    pub(super) const fn renewed_ms(&self) -> u64 {
        self.renewed_ms
    }

    /// What was decided is decided at this moment.
    pub(super) fn policy(&self) -> Policy {
        Policy {
            now_ms: self.storage.now_ms(),
            grace_ms: self.options.grace_ms,
            untagged_after_ms: self.options.untagged_after_ms,
        }
    }

    pub(super) fn report(&mut self) -> &mut Report {
        &mut self.progress.report
    }

    /// Says that the run is at work, and looks whether it still is the one.
    pub(super) async fn alive(&mut self) -> Result<(), GcError> {
        self.stands()?;
        let silent_ms = self.storage.now_ms().saturating_sub(self.renewed_ms);
        if self.options.dry_run || silent_ms < RENEW_MS {
            return Ok(());
        }
        self.check_lease().await?;
        self.write_lease().await
    }

    /// Everything up to `after` is done.
    pub(super) async fn done(&mut self, after: &str) -> Result<(), GcError> {
        after.clone_into(&mut self.progress.after);
        self.save().await
    }

    async fn save(&mut self) -> Result<(), GcError> {
        self.alive().await?;
        if self.options.dry_run {
            return Ok(());
        }
        self.progress.at_ms = self.storage.now_ms();
        Ok(self.storage.keep_note(PROGRESS, &self.progress).await?)
    }

    async fn end(self) -> Result<Report, GcError> {
        if !self.options.dry_run {
            self.storage.remove(&Path::from(PROGRESS)).await?;
            if self.check_lease().await.is_ok() {
                self.storage.remove(&Path::from(LEASE)).await?;
            }
        }
        Ok(self.progress.report)
    }

    /// Nobody may claim anything in the repository while this is open.
    pub(super) async fn open_window(&mut self, repository: &RepositoryName) -> Result<(), GcError> {
        if self.options.dry_run {
            return Ok(());
        }
        let now_ms = self.storage.now_ms();
        self.storage.open_window(self.id, repository, now_ms + WINDOW_MS).await?;
        self.window = Some((repository.clone(), now_ms));
        Ok(())
    }

    /// Not after a failed deletion: that one may still come to effect, and the window must last
    /// until then.
    pub(super) async fn close_window(&mut self) -> Result<(), GcError> {
        if self.window.take().is_some() {
            self.storage.close_window(self.id).await?;
        }
        Ok(())
    }

    /// Nothing more may be deleted in a window that has been open for too long unrenewed.
    pub(super) async fn keep_window(&mut self) -> Result<(), GcError> {
        let Some((repository, renewed_ms)) = self.window.clone() else { return Ok(()) };
        if self.storage.now_ms().saturating_sub(renewed_ms) >= WINDOW_RENEW_MS {
            self.check_window()?;
            self.open_window(&repository).await?;
        }
        self.check_window()
    }

    fn check_window(&self) -> Result<(), GcError> {
        let now_ms = self.storage.now_ms();
        let is_lost = |renewed_ms: u64| now_ms.saturating_sub(renewed_ms) >= WINDOW_LOST_MS;
        match &self.window {
            Some((_, renewed_ms)) if is_lost(*renewed_ms) => Err(GcError::Asleep),
            _ => Ok(()),
        }
    }

    /// Waits until a deletion may be made, and makes sure that the run still may.
    pub(super) async fn may_delete(&mut self) -> Result<(), GcError> {
        if let Some(pace) = &self.pace {
            pace.until_ready().await;
        }
        self.alive().await?;
        self.keep_window().await
    }

    /// Deletes what is garbage, and counts it if it was there.
    pub(super) async fn take(&mut self, kind: Kind, key: &Path) -> Result<bool, GcError> {
        let seen = self.storage.look(key).await?.filter(|_| !self.is_gone(key));
        let Some(seen) = seen else { return Ok(false) };
        if !self.options.dry_run {
            self.may_delete().await?;
        }
        self.delete(kind, key, seen.bytes).await?;
        Ok(true)
    }

    /// Deletes what may be deleted now, and counts it.
    pub(super) async fn delete(
        &mut self,
        kind: Kind,
        key: &Path,
        bytes: u64,
    ) -> Result<(), GcError> {
        if self.options.dry_run {
            self.gone.insert(key);
        } else {
            self.storage.remove(key).await?;
        }
        self.report().freed(kind, bytes);
        Ok(())
    }

    /// Whether this dry run has counted it as deleted.
    pub(super) fn is_gone(&self, key: &Path) -> bool {
        self.gone.contains(key)
    }

    /// What lies below a prefix, without what a dry run has counted as deleted.
    pub(super) fn sweep(
        &self,
        prefix: &str,
    ) -> BoxStream<'static, Result<(Path, Seen), StorageError>> {
        let (gone, all) = (self.gone.clone(), self.storage.sweep(prefix));
        if gone.is_empty() {
            return all;
        }
        all.try_filter(move |(key, _)| std::future::ready(!gone.contains(key))).boxed()
    }

    /// Deletes one of the collector's own objects.
    pub(super) async fn forget(&mut self, key: &Path) -> Result<(), GcError> {
        if self.options.dry_run {
            return Ok(());
        }
        self.may_delete().await?;
        Ok(self.storage.remove(key).await?)
    }

    /// Announces that something is going.
    pub(super) async fn bury(&mut self, tombstone: &Path) -> Result<(), GcError> {
        if self.options.dry_run {
            return Ok(());
        }
        self.alive().await?;
        Ok(self.storage.mark(tombstone).await?)
    }

    /// What repositories hold: pairs of repository and digest, digests, pairs of project and
    /// digest. Read once for a run, after its repositories.
    pub(super) async fn held(&mut self) -> Result<&Bloom, GcError> {
        if self.held.is_none() {
            let mut held = Bloom::new(self.options.filter_bytes, self.id.as_u64_pair().0);
            let mut listing = self.sweep("repo");
            while let Some((key, _)) = listing.try_next().await? {
                self.alive().await?;
                let Some((repository, item)) = Keys::holding(&key) else { continue };
                let digest = match item {
                    Item::Blob(digest) => {
                        held.insert(&(&repository, digest));
                        held.insert(&digest);
                        digest
                    }
                    Item::Manifest(digest) => digest,
                };
                held.insert(&(Project::of(&repository), digest));
            }
            self.held = Some(held);
        }
        Ok(self.held.as_ref().expect("it was made above"))
    }
}
