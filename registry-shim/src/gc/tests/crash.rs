//! A collection dies at each of its writes. What is left is whole, and the next run goes on.

use super::*;

/// More writes than any run has.
const WRITES_MAX: usize = 400;

/// Garbage of most kinds, at every step between tombstone and end, beside an image that stays.
async fn story(conditional: bool) -> (World, RepositoryName, Digest) {
    let world = World::new(conditional);
    let (kept_in, kept) = world.push_image("kept", "v1", &[b"kept", b"shared"]).await;
    for (name, layer) in [("x/one", b"layer 1"), ("x/two", b"layer 2"), ("x/six", b"layer 3")] {
        let (repository, digest) = world.push_image(name, "v1", &[layer, b"shared"]).await;
        world.storage.delete_manifest(&repository, &digest).await.unwrap();
        world.clock.advance(LONG_MS);
        world.collect().await.unwrap();
    }
    let now_ms = world.storage.now_ms();
    world.storage.begin_upload(&kept_in, ACTOR, Algorithm::Sha256, now_ms).await.unwrap();
    world.clock.advance(LONG_MS);
    (world, kept_in, kept)
}

async fn at_every_write(conditional: bool, last_is_done: bool) {
    let mut writes = 0;
    loop {
        assert!(writes < WRITES_MAX, "a run has more than {WRITES_MAX} writes");
        let (world, repository, kept) = story(conditional).await;
        world.store.die_in(writes, last_is_done);
        let ended = world.collect().await;
        if !world.store.revive() {
            ended.unwrap();
            break;
        }
        let why = format!("died at write {writes}");
        world.check_image(&repository, &kept, &why).await;
        let is_begun = world.keys().await.contains("gc/run/progress");
        // The dead run's lease is over, and its window.
        world.clock.advance(10 * 60 * 1000);
        let report = world.collect().await.unwrap();
        assert_eq!(report.resumed, is_begun, "{why}: {report:?}");
        world.check_image(&repository, &kept, &why).await;
        // A push of what was just collected is whole, too.
        let (again, digest) = world.push_image("x/one", "v2", &[b"layer 1", b"shared"]).await;
        world.check_image(&again, &digest, &why).await;
        world.collect_all().await;
        world.check_image(&again, &digest, &why).await;
        world.check_image(&repository, &kept, &why).await;
        super::simulation::nothing_is_left_over(&world, &why).await;
        writes += 1;
    }
    assert!(writes > 15, "the run has {writes} writes");
}

#[tokio::test]
async fn a_run_that_dies_before_any_write_is_gone_on_with() {
    at_every_write(true, false).await;
}

#[tokio::test]
async fn a_run_that_dies_after_any_write_is_gone_on_with() {
    at_every_write(false, true).await;
}

#[tokio::test]
async fn a_resumed_run_reports_what_both_freed() {
    let (world, ..) = story(true).await;
    let before: u64 = world.contents().await.values().sum();
    // It dies when it has worked on some repositories and said so.
    world.store.die_in(14, true);
    let _ = world.collect().await;
    assert!(world.store.revive());
    world.clock.advance(10 * 60 * 1000);
    let report = world.collect().await.unwrap();
    let after: u64 = world.contents().await.values().sum();
    let freed = report.total().freed_bytes;
    // What was deleted after the last word of the dead run is in no report.
    assert!(report.resumed && freed <= before - after && freed > 0, "{freed} {before} {after}");
}
