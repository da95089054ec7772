//! One cache: fresh for an age, then read again, and used beyond it only while the store fails.
//!
//! What is in use is read again before its age is over, while it is still given out: nobody waits
//! for the store because a hot key has grown old.
//! Concurrent misses of a key are one read, in a task of its own, so that whoever came first may
//! leave. What a write contradicts is dropped together with the reads under way, whose answer may
//! be older than the write. Absence is never kept. Bounded in bytes and in age.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use moka::sync::Cache;
use tokio::time::Instant;

use crate::storage::StorageError;

/// A store that takes longer to say whether something has changed is not waited for: what is kept
/// is used, and the read goes on.
const REVALIDATE_WAIT: Duration = Duration::from_secs(1);
/// What an entry costs beside its own bytes: keys, hashes, the cache's lists.
const ENTRY_BYTES: usize = 256;

/// How long what was read counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Without asking the store.
    pub fresh: Duration,
    /// While the store cannot be asked; not less than `fresh`.
    pub stale_max: Duration,
}

/// A kept value.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<V> {
    /// What was read.
    pub value: Arc<V>,
    /// The store could not say whether it has changed.
    pub stale: bool,
}

impl<V> Deref for Found<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

pub(super) type Answer<V> = Result<Option<Arc<V>>, Arc<StorageError>>;
type Read<V> = Shared<BoxFuture<'static, Answer<V>>>;

/// The cache; clones share it.
pub(super) struct Kept<K, V>(Arc<Inner<K, V>>);

struct Inner<K, V> {
    entries: Cache<K, Entry<V>>,
    reads: Mutex<Reads<K, V>>,
    ages: Ages,
}

/// Reads under way, each with its number: one that was dropped keeps nothing.
struct Reads<K, V> {
    last: u64,
    running: HashMap<K, (u64, Read<V>)>,
}

struct Entry<V> {
    value: Arc<V>,
    read_at: Instant,
    /// Somebody has begun to read it again.
    read_ahead: Arc<AtomicBool>,
}

impl<K, V> Kept<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// At most `bytes_max`, where `size` says what a value takes.
    pub(super) fn new(bytes_max: u64, ages: Ages, size: fn(&V) -> usize) -> Self {
        let weigh = move |_: &K, entry: &Entry<V>| {
            u32::try_from(size(&entry.value) + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        let entries = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(weigh)
            .time_to_live(ages.stale_max.max(ages.fresh))
            .build();
        let reads = Mutex::new(Reads { last: 0, running: HashMap::new() });
        Self(Arc::new(Inner { entries, reads, ages }))
    }

    /// What is kept and fresh, or what `read` gives, or what is kept while `read` fails.
    pub(super) async fn get<F>(
        &self,
        key: &K,
        read: impl FnOnce() -> F,
    ) -> Result<Option<Found<V>>, Arc<StorageError>>
    where
        F: Future<Output = Result<Option<V>, StorageError>> + Send + 'static,
    {
        let found = |value: Arc<V>| Found { value, stale: false };
        let known = self.0.entries.get(key).map(|entry| (entry.age(), entry));
        let known = known.filter(|(age, _)| *age < self.0.longest());
        let Some((age, entry)) = known else { return Ok(self.read(key, read).await?.map(found)) };
        if age < self.0.ages.fresh {
            if age >= self.0.ages.fresh / 2 && !entry.read_ahead.swap(true, Ordering::Relaxed) {
                // Runs in its own task; whether it succeeds is seen when the age is over.
                drop(self.read(key, read));
            }
            return Ok(Some(found(entry.value)));
        }
        match tokio::time::timeout(REVALIDATE_WAIT, self.read(key, read)).await {
            Ok(Ok(value)) => Ok(value.map(found)),
            Ok(Err(error)) if !matches!(*error, StorageError::Unavailable(_)) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(Some(Found { value: entry.value, stale: true })),
        }
    }

    /// Joins the read under way, or begins one.
    fn read<F>(&self, key: &K, read: impl FnOnce() -> F) -> Read<V>
    where
        F: Future<Output = Result<Option<V>, StorageError>> + Send + 'static,
    {
        let mut reads = self.0.reads();
        if let Some((_, running)) = reads.running.get(key) {
            return running.clone();
        }
        reads.last += 1;
        let number = reads.last;
        let (inner, place, reading) = (self.0.clone(), key.clone(), read());
        let task = tokio::spawn(async move {
            let answer = reading.await.map(|value| value.map(Arc::new)).map_err(Arc::new);
            inner.end_read(&place, number, &answer);
            answer
        });
        let lost = || StorageError::lost_read();
        let running = task.map(move |ended| ended.unwrap_or_else(|_| Err(Arc::new(lost()))));
        let running = running.boxed().shared();
        reads.running.insert(key.clone(), (number, running.clone()));
        running
    }

    /// Keeps what was just written.
    pub(super) fn insert(&self, key: K, value: V) {
        self.0.reads().running.remove(&key);
        self.0.entries.insert(key, Entry::new(Arc::new(value)));
    }

    /// Forgets what a write may have changed.
    pub(super) fn invalidate(&self, key: &K) {
        self.0.reads().running.remove(key);
        self.0.entries.invalidate(key);
    }

    /// How long what is kept counts.
    pub(super) fn ages(&self) -> Ages {
        self.0.ages
    }
}

impl<K, V> Inner<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Keeps the answer, unless a write came between: then the read is no longer in the table.
    fn end_read(&self, key: &K, number: u64, answer: &Answer<V>)
    where
        K: Clone,
    {
        let mut reads = self.reads();
        if reads.running.get(key).is_none_or(|(running, _)| *running != number) {
            return;
        }
        reads.running.remove(key);
        match answer {
            Ok(Some(value)) => {
                self.entries.insert(key.clone(), Entry::new(value.clone()));
            }
            Ok(None) => self.entries.invalidate(key),
            Err(_) => {}
        }
    }
}

impl<K, V> Inner<K, V> {
    fn longest(&self) -> Duration {
        self.ages.stale_max.max(self.ages.fresh)
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, Reads<K, V>> {
        // Nothing panics between two changes of the table.
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Entry<V> {
    fn new(value: Arc<V>) -> Self {
        Self { value, read_at: Instant::now(), read_ahead: Arc::default() }
    }

    fn age(&self) -> Duration {
        self.read_at.elapsed()
    }
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        let read_ahead = self.read_ahead.clone();
        Self { value: self.value.clone(), read_at: self.read_at, read_ahead }
    }
}

impl<K, V> Clone for Kept<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> fmt::Debug for Kept<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("ages", &self.0.ages).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    const AGES: Ages = Ages { fresh: Duration::from_secs(2), stale_max: Duration::from_secs(3600) };

    fn kept() -> Kept<u8, u32> {
        Kept::new(1_000_000, AGES, |_| 4)
    }

    fn down() -> StorageError {
        object_store::Error::Generic { store: "test", source: "it is down".into() }.into()
    }

    /// The value and whether it is stale.
    async fn get(
        kept: &Kept<u8, u32>,
        answer: Result<Option<u32>, StorageError>,
    ) -> Option<(u32, bool)> {
        let found = kept.get(&1, || ready(answer)).await.unwrap()?;
        Some((*found.value, found.stale))
    }

    #[tokio::test(start_paused = true)]
    async fn is_asked_again_once_it_is_no_longer_fresh() {
        let kept = kept();
        assert_eq!(get(&kept, Ok(Some(1))).await, Some((1, false)));
        assert_eq!(get(&kept, Ok(Some(2))).await, Some((1, false)), "still fresh");
        tokio::time::advance(AGES.fresh).await;
        assert_eq!(get(&kept, Ok(Some(2))).await, Some((2, false)));
        tokio::time::advance(AGES.fresh).await;
        assert_eq!(get(&kept, Ok(None)).await, None, "it was deleted");
        assert_eq!(get(&kept, Ok(Some(3))).await, Some((3, false)), "absence is not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_use_is_read_again_before_it_is_old() {
        let kept = kept();
        get(&kept, Ok(Some(1))).await;
        tokio::time::advance(AGES.fresh / 2).await;
        assert_eq!(get(&kept, Ok(Some(2))).await, Some((1, false)), "nobody waits");
        assert_eq!(get(&kept, Ok(Some(3))).await, Some((1, false)), "and nobody else reads");
        tokio::task::yield_now().await;
        assert_eq!(get(&kept, Ok(Some(4))).await, Some((2, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn is_used_while_the_store_fails_up_to_the_limit() {
        let kept = kept();
        get(&kept, Ok(Some(1))).await;
        tokio::time::advance(AGES.fresh).await;
        assert_eq!(get(&kept, Err(down())).await, Some((1, true)));
        tokio::time::advance(AGES.stale_max).await;
        let refused = kept.get(&1, || ready(Err(down()))).await;
        assert!(matches!(*refused.unwrap_err(), StorageError::Unavailable(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_is_not_waited_for() {
        let kept = kept();
        get(&kept, Ok(Some(1))).await;
        tokio::time::advance(AGES.fresh).await;
        let found = kept.get(&1, std::future::pending).await.unwrap().unwrap();
        assert_eq!((*found.value, found.stale), (1, true));
    }

    #[tokio::test]
    async fn many_who_miss_are_one_read_that_outlives_the_first() {
        let (kept, reads, gate) = (kept(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (kept, reads, gate) = (kept.clone(), reads.clone(), gate.clone());
            async move {
                let read = || async move {
                    reads.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    Ok(Some(7))
                };
                kept.get(&1, read).await.unwrap().map(|found| *found.value)
            }
        };
        let first = ask().now_or_never();
        assert_eq!(first, None, "the first hangs up");
        let rest = futures::future::join_all((0..100).map(|_| ask()));
        gate.notify_one();
        assert!(rest.await.iter().all(|value| *value == Some(7)));
        assert_eq!(reads.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_read_that_a_write_overtook_is_not_kept() {
        let (kept, gate) = (kept(), Arc::new(Notify::new()));
        let slow = || {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Ok(Some(1))
            }
        };
        let mut old = Box::pin(kept.get(&1, slow));
        assert!(old.as_mut().now_or_never().is_none());
        kept.insert(1, 2);
        gate.notify_one();
        assert_eq!(*old.await.unwrap().unwrap().value, 1, "it was asked before the write");
        let found = kept.get(&1, || ready(Ok(Some(1)))).await.unwrap().unwrap();
        assert_eq!(*found, 2);
    }
}
