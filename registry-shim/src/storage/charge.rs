//! Charges: what a project pays for, one empty object for each digest, its size in the key.
//!
//! A project's usage IS the set of these keys: blobs and manifests alike, each digest once however
//! many repositories of the project hold it. A charge is created before what it pays for becomes
//! visible, and nobody takes one back but [`Storage::release_charge`], which the collector calls
//! when the last member of the project has gone: a push that fails must not, since another push
//! may have found its charge and paid nothing.

use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use longshore_proto::{Digest, RepositoryName};
use object_store::path::Path;
use serde::Deserialize;

use super::{Project, Storage, StorageError, layout};

/// Repositories that are looked into at once.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Something that a project pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Charge {
    /// Of a blob or of a manifest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What became of a charge that the collector wanted to take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The project pays no more for it.
    Gone,
    /// A repository of the project holds it: the charge stands.
    Held,
}

/// What a repository holds, as its keys say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who holds it.
    pub repository: RepositoryName,
    /// What.
    pub digest: Digest,
    /// Whether it is a manifest; else it is a blob.
    pub is_manifest: bool,
}

#[derive(Deserialize)]
struct MembershipSize {
    size: u64,
}

impl Storage {
    /// Makes the project pay; whether it did not already. Of many that charge the same at once one
    /// is told so.
    pub async fn create_charge(
        &self,
        project: &Project,
        charge: &Charge,
    ) -> Result<bool, StorageError> {
        self.create(&layout::charge(project, &charge.digest, charge.size), bytes::Bytes::new())
            .await
    }

    /// Whether the project pays for it.
    pub async fn has_charge(
        &self,
        project: &Project,
        charge: &Charge,
    ) -> Result<bool, StorageError> {
        self.exists(&layout::charge(project, &charge.digest, charge.size)).await
    }

    /// All that the project pays for, in no order.
    pub fn charges(&self, project: &Project) -> BoxStream<'static, Result<Charge, StorageError>> {
        let prefix = layout::charges(project);
        let listing = self.store.list(Some(&prefix));
        listing
            .map_err(StorageError::from)
            .try_filter_map(|object| async move { Ok(charge_of(&object.location)) })
            .boxed()
    }

    /// The projects that pay for anything, sorted.
    pub async fn charged_projects(&self) -> Result<Vec<Project>, StorageError> {
        let listing = self.store.list_with_delimiter(Some(&layout::charged_projects())).await?;
        let mut projects: Vec<Project> = listing
            .common_prefixes
            .iter()
            .filter_map(|prefix| prefix.filename()?.strip_suffix('!')?.parse().ok())
            .collect();
        projects.sort();
        Ok(projects)
    }

    /// For the collector: takes the charge back unless some repository of the project holds the
    /// digest. Call it after the last membership or manifest was deleted, for a digest that no push
    /// has touched for the collector's grace.
    ///
    /// Safe against a push that finds the charge while this deletes it: it looks for members again
    /// after the deletion and restores the charge if there are any, while the push looks for its
    /// charge after it has written its membership. Whichever comes last repairs it.
    pub async fn release_charge(
        &self,
        project: &Project,
        charge: &Charge,
    ) -> Result<Released, StorageError> {
        if self.is_held_in(project, &charge.digest).await? {
            return Ok(Released::Held);
        }
        self.delete(&layout::charge(project, &charge.digest, charge.size)).await?;
        if self.is_held_in(project, &charge.digest).await? {
            self.create_charge(project, charge).await?;
            return Ok(Released::Held);
        }
        Ok(Released::Gone)
    }

    /// Whether a repository of the project holds the blob or the manifest.
    pub async fn is_held_in(
        &self,
        project: &Project,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        self.is_held_but_by(project, digest, |_| false).await
    }

    /// The same where keys are taken for deleted of which `gone` says so.
    pub(crate) async fn is_held_but_by(
        &self,
        project: &Project,
        digest: &Digest,
        gone: impl Fn(&Path) -> bool,
    ) -> Result<bool, StorageError> {
        let mut inner = self.store.list(Some(&layout::reverse_references_in(digest, project)));
        while let Some(found) = inner.try_next().await? {
            if !gone(&found.location) {
                return Ok(true);
            }
        }
        let own = layout::reverse_reference_at(digest, project);
        if !gone(&own) && self.exists(&own).await? {
            return Ok(true);
        }
        let mut repositories = self.repositories_of(project).await?;
        repositories.retain(|repository| !gone(&layout::manifest(repository, digest)));
        let mut found =
            futures::stream::iter(repositories)
                .map(|repository| async move {
                    self.exists(&layout::manifest(&repository, digest)).await
                })
                .buffer_unordered(READS_IN_FLIGHT_MAX);
        while let Some(held) = found.try_next().await? {
            if held {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Everything that the project's repositories hold, as their own keys say; in no order.
    pub fn holdings(&self, project: &Project) -> BoxStream<'static, Result<Holding, StorageError>> {
        let [inner, own] = layout::repositories_of_project(project);
        let listing = self.store.list(Some(&inner)).chain(self.store.list(Some(&own)));
        listing
            .map_err(StorageError::from)
            .try_filter_map(|object| async move { Ok(holding_of(&object.location)) })
            .boxed()
    }

    /// Bytes of what a repository holds; `None` when it went away.
    pub async fn size_of(&self, holding: &Holding) -> Result<Option<u64>, StorageError> {
        if holding.is_manifest {
            let manifest = self.manifest(&holding.repository, &holding.digest).await?;
            return Ok(manifest.map(|manifest| manifest.content.len() as u64));
        }
        let key = layout::membership(&holding.repository, &holding.digest);
        Ok(self.read_record::<MembershipSize>(&key).await?.map(|record| record.size))
    }

    async fn repositories_of(
        &self,
        project: &Project,
    ) -> Result<Vec<RepositoryName>, StorageError> {
        let [inner, own] = layout::catalog_of_project(project);
        let mut repositories: Vec<RepositoryName> = self
            .store
            .list(Some(&inner))
            .map_ok(|object| layout::repository_of_catalog(&object.location))
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        if self.exists(&own).await? {
            repositories.extend(layout::repository_of_catalog(&own));
        }
        Ok(repositories)
    }
}

/// `proj/<p>!/blob/<alg>/<hex>-<size>`
fn charge_of(key: &Path) -> Option<Charge> {
    let mut parts = key.as_ref().rsplit('/');
    let (hex, size) = parts.next()?.split_once('-')?;
    let digest = format!("{}:{hex}", parts.next()?).parse().ok()?;
    Some(Charge { digest, size: size.parse().ok()? })
}

/// `repo/<name>!/blob/<alg>/<hex>` and `repo/<name>!/man/<alg>/<hex>`
fn holding_of(key: &Path) -> Option<Holding> {
    let (repository, rest) = key.as_ref().strip_prefix("repo/")?.split_once("!/")?;
    let (kind, rest) = rest.split_once('/')?;
    let is_manifest = match kind {
        "blob" => false,
        "man" => true,
        _ => return None,
    };
    let (algorithm, hex) = rest.split_once('/')?;
    let digest = format!("{algorithm}:{hex}").parse().ok()?;
    Some(Holding { repository: repository.parse().ok()?, digest, is_manifest })
}
