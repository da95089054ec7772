//! Composing beside collection: what it leaves behind is freed, exactly, and not before its readers
//! are done; and it may die at each of its writes.

use tokio_util::sync::CancellationToken;

use super::simulation::nothing_is_left_over;
use super::*;
use crate::gc::Kind;
use crate::storage::{Composed, Pointer};

/// More writes than composing has.
const WRITES_MAX: usize = 50;
const LAYER: &[u8] = b"a layer that came in two requests";

async fn compose(world: &World, digest: &Digest) -> Result<Composed, StorageError> {
    world.storage.compose(digest, &CancellationToken::new()).await
}

/// An image whose only layer has two segments.
async fn image_in_segments(world: &World) -> (RepositoryName, Digest) {
    let repository: RepositoryName = "team/app".parse().unwrap();
    world.push_in_requests(&repository, &Bytes::from_static(LAYER)).await.unwrap();
    // What is there is not pushed again.
    let image = world.push_image("team/app", "v1", &[LAYER]).await;
    let pointer = pointer(world).await;
    assert_eq!(pointer.segments.len(), 2);
    image
}

async fn pointer(world: &World) -> Pointer {
    world.storage.pointer(&sha256(LAYER)).await.unwrap().expect("the layer is there")
}

fn freed(reports: &[Report], kind: Kind) -> u64 {
    reports.iter().filter_map(|report| report.kinds.get(&kind)).map(|t| t.freed_objects).sum()
}

#[tokio::test]
async fn exactly_the_old_segments_are_freed_and_not_before_their_readers_are_done() {
    for conditional in [true, false] {
        let world = World::new(conditional);
        let (repository, image) = image_in_segments(&world).await;
        let old = pointer(&world).await;
        assert_eq!(compose(&world, &sha256(LAYER)).await.unwrap(), Composed::Done(33));
        let new = pointer(&world).await;
        // Buried an hour later at the earliest; the grace counts from there.
        world.clock.advance(2 * HOUR_MS);
        world.collect().await.unwrap();
        world.clock.advance(25 * HOUR_MS);
        world.collect().await.unwrap();
        let read = world.storage.read_whole(&old).await.unwrap();
        assert_eq!(&read[..], LAYER, "whoever began with the old pointer ends with it");
        let reports = world.collect_all().await;
        assert_eq!(freed(&reports, Kind::Pointer), 1);
        assert_eq!(freed(&reports, Kind::Segment), 2);
        let segments = reports.iter().filter_map(|report| report.kinds.get(&Kind::Segment));
        assert_eq!(segments.map(|tally| tally.freed_bytes).sum::<u64>(), 33);
        assert_eq!(pointer(&world).await, new);
        world.check_image(&repository, &image, "after").await;
        nothing_is_left_over(&world, "after").await;
    }
}

#[tokio::test]
async fn of_two_who_composed_at_once_one_stays() {
    let world = World::new(false);
    let (repository, image) = image_in_segments(&world).await;
    world.store.take_turns(true);
    let digest = sha256(LAYER);
    let (one, two) = tokio::join!(compose(&world, &digest), compose(&world, &digest));
    world.store.take_turns(false);
    let ended = [one.unwrap(), two.unwrap()];
    assert!(ended.contains(&Composed::Done(33)), "{ended:?}");
    world.collect_all().await;
    assert_eq!(pointer(&world).await.segments.len(), 1);
    world.check_image(&repository, &image, "after").await;
    nothing_is_left_over(&world, "after").await;
}

#[tokio::test]
async fn a_claim_keeps_others_off_until_it_lapses() {
    for conditional in [true, false] {
        let world = World::new(conditional);
        image_in_segments(&world).await;
        let digest = sha256(LAYER);
        // It dies behind its claim.
        world.store.die_in(1, false);
        compose(&world, &digest).await.unwrap_err();
        assert!(world.store.revive());
        assert_eq!(compose(&world, &digest).await.unwrap(), Composed::Elsewhere);
        world.clock.advance(10 * 60 * 1000);
        assert_eq!(compose(&world, &digest).await.unwrap(), Composed::Done(33));
    }
}

async fn dies_at_every_write(conditional: bool, last_is_done: bool) {
    let mut writes = 0;
    loop {
        assert!(writes < WRITES_MAX, "composing has more than {WRITES_MAX} writes");
        let world = World::new(conditional);
        let (repository, image) = image_in_segments(&world).await;
        let digest = sha256(LAYER);
        world.store.die_in(writes, last_is_done);
        let ended = compose(&world, &digest).await;
        if !world.store.revive() {
            assert_eq!(ended.unwrap(), Composed::Done(33));
            break;
        }
        let why = format!("died at write {writes}");
        world.check_image(&repository, &image, &why).await;
        // Another push relies on whatever generation it finds, and collections come between.
        let (other, again) = world.push_image("team/other", "v1", &[LAYER]).await;
        world.collect_all().await;
        world.check_image(&repository, &image, &why).await;
        world.check_image(&other, &again, &why).await;
        nothing_is_left_over(&world, &why).await;
        // And it can be done again.
        compose(&world, &digest).await.unwrap();
        assert_eq!(pointer(&world).await.segments.len(), 1, "{why}");
        world.collect_all().await;
        world.check_image(&repository, &image, &why).await;
        nothing_is_left_over(&world, &why).await;
        writes += 1;
    }
    assert_eq!(writes, 4, "claim, segment, pointer, and the claim's end");
}

#[tokio::test]
async fn composing_that_dies_before_any_write_leaves_only_garbage() {
    dies_at_every_write(true, false).await;
    dies_at_every_write(false, false).await;
}

#[tokio::test]
async fn composing_that_dies_after_any_write_leaves_only_garbage() {
    dies_at_every_write(true, true).await;
    dies_at_every_write(false, true).await;
}
