//! A store in memory that counts what it is asked for, and may keep a blob's bytes to itself for ever.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Debug, Default)]
pub(super) struct SpyStore {
    inner: Arc<InMemory>,
    stalls: bool,
    puts: AtomicU64,
    put_bytes: AtomicU64,
    gets: AtomicU64,
    got_bytes: AtomicU64,
}

impl SpyStore {
    /// Gives no byte of a blob, and does everything else.
    pub(super) fn stalling(inner: Arc<InMemory>) -> Self {
        Self { inner, stalls: true, ..Self::default() }
    }

    /// Puts, their bytes, gets, their bytes.
    pub(super) fn counts(&self) -> [u64; 4] {
        [&self.puts, &self.put_bytes, &self.gets, &self.got_bytes]
            .map(|count| count.load(Ordering::SeqCst))
    }
}

impl fmt::Display for SpyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spy")
    }
}

#[async_trait]
impl ObjectStore for SpyStore {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.put_bytes.fetch_add(bytes.content_length() as u64, Ordering::SeqCst);
        self.inner.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        if self.stalls && at.as_ref().starts_with("data/") {
            return std::future::pending().await;
        }
        let found = self.inner.get_opts(at, how).await?;
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.got_bytes.fetch_add(found.range.end - found.range.start, Ordering::SeqCst);
        Ok(found)
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}
