//! A store in memory with a clock that is given, which lets others go on at every operation, may
//! take conditional writes for overwrites, and may die at a chosen write.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use crate::storage::Clock;

/// Keys that a listing gives at once.
const PAGE: usize = 3;
/// A deletion that was sent comes to effect within this or not at all: what the window relies on.
const DELETE_MS_MAX: u64 = 15_000;

/// Begins some years ago and moves when it is told to.
#[derive(Debug)]
pub(super) struct SimClock(AtomicU64);

impl Default for SimClock {
    fn default() -> Self {
        Self(AtomicU64::new(1_700_000_000_000))
    }
}

impl SimClock {
    pub(super) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        // Others go on meanwhile, and move the clock.
        let steps = time.as_millis() / 50 + 1;
        Box::pin(async move {
            for _ in 0..steps {
                Turn::default().await;
            }
        })
    }
}

/// Lets others go on once.
#[derive(Default)]
pub(super) struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The store.
#[derive(Debug)]
pub(super) struct SimStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: InMemory,
    written_ms: Mutex<HashMap<Path, u64>>,
    clock: Arc<SimClock>,
    conditional: bool,
    turns: AtomicBool,
    writes: AtomicUsize,
    dies_at: AtomicUsize,
    /// Whether the write at which it dies is still done.
    last_is_done: AtomicBool,
}

impl SimStore {
    pub(super) fn new(clock: Arc<SimClock>, conditional: bool) -> Self {
        Self(Arc::new(Inner {
            objects: InMemory::new(),
            written_ms: Mutex::default(),
            clock,
            conditional,
            turns: AtomicBool::new(false),
            writes: AtomicUsize::new(0),
            dies_at: AtomicUsize::new(usize::MAX),
            last_is_done: AtomicBool::new(false),
        }))
    }

    /// Whether others may go on at every operation.
    pub(super) fn take_turns(&self, turns: bool) {
        self.0.turns.store(turns, Ordering::SeqCst);
    }

    /// Dies `writes` writes from now.
    pub(super) fn die_in(&self, writes: usize, last_is_done: bool) {
        self.0.writes.store(0, Ordering::SeqCst);
        self.0.dies_at.store(writes, Ordering::SeqCst);
        self.0.last_is_done.store(last_is_done, Ordering::SeqCst);
    }

    /// Lives again; whether it had died.
    pub(super) fn revive(&self) -> bool {
        let died = self.0.is_dead();
        self.0.dies_at.store(usize::MAX, Ordering::SeqCst);
        died
    }

    /// An object of an age that the clock does not give.
    pub(super) fn set_age(&self, key: &str, age_ms: u64) {
        let at_ms = self.0.clock.now_ms() - age_ms;
        self.0.written_ms.lock().unwrap().insert(Path::from(key), at_ms);
    }
}

impl Inner {
    fn is_dead(&self) -> bool {
        self.writes.load(Ordering::SeqCst) > self.dies_at.load(Ordering::SeqCst)
    }

    fn dead() -> Error {
        Error::Generic { store: "sim", source: "the store died".into() }
    }

    async fn turn(&self) -> Result<()> {
        if self.turns.load(Ordering::SeqCst) {
            Turn::default().await;
        }
        if self.is_dead() { Err(Self::dead()) } else { Ok(()) }
    }

    /// Whether this write is the one at which the store dies.
    fn dies_now(&self) -> bool {
        self.writes.fetch_add(1, Ordering::SeqCst) == self.dies_at.load(Ordering::SeqCst)
    }

    fn aged(&self, mut object: ObjectMeta) -> ObjectMeta {
        let written = self.written_ms.lock().unwrap();
        let at_ms = written.get(&object.location).copied().unwrap_or_default();
        object.last_modified = (UNIX_EPOCH + Duration::from_millis(at_ms)).into();
        object
    }

    async fn put(&self, at: &Path, bytes: PutPayload, mut how: PutOptions) -> Result<PutResult> {
        self.turn().await?;
        let dies = self.dies_now();
        if dies && !self.last_is_done.load(Ordering::SeqCst) {
            return Err(Self::dead());
        }
        if !self.conditional {
            how.mode = PutMode::Overwrite;
        }
        let put = self.objects.put_opts(at, bytes, how).await?;
        self.written_ms.lock().unwrap().insert(at.clone(), self.clock.now_ms());
        if dies { Err(Self::dead()) } else { Ok(put) }
    }

    async fn delete_one(&self, at: Path) -> Result<Path> {
        let sent_ms = self.clock.now_ms();
        self.turn().await?;
        if self.clock.now_ms() - sent_ms > DELETE_MS_MAX {
            return Err(Error::Generic { store: "sim", source: "deletion timed out".into() });
        }
        let dies = self.dies_now();
        if dies && !self.last_is_done.load(Ordering::SeqCst) {
            return Err(Self::dead());
        }
        self.objects.delete(&at).await?;
        if dies { Err(Self::dead()) } else { Ok(at) }
    }

    /// Pages are read one after the other: what is written meanwhile may or may not be seen.
    fn pages(self: &Arc<Self>, prefix: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner = self.clone();
        let page = move |after: Option<Option<Path>>| {
            let (inner, prefix) = (inner.clone(), prefix.clone());
            async move {
                let Some(after) = after else { return Ok::<_, Error>(None) };
                inner.turn().await?;
                let listing = match &after {
                    None => inner.objects.list(prefix.as_ref()),
                    Some(after) => inner.objects.list_with_offset(prefix.as_ref(), after),
                };
                let found: Vec<ObjectMeta> = listing.take(PAGE).try_collect().await?;
                let next = found.last().map(|object| Some(object.location.clone()));
                let found: Vec<Result<ObjectMeta>> =
                    found.into_iter().map(|object| Ok(inner.aged(object))).collect();
                Ok(Some((stream::iter(found), next)))
            }
        };
        stream::try_unfold(Some(None), page).try_flatten().boxed()
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.0.put(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::Generic { store: "sim", source: "blobs are small here".into() })
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.0.turn().await?;
        let mut found = self.0.objects.get_opts(at, how).await?;
        found.meta = self.0.aged(found.meta);
        Ok(found)
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let inner = self.0.clone();
        keys.and_then(move |key| {
            let inner = inner.clone();
            async move { inner.delete_one(key).await }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.pages(prefix.cloned())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.turn().await?;
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::Generic { store: "sim", source: "nothing is copied here".into() })
    }
}
