//! What operators see of usage: counted at the moment in which they ask.

use serde::Serialize;

use super::bid::Tally;
use super::keeper::tally;
use crate::config;
use crate::registry::now_ms;
use crate::storage::{Project, Storage, StorageError};

/// One project's usage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// Every project that has charges or a limit of its own, sorted.
///
/// # Errors
/// When the store cannot be listed.
pub async fn usages(storage: &Storage, config: &config::Quota) -> Result<Usage, StorageError> {
    let mut projects = storage.charged_projects().await?;
    projects.extend(config.projects.keys().cloned());
    projects.sort();
    projects.dedup();
    let mut usages = Vec::with_capacity(projects.len());
    for project in projects {
        usages.push(usage(storage, config, &project).await?);
    }
    Ok(usages)
}
