//! A store that a test switches off and on, and a machine that dies at a chosen write.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result, UploadPart,
};

/// What a store does with what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    /// Every call fails.
    Failing,
    /// No call ever ends.
    Hanging,
    /// Streams of bytes break off in the middle; everything else works.
    Breaking,
    /// Streams of bytes stand still in the middle.
    Stalling,
}

const MODES: [Mode; 5] = [Mode::Up, Mode::Failing, Mode::Hanging, Mode::Breaking, Mode::Stalling];

/// A store in memory with a switch.
#[derive(Clone, Debug)]
pub(crate) struct Switch {
    pub(crate) inner: Arc<InMemory>,
    mode: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

/// One process: its writes to all its stores are counted, and it dies at one of them.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    writes: Arc<AtomicUsize>,
    dies_at: Arc<AtomicUsize>,
    /// Whether the write at which it dies was still done.
    done: bool,
}

impl Machine {
    pub(crate) fn dying(dies_at: usize, done: bool) -> Self {
        Self { writes: Arc::default(), dies_at: Arc::new(dies_at.into()), done }
    }

    pub(crate) fn immortal() -> Self {
        Self::dying(usize::MAX, false)
    }

    /// Dies after so many more writes.
    pub(crate) fn die_after(&self, writes: usize) {
        let dies_at = self.writes.load(Ordering::SeqCst) + writes;
        self.dies_at.store(dies_at, Ordering::SeqCst);
    }

    pub(crate) fn died(&self) -> bool {
        self.writes.load(Ordering::SeqCst) > self.dies_at.load(Ordering::SeqCst)
    }

    fn alive(&self) -> Result<()> {
        if self.died() { Err(failed("the machine died")) } else { Ok(()) }
    }

    async fn write<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        let dies_at = self.dies_at.load(Ordering::SeqCst);
        if number < dies_at {
            return write.await;
        }
        if number == dies_at && self.done {
            let _ = write.await;
        }
        Err(failed("the machine died"))
    }
}

impl Switch {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default(), mode: Arc::default(), asked: Arc::default() }
    }

    pub(crate) fn set(&self, mode: Mode) {
        let index = MODES.iter().position(|other| *other == mode).unwrap();
        self.mode.store(u8::try_from(index).unwrap(), Ordering::SeqCst);
    }

    /// Calls so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// As one process sees it.
    pub(crate) fn seen_by(&self, machine: &Machine) -> Arc<dyn ObjectStore> {
        Arc::new(Seen { switch: self.clone(), machine: machine.clone() })
    }

    fn mode(&self) -> Mode {
        MODES[usize::from(self.mode.load(Ordering::SeqCst))]
    }

    async fn gate(&self) -> Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.mode() {
            Mode::Failing => Err(failed("the store is away")),
            Mode::Hanging => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

fn failed(why: &'static str) -> Error {
    Error::Generic { store: "switch", source: why.into() }
}

#[derive(Clone, Debug)]
struct Seen {
    switch: Switch,
    machine: Machine,
}

impl Seen {
    async fn read(&self) -> Result<()> {
        self.machine.alive()?;
        self.switch.gate().await
    }

    async fn write<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        self.machine.alive()?;
        self.switch.gate().await?;
        self.machine.write(write).await
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Switch")
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Seen {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.write(self.switch.inner.put_opts(at, bytes, how)).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.write(self.switch.inner.put_multipart_opts(at, how)).await?;
        Ok(Box::new(SeenUpload { inner, seen: self.clone() }))
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.read().await?;
        let mut found = self.switch.inner.get_opts(at, how).await?;
        let mode = self.switch.mode();
        if matches!(mode, Mode::Breaking | Mode::Stalling) && at.as_ref().starts_with("data/") {
            let middle = found.range.start + (found.range.end - found.range.start) / 2;
            let how = GetOptions {
                range: Some((found.range.start..middle).into()),
                ..Default::default()
            };
            let half = self.switch.inner.get_opts(at, how).await?.bytes().await?;
            let rest = match mode {
                Mode::Breaking => stream::iter([Err(failed("the stream broke"))]).boxed(),
                _ => stream::pending().boxed(),
            };
            found.payload = GetResultPayload::Stream(stream::iter([Ok(half)]).chain(rest).boxed());
        }
        Ok(found)
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read().await?;
        self.switch.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let seen = self.clone();
        keys.then(move |key| {
            let seen = seen.clone();
            async move {
                let key = key?;
                seen.write(seen.switch.inner.delete(&key)).await.map(|()| key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (seen, prefix) = (self.clone(), prefix.cloned());
        stream::once(async move {
            match seen.read().await {
                Ok(()) => seen.switch.inner.list(prefix.as_ref()),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix)
            .filter(move |object| {
                std::future::ready(!object.as_ref().is_ok_and(|object| object.location <= offset))
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read().await?;
        self.switch.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.write(self.switch.inner.copy_opts(from, to, how)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        self.write(self.switch.inner.rename_opts(from, to, how)).await
    }
}

#[derive(Debug)]
struct SeenUpload {
    inner: Box<dyn MultipartUpload>,
    seen: Seen,
}

#[async_trait]
impl MultipartUpload for SeenUpload {
    fn put_part(&mut self, bytes: PutPayload) -> UploadPart {
        let (part, seen) = (self.inner.put_part(bytes), self.seen.clone());
        Box::pin(async move { seen.write(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.seen.write(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.seen.write(self.inner.abort()).await
    }
}
