//! Collections by a serving instance, now and then. Ends with the instance, at once: a run that is
//! cut off is gone on with by whoever runs next.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Collector, GcError, GcMetrics, Options};
use crate::config;
use crate::storage::Storage;

/// Instances that were started together do not run together: up to a fifth of the interval more.
const JITTER: f64 = 0.2;

/// Collects in each of the stores as often as `config` says, a little less, until `ended`.
pub(crate) async fn collect_now_and_then(
    storages: Vec<Storage>,
    config: &config::Gc,
    metrics: GcMetrics,
    ended: CancellationToken,
) {
    let (options, interval) = (Options::from(config), Duration::from_secs(config.interval_s));
    if interval.is_zero() {
        return;
    }
    let work = async {
        loop {
            let jitter = interval.mul_f64(JITTER * rand::random::<f64>());
            tokio::time::sleep(interval + jitter).await;
            for storage in &storages {
                collect_once(storage, &options, &metrics).await;
            }
        }
    };
    ended.run_until_cancelled(work).await;
    metrics.running.set(0);
}

async fn collect_once(storage: &Storage, options: &Options, metrics: &GcMetrics) {
    metrics.running.set(1);
    let ended = Collector::new(storage.clone(), options.clone()).run().await;
    metrics.running.set(0);
    match ended {
        Ok(report) => {
            let total = report.total();
            let (objects, bytes) = (total.freed_objects, total.freed_bytes);
            tracing::info!(objects, bytes, waiting = total.waiting_objects, "collected");
            metrics.finished(&report, storage.now_ms());
        }
        Err(error @ GcError::Busy { .. }) => {
            tracing::debug!(%error);
            metrics.ended("busy");
        }
        Err(error @ GcError::FailedOver) => {
            tracing::info!(%error);
            metrics.ended("waits");
        }
        Err(error) => {
            tracing::warn!(%error, "collection stopped: the next one goes on");
            metrics.ended("failed");
        }
    }
}
