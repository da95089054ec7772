//! Manifests: the raw bytes with the media type they came with, per repository.

use bytes::Bytes;
use longshore_proto::{Digest, RepositoryName};
use serde::{Deserialize, Serialize};

use super::{Item, RECORD_VERSION, Storage, StorageError, encode, layout};

/// A manifest as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// As the pusher named it.
    pub media_type: String,
    /// Never re-encoded.
    pub content: Bytes,
}

/// The line before the raw bytes.
#[derive(Serialize, Deserialize)]
struct ManifestRecord {
    v: u32,
    media_type: String,
}

impl Storage {
    /// The manifest, if this repository has it.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<StoredManifest>, StorageError> {
        let key = layout::manifest(repository, digest);
        let Some(object) = self.read(&key).await? else { return Ok(None) };
        let end = object.iter().position(|&byte| byte == b'\n');
        let end = end.ok_or_else(|| StorageError::corrupt(&key, "no first line"))?;
        let record: ManifestRecord = serde_json::from_slice(&object[..end])
            .map_err(|error| StorageError::corrupt(&key, error))?;
        Ok(Some(StoredManifest { media_type: record.media_type, content: object.slice(end + 1..) }))
    }

    /// Keeps the manifest; everything it names must be in the repository already.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: &StoredManifest,
    ) -> Result<(), StorageError> {
        self.claim(repository, Item::Manifest(*digest)).await?;
        let media_type = manifest.media_type.clone();
        let mut object = encode(&ManifestRecord { v: RECORD_VERSION, media_type }).to_vec();
        object.push(b'\n');
        object.extend_from_slice(&manifest.content);
        self.overwrite(&layout::manifest(repository, digest), object.into()).await
    }

    /// Deletes the manifest and never a tag: one that names it reads as missing from now on.
    /// Whether it was there.
    ///
    /// # Errors
    /// [`StorageError::TagImmutable`] when a tag names it that may not go.
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        if self.is_named_for_good(repository, digest).await? {
            return Err(StorageError::TagImmutable { digest: *digest });
        }
        let key = layout::manifest(repository, digest);
        let Some(content) = self.read(&key).await? else { return Ok(false) };
        self.delete(&key).await?;
        // A tag that came meanwhile may not be left without it. Its push looks for the manifest
        // once more after the tag: whoever comes last sees the other.
        if self.is_named_for_good(repository, digest).await? {
            self.overwrite(&key, content).await?;
            return Err(StorageError::TagImmutable { digest: *digest });
        }
        Ok(true)
    }

    /// Puts a manifest back that went between its push and that of its immutable tag.
    pub async fn keep_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: &StoredManifest,
    ) -> Result<(), StorageError> {
        match self.exists(&layout::manifest(repository, digest)).await? {
            true => Ok(()),
            false => self.put_manifest(repository, digest, manifest).await,
        }
    }
}
