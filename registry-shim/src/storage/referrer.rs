//! Referrers: which manifests name a subject, found from the subject.

use std::collections::BTreeMap;

use longshore_proto::{Digest, RepositoryName};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{Page, Storage, StorageError, encode, layout};

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

    /// The digests of the subject's referrers in order, those of deleted manifests included.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Digest>, StorageError> {
        let prefix = layout::referrers(repository, subject);
        let from = after.map(|after| layout::referrer(repository, subject, after));
        // Keys say `sha256/…` where digests say `sha256:…`, and sort alike.
        let name = |key: &Path| Some(key.as_ref().strip_prefix(prefix.as_ref())?.to_owned());
        let after = from.as_ref().and_then(name);
        let page = self.page(&prefix, after.as_deref(), from.as_ref(), limit, name).await?;
        let digest = |name: String| name.trim_start_matches('/').replacen('/', ":", 1).parse().ok();
        let items: Vec<Digest> = page.items.into_iter().filter_map(digest).collect();
        Ok(Page { items, more: page.more })
    }

    /// One of them; `None` when it went since.
    pub async fn referrer(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Referrer>, StorageError> {
        self.read_record(&layout::referrer(repository, subject, digest)).await
    }
}
