//! Pushers, mounts, deletes, composers and one or two collectors, one store operation at a time in the order
//! that a seed gives, with a clock that jumps by hours in between. What was acknowledged can be
//! read, and in the end nothing is left that nothing refers to.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Waker};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::Keys;

const REPOSITORIES: [&str; 3] = ["one", "team/two", "team/two/three"];
const LAYERS: [&[u8]; 4] = [b"layer 0", b"layer 11", b"layer 222", b"layer 3333"];
/// Steps of one round, a store operation each.
const STEPS_MAX: usize = 200_000;
/// How long what was seen is not looked up again, as in the caches.
const CACHED_MS: u64 = 60_000;

/// What clients were told.
#[derive(Default)]
struct Told {
    /// Images that were acknowledged and that nobody has begun to delete.
    images: BTreeSet<(RepositoryName, Digest)>,
    /// How many deletions of an image have begun, and how many of them have not ended.
    deletions: BTreeMap<(RepositoryName, Digest), (usize, usize)>,
    pushed: usize,
    refused: usize,
}

impl Told {
    fn deletions(&self, image: &(RepositoryName, Digest)) -> (usize, usize) {
        self.deletions.get(image).copied().unwrap_or_default()
    }
}

type Shared = Arc<Mutex<Told>>;

struct Pusher {
    world: World,
    told: Shared,
    random: StdRng,
    /// When a blob was last seen in a repository.
    seen: BTreeMap<(RepositoryName, Digest), u64>,
}

impl Pusher {
    fn repository(&mut self) -> RepositoryName {
        REPOSITORIES[self.random.random_range(0..REPOSITORIES.len())].parse().unwrap()
    }

    async fn work(mut self) {
        for _ in 0..self.random.random_range(1..4) {
            if self.random.random_bool(0.3) {
                self.delete().await;
            } else if self.push().await.is_ok() {
                self.told.lock().unwrap().pushed += 1;
            } else {
                // Refused or timed out: nothing was promised.
                self.told.lock().unwrap().refused += 1;
            }
        }
    }

    /// As the caches do: what was seen a minute ago counts.
    async fn holds(&mut self, at: &RepositoryName, digest: &Digest) -> Result<bool, StorageError> {
        let (key, now_ms) = ((at.clone(), *digest), self.world.storage.now_ms());
        if self.seen.get(&key).is_some_and(|seen_ms| seen_ms + CACHED_MS > now_ms) {
            return Ok(true);
        }
        let holds = self.world.storage.claim_member(at, digest).await?;
        if holds {
            self.seen.insert(key, now_ms);
        }
        Ok(holds)
    }

    async fn push(&mut self) -> Result<(), crate::storage::UploadError> {
        let repository = self.repository();
        let mut layers: Vec<Bytes> = LAYERS.iter().map(|layer| Bytes::from_static(layer)).collect();
        layers.retain(|_| self.random.random_bool(0.5));
        if layers.is_empty() {
            layers.push(Bytes::from_static(LAYERS[0]));
        }
        for layer in &layers {
            let digest = sha256(layer);
            if self.random.random_bool(0.7) && self.holds(&repository, &digest).await? {
                continue;
            }
            if self.random.random_bool(0.5) && self.mount(&repository, &digest).await? {
                continue;
            }
            if self.random.random_bool(0.2) {
                self.world.push_in_requests(&repository, layer).await?;
            } else {
                self.world.push_blob(&repository, layer).await?;
            }
        }
        let content = manifest_of(&layers);
        let begun_ms = self.world.storage.now_ms();
        for layer in &layers {
            if !self.holds(&repository, &sha256(layer)).await? {
                return Err(StorageError::Contended.into());
            }
        }
        let image = (repository, sha256(content.as_bytes()));
        let before = self.told.lock().unwrap().deletions(&image);
        self.world.push_manifest(&image.0, &content, begun_ms).await?;
        let mut told = self.told.lock().unwrap();
        // Of a push and a deletion at the same time either may be the last.
        if before.1 == 0 && told.deletions(&image) == before {
            told.images.insert(image);
        }
        Ok(())
    }

    async fn mount(&mut self, to: &RepositoryName, digest: &Digest) -> Result<bool, StorageError> {
        let from = self.repository();
        if !self.holds(&from, digest).await? {
            return Ok(false);
        }
        let Some(pointer) = self.world.storage.pointer(digest).await? else { return Ok(false) };
        self.world.storage.add_member(to, digest, &pointer).await
    }

    /// Deletes an image that was acknowledged.
    async fn delete(&mut self) {
        let image = {
            let mut told = self.told.lock().unwrap();
            let count = told.images.len().max(1);
            let at = self.random.random_range(0..count);
            let Some(image) = told.images.iter().nth(at).cloned() else { return };
            told.images.remove(&image);
            let (begun, running) = told.deletions.entry(image.clone()).or_default();
            (*begun, *running) = (*begun + 1, *running + 1);
            image
        };
        let _ = self.world.storage.delete_manifest(&image.0, &image.1).await;
        let mut told = self.told.lock().unwrap();
        told.deletions.entry(image).and_modify(|(_, running)| *running -= 1);
    }
}

async fn collector(world: World, mut random: StdRng) {
    for _ in 0..random.random_range(1..4) {
        let options = Options {
            take_over: random.random_bool(0.5),
            items_max: random.random_range(2..50),
            segments_max: random.random_range(2..50),
            ..World::options()
        };
        let _ = Collector::new(world.storage.clone(), options).run().await;
    }
}

/// Brings together whatever blob it meets.
async fn composer(world: World, mut random: StdRng) {
    for _ in 0..random.random_range(1..8) {
        let digest = sha256(LAYERS[random.random_range(0..LAYERS.len())]);
        let _ = world.storage.compose(&digest, &CancellationToken::new()).await;
    }
}

/// Polls one of the tasks at a time until all have ended.
fn interleave(
    world: &World,
    random: &mut StdRng,
    tasks: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    seed: u64,
) {
    let mut tasks: Vec<_> = tasks.into_iter().collect();
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..STEPS_MAX {
        if tasks.is_empty() {
            return;
        }
        let at = random.random_range(0..tasks.len());
        if tasks[at].as_mut().poll(&mut cx).is_ready() {
            drop(tasks.swap_remove(at));
        }
        let jump_ms = match random.random_range(0..1000) {
            0 => random.random_range(0..LONG_MS),
            1..5 => random.random_range(0..2 * HOUR_MS),
            5..20 => random.random_range(0..90_000),
            _ => random.random_range(0..100),
        };
        world.clock.advance(jump_ms);
    }
    panic!("seed {seed}: {} tasks do not end", tasks.len());
}

/// Nothing is there but what a manifest names, and what belongs to that.
pub(super) async fn nothing_is_left_over(world: &World, why: &str) {
    let all = world.contents().await;
    let mut expected = BTreeSet::new();
    let mut digests = BTreeSet::new();
    for key in all.keys() {
        let path = object_store::path::Path::from(key.as_str());
        match Keys::holding(&path) {
            Some((repository, crate::storage::Item::Manifest(digest))) => {
                expected.insert(key.clone());
                let stored = world.storage.manifest(&repository, &digest).await.unwrap().unwrap();
                let text: serde_json::Value = serde_json::from_slice(&stored.content).unwrap();
                for blob in text["layers"].as_array().unwrap() {
                    let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
                    let item = crate::storage::Item::Blob(digest);
                    expected.insert(Keys::item(&repository, item).to_string());
                    expected.insert(Keys::reverse_reference(&digest, &repository).to_string());
                    digests.insert(digest);
                }
                expected.insert(Keys::catalog_entry(&repository).to_string());
            }
            _ if key.contains("!/tag/") || key.contains("!/log/") => {
                expected.insert(key.clone());
            }
            _ => {}
        }
    }
    let mut left: BTreeSet<&String> = all.keys().filter(|key| !expected.contains(*key)).collect();
    for digest in digests {
        let Some(pointer) = world.storage.pointer(&digest).await.unwrap() else { continue };
        let key = Keys::pointer(&digest, &pointer.generation).to_string();
        assert!(left.remove(&key), "{why}");
        let hex = digest.hex();
        left.remove(&format!("states/sha256/{}/{hex}", &hex[..2]));
        for segment in &pointer.segments {
            assert!(left.remove(&segment.key), "{why}");
        }
    }
    assert!(left.is_empty(), "{why}: left over: {left:?}");
}

fn simulate(seed: u64, conditional: bool) -> (usize, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new(conditional);
    let told = Shared::default();
    for round in 0..random.random_range(2..6) {
        world.store.take_turns(true);
        let mut tasks: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        for _ in 0..random.random_range(1..5) {
            let random = StdRng::seed_from_u64(random.random());
            let (world, told) = (world.clone(), told.clone());
            tasks.push(Box::pin(Pusher { world, told, random, seen: BTreeMap::new() }.work()));
        }
        for _ in 0..random.random_range(0..3) {
            let random = StdRng::seed_from_u64(random.random());
            tasks.push(Box::pin(collector(world.clone(), random)));
        }
        for _ in 0..random.random_range(0..3) {
            let random = StdRng::seed_from_u64(random.random());
            tasks.push(Box::pin(composer(world.clone(), random)));
        }
        interleave(&world, &mut random, tasks, seed);
        world.store.take_turns(false);
        let why = format!("seed {seed}, round {round}");
        let images = told.lock().unwrap().images.clone();
        futures::executor::block_on(async {
            for (repository, digest) in &images {
                world.check_image(repository, digest, &why).await;
            }
        });
        world.clock.advance(random.random_range(0..LONG_MS));
    }
    let why = format!("seed {seed}, in the end");
    futures::executor::block_on(async {
        world.clock.advance(LONG_MS);
        let before: u64 = world.contents().await.values().sum();
        let reports = world.collect_all().await;
        let after: u64 = world.contents().await.values().sum();
        let freed: u64 = reports.iter().map(|report| report.total().freed_bytes).sum();
        assert_eq!(freed, before - after, "{why}");
        let images = told.lock().unwrap().images.clone();
        for (repository, digest) in &images {
            world.check_image(repository, digest, &why).await;
        }
        nothing_is_left_over(&world, &why).await;
    });
    let told = told.lock().unwrap();
    (told.pushed, told.refused)
}

fn simulate_many(seeds: std::ops::Range<u64>, conditional: bool) {
    let (mut pushed, mut refused) = (0, 0);
    for seed in seeds {
        let (more, less) = simulate(seed, conditional);
        (pushed, refused) = (pushed + more, refused + less);
    }
    assert!(pushed > 3 * refused, "{pushed} pushes and {refused} refusals prove little");
}

#[test]
fn pushes_beside_collections_lose_nothing_on_a_store_with_conditional_writes() {
    simulate_many(0..150, true);
}

#[test]
fn pushes_beside_collections_lose_nothing_on_a_store_that_always_overwrites() {
    simulate_many(1000..1150, false);
}
