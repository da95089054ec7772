//! Two stores in memory behind switches, and instances that share them.
//!
//! The workers' steps are taken by the tests, so that nothing happens by luck.

mod api;
mod collection;
mod crash;
mod outage;
mod redirect;
mod switch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use longshore_proto::sign::SigningKey;
use longshore_proto::{Algorithm, Digest, RepositoryName};
use object_store::ObjectStore as _;
use tokio::time::Instant;

use super::*;
use crate::storage::{Progress, StoredManifest, TagRecord, UploadError};
use switch::{Machine, Mode, Switch};

/// The configuration's words for two regions; their urls are not opened.
const CONFIG: &str = r#"
[[regions.region]]
name = "eu"
default = true
storage.url = "memory:"

[[regions.region]]
name = "us"
storage.url = "memory:"
repositories = ["us/*"]
"#;

/// Two stores.
struct World {
    eu: Switch,
    us: Switch,
    key: Arc<SigningKey>,
}

/// One process over them.
struct Process {
    regions: Regions,
}

fn timing() -> Timing {
    let record = Duration::from_secs(2);
    Timing {
        unknown: Duration::ZERO,
        lease: Duration::from_millis(4),
        lease_settle: Duration::from_millis(1),
        quiet: Duration::ZERO,
        ..Timing::new(record)
    }
}

impl World {
    fn new() -> Self {
        let key = Arc::new(SigningKey::generate().0);
        Self { eu: Switch::new(), us: Switch::new(), key }
    }

    async fn process(&self) -> Process {
        self.process_on(&Machine::immortal()).await
    }

    fn opened(&self, machine: &Machine) -> Vec<OpenedStore> {
        let stores = [self.eu.seen_by(machine), self.us.seen_by(machine)];
        stores.into_iter().map(OpenedStore::from).collect()
    }

    async fn process_on(&self, machine: &Machine) -> Process {
        let config: Config = toml::from_str(CONFIG).unwrap();
        config.regions.check().unwrap();
        let opened = self.opened(machine);
        let metrics = RegionMetrics::default();
        let (keys, how) = (Keyring::of(self.key.clone()), (Policy::default(), timing()));
        let regions = Regions::with_timing(&config, opened, &keys, &metrics, how).await.unwrap();
        Process { regions }
    }

    /// The primary of `eu` by itself.
    fn primary(&self) -> Storage {
        Storage::new(self.eu.inner.clone(), self.key.clone())
    }

    /// What `us` keeps of `eu`.
    fn replica(&self) -> Storage {
        let store = object_store::prefix::PrefixStore::new(self.us.inner.clone(), "replica/eu");
        Storage::new(Arc::new(store), self.key.clone())
    }
}

impl Process {
    fn home(&self) -> &Arc<Home> {
        &self.regions.homes[0].0
    }

    fn storage(&self) -> &Storage {
        self.regions.default_storage().storage()
    }

    /// The store is found to be away.
    async fn notice(&self) {
        while self.home().primary.is_up() {
            self.pass().await;
        }
    }

    /// Time passes and the worker takes a step.
    async fn pass(&self) {
        tokio::time::advance(Duration::from_secs(1)).await;
        for (home, _) in &self.regions.homes {
            home.step(&mut Instant::now()).await;
        }
    }

    /// Time passes until the home is on its primary.
    async fn recover(&self) {
        let patience = std::time::Instant::now();
        while !self.home().state().is_primary() {
            self.pass().await;
            assert!(patience.elapsed() < Duration::from_secs(20), "{:?}", self.home().state());
        }
    }

    /// The replica becomes a copy of the primary.
    async fn mend(&self) {
        mend(self.home()).await;
    }

    /// Every replica does.
    async fn mend_all(&self) {
        for (home, _) in &self.regions.homes {
            mend(home).await;
        }
    }
}

async fn mend(home: &Home) {
    home.look_around().await.unwrap();
    home.drain().await.unwrap();
    home.tidy_marks().await;
    home.read_marks().await;
}

fn repository() -> RepositoryName {
    "team/app".parse().unwrap()
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

fn manifest(text: &str) -> (Digest, StoredManifest) {
    let content = Bytes::from(text.to_owned());
    (sha256(&content), StoredManifest { media_type: "application/json".into(), content })
}

async fn push_blob(storage: &Storage, content: &Bytes) -> Result<Digest, UploadError> {
    let digest = sha256(content);
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(content.clone()).await?;
    let progress = appender.finish().await?;
    storage.commit(&repository(), None, progress, &digest).await?;
    Ok(digest)
}

async fn read_blob(storage: &Storage, digest: &Digest) -> Bytes {
    let pointer = storage.pointer(digest).await.unwrap().expect("blob has a pointer");
    let chunks: Vec<Bytes> = storage.stream(&pointer, None).try_collect().await.unwrap();
    chunks.concat().into()
}

/// Manifest, catalog and tag, as a push ends.
async fn push_tag(storage: &Storage, text: &str, time_ms: u64) -> Result<Digest, UploadError> {
    let (digest, manifest) = manifest(text);
    storage.put_manifest(&repository(), &digest, &manifest).await?;
    storage.add_repository(&repository()).await?;
    let size = manifest.content.len() as u64;
    let record = TagRecord::new(digest, manifest.media_type, size, time_ms, "someone".into());
    storage.put_tag(&repository(), &"v1".parse().unwrap(), &record).await?;
    Ok(digest)
}

async fn tag_of(storage: &Storage) -> Option<Digest> {
    let record = storage.tag(&repository(), &"v1".parse().unwrap()).await.unwrap();
    record.map(|record| record.digest)
}

/// A storage over two stores, for the contract that every storage keeps.
pub(crate) async fn storage_for_contract(
    failed_over: bool,
) -> (Storage, Arc<dyn object_store::ObjectStore>) {
    let world = World::new();
    if failed_over {
        world.eu.set(Mode::Failing);
    }
    let process = world.process().await;
    assert_eq!(process.home().state().is_primary(), !failed_over);
    (process.storage().clone(), Arc::new(RegionStore(process.home().clone())))
}
