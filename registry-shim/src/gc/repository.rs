//! Repositories: memberships and manifests under tombstones, referrers, histories of tags, and the
//! catalog.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use futures::stream::{self, StreamExt as _};
use longshore_proto::{Digest, Manifest, RepositoryName};
use object_store::path::Path;

use super::decide::{self, RepositoryPlan, RepositoryView};
use super::run::Run;
use super::tree::Walk;
use super::{GcError, Kind};
use crate::storage::{Item, Keys, Referrer, RepositoryKey, Seen, StorageError};

/// Manifests that are read at once.
const READS_IN_FLIGHT_MAX: usize = 16;
/// Entries of histories that go in one run; the others in the next.
const HISTORY_MAX: usize = 100_000;

/// What was read of a repository, or of a share of it.
#[derive(Default)]
struct Read {
    view: RepositoryView,
    /// Of manifests that are not there, as far as this share knows.
    referrers: Vec<(Path, Digest, Seen)>,
    history: Vec<Path>,
}

/// The share of a repository that is held in memory at once.
#[derive(Clone, Copy)]
struct Share {
    number: usize,
    of: usize,
}

impl Share {
    fn has(self, digest: &Digest) -> bool {
        usize::from(digest.as_bytes()[0]) % self.of == self.number
    }
}

impl Run<'_> {
    /// Everything in `repo/`.
    pub(super) async fn repositories(&mut self) -> Result<(), GcError> {
        let storage = self.storage;
        let mut walk = Walk::begin(storage, &self.progress.after).await?;
        while let Some(repository) = walk.next().await? {
            match self.repository(&repository).await {
                // Its claims are safe once the window has ended by itself; the next run goes on.
                Err(GcError::Asleep) => tracing::warn!(%repository, "stood still: left for later"),
                other => other?,
            }
            self.done(repository.as_str()).await?;
        }
        Ok(())
    }

    async fn repository(&mut self, repository: &RepositoryName) -> Result<(), GcError> {
        let (mut number, mut of) = (0, 1);
        while number < of {
            let share = Share { number, of };
            let Some(read) = self.read(repository, share).await? else {
                // More than is held at once: in twice as many shares, from the first.
                (number, of) = (0, of * 2);
                continue;
            };
            self.collect(repository, share, read).await?;
            number += 1;
        }
        self.heal_catalog(repository).await
    }

    async fn collect(
        &mut self,
        repository: &RepositoryName,
        share: Share,
        read: Read,
    ) -> Result<(), GcError> {
        let plan = decide::repository(&self.policy(), &read.view);
        for item in &plan.bury {
            self.bury(&Keys::tombstone(repository, *item)).await?;
        }
        for item in &plan.spare {
            self.forget(&Keys::tombstone(repository, *item)).await?;
        }
        for item in plan.wait.iter().chain(&plan.bury) {
            let (kind, bytes) = size(&read.view, *item);
            self.report().waits(kind, bytes);
        }
        for key in read.history {
            self.take(Kind::TagHistory, &key).await?;
        }
        for (key, digest, seen) in read.referrers {
            self.referrer(repository, &key, &digest, &seen).await?;
        }
        if plan.take.is_empty() {
            return Ok(());
        }
        self.open_window(repository).await?;
        // What was decided before the window counts for nothing.
        if let Some(read) = self.read(repository, share).await? {
            let plan = decide::repository(&self.policy(), &read.view);
            self.take_items(repository, &read.view, plan).await?;
        }
        self.close_window().await
    }

    async fn take_items(
        &mut self,
        repository: &RepositoryName,
        view: &RepositoryView,
        plan: RepositoryPlan,
    ) -> Result<(), GcError> {
        for item in plan.take {
            self.take_item(repository, size(view, item).0, item).await?;
        }
        Ok(())
    }

    /// Looks once more at the tombstone and the item, and deletes.
    async fn take_item(
        &mut self,
        repository: &RepositoryName,
        kind: Kind,
        item: Item,
    ) -> Result<(), GcError> {
        let (key, tombstone) = (Keys::item(repository, item), Keys::tombstone(repository, item));
        // Before the looks: it may take long.
        self.may_delete().await?;
        let buried = self.storage.look(&tombstone).await?;
        let seen = self.storage.look(&key).await?;
        let policy = self.policy();
        let is_due = match (&buried, &seen) {
            (Some(buried), Some(seen)) => policy.is_past_grace(buried) && buried.at_ms > seen.at_ms,
            _ => false,
        };
        if !is_due {
            return Ok(());
        }
        if !self.options.dry_run {
            self.keep_window().await?;
        }
        self.delete(kind, &key, seen.map_or(0, |seen| seen.bytes)).await?;
        if let Item::Blob(digest) = item {
            let reference = Keys::reverse_reference(&digest, repository);
            self.take(Kind::ReverseReference, &reference).await?;
        }
        self.forget(&tombstone).await
    }

    /// A referrer goes when its manifest is gone, and comes back when that is there after all.
    async fn referrer(
        &mut self,
        repository: &RepositoryName,
        key: &Path,
        digest: &Digest,
        seen: &Seen,
    ) -> Result<(), GcError> {
        if !self.policy().is_past_grace(seen) {
            self.report().waits(Kind::Referrer, seen.bytes);
            return Ok(());
        }
        let manifest = Keys::item(repository, Item::Manifest(*digest));
        let Some(content) = self.storage.note::<Referrer>(key.as_ref()).await? else {
            return Ok(());
        };
        if self.storage.look(&manifest).await?.is_some() || !self.take(Kind::Referrer, key).await? {
            return Ok(());
        }
        if !self.options.dry_run && self.storage.look(&manifest).await?.is_some() {
            self.storage.keep_note(key.as_ref(), &content).await?;
            self.report().repaired += 1;
        }
        Ok(())
    }

    /// A repository with a manifest stands in the catalog.
    async fn heal_catalog(&mut self, repository: &RepositoryName) -> Result<(), GcError> {
        let entry = Keys::catalog_entry(repository);
        if self.options.dry_run
            || self.storage.look(&entry).await?.is_some()
            || !self.has_manifest(repository).await?
        {
            return Ok(());
        }
        self.storage.add_repository(repository).await?;
        self.report().repaired += 1;
        Ok(())
    }

    /// Everything in `cat/`.
    pub(super) async fn catalog(&mut self) -> Result<(), GcError> {
        let mut listing = self.storage.sweep("cat");
        while let Some((key, seen)) = listing.try_next().await? {
            let name = key.as_ref().strip_prefix("cat/").and_then(|name| name.strip_suffix('!'));
            let Some(Ok(repository)) = name.map(str::parse::<RepositoryName>) else { continue };
            self.alive().await?;
            if self.has_manifest(&repository).await? {
                continue;
            }
            if !self.policy().is_past_grace(&seen) {
                self.report().waits(Kind::Catalog, seen.bytes);
                continue;
            }
            self.take(Kind::Catalog, &key).await?;
            if !self.options.dry_run && self.has_manifest(&repository).await? {
                self.storage.add_repository(&repository).await?;
                self.report().repaired += 1;
            }
        }
        Ok(())
    }

    async fn has_manifest(&self, repository: &RepositoryName) -> Result<bool, StorageError> {
        let mut listing = self.sweep(&format!("repo/{repository}!/man"));
        Ok(listing.try_next().await?.is_some())
    }

    /// Lists the repository, then reads its manifests; `None` when the share is too large.
    async fn read(
        &mut self,
        repository: &RepositoryName,
        share: Share,
    ) -> Result<Option<Read>, GcError> {
        let mut read = Read::default();
        let (mut manifests, mut tags) = (BTreeSet::new(), Vec::new());
        let mut referrers = Vec::new();
        let mut histories: BTreeMap<String, BTreeSet<Path>> = BTreeMap::new();
        let mut listing = self.storage.sweep(&format!("repo/{repository}!"));
        let mut items = 0;
        while let Some((key, seen)) = listing.try_next().await? {
            let Some(meaning) = Keys::in_repository(repository, &key) else { continue };
            items += 1;
            match meaning {
                RepositoryKey::Member(digest) if share.has(&digest) => {
                    read.view.members.insert(digest, seen);
                }
                RepositoryKey::Manifest(digest) => {
                    manifests.insert(digest);
                    if share.has(&digest) {
                        read.view.manifests.insert(digest, seen);
                    }
                }
                RepositoryKey::Tombstone(item) => {
                    let (Item::Blob(digest) | Item::Manifest(digest)) = item;
                    if share.has(&digest) {
                        read.view.tombstones.insert(item, seen);
                    }
                }
                RepositoryKey::Referrer { digest, .. } if share.has(&digest) => {
                    referrers.push((key, digest, seen));
                }
                RepositoryKey::Tag(tag) if self.options.untagged_after_ms.is_some() => {
                    tags.push(tag);
                }
                RepositoryKey::History { tag } if share.number == 0 => {
                    if let Some(stay) = self.options.tag_history_max {
                        let newest = histories.entry(tag).or_default();
                        newest.insert(key);
                        // The oldest sorts last.
                        if newest.len() > stay
                            && let Some(oldest) = newest.pop_last()
                            && read.history.len() < HISTORY_MAX
                        {
                            read.history.push(oldest);
                        }
                    }
                    items -= 1;
                }
                _ => items -= 1,
            }
            let held = read.view.members.len() + read.view.manifests.len() + referrers.len();
            if held > self.options.items_max && share.of < 256 {
                return Ok(None);
            }
        }
        tracing::debug!(%repository, items, "listed");
        self.alive().await?;
        referrers.retain(|(_, digest, _)| !manifests.contains(digest));
        read.referrers = referrers;
        self.read_manifests(repository, share, &manifests, &mut read.view).await?;
        for tag in tags {
            let Ok(tag) = tag.parse() else { continue };
            match self.storage.tag(repository, &tag).await {
                Ok(record) => read.view.kept.extend(record.map(|record| record.digest)),
                Err(StorageError::Corrupt { key, .. }) => {
                    read.view.unreadable = true;
                    self.report().cannot_read(key);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(read))
    }

    /// What the manifests name.
    async fn read_manifests(
        &mut self,
        repository: &RepositoryName,
        share: Share,
        manifests: &BTreeSet<Digest>,
        view: &mut RepositoryView,
    ) -> Result<(), GcError> {
        let storage = self.storage;
        let read = |digest: Digest| {
            let (storage, repository) = (storage.clone(), repository.clone());
            async move { (digest, storage.manifest(&repository, &digest).await) }
        };
        let digests: Vec<Digest> = manifests.iter().copied().collect();
        let mut reads = stream::iter(digests).map(read).buffered(READS_IN_FLIGHT_MAX);
        let mut unreadable = Vec::new();
        while let Some((digest, found)) = reads.next().await {
            let parsed = match found {
                // Deleted since the listing.
                Ok(None) => continue,
                Ok(Some(stored)) => Manifest::parse(&stored.content, &stored.media_type).ok(),
                Err(StorageError::Corrupt { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let Some(parsed) = parsed else {
                unreadable.push(Keys::item(repository, Item::Manifest(digest)).to_string());
                continue;
            };
            // A referrer lives as long as its subject.
            if parsed.subject().is_some_and(|subject| manifests.contains(&subject.digest)) {
                view.kept.insert(digest);
            }
            match parsed {
                Manifest::Image { config, layers, .. } => {
                    let blobs = std::iter::once(&config).chain(&layers).map(|blob| blob.digest);
                    view.named.extend(blobs.filter(|digest| share.has(digest)));
                }
                Manifest::Index { manifests, .. } => {
                    // An index may name a blob, too: both are kept.
                    let named = manifests.iter().map(|entry| entry.descriptor.digest);
                    let named: Vec<Digest> = named.filter(|digest| share.has(digest)).collect();
                    view.named.extend(&named);
                    view.kept.extend(&named);
                }
            }
        }
        drop(reads);
        view.unreadable |= !unreadable.is_empty();
        for key in unreadable {
            self.report().cannot_read(key);
        }
        Ok(())
    }
}

fn size(view: &RepositoryView, item: Item) -> (Kind, u64) {
    let (kind, seen) = match item {
        Item::Blob(digest) => (Kind::Membership, view.members.get(&digest)),
        Item::Manifest(digest) => (Kind::Manifest, view.manifests.get(&digest)),
    };
    (kind, seen.map_or(0, |seen| seen.bytes))
}
