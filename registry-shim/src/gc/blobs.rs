//! Blobs: pointers, reverse references and hash states, two characters of digests at a time.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use longshore_proto::Digest;
use object_store::path::Path;

use super::decide::{self, BlobPlan, BlobView};
use super::run::Run;
use super::{GcError, Kind};
use crate::storage::{Item, Keys, Seen, StorageError};

/// Where digests are spread over prefixes.
const ROOTS: [&str; 4] = ["blob", "bref", "states", "gc/tomb"];

/// All digests that begin with the same two characters.
#[derive(Default)]
struct Shelf {
    blobs: BTreeMap<Digest, BlobView>,
    /// Of repositories that do not hold the blob, as far as is known.
    dangling: Vec<(Path, Digest, String, Seen)>,
    states: Vec<(Path, Seen)>,
}

impl Run<'_> {
    /// Everything in `blob/`, `bref/`, `states/` and `gc/tomb/`.
    pub(super) async fn blobs(&mut self) -> Result<(), GcError> {
        let mut prefixes = BTreeSet::new();
        for root in ROOTS {
            for algorithm in self.storage.directories(root).await? {
                let below = self.storage.directories(&format!("{root}/{algorithm}")).await?;
                prefixes.extend(below.iter().map(|start| format!("{algorithm}/{start}")));
            }
        }
        for prefix in prefixes {
            if prefix <= self.progress.after {
                continue;
            }
            self.shelf(&prefix).await?;
            self.done(&prefix).await?;
        }
        Ok(())
    }

    async fn shelf(&mut self, prefix: &str) -> Result<(), GcError> {
        let shelf = self.read_shelf(prefix).await?;
        for (key, digest, last, seen) in shelf.dangling {
            self.reverse_reference(&key, &digest, &last, &seen).await?;
        }
        for (key, seen) in shelf.states {
            if self.policy().is_past_grace(&seen) {
                self.take(Kind::States, &key).await?;
            } else {
                self.report().waits(Kind::States, seen.bytes);
            }
        }
        for (digest, mut view) in shelf.blobs {
            if view.generations.len() > 1 {
                self.find_void(&digest, &mut view).await?;
            }
            let plan = decide::blob(&self.policy(), &view);
            self.collect_blob(&digest, &view, plan).await?;
        }
        Ok(())
    }

    /// The order counts: pointers, then tombstones, then references. Whoever refers to a pointer
    /// without having seen its tombstone did so before the tombstone was written.
    async fn read_shelf(&mut self, prefix: &str) -> Result<Shelf, GcError> {
        self.held().await?;
        let (storage, mut shelf) = (self.storage, Shelf::default());
        let mut states = Vec::new();
        let mut listing = storage.sweep(&format!("states/{prefix}"));
        while let Some((key, seen)) = listing.try_next().await? {
            if let Some((digest, _)) = Keys::spread("states", &key) {
                states.push((digest, key, seen));
            }
        }
        let mut listing = storage.sweep(&format!("blob/{prefix}"));
        while let Some((key, seen)) = listing.try_next().await? {
            if let Some((digest, generation)) = Keys::spread("blob", &key) {
                let blob = shelf.blobs.entry(digest).or_default();
                blob.generations.insert(generation.to_owned(), seen);
            }
        }
        for (digest, key, seen) in states {
            if !shelf.blobs.contains_key(&digest) {
                shelf.states.push((key, seen));
            }
        }
        let mut listing = storage.sweep(&format!("gc/tomb/{prefix}"));
        while let Some((key, seen)) = listing.try_next().await? {
            if let Some((digest, generation)) = Keys::spread("gc/tomb", &key) {
                let blob = shelf.blobs.entry(digest).or_default();
                blob.tombstones.insert(generation.to_owned(), seen);
            }
        }
        let mut listing = self.sweep(&format!("bref/{prefix}"));
        let held = self.held().await?;
        for (digest, blob) in &mut shelf.blobs {
            blob.referenced = held.may_contain(digest);
        }
        while let Some((key, seen)) = listing.try_next().await? {
            let Some((digest, last)) = Keys::spread("bref", &key) else { continue };
            if let Some(blob) = shelf.blobs.get_mut(&digest) {
                blob.referenced = true;
            }
            let Some(repository) = Keys::referring(last) else { continue };
            if !held.may_contain(&(&repository, digest)) {
                let last = last.to_owned();
                shelf.dangling.push((key, digest, last, seen));
            }
        }
        Ok(shelf)
    }

    /// A pointer that came so late that its segments may be gone is not the one that stays.
    async fn find_void(&mut self, digest: &Digest, view: &mut BlobView) -> Result<(), GcError> {
        for (generation, seen) in &view.generations {
            match self.storage.pointer_at(&Keys::pointer(digest, generation)).await {
                Ok(Some(pointer)) if pointer.is_in_time(seen.at_ms) => {}
                Ok(_) => {
                    view.void.insert(generation.clone());
                }
                Err(StorageError::Corrupt { key, .. }) => {
                    self.report().cannot_read(key);
                    view.void.insert(generation.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn reverse_reference(
        &mut self,
        key: &Path,
        digest: &Digest,
        last: &str,
        seen: &Seen,
    ) -> Result<(), GcError> {
        let Some(repository) = Keys::referring(last) else { return Ok(()) };
        let membership = Keys::item(&repository, Item::Blob(*digest));
        if !self.is_gone(&membership) && self.storage.is_member(&repository, digest).await? {
            return Ok(());
        }
        if !self.policy().is_past_grace(seen) {
            self.report().waits(Kind::ReverseReference, seen.bytes);
            return Ok(());
        }
        // Once more: a push writes it first, and the membership some requests later.
        match self.storage.look(key).await? {
            Some(now) if now.at_ms == seen.at_ms => {
                self.take(Kind::ReverseReference, key).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    async fn collect_blob(
        &mut self,
        digest: &Digest,
        view: &BlobView,
        plan: BlobPlan,
    ) -> Result<(), GcError> {
        for generation in &plan.bury {
            self.bury(&Keys::pointer_tombstone(digest, generation)).await?;
        }
        for generation in plan.wait.iter().chain(&plan.bury) {
            let bytes = view.generations.get(generation).map_or(0, |seen| seen.bytes);
            self.report().waits(Kind::Pointer, bytes);
        }
        for generation in &plan.take {
            let key = Keys::pointer(digest, generation);
            let segments = match self.storage.pointer_at(&key).await {
                Ok(pointer) => pointer.map(|pointer| pointer.segments).unwrap_or_default(),
                Err(StorageError::Corrupt { .. }) => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            self.take(Kind::Pointer, &key).await?;
            self.forget(&Keys::pointer_tombstone(digest, generation)).await?;
            if self.unnamed.len() < self.options.segments_max {
                self.unnamed.extend(segments.iter().filter_map(|s| Keys::segment(&s.key)));
            }
        }
        for generation in &plan.forget {
            self.forget(&Keys::pointer_tombstone(digest, generation)).await?;
        }
        Ok(())
    }
}
