//! The stores that a configuration names, for commands that work on all of them.

use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::config::Config;
use crate::regions::{RegionMetrics, Regions};
use crate::storage::Storage;

/// What a command does to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Not even what finds out what the store can do is written.
    Reads,
    /// It is found out first whether the store can do what is configured.
    Writes,
}

/// Hands the one store, or that of each region, to `work`. The regions' own workers run meanwhile
/// and carry what is written to the replicas; what they leave, others find.
pub(super) async fn with_storages<T>(
    config: &Config,
    access: Access,
    work: impl AsyncFnOnce(Vec<Storage>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let keys = crate::load_keys(config, false)?;
    if config.regions.region.is_empty() {
        let opened = config.storage.open().map_err(crate::StartError::from)?;
        let storage = match access {
            Access::Reads => Storage::new(opened.store, keys.signing().clone()),
            Access::Writes => crate::open_storage(config, opened, keys.signing().clone()).await?,
        };
        return work(vec![storage]).await;
    }
    let opened = Regions::open_stores(config)?;
    let regions = Regions::open(config, opened, &keys, &RegionMetrics::default()).await?;
    let ended = CancellationToken::new();
    let working = async {
        let _end = ended.clone().drop_guard();
        let storages = regions.storages().map(|each| each.storage().clone()).collect();
        work(storages).await
    };
    let (worked, ()) = tokio::join!(working, regions.run(ended.clone()));
    worked
}
