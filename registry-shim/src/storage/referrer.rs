//! Referrers: which manifests name a subject, found from the subject.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_proto::{Digest, RepositoryName};
use serde::{Deserialize, Serialize};

use super::{Storage, StorageError, encode, layout};

/// Descriptors that are read from the store at once.
const READS_IN_FLIGHT_MAX: usize = 16;

/// A referrer's descriptor as the referrers API lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Of the manifest.
    pub media_type: String,
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest.
    pub size: u64,
    /// Its own, or its configuration's media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The manifest's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Storage {
    /// Remembers that `referrer` names `subject`, which need not be there.
    pub async fn put_referrer(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<(), StorageError> {
        let key = layout::referrer(repository, subject, &referrer.digest);
        self.overwrite(&key, encode(referrer)).await
    }

    /// Forgets it.
    pub async fn delete_referrer(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<(), StorageError> {
        self.delete(&layout::referrer(repository, subject, digest)).await.map(|_| ())
    }

    /// The subject's referrers in the order of their digests, deleted manifests included, at most
    /// `limit`.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        limit: usize,
    ) -> Result<Vec<Referrer>, StorageError> {
        let mut keys = self.keys(&layout::referrers(repository, subject)).await?;
        keys.truncate(limit);
        let read = |key| async move { self.read_record::<Referrer>(&key).await };
        let found: Vec<Option<Referrer>> =
            stream::iter(keys).map(read).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }
}
