//! A store whose machine dies at a chosen write: from then on nothing works, or that write alone
//! does not.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};

/// Whether the write at which the machine dies was still done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// It was not.
    Lost,
    /// It was, and nobody was told.
    Done,
}

/// Counts writes and dies at one of them.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    writes: AtomicUsize,
    dies_at: usize,
    /// Writes from that one on that fail, reads behind the first of them too.
    dead_for: usize,
    last: Last,
}

impl FaultyStore {
    /// Dies at the write number `dies_at`, from 0.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, dies_at: usize, last: Last) -> Self {
        Self::failing(inner, dies_at, usize::MAX, last)
    }

    /// Fails at the write number `fails_at` alone.
    pub(crate) fn failing_once(inner: Arc<dyn ObjectStore>, fails_at: usize, last: Last) -> Self {
        Self::failing(inner, fails_at, 1, last)
    }

    fn failing(inner: Arc<dyn ObjectStore>, dies_at: usize, dead_for: usize, last: Last) -> Self {
        let writes = AtomicUsize::new(0);
        Self { inner, gate: Arc::new(Gate { writes, dies_at, dead_for, last }) }
    }

    /// Whether that write was reached.
    pub(crate) fn died(&self) -> bool {
        self.gate.writes.load(Ordering::SeqCst) > self.gate.dies_at
    }
}

impl Gate {
    fn dead() -> Error {
        Error::Generic { store: "faulty", source: "the machine died".into() }
    }

    fn read(&self) -> Result<()> {
        let writes = self.writes.load(Ordering::SeqCst);
        let is_dead = writes > self.dies_at && writes - self.dies_at < self.dead_for;
        if is_dead { Err(Self::dead()) } else { Ok(()) }
    }

    async fn write<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        if number < self.dies_at || number - self.dies_at >= self.dead_for {
            return write.await;
        }
        if number == self.dies_at && self.last == Last::Done {
            let _ = write.await;
        }
        Err(Self::dead())
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.gate.write(self.inner.put_opts(at, bytes, how)).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.gate.write(self.inner.put_multipart_opts(at, how)).await?;
        Ok(Box::new(FaultyUpload { inner, gate: self.gate.clone() }))
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.gate.read()?;
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, gate) = (self.inner.clone(), self.gate.clone());
        keys.then(move |key| {
            let (inner, gate) = (inner.clone(), gate.clone());
            async move {
                let key = key?;
                gate.write(inner.delete(&key)).await.map(|()| key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.gate.read() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.gate.read()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.gate.write(self.inner.copy_opts(from, to, how)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    gate: Arc<Gate>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, bytes: PutPayload) -> UploadPart {
        let (part, gate) = (self.inner.put_part(bytes), self.gate.clone());
        Box::pin(async move { gate.write(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.gate.write(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.gate.write(self.inner.abort()).await
    }
}
