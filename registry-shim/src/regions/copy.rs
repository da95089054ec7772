//! Copying between the two stores of a home, by state: what is there now counts, not what was
//! done. So every copy may be made again, and one that was interrupted is made again.
//!
//! A tag is never set back: of two records the one with the later time stays, on both stores. The
//! history has a key per push and loses none.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _, PutPayload, Result, WriteMultipart};

use super::home::{Home, WRITE_MAX};
use super::journal::{Entry, Op};
use super::key;
use super::side::{Side, Which, failure, is_answer, late, present};

/// As an upload has it: S3's smallest part, and parts on their way at once.
const PART_BYTES: usize = 5 * 1024 * 1024;
const PARTS_IN_FLIGHT_MAX: usize = 2;
/// A record that others keep changing is left to the next round.
const ROUNDS_MAX: usize = 8;

impl Home {
    /// Brings the replica to the primary's state of the key.
    pub(super) async fn replicate(&self, key: &Path) -> Result<()> {
        if self.journal.names(key) {
            // The replica is the truth; its replay makes both equal.
            return Ok(());
        }
        if key::is_data(key) || key::is_transient(key) {
            return match self.head(Which::Primary, key).await? {
                Some(meta) if key::is_data(key) => self.copy_data(Which::Primary, &meta).await,
                Some(_) => Ok(()),
                None => self.unreplicate(key).await,
            };
        }
        for _ in 0..ROUNDS_MAX {
            let Some((content, _)) = self.record(Which::Primary, key).await? else {
                return self.unreplicate(key).await;
            };
            if let Some(pointers) = key::pointers_of_member(key) {
                self.replicate_blob(&pointers).await?;
            }
            if let Some((copy, _)) = self.record(Which::Replica, key).await? {
                let newer =
                    key::is_tag(key) && key::tag_time_ms(&copy) > key::tag_time_ms(&content);
                // A newer one was pushed without the primary and is in the journal.
                if copy == content || newer {
                    return Ok(());
                }
            }
            self.put(Which::Replica, key, content.clone()).await?;
            // Of two instances that copy at once the slower one may have had the older record.
            if self.record(Which::Primary, key).await?.is_some_and(|(now, _)| now == content) {
                return Ok(());
            }
        }
        Err(failure("record keeps changing"))
    }

    /// The blob's bytes and pointers, before somebody finds them through a membership: they may
    /// have been written by another instance, which has not come to copy them.
    async fn replicate_blob(&self, pointers: &Path) -> Result<()> {
        for meta in self.listed(Which::Primary, pointers).await? {
            if self.head(Which::Replica, &meta.location).await?.is_some() {
                continue;
            }
            let pointer = self.record(Which::Primary, &meta.location).await?;
            let Some((pointer, _)) = pointer else { continue };
            for segment in key::segments_of(&pointer) {
                if let Some(segment) = self.head(Which::Primary, &segment).await? {
                    self.copy_data(Which::Primary, &segment).await?;
                }
            }
            self.put(Which::Replica, &meta.location, pointer).await?;
        }
        Ok(())
    }

    /// Deletes from the replica what the primary does not have. Another instance may have written
    /// it there without the primary: then it is in the journal, which is read again, or in the
    /// primary by now.
    async fn unreplicate(&self, key: &Path) -> Result<()> {
        if self.head(Which::Replica, key).await?.is_none() {
            return Ok(());
        }
        self.read_journal().await?;
        if self.journal.names(key) {
            return Ok(());
        }
        match self.head(Which::Primary, key).await? {
            Some(_) => Err(failure("record came back")),
            None => self.delete(Which::Replica, key).await,
        }
    }

    /// Brings the primary to the replica's state of the key, for the journal's entries of it.
    pub(super) async fn replay(&self, key: &Path, entries: &[Entry]) -> Result<()> {
        let Some(last) = entries.last() else { return Ok(()) };
        if key::is_data(key) {
            return match self.head(Which::Replica, key).await? {
                Some(meta) => self.copy_data(Which::Replica, &meta).await,
                None => self.replay_absence(key, last).await,
            };
        }
        for _ in 0..ROUNDS_MAX {
            let Some((content, _)) = self.record(Which::Replica, key).await? else {
                return self.replay_absence(key, last).await;
            };
            let primary = self.record(Which::Primary, key).await?;
            if let Some((there, meta)) = primary {
                // A record written anew with the same content is younger than before: the collector
                // goes by that.
                let as_young = key::is_tag(key) || modified_ms(&meta) >= last.order.0;
                if there == content && as_young {
                    return Ok(());
                }
                let newer = if key::is_tag(key) {
                    key::tag_time_ms(&there) > key::tag_time_ms(&content)
                } else {
                    modified_ms(&meta) > last.order.0
                };
                // Written by an instance that had not noticed: the replica was left behind.
                if newer {
                    return self.put(Which::Replica, key, there).await;
                }
            }
            self.put(Which::Primary, key, content.clone()).await?;
            if self.record(Which::Replica, key).await?.is_some_and(|(now, _)| now == content) {
                return Ok(());
            }
        }
        Err(failure("record keeps changing"))
    }

    /// The replica has nothing under the key. If it was deleted there, it is deleted here, unless
    /// it was written since; if a write never came to its end, nothing is done.
    async fn replay_absence(&self, key: &Path, last: &Entry) -> Result<()> {
        if last.op == Op::Put {
            return Ok(());
        }
        let at_ms = if key::is_tag(key) {
            let there = self.record(Which::Primary, key).await?;
            there.and_then(|(there, _)| key::tag_time_ms(&there))
        } else {
            self.head(Which::Primary, key).await?.map(|meta| modified_ms(&meta))
        };
        match at_ms {
            Some(at_ms) if at_ms <= last.order.0 => self.delete(Which::Primary, key).await,
            _ => Ok(()),
        }
    }

    /// Copies bytes that are written once, unless they are there.
    async fn copy_data(&self, from: Which, meta: &ObjectMeta) -> Result<()> {
        let (to, key) = (opposite(from), &meta.location);
        if self.head(to, key).await?.is_some_and(|there| there.size == meta.size) {
            return Ok(());
        }
        let (from, to) = (self.side(from), self.side(to));
        let found = from.call(self.timing.record, from.store.get(key)).await?;
        if meta.size <= PART_BYTES as u64 {
            let content = from.call(WRITE_MAX, found.bytes()).await?;
            let within = self.write_timeout(content.len());
            let put = to.store.put(key, PutPayload::from_bytes(content));
            return to.call(within, put).await.map(|_| ());
        }
        let upload = to.call(self.timing.record, to.store.put_multipart(key)).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        match self.copy_parts(from, to, found.into_stream(), &mut parts, meta.size).await {
            Ok(()) => to.call(WRITE_MAX, parts.finish()).await.map(|_| ()),
            Err(error) => {
                let _stays_for_the_stores_own_expiry = parts.abort().await;
                Err(error)
            }
        }
    }

    async fn copy_parts(
        &self,
        from: &Side,
        to: &Side,
        mut bytes: futures::stream::BoxStream<'static, Result<Bytes>>,
        parts: &mut WriteMultipart,
        size: u64,
    ) -> Result<()> {
        let (idle, mut copied) = (self.timing.idle, 0);
        while let Some(chunk) = from.call(idle, async { bytes.next().await.transpose() }).await? {
            to.call(WRITE_MAX, parts.wait_for_capacity(PARTS_IN_FLIGHT_MAX)).await?;
            copied += chunk.len() as u64;
            parts.put(chunk);
        }
        if copied == size { Ok(()) } else { Err(failure("object ended before its bytes")) }
    }

    pub(super) async fn head(&self, which: Which, key: &Path) -> Result<Option<ObjectMeta>> {
        let side = self.side(which);
        side.call(self.timing.record, async { present(side.store.head(key).await) }).await
    }

    async fn record(&self, which: Which, key: &Path) -> Result<Option<(Bytes, ObjectMeta)>> {
        let side = self.side(which);
        let read = async {
            let Some(found) = present(side.store.get(key).await)? else { return Ok(None) };
            let meta = found.meta.clone();
            Ok(Some((found.bytes().await?, meta)))
        };
        side.call(self.timing.record, read).await
    }

    async fn put(&self, which: Which, key: &Path, content: Bytes) -> Result<()> {
        let (side, within) = (self.side(which), self.write_timeout(content.len()));
        let put = side.store.put(key, PutPayload::from_bytes(content));
        side.call(within, put).await.map(|_| ())
    }

    pub(super) async fn delete(&self, which: Which, key: &Path) -> Result<()> {
        let side = self.side(which);
        let delete = async { present(side.store.delete(key).await) };
        side.call(self.timing.record, delete).await.map(|_| ())
    }

    /// Everything under `prefix`; only for prefixes that are compared as one.
    pub(super) async fn listed(&self, which: Which, prefix: &Path) -> Result<Vec<ObjectMeta>> {
        let (side, idle) = (self.side(which), self.timing.idle);
        let mut objects = side.store.list(Some(prefix));
        let mut listed = Vec::new();
        loop {
            let next = tokio::time::timeout(idle, objects.try_next()).await;
            match next.unwrap_or_else(|_| Err(late())) {
                Ok(Some(object)) => listed.push(object),
                Ok(None) => return Ok(listed),
                Err(error) if is_answer(&error) => return Err(error),
                Err(error) => {
                    side.report(Some(&error));
                    return Err(error);
                }
            }
        }
    }
}

const fn opposite(which: Which) -> Which {
    match which {
        Which::Primary => Which::Replica,
        Which::Replica => Which::Primary,
    }
}

/// When a store says that an object was written; many say it in whole seconds.
pub(super) fn modified_ms(meta: &ObjectMeta) -> u64 {
    u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0)
}

/// As unix milliseconds.
pub(super) fn before(now_ms: u64, age: Duration) -> u64 {
    now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
