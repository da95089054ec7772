//! One store through two clients: bytes through the one that may take long, records through the
//! one that must not.
//!
//! Bytes are what lies under `data/`; all else is small. It decides nothing else.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::layout;

/// Two clients of one store.
pub(super) struct Split<S> {
    records: S,
    bytes: S,
}

impl<S: ObjectStore> Split<S> {
    pub(super) const fn new(records: S, bytes: S) -> Self {
        Self { records, bytes }
    }

    fn client(&self, key: &Path) -> &S {
        if layout::is_data(key) { &self.bytes } else { &self.records }
    }
}

/// Both clients hold credentials: neither is printed.
impl<S: fmt::Display> fmt::Debug for Split<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Split({})", self.records)
    }
}

impl<S: fmt::Display> fmt::Display for Split<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.records.fmt(f)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ObjectStore> ObjectStore for Split<S> {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.client(at).put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.client(at).put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.client(at).get_opts(at, how).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.client(at).get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.records.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.records.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.records.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.records.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.client(from).copy_opts(from, to, how).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        self.client(from).rename_opts(from, to, how).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn bytes_and_records_take_their_own_client() {
        let (records, bytes) = (InMemory::new(), InMemory::new());
        let split = Split::new(records, bytes);
        let (data, record) = (Path::from("data/aa/20260101/1"), Path::from("database/x"));
        for key in [&data, &record] {
            split.put(key, PutPayload::from_static(b"x")).await.unwrap();
            assert!(split.get(key).await.is_ok());
        }
        assert!(split.bytes.head(&data).await.is_ok() && split.records.head(&data).await.is_err());
        assert!(split.records.head(&record).await.is_ok());
        assert!(split.bytes.head(&record).await.is_err());
    }
}
