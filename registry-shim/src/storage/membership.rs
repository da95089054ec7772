//! Membership: which blobs a repository holds. A blob is visible where it is a member.

use futures::{StreamExt as _, TryStreamExt as _};
use longshore_proto::{Digest, RepositoryName};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{Item, Keys, Pointer, RECORD_VERSION, Storage, StorageError, encode, layout};

#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    v: u32,
    size: u64,
}

impl Storage {
    /// Whether the repository holds the blob.
    pub async fn is_member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        self.exists(&layout::membership(repository, digest)).await
    }

    /// Whether any repository holds the blob, or is about to.
    pub(super) async fn is_referenced(&self, digest: &Digest) -> Result<bool, StorageError> {
        let mut references = self.store.list(Some(&layout::reverse_references(digest)));
        Ok(references.try_next().await?.is_some())
    }

    /// Repositories that hold the blob or are about to, in no order, of the first `max` references.
    pub async fn holders(
        &self,
        digest: &Digest,
        max: usize,
    ) -> Result<Vec<RepositoryName>, StorageError> {
        let prefix = layout::reverse_references(digest);
        let references = self.store.list(Some(&prefix)).take(max);
        let found: Vec<_> = references.try_collect().await?;
        let holder = |key: &Path| {
            let (_, repository) = Keys::spread("bref", key)?;
            Keys::referring(repository)
        };
        Ok(found.iter().filter_map(|found| holder(&found.location)).collect())
    }

    /// Makes the blob visible in the repository, unless its pointer is being collected: then
    /// nothing is visible, and whoever has the bytes writes them anew. Whether it is visible.
    pub async fn add_member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<bool, StorageError> {
        let begun_ms = self.now_ms();
        self.claim(repository, Item::Blob(*digest)).await?;
        let record = encode(&MembershipRecord { v: RECORD_VERSION, size: pointer.size });
        // The collector writes its tombstone and then looks for references; here it is the other
        // way round. One of the two sees the other.
        self.overwrite(&layout::reverse_reference(digest, repository), record.clone()).await?;
        if !self.is_usable(digest, &pointer.generation).await? {
            return Ok(false);
        }
        self.overwrite(&layout::membership(repository, digest), record).await?;
        self.still_holds(begun_ms)?;
        Ok(true)
    }

    /// Takes the blob out of the repository; whether it was in.
    pub async fn remove_member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let was_in = self.is_member(repository, digest).await?;
        self.delete(&layout::membership(repository, digest)).await?;
        self.delete(&layout::reverse_reference(digest, repository)).await?;
        Ok(was_in)
    }
}
