//! Tags: one object each, so that one read resolves one; and their history.

use longshore_proto::{Digest, RepositoryName, Tag};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Page, RECORD_VERSION, Storage, StorageError, encode, layout};

/// What a tag names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    v: u32,
    /// The manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// Unix milliseconds of the push.
    pub time_ms: u64,
    /// Who pushed.
    pub actor: String,
}

impl TagRecord {
    /// A record of this version.
    pub fn new(digest: Digest, media_type: String, size: u64, time_ms: u64, actor: String) -> Self {
        Self { v: RECORD_VERSION, digest, media_type, size, time_ms, actor }
    }
}

impl Storage {
    /// What the tag names; the manifest may have been deleted since.
    pub async fn tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<TagRecord>, StorageError> {
        self.read_record(&layout::tag(repository, tag)).await
    }

    /// Moves the tag, or creates an immutable one. The last write of a push: the manifest is there.
    ///
    /// # Errors
    /// [`StorageError::TagImmutable`] when it names another manifest for good.
    pub async fn put_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StorageError> {
        if self.is_immutable(repository, tag) {
            return self.create_tag(repository, tag, record).await;
        }
        self.log_tag(repository, tag, record).await?;
        self.overwrite(&layout::tag(repository, tag), encode(record)).await
    }

    /// Writes the entry of the tag's history that says what comes next; its key.
    pub(super) async fn log_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<Path, StorageError> {
        let log = layout::tag_log(repository, tag, record.time_ms, Uuid::new_v4());
        self.overwrite(&log, encode(record)).await?;
        Ok(log)
    }

    /// Renews the record of a tag that did not move: its history has nothing to tell.
    pub async fn touch_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StorageError> {
        self.overwrite(&layout::tag(repository, tag), encode(record)).await
    }

    /// Deletes the tag and not what it names; whether it was there.
    ///
    /// # Errors
    /// [`StorageError::TagImmutable`] when it may not go.
    pub async fn delete_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<bool, StorageError> {
        let key = layout::tag(repository, tag);
        if self.is_immutable(repository, tag) {
            return match self.tag(repository, tag).await? {
                Some(there) => Err(StorageError::TagImmutable { digest: there.digest }),
                None => Ok(false),
            };
        }
        let was_there = self.exists(&key).await?;
        self.delete(&key).await?;
        Ok(was_there)
    }

    /// Tags in byte order, dangling ones included.
    pub async fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, StorageError> {
        let name = |key: &Path| key.filename().map(str::to_owned);
        let from = after.and_then(|after| Some(layout::tag(repository, &after.parse().ok()?)));
        self.page(&layout::tags(repository), after, from.as_ref(), limit, name).await
    }
}
