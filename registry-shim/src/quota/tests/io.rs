//! An instance dies at every single write that it makes for a quota, or one of them fails and it
//! lives on. Afterwards usage is what is charged, to the byte, and nobody waits for what is gone.

use std::sync::Arc;
use std::time::Duration;

use longshore_proto::sign::SigningKey;
use longshore_proto::{Algorithm, Digest, RepositoryName};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::config;
use crate::quota::{Quota, QuotaError, QuotaMetrics, count};
use crate::storage::tests::faulty::{FaultyStore, Last};
use crate::storage::{Charge, Project, Storage};

const LIMIT: u64 = 10_000;
/// More writes than a story has.
const WRITES_MAX: usize = 60;
/// For a lease to be renewed.
const RENEWED_WITHIN: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(100);

/// Stores that live, and who has paid for what.
struct World {
    alive: Arc<dyn ObjectStore>,
    key: Arc<SigningKey>,
}

impl World {
    /// Somebody else has paid for something in the project, and in another one.
    async fn new() -> Self {
        let world =
            Self { alive: Arc::new(InMemory::new()), key: Arc::new(SigningKey::generate().0) };
        for project in [team(), "other".parse().unwrap()] {
            assert!(world.storage().create_charge(&project, &theirs()).await.unwrap());
        }
        world
    }

    fn over(&self, store: Arc<dyn ObjectStore>) -> Storage {
        Storage::new(store, self.key.clone())
    }

    fn storage(&self) -> Storage {
        self.over(self.alive.clone())
    }

    async fn used(&self) -> u64 {
        count(&self.storage(), &team()).await.unwrap().used
    }

    async fn highest_slot(&self) -> u64 {
        let slots = self.storage().slots(&team()).await.unwrap();
        slots.last().map_or(0, |slot| slot.number)
    }

    async fn has(&self, charge: &Charge) -> bool {
        self.storage().has_charge(&team(), charge).await.unwrap()
    }

    /// Nothing of anybody's is gone, and what is left of the limit can be had, by `quota`.
    async fn check(&self, quota: &Quota, storage: &Storage, why: &str) {
        assert!(self.has(&theirs()).await, "{why}: another's charge is gone");
        let other = "other".parse().unwrap();
        assert!(self.storage().has_charge(&other, &theirs()).await.unwrap(), "{why}");
        let used = self.used().await;
        let rest = charge(LIMIT - used, "the rest");
        let paid = quota.pay(storage, &repository(), rest.digest, rest.size).await;
        paid.unwrap_or_else(|error| panic!("{why}: {used} are used: {error}"))
            .confirm()
            .await
            .unwrap();
        assert_eq!(self.used().await, LIMIT, "{why}");
        let more = charge(1, "too much");
        let refused = quota.pay(storage, &repository(), more.digest, more.size).await;
        let named =
            matches!(refused, Err(QuotaError::Denied { used: LIMIT, limit: LIMIT, needed: 1, .. }));
        assert!(named, "{why}: {refused:?}");
    }
}

fn team() -> Project {
    "team".parse().unwrap()
}

fn repository() -> RepositoryName {
    "team/app".parse().unwrap()
}

fn charge(size: u64, text: &str) -> Charge {
    Charge { digest: Digest::of(Algorithm::Sha256, text.as_bytes()), size }
}

fn theirs() -> Charge {
    charge(500, "theirs")
}

fn quota() -> Quota {
    let config = config::Quota {
        projects: [(team(), LIMIT)].into(),
        lease_bytes_max: 1000,
        lease_ms: 4000,
        wait_ms: 25_000,
        ..config::Quota::default()
    };
    Quota::new(config, QuotaMetrics::default())
}

/// Pushes of every kind: announced, streamed over the renewal of a lease, of what is paid for, and
/// one that breaks off. What was acknowledged is in `told`.
async fn story(
    world: &World,
    quota: &Quota,
    storage: &Storage,
    told: &mut Vec<Charge>,
) -> Result<(), QuotaError> {
    let (first, second) = (charge(600, "first"), charge(2500, "second"));
    let mut intake = quota.intake(storage, &repository(), Some(first.digest));
    intake.announced(first.size).await?;
    intake.pay(first).await?.confirm().await?;
    told.push(first);

    let mut intake = quota.intake(storage, &repository(), None);
    intake.arrived(second.size / 2).await?;
    intake.arrived(second.size).await?;
    let before = world.highest_slot().await;
    let renewed = async {
        while world.highest_slot().await == before {
            tokio::time::sleep(STEP).await;
        }
    };
    let _a_dead_store_renews_nothing = tokio::time::timeout(RENEWED_WITHIN, renewed).await;
    intake.pay(second).await?.confirm().await?;
    told.push(second);

    quota.pay(storage, &repository(), theirs().digest, theirs().size).await?.confirm().await?;
    let mut intake = quota.intake(storage, &repository(), None);
    intake.announced(3000).await?;
    Ok(())
}

async fn at_every_write(last: Last) {
    for at in 0..WRITES_MAX {
        let world = World::new().await;
        let faulty = Arc::new(FaultyStore::new(world.alive.clone(), at, last));
        let (dying, storage) = (quota(), world.over(faulty.clone()));
        let mut told = Vec::new();
        let ended = story(&world, &dying, &storage, &mut told).await;
        dying.close().await;
        let why = format!("{last:?} at write {at}");
        for paid in &told {
            assert!(world.has(paid).await, "{why}: what was acknowledged is not charged");
        }
        let survivor = quota();
        world.check(&survivor, &world.storage(), &why).await;
        survivor.close().await;
        if !faulty.died() {
            ended.expect("the story ends well where nobody dies");
            assert!(at >= 7, "the story has {at} writes");
            return;
        }
    }
    panic!("the story has more than {WRITES_MAX} writes");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_dies_before_any_write_holds_nothing_for_ever() {
    at_every_write(Last::Lost).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_dies_after_any_write_holds_nothing_for_ever() {
    at_every_write(Last::Done).await;
}

/// The story is told again by the same instance until it ends well.
async fn failing_at_every_write(last: Last) {
    for at in 0..WRITES_MAX {
        let world = World::new().await;
        let faulty = Arc::new(FaultyStore::failing_once(world.alive.clone(), at, last));
        let (living, storage) = (quota(), world.over(faulty.clone()));
        let why = format!("{last:?} at write {at}");
        let mut told = Vec::new();
        let mut tries = 0;
        while let Err(error) = story(&world, &living, &storage, &mut told).await {
            assert!(!matches!(error, QuotaError::Denied { .. }), "{why}: {error}");
            tries += 1;
            assert!(tries < 3, "{why}: {error}");
        }
        // The same charges again: nobody pays twice.
        let paid: u64 = 600 + 2500 + theirs().size;
        assert_eq!(world.used().await, paid, "{why}");
        if faulty.died() {
            world.check(&living, &storage, &why).await;
        }
        living.close().await;
        if !faulty.died() {
            let leased = world.storage().slots(&team()).await.unwrap();
            assert!(leased.iter().all(|slot| slot.bytes == 0), "{leased:?}");
            assert!(at >= 7, "the story has {at} writes");
            return;
        }
    }
    panic!("the story has more than {WRITES_MAX} writes");
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_write_is_lost_holds_nothing_for_ever() {
    failing_at_every_write(Last::Lost).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_write_nobody_told_it_of_holds_nothing_for_ever() {
    failing_at_every_write(Last::Done).await;
}
