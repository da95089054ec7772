//! Segments: the bytes that no pointer names. A window of their names is in memory at once.

use futures::TryStreamExt as _;
use object_store::path::Path;

use super::run::Run;
use super::{GcError, Kind};
use crate::storage::{COMMIT_MS, Keys, Seen, StorageError};

/// Pointers that are read at once.
const READS_IN_FLIGHT_MAX: usize = 32;
/// From a segment's last write until no pointer that counts can name it any more: what a commit
/// may take, and half a day.
const UNNAMED_MS: u64 = COMMIT_MS + 12 * 60 * 60 * 1000;
/// Prefixes of `data/`: two hexadecimal digits.
const PREFIX_BITS: u32 = 8;

/// The segments that pointers name, of a range of names.
struct Named {
    /// Sorted.
    names: Vec<u128>,
    /// The range's last; `None`: there are no more.
    last: Option<u128>,
}

impl Run<'_> {
    /// Everything in `data/`.
    pub(super) async fn segments(&mut self) -> Result<(), GcError> {
        let mut first = 0;
        loop {
            let Some(named) = self.named(first).await? else { return Ok(()) };
            let last = named.last.unwrap_or(u128::MAX);
            for prefix in self.storage.directories("data").await? {
                let Ok(number) = u8::from_str_radix(&prefix, 16) else { continue };
                let begin = u128::from(number) << (128 - PREFIX_BITS);
                let end = begin | (u128::MAX >> PREFIX_BITS);
                if end >= first && begin <= last {
                    self.prefix(&prefix, first..=last, &named.names).await?;
                    self.alive().await?;
                }
            }
            match last.checked_add(1) {
                Some(next) if named.last.is_some() => first = next,
                _ => return Ok(()),
            }
        }
    }

    async fn prefix(
        &mut self,
        prefix: &str,
        range: std::ops::RangeInclusive<u128>,
        named: &[u128],
    ) -> Result<(), GcError> {
        let mut listing = self.storage.sweep(&format!("data/{prefix}"));
        while let Some((key, seen)) = listing.try_next().await? {
            // A key that is no segment's was not written by a push.
            let Some(name) = Keys::segment(key.as_ref()) else { continue };
            if !range.contains(&name) || named.binary_search(&name).is_ok() {
                continue;
            }
            self.segment(name, &key, &seen).await?;
        }
        Ok(())
    }

    async fn segment(&mut self, name: u128, key: &Path, seen: &Seen) -> Result<(), GcError> {
        let is_old = seen.at_ms.saturating_add(UNNAMED_MS) <= self.storage.now_ms();
        if is_old || self.unnamed.contains(&name) {
            return self.take(Kind::Segment, key).await.map(|_| ());
        }
        self.report().waits(Kind::Segment, seen.bytes);
        Ok(())
    }

    /// The names from `first` on, as many as fit into memory; `None` when a pointer cannot be read:
    /// nobody knows what it names.
    async fn named(&mut self, first: u128) -> Result<Option<Named>, GcError> {
        let (storage, most) = (self.storage, self.options.segments_max.max(1));
        let (mut names, mut last) = (Vec::new(), None);
        let mut pointers = self
            .sweep("blob")
            .map_ok(|(key, _)| {
                let storage = storage.clone();
                async move { storage.pointer_at(&key).await }
            })
            .try_buffer_unordered(READS_IN_FLIGHT_MAX);
        loop {
            let pointer = match pointers.try_next().await {
                Ok(None) => break,
                // It went away.
                Ok(Some(None)) => continue,
                Ok(Some(Some(pointer))) => pointer,
                Err(StorageError::Corrupt { key, .. }) => {
                    drop(pointers);
                    self.report().cannot_read(key);
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
            let segments = pointer.segments.iter().filter_map(|s| Keys::segment(&s.key));
            names.extend(segments.filter(|name| *name >= first && last.is_none_or(|l| *name <= l)));
            if names.len() >= 2 * most {
                sort(&mut names);
                if names.len() > most {
                    names.truncate(most);
                    last = names.last().copied();
                }
            }
            if self.storage.now_ms().saturating_sub(self.renewed_ms()) > super::progress::RENEW_MS {
                self.alive().await?;
            }
        }
        sort(&mut names);
        if names.len() > most {
            names.truncate(most);
            last = names.last().copied();
        }
        Ok(Some(Named { names, last }))
    }
}

fn sort(names: &mut Vec<u128>) {
    names.sort_unstable();
    names.dedup();
}
