//! Membership: which blobs a repository holds. A blob is visible where it is a member.

use longshore_proto::{Digest, RepositoryName};
use serde::{Deserialize, Serialize};

use super::{Pointer, RECORD_VERSION, Storage, StorageError, encode, layout};

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

    /// Makes the blob visible in the repository; its pointer must be there.
    pub async fn add_member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<(), StorageError> {
        let record = encode(&MembershipRecord { v: RECORD_VERSION, size: pointer.size });
        // The collector looks from the blob: its reference must never be the one that is missing.
        self.overwrite(&layout::reverse_reference(digest, repository), record.clone()).await?;
        self.overwrite(&layout::membership(repository, digest), record).await
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
