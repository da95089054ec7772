//! What operators see of usage: counted at the moment in which they ask.

use std::collections::BTreeSet;

use serde::Serialize;

use super::bid::Tally;
use super::keeper::tally;
use crate::config;
use crate::registry::now_ms;
use crate::storage::{Project, Storage, StorageError};

/// One project's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProjectUsage {
    /// `team`
    pub project: String,
    /// Bytes of all charges.
    pub used_bytes: u64,
    /// Bytes that it may have; `None`: as many as it likes.
    pub limit_bytes: Option<u64>,
    /// Digests that are charged.
    pub charges: u64,
    /// Bytes of the largest.
    pub largest_bytes: u64,
    /// Headroom that instances hold now, at most.
    pub leased_bytes: u64,
    /// Leases that are not over.
    pub leases: u64,
}

/// Usage of several projects.
pub type Usage = Vec<ProjectUsage>;

/// Counts one project's charges.
///
/// # Errors
/// When the store cannot be listed.
pub async fn count(storage: &Storage, project: &Project) -> Result<Tally, StorageError> {
    tally(storage, project).await
}

/// One project, whether or not it has charges.
///
/// # Errors
/// When the store cannot be listed.
pub async fn usage(
    storage: &Storage,
    config: &config::Quota,
    project: &Project,
) -> Result<ProjectUsage, StorageError> {
    let slots = storage.slots(project).await?;
    let now_ms = now_ms();
    let live: Vec<u64> = slots
        .iter()
        .filter(|slot| slot.bytes > 0 && slot.expires_at_ms >= now_ms)
        .map(|slot| slot.bytes)
        .collect();
    let Tally { used, largest, charges } = tally(storage, project).await?;
    Ok(ProjectUsage {
        project: project.to_string(),
        used_bytes: used,
        limit_bytes: config.limit_of(project),
        charges,
        largest_bytes: largest,
        leased_bytes: live.iter().sum(),
        leases: live.len() as u64,
    })
}

/// One project in all regions' stores together.
///
/// # Errors
/// When a store cannot be listed.
pub async fn usage_in_all(
    storages: &[Storage],
    config: &config::Quota,
    project: &Project,
) -> Result<ProjectUsage, StorageError> {
    let mut all = ProjectUsage {
        project: project.to_string(),
        limit_bytes: config.limit_of(project),
        ..ProjectUsage::default()
    };
    for storage in storages {
        let one = usage(storage, config, project).await?;
        all.used_bytes += one.used_bytes;
        all.charges += one.charges;
        all.largest_bytes = all.largest_bytes.max(one.largest_bytes);
        all.leased_bytes += one.leased_bytes;
        all.leases += one.leases;
    }
    Ok(all)
}

/// Every project that has charges in any of the stores, or a limit of its own, sorted.
///
/// # Errors
/// When a store cannot be listed.
pub async fn usages(storages: &[Storage], config: &config::Quota) -> Result<Usage, StorageError> {
    let mut projects: BTreeSet<Project> = config.projects.keys().cloned().collect();
    for storage in storages {
        projects.extend(storage.charged_projects().await?);
    }
    let mut usages = Vec::with_capacity(projects.len());
    for project in projects {
        usages.push(usage_in_all(storages, config, &project).await?);
    }
    Ok(usages)
}
