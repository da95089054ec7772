//! Collections over homes: each is collected, its replica loses what it loses, and one that is
//! failed over is left alone.

use futures::future::BoxFuture;

use super::*;
use crate::gc::{Collector, GcError, GcMetrics, Options, Report, collect_now_and_then};
use crate::storage::{Clock, GRACE_MIN_MS, Item, Keys, SystemClock};

/// Longer than every grace.
const LONG_MS: u64 = 100 * GRACE_MIN_MS;
/// Runs after which nothing waits any more.
const RUNS: u64 = 5;

/// The machine's clock, set forward.
#[derive(Debug)]
struct Ahead(u64);

impl Clock for Ahead {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() + self.0
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(time)
    }
}

fn later(storage: &Storage, graces: u64) -> Storage {
    storage.clone().with_clock(Arc::new(Ahead(graces * LONG_MS)))
}

async fn collect(storage: &Storage, graces: u64) -> Result<Report, GcError> {
    Collector::new(later(storage, graces), Options::default()).run().await
}

/// A blob that no manifest names, and a tagged manifest, in a home's repository.
async fn litter(storage: &Storage, repository: &RepositoryName) -> Digest {
    let bytes = Bytes::from(format!("garbage of {repository}"));
    let digest = sha256(&bytes);
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(bytes).await.unwrap();
    let progress = appender.finish().await.unwrap();
    storage.commit(repository, None, progress, &digest).await.unwrap();
    let stored = StoredManifest {
        media_type: longshore_proto::media_type::OCI_INDEX.to_owned(),
        content: Bytes::from_static(b"{\"schemaVersion\":2,\"manifests\":[]}"),
    };
    let manifest = sha256(&stored.content);
    storage.put_manifest(repository, &manifest, &stored).await.unwrap();
    storage.add_repository(repository).await.unwrap();
    let record = TagRecord::new(manifest, stored.media_type, 34, 1, "someone".into());
    storage.put_tag(repository, &"v1".parse().unwrap(), &record).await.unwrap();
    digest
}

async fn segments(store: &Switch, below: &str) -> usize {
    let prefix = object_store::path::Path::from(below);
    let listed: Vec<_> = store.inner.list(Some(&prefix)).try_collect().await.unwrap();
    listed.len()
}

#[tokio::test(start_paused = true)]
async fn each_home_is_collected_and_its_replica_with_it() {
    let world = World::new();
    let process = world.process().await;
    let homes = [("team/app", 0), ("us/app", 1)];
    for (name, at) in homes {
        let storage = process.regions.homes[at].1.storage();
        litter(storage, &name.parse().unwrap()).await;
    }
    process.mend_all().await;
    let stores = [(&world.eu, "data"), (&world.us, "replica/eu/data")];
    for (store, below) in stores {
        assert_eq!(segments(store, below).await, 1, "{below}");
    }
    for graces in 1..=RUNS {
        for storage in process.regions.storages() {
            collect(storage.storage(), graces).await.unwrap();
        }
    }
    process.mend_all().await;
    for (store, below) in stores {
        assert_eq!(segments(store, below).await, 0, "{below}");
    }
    for (name, at) in homes {
        let (storage, name) = (process.regions.homes[at].1.storage(), name.parse().unwrap());
        assert!(storage.tag(&name, &"v1".parse().unwrap()).await.unwrap().is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_collection_waits_while_its_home_is_failed_over() {
    let world = World::new();
    let process = world.process().await;
    let storage = process.storage();
    let garbage = litter(storage, &repository()).await;
    process.mend().await;
    // Everything but the last steps is done, so that the next run would delete.
    collect(storage, 1).await.unwrap();
    world.eu.set(Mode::Failing);
    process.notice().await;
    process.pass().await;
    let before = segments(&world.us, "replica/eu").await;
    let waits = collect(storage, 2).await;
    assert!(matches!(waits, Err(GcError::FailedOver)), "{waits:?}");
    let dry = Options { dry_run: true, ..Options::default() };
    let waits = Collector::new(later(storage, 2), dry).run().await;
    assert!(matches!(waits, Err(GcError::FailedOver)), "{waits:?}");
    assert_eq!(segments(&world.us, "replica/eu").await, before);
    assert!(storage.is_member(&repository(), &garbage).await.unwrap());
    // The other home is where it was, and is collected.
    collect(process.regions.homes[1].1.storage(), 2).await.unwrap();

    world.eu.set(Mode::Up);
    process.recover().await;
    for graces in 2..=RUNS {
        collect(storage, graces).await.unwrap();
    }
    assert!(!storage.is_member(&repository(), &garbage).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_the_primary_does_not_take_is_not_made_on_the_replica() {
    let world = World::new();
    let process = world.process().await;
    let storage = process.storage();
    let garbage = litter(storage, &repository()).await;
    process.mend().await;
    // It fails, and nobody has noticed yet.
    world.eu.set(Mode::Failing);
    assert!(process.home().state().is_primary());
    let key = Keys::item(&repository(), Item::Blob(garbage));
    storage.remove(&key).await.unwrap_err();
    assert!(world.replica().is_member(&repository(), &garbage).await.unwrap());
    world.eu.set(Mode::Up);
    process.recover().await;
    assert!(storage.is_member(&repository(), &garbage).await.unwrap());
    storage.remove(&key).await.unwrap();
    process.mend().await;
    assert!(!world.replica().is_member(&repository(), &garbage).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_background_worker_collects_each_home_that_stands() {
    let world = World::new();
    let process = world.process().await;
    litter(process.storage(), &repository()).await;
    process.mend().await;
    let config = crate::config::Gc { interval_s: 60, ..Default::default() };
    let runs = async |graces: u64| {
        let (metrics, ended) = (GcMetrics::default(), CancellationToken::new());
        let storages = process.regions.storages().map(|each| later(each.storage(), graces));
        let storages = storages.collect();
        let worker = collect_now_and_then(storages, &config, metrics.clone(), ended.clone());
        // A little more than one interval with its jitter, and less than two.
        let watch = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            ended.cancel();
        };
        tokio::join!(worker, watch);
        let of = |outcome| {
            let labels = crate::gc::OutcomeLabels { outcome };
            metrics.runs.get_or_create(&labels).get()
        };
        (of("done"), of("waits"), of("failed"))
    };
    assert_eq!(runs(1).await, (2, 0, 0));
    world.eu.set(Mode::Failing);
    process.notice().await;
    process.pass().await;
    assert_eq!(runs(2).await, (1, 1, 0));
    world.eu.set(Mode::Up);
    process.recover().await;
    for graces in 2..=RUNS {
        assert_eq!(runs(graces).await, (2, 0, 0));
    }
    assert_eq!(segments(&world.eu, "data").await, 0);
}
