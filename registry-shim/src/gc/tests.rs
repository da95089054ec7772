//! Collections beside pushes, in every order that a seed gives; and collections that die.

mod compose;
mod crash;
mod immutable;
mod simulation;
mod stages;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use longshore_proto::sign::SigningKey;
use longshore_proto::{Algorithm, Digest, RepositoryName, media_type};

use super::{Collector, GcError, Options, Report};
use crate::storage::{GRACE_MIN_MS, Progress, Storage, StorageError, StoredManifest, TagRecord};
use store::{SimClock, SimStore};

const ACTOR: &str = "someone";
const HOUR_MS: u64 = GRACE_MIN_MS;
/// Longer than every grace and age.
const LONG_MS: u64 = 100 * HOUR_MS;

/// A store in memory, its clock, and storage over both.
#[derive(Clone)]
struct World {
    clock: Arc<SimClock>,
    store: Arc<SimStore>,
    storage: Storage,
}

impl World {
    fn new(conditional: bool) -> Self {
        let clock = Arc::new(SimClock::default());
        let store = Arc::new(SimStore::new(clock.clone(), conditional));
        Self::over(clock, store)
    }

    fn over(clock: Arc<SimClock>, store: Arc<SimStore>) -> Self {
        static KEY: std::sync::LazyLock<Arc<SigningKey>> =
            std::sync::LazyLock::new(|| Arc::new(SigningKey::generate().0));
        let storage = Storage::new(store.clone(), KEY.clone()).with_clock(clock.clone());
        Self { clock, store, storage }
    }

    fn options() -> Options {
        Options { filter_bytes: 4096, ..Options::default() }
    }

    async fn collect(&self) -> Result<Report, GcError> {
        Collector::new(self.storage.clone(), Self::options()).run().await
    }

    /// Collects until every grace has passed; the sum of what was freed.
    async fn collect_all(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for _ in 0..6 {
            self.clock.advance(LONG_MS);
            reports.push(self.collect().await.unwrap());
        }
        reports
    }

    async fn push_blob(
        &self,
        repository: &RepositoryName,
        content: &Bytes,
    ) -> Result<Digest, crate::storage::UploadError> {
        let digest = sha256(content);
        let mut appender = self.storage.append(Progress::new(Algorithm::Sha256));
        appender.write(content.clone()).await?;
        let progress = appender.finish().await?;
        self.storage.commit(repository, None, progress, &digest).await?;
        Ok(digest)
    }

    /// As [`Self::push_blob`], in two requests of an upload: the blob has two segments.
    async fn push_in_requests(
        &self,
        repository: &RepositoryName,
        content: &Bytes,
    ) -> Result<Digest, crate::storage::UploadError> {
        let (digest, now_ms) = (sha256(content), self.storage.now_ms());
        let begun = self.storage.begin_upload(repository, ACTOR, Algorithm::Sha256, now_ms).await;
        let (session, mut progress) = (begun?, Progress::new(Algorithm::Sha256));
        for part in [0..content.len() / 2, content.len() / 2..content.len()] {
            let mut appender = self.storage.append(progress);
            appender.write(content.slice(part)).await?;
            progress = self.storage.save_upload(&session, appender).await?;
        }
        self.storage.commit(repository, Some(&session), progress, &digest).await?;
        self.storage.forget_upload(&session).await?;
        Ok(digest)
    }

    /// As the API does, once everything was found that the manifest names.
    async fn push_manifest(
        &self,
        repository: &RepositoryName,
        content: &str,
        begun_ms: u64,
    ) -> Result<Digest, StorageError> {
        let digest = sha256(content.as_bytes());
        let manifest = StoredManifest {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            content: Bytes::copy_from_slice(content.as_bytes()),
        };
        self.storage.put_manifest(repository, &digest, &manifest).await?;
        self.storage.add_repository(repository).await?;
        self.storage.still_holds(begun_ms)?;
        Ok(digest)
    }

    async fn push_image(
        &self,
        repository: &str,
        tag: &str,
        layers: &[&'static [u8]],
    ) -> (RepositoryName, Digest) {
        let repository: RepositoryName = repository.parse().unwrap();
        let layers: Vec<Bytes> = layers.iter().map(|layer| Bytes::from_static(layer)).collect();
        for layer in &layers {
            self.push_blob(&repository, layer).await.unwrap();
        }
        let content = manifest_of(&layers);
        let now_ms = self.storage.now_ms();
        let digest = self.push_manifest(&repository, &content, now_ms).await.unwrap();
        let record = TagRecord::new(digest, "m".into(), 1, now_ms, ACTOR.into());
        self.storage.put_tag(&repository, &tag.parse().unwrap(), &record).await.unwrap();
        (repository, digest)
    }

    /// Everything but the collector's own.
    async fn contents(&self) -> BTreeMap<String, u64> {
        let all: Vec<_> = self.storage.sweep("").try_collect().await.unwrap();
        all.into_iter()
            .map(|(key, seen)| (key.to_string(), seen.bytes))
            .filter(|(key, _)| !key.starts_with("gc/") && !key.contains("!/tomb/"))
            .collect()
    }

    async fn keys(&self) -> BTreeSet<String> {
        let all: Vec<_> = self.storage.sweep("").try_collect().await.unwrap();
        all.into_iter().map(|(key, _)| key.to_string()).collect()
    }

    /// The image's blobs can be read, whole.
    async fn check_image(&self, repository: &RepositoryName, manifest: &Digest, why: &str) {
        let stored = self.storage.manifest(repository, manifest).await.unwrap();
        let stored = stored.unwrap_or_else(|| panic!("{why}: {manifest} is gone"));
        let text: serde_json::Value = serde_json::from_slice(&stored.content).unwrap();
        let layers = text["layers"].as_array().unwrap();
        for blob in layers.iter().chain([&text["config"]]) {
            let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
            let is_member = self.storage.is_member(repository, &digest).await.unwrap();
            assert!(is_member, "{why}: {repository} lost {digest}");
            let pointer = self.storage.pointer(&digest).await.unwrap();
            let pointer = pointer.unwrap_or_else(|| panic!("{why}: {digest} lost its pointer"));
            let bytes = self.storage.read_whole(&pointer).await;
            let bytes = bytes.unwrap_or_else(|error| panic!("{why}: {digest}: {error}"));
            assert_eq!(sha256(&bytes), digest, "{why}");
        }
    }
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// The first layer is the configuration, too.
fn manifest_of(layers: &[Bytes]) -> String {
    let descriptor = |layer: &Bytes| {
        let (digest, size) = (sha256(layer), layer.len());
        format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#)
    };
    let listed: Vec<String> = layers.iter().map(descriptor).collect();
    format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor(&layers[0]),
        listed.join(",")
    )
}
