//! A home as the one store that the layout is written for.
//!
//! Nothing of the layout is known here but which keys are bytes of blobs: those are streamed, and
//! a stream that breaks goes on from the other store at the same offset; everything else is a
//! record and read whole within its deadline. Conditional creates hold on the store that is
//! written to at the moment, and so not between instances that disagree about it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result,
};

use super::home::Home;
use super::journal::Op;
use super::key;
use super::side::Which;
use super::stream::Continued;
use super::upload::RegionUpload;

/// The door to a [`Home`].
#[derive(Clone, Debug)]
pub(super) struct RegionStore(pub(super) Arc<Home>);

impl fmt::Display for RegionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({})", self.0.name)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for RegionStore {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        let length = bytes.content_length();
        if how.mode == PutMode::Create && key::is_tag(at) {
            // An immutable tag: two stores could each take another one.
            return self
                .0
                .write_primary(at, length, self.0.primary.store.put_opts(at, bytes, how))
                .await;
        }
        let put = |store: Arc<dyn ObjectStore>| {
            let (bytes, how) = (bytes.clone(), how.clone());
            async move { store.put_opts(at, bytes, how).await }
        };
        self.0.write(at, Op::Put, length, put).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(RegionUpload::begin(&self.0, at, how).await?))
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        let home = &self.0;
        let get = |which: Which| {
            let how = how.clone();
            async move { home.get(which, at, how).await.map(|found| (which, found)) }
        };
        let (which, found) = home.read(at, get).await?;
        Ok(if key::is_data(at) { Continued::over(home, which, at, found) } else { found })
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let range = Some(GetRange::Bounded(range.clone()));
            let how = GetOptions { range, ..GetOptions::default() };
            parts.push(self.get_opts(at, how).await?.bytes().await?);
        }
        Ok(parts)
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let home = self.0.clone();
        keys.then(move |key| {
            let home = home.clone();
            async move {
                let key = key?;
                let delete = |store: Arc<dyn ObjectStore>| {
                    let key = key.clone();
                    async move { store.delete(&key).await }
                };
                home.write(&key, Op::Delete, 0, delete).await.map(|()| key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.clone().list(prefix.cloned())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let after = move |object: &Result<ObjectMeta>| {
            let before = object.as_ref().is_ok_and(|object| object.location <= offset);
            std::future::ready(!before)
        };
        self.list(prefix).filter(after).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.clone().list_with_delimiter(prefix).await
    }

    /// Through this process: the two keys may have their truth in two stores. The layout never
    /// copies.
    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        let content = self.get(from).await?.bytes().await?;
        let mode = match how.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.put_opts(to, content.into(), mode.into()).await.map(|_| ())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        let mode = match how.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions::new().with_mode(mode)).await?;
        self.delete(from).await
    }
}

impl Home {
    /// One store's answer: of bytes the head, of a record all of it, within the deadline.
    pub(super) async fn get(&self, which: Which, at: &Path, how: GetOptions) -> Result<GetResult> {
        let side = self.side(which);
        let streamed = how.head || key::is_data(at);
        let get = async {
            let mut found = side.store.get_opts(at, how).await?;
            if !streamed && let GetResultPayload::Stream(bytes) = found.payload {
                let whole = GetResult { payload: GetResultPayload::Stream(bytes), ..found };
                found = whole_record(whole).await?;
            }
            Ok(found)
        };
        side.call(self.timing.record, get).await
    }
}

/// The same with its bytes in hand.
async fn whole_record(found: GetResult) -> Result<GetResult> {
    let (meta, range) = (found.meta.clone(), found.range.clone());
    let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
    let bytes = found.bytes().await?;
    let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}
