//! An origin in memory, with faults on demand: what tests talk to instead of a registry.
//!
//! Owns blobs, signed lists and a [`MemoryTracker`]; many nodes share one world through a client
//! each. It opens no socket. Bytes can be paced, so that a test sees a download grow.

mod tracker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use longshore_proto::piece::{PieceList, piece_bytes_for};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{PieceListStatement, PlanStatement, PublicKeys, SigningKey};
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Algorithm, Descriptor, Digest, RepositoryName};
use tokio::time::Instant;

pub use self::tracker::MemoryTracker;
use super::{BlobStream, Fetch, Origin, OriginError, PlanStream};

/// Bytes that a stream gives at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What is wrong with the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing answers.
    pub down: bool,
    /// Announce and Permit do not answer.
    pub tracker_down: bool,
    /// Reads give half a chunk and then nothing, for ever.
    pub stalling: bool,
    /// Reads give wrong bytes.
    pub lying: bool,
}

/// The world that all its clients share.
#[derive(Clone, Debug)]
pub struct MemoryOrigin(Arc<World>);

/// One node's door to the world.
#[derive(Clone, Debug)]
pub struct MemoryClient {
    world: Arc<World>,
    peer: String,
}

#[derive(Debug)]
struct World {
    key: SigningKey,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<Digest, Stored>,
    manifests: BTreeMap<(RepositoryName, String), Image>,
    tracker: MemoryTracker,
    faults: Faults,
    bytes_read: u64,
    reads: u64,
    bytes_per_second: Option<u64>,
    link_free_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Stored {
    repository: RepositoryName,
    content: Bytes,
    list: SignedPieceList,
}

#[derive(Clone, Debug)]
struct Image {
    manifest: Descriptor,
    content: Bytes,
    layers: Vec<Descriptor>,
}

impl Default for MemoryOrigin {
    fn default() -> Self {
        let (key, _) = SigningKey::generate();
        Self(Arc::new(World { key, began: Instant::now(), state: Mutex::default() }))
    }
}

impl MemoryOrigin {
    /// The keys whose signatures count.
    pub fn keys(&self) -> PublicKeys {
        PublicKeys::new([self.0.key.public().clone()])
    }

    /// Stores a blob and returns its signed list; `piece_bytes` 0 stands for the usual length.
    pub fn put_blob(
        &self,
        repository: &RepositoryName,
        content: impl Into<Bytes>,
        piece_bytes: u64,
    ) -> SignedPieceList {
        let content = content.into();
        let length =
            if piece_bytes == 0 { piece_bytes_for(content.len() as u64) } else { piece_bytes };
        let list = PieceList::of(Algorithm::Sha256, &content, length)
            .expect("the caller's piece length is a multiple of the block");
        let signature = self.0.key.sign(&PieceListStatement { list: &list, provisional: false });
        let list = SignedPieceList { list, provisional: false, signature };
        let stored = Stored { repository: repository.clone(), content, list: list.clone() };
        self.0.state().blobs.insert(list.list.digest(), stored);
        list
    }

    /// Stores a manifest, found by `tag` and by its digest, whose layers are stored already.
    pub fn put_image(
        &self,
        repository: &RepositoryName,
        tag: &str,
        manifest: (&str, Bytes),
        layers: Vec<Descriptor>,
    ) -> Digest {
        let (media_type, content) = manifest;
        let digest = Digest::of(Algorithm::Sha256, &content);
        let size = content.len() as u64;
        let manifest = Descriptor { media_type: media_type.to_owned(), digest, size };
        let image = Image { manifest, content, layers };
        let mut state = self.0.state();
        state.manifests.insert((repository.clone(), tag.to_owned()), image.clone());
        state.manifests.insert((repository.clone(), digest.to_string()), image);
        digest
    }

    /// A node's door; the node lives at `addresses`.
    pub fn client(&self, peer: &str, addresses: Vec<String>, zone: &str) -> MemoryClient {
        let now = self.0.now();
        self.0.state().tracker.join(now, peer, addresses, zone);
        MemoryClient { world: Arc::clone(&self.0), peer: peer.to_owned() }
    }

    /// Changes what is wrong.
    pub fn break_with(&self, faults: Faults) {
        self.0.state().faults = faults;
    }

    /// All reads together get so many bytes per second; `None`: as many as there are.
    pub fn pace(&self, bytes_per_second: Option<u64>) {
        self.0.state().bytes_per_second = bytes_per_second;
    }

    /// Payload bytes that left the store.
    pub fn bytes_read(&self) -> u64 {
        self.0.state().bytes_read
    }

    /// Reads of the store that began.
    pub fn reads(&self) -> u64 {
        self.0.state().reads
    }

    /// Works on the tracker.
    pub fn with_tracker<T>(&self, work: impl FnOnce(&mut MemoryTracker) -> T) -> T {
        work(&mut self.0.state().tracker)
    }
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the origin")
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Counts bytes that leave, and says when they have left.
    fn send(&self, bytes: u64) -> Instant {
        let mut state = self.state();
        state.bytes_read += bytes;
        let now = Instant::now();
        let Some(rate) = state.bytes_per_second.filter(|rate| *rate > 0) else { return now };
        let begin = state.link_free_at.filter(|at| *at > now).unwrap_or(now);
        let gone = begin + Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        state.link_free_at = Some(gone);
        gone
    }

    fn usable(&self, tracker: bool) -> Result<Faults, OriginError> {
        let faults = self.state().faults;
        let broken = faults.down || (tracker && faults.tracker_down);
        if broken { Err(OriginError::Unavailable("it is down".into())) } else { Ok(faults) }
    }

    fn layer(&self, index: usize, descriptor: &Descriptor) -> Option<rpc::PlanEvent> {
        let list = self.state().blobs.get(&descriptor.digest)?.list.to_wire();
        let descriptor = rpc::Descriptor::from(descriptor);
        let form = rpc::LayerForm {
            kind: "blob".into(),
            descriptor: Some(descriptor.clone()),
            list: Some(list),
        };
        let layer =
            rpc::PlanLayer { index: index as u32, descriptor: Some(descriptor), forms: vec![form] };
        Some(event(rpc::plan_event::Event::Layer(layer)))
    }

    fn statement(
        &self,
        repository: &RepositoryName,
        manifest: Digest,
        layers: &[Descriptor],
    ) -> rpc::PlanEvent {
        let statement = PlanStatement {
            repository: repository.clone(),
            manifest,
            layers: layers.iter().map(|layer| layer.digest).collect(),
            issued_at_s: 0,
            policy_epoch: 0,
        };
        let signature = self.key.sign(&statement);
        let message = rpc::PlanStatement::from_statement(&statement, &signature);
        event(rpc::plan_event::Event::Statement(message))
    }

    fn plan(&self, peer: &str, item: &rpc::PlanItem) -> Option<Vec<rpc::PlanEvent>> {
        use rpc::plan_item::Wanted;
        let repository: RepositoryName = item.repository.parse().ok()?;
        let mut events = Vec::new();
        let (name, layers) = match item.wanted.as_ref()? {
            Wanted::BlobDigest(digest) => {
                let digest: Digest = digest.parse().ok()?;
                let stored = self.state().blobs.get(&digest)?.clone();
                let media_type = "application/octet-stream".to_owned();
                let size = stored.list.list.size();
                (digest, vec![Descriptor { media_type, digest, size }])
            }
            Wanted::Tag(name) | Wanted::ManifestDigest(name) => {
                let key = (repository.clone(), name.clone());
                let image = self.state().manifests.get(&key)?.clone();
                let manifest = rpc::PlanManifest {
                    descriptor: Some((&image.manifest).into()),
                    content: image.content,
                    fresh_ms: 60_000,
                    ..Default::default()
                };
                events.push(event(rpc::plan_event::Event::Manifest(manifest)));
                (image.manifest.digest, image.layers)
            }
        };
        for (index, layer) in layers.iter().enumerate() {
            events.push(self.layer(index, layer)?);
        }
        let peers = self.state().tracker.peers(self.now(), peer);
        events.push(event(rpc::plan_event::Event::Peers(rpc::Peers { peers })));
        events.push(self.statement(&repository, name, &layers));
        events.push(event(rpc::plan_event::Event::Finished(rpc::Finished {})));
        events.iter_mut().for_each(|event| event.item = item.item);
        Some(events)
    }
}

fn event(event: rpc::plan_event::Event) -> rpc::PlanEvent {
    rpc::PlanEvent { item: 0, event: Some(event) }
}

#[async_trait]
impl Origin for MemoryClient {
    async fn plan(&self, request: rpc::PlanRequest) -> Result<PlanStream, OriginError> {
        self.world.usable(false)?;
        let mut events = Vec::new();
        for item in &request.items {
            let unknown = || {
                let (code, message) = ("MANIFEST_UNKNOWN".into(), "there is none".into());
                let error = rpc::PlanError { code, message };
                let event = Some(rpc::plan_event::Event::Error(error));
                vec![rpc::PlanEvent { item: item.item, event }]
            };
            events.extend(self.world.plan(&self.peer, item).unwrap_or_else(unknown));
        }
        Ok(futures::stream::iter(events.into_iter().map(Ok)).boxed())
    }

    async fn announce(
        &self,
        request: rpc::AnnounceRequest,
    ) -> Result<rpc::AnnounceResponse, OriginError> {
        self.world.usable(true)?;
        let now = self.world.now();
        Ok(self.world.state().tracker.announce(now, &self.peer, &request))
    }

    async fn permit(
        &self,
        request: rpc::PermitRequest,
    ) -> Result<rpc::PermitResponse, OriginError> {
        self.world.usable(true)?;
        let now = self.world.now();
        Ok(self.world.state().tracker.permit(now, &self.peer, &request))
    }

    async fn fetch(&self, fetch: Fetch) -> Result<BlobStream, OriginError> {
        let faults = self.world.usable(false)?;
        let stored = self.world.state().blobs.get(&fetch.digest).cloned();
        let fits = |stored: &Stored| {
            stored.repository == fetch.repository
                && fetch.range.end() <= stored.content.len() as u64
        };
        let Some(stored) = stored.filter(fits) else {
            let (code, message) = ("BLOB_UNKNOWN".into(), "there is none".into());
            return Err(OriginError::NotFound { code, message });
        };
        self.world.state().reads += 1;
        let range = fetch.range.offset() as usize..fetch.range.end() as usize;
        let mut content = stored.content.slice(range);
        if faults.lying {
            content = content.iter().map(|byte| byte ^ 1).collect();
        }
        Ok(stream(Arc::clone(&self.world), content))
    }
}

fn stream(world: Arc<World>, content: Bytes) -> BlobStream {
    futures::stream::unfold((world, content), |(world, mut left)| async move {
        if left.is_empty() {
            return None;
        }
        let faults = match world.usable(false) {
            Ok(faults) => faults,
            Err(error) => return Some((Err(error), (world, Bytes::new()))),
        };
        if faults.stalling {
            std::future::pending::<()>().await;
        }
        let chunk = left.split_to(left.len().min(CHUNK_BYTES));
        let gone = world.send(chunk.len() as u64);
        if gone > Instant::now() {
            tokio::time::sleep_until(gone).await;
        }
        Some((Ok(chunk), (world, left)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use longshore_proto::ByteRange;

    #[tokio::test]
    async fn serves_plans_and_ranges() {
        let origin = MemoryOrigin::default();
        let repository: RepositoryName = "a/b".parse().unwrap();
        let list = origin.put_blob(&repository, vec![7; 1000], 256);
        let client = origin.client("p", vec![], "");
        let item = rpc::PlanItem {
            repository: "a/b".into(),
            wanted: Some(rpc::plan_item::Wanted::BlobDigest(list.list.digest().to_string())),
            ..Default::default()
        };
        let request = rpc::PlanRequest { items: vec![item], ..Default::default() };
        let events: Vec<_> = client.plan(request).await.unwrap().try_collect().await.unwrap();
        let Some(rpc::plan_event::Event::Layer(layer)) = &events[0].event else { panic!() };
        let wire = layer.forms[0].list.as_ref().unwrap();
        assert_eq!(SignedPieceList::from_wire(wire, &origin.keys()), Ok(list.clone()));

        let range = ByteRange::new(256, 300).unwrap();
        let fetch = Fetch { repository, digest: list.list.digest(), range, permit: None };
        let read = client.fetch(fetch.clone()).await.unwrap();
        let bytes: Vec<Bytes> = read.try_collect().await.unwrap();
        assert_eq!(bytes.concat(), vec![7; 300]);
        assert_eq!((origin.bytes_read(), origin.reads()), (300, 1));
        origin.break_with(Faults { down: true, ..Faults::default() });
        assert!(matches!(client.fetch(fetch).await.err(), Some(OriginError::Unavailable(_))));
    }
}
