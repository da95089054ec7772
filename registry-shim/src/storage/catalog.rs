//! The catalog: which repositories there are. A repository is there once a manifest was pushed.

use bytes::Bytes;
use longshore_proto::RepositoryName;

use super::{Page, Storage, StorageError, layout};

impl Storage {
    /// Whether anything was ever pushed to the repository.
    pub async fn knows_repository(
        &self,
        repository: &RepositoryName,
    ) -> Result<bool, StorageError> {
        self.exists(&layout::catalog_entry(repository)).await
    }

    /// Enters the repository.
    pub async fn add_repository(&self, repository: &RepositoryName) -> Result<(), StorageError> {
        self.create(&layout::catalog_entry(repository), Bytes::new()).await.map(|_| ())
    }

    /// Repositories in byte order.
    pub async fn repositories(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, StorageError> {
        let name = |key: &_| layout::repository_of_catalog(key).map(String::from);
        let from = after.and_then(|after| Some(layout::catalog_entry(&after.parse().ok()?)));
        self.page(&layout::catalog(), after, from.as_ref(), limit, name).await
    }
}
