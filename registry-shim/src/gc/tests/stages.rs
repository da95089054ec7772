//! What is garbage, kind by kind; what stays; and what a dry run changes.

use super::*;
use crate::gc::{Kind, Tally};
use crate::storage::{Charge, Referrer, Seen};

fn freed(reports: &[Report], kind: Kind) -> u64 {
    reports.iter().filter_map(|report| report.kinds.get(&kind)).map(|t| t.freed_objects).sum()
}

#[tokio::test]
async fn a_deleted_image_is_freed_and_a_shared_layer_stays() {
    let world = World::new(true);
    let (one, gone) = world.push_image("team/one", "v1", &[b"own layer", b"shared"]).await;
    let (two, kept) = world.push_image("team/two", "v1", &[b"other", b"shared"]).await;
    world.storage.delete_manifest(&one, &gone).await.unwrap();
    world.clock.advance(HOUR_MS);
    let before = world.contents().await;
    let reports = world.collect_all().await;
    let after = world.contents().await;
    world.check_image(&two, &kept, "after").await;
    assert_eq!(world.storage.pointer(&sha256(b"own layer")).await.unwrap(), None);
    assert_eq!(freed(&reports, Kind::Membership), 2);
    assert_eq!(freed(&reports, Kind::Pointer), 1);
    assert_eq!(freed(&reports, Kind::Segment), 1);
    assert_eq!(freed(&reports, Kind::States), 1);
    assert_eq!(freed(&reports, Kind::Catalog), 1);
    let bytes: u64 = reports.iter().map(|report| report.total().freed_bytes).sum();
    assert_eq!(bytes, before.values().sum::<u64>() - after.values().sum::<u64>());
    let objects: u64 = reports.iter().map(|report| report.total().freed_objects).sum();
    assert_eq!(objects as usize, before.len() - after.len());
}

/// Of every kind that depends on another: what goes in one run makes other things garbage in it.
#[tokio::test]
async fn a_dry_run_changes_nothing_and_says_what_a_run_would_free() {
    let world = World::new(true);
    let (one, gone) = world.push_image("team/one", "v1", &[b"layer", b"shared"]).await;
    let (two, _) = world.push_image("team/two", "v1", &[b"old", b"shared"]).await;
    let (_, kept) = world.push_image("team/two", "v1", &[b"new", b"shared"]).await;
    let team = "team".parse().unwrap();
    for content in [&b"layer"[..], b"shared", b"old", b"new"] {
        let charge = Charge { digest: sha256(content), size: content.len() as u64 };
        world.storage.create_charge(&team, &charge).await.unwrap();
    }
    world.storage.delete_manifest(&one, &gone).await.unwrap();
    let options =
        Options { untagged_after_ms: Some(HOUR_MS), tag_history_max: Some(1), ..World::options() };
    let dry = Options { dry_run: true, ..options.clone() };
    let run = |options: &Options| {
        let collector = Collector::new(world.storage.clone(), options.clone());
        async move { collector.run().await.unwrap() }
    };
    let mut reports = Vec::new();
    for _ in 0..8 {
        world.clock.advance(LONG_MS);
        let before = world.keys().await;
        let said = run(&dry).await;
        assert_eq!(world.keys().await, before);
        assert!(said.dry_run);
        let done = run(&options).await;
        assert_eq!(said.kinds, done.kinds);
        reports.push(done);
    }
    assert_eq!(reports[7].total(), Tally::default());
    for kind in [Kind::Membership, Kind::Manifest, Kind::Segment, Kind::Pointer, Kind::Charge] {
        assert!(freed(&reports, kind) > 0, "{kind:?}");
    }
    world.check_image(&two, &kept, "after").await;
}

#[tokio::test]
async fn an_unfinished_upload_expires_and_a_running_one_does_not() {
    let world = World::new(true);
    let repository: RepositoryName = "a".parse().unwrap();
    let begin = async || {
        let now_ms = world.storage.now_ms();
        let begun = world.storage.begin_upload(&repository, ACTOR, Algorithm::Sha256, now_ms).await;
        let session = begun.unwrap();
        let mut appender = world.storage.append(Progress::new(Algorithm::Sha256));
        appender.write(Bytes::from_static(b"some bytes")).await.unwrap();
        world.storage.save_upload(&session, appender).await.unwrap();
        session
    };
    begin().await;
    world.clock.advance(90 * HOUR_MS);
    let running = begin().await;
    let report = world.collect().await.unwrap();
    // The session and its progress; and the segment, which is old enough.
    assert_eq!(report.kinds[&Kind::Upload].freed_objects, 2);
    assert_eq!(report.kinds[&Kind::Upload].waiting_objects, 2);
    assert_eq!(
        report.kinds[&Kind::Segment],
        Tally { freed_objects: 1, freed_bytes: 10, waiting_objects: 1, waiting_bytes: 10 }
    );
    let now_ms = world.storage.now_ms();
    let found = world.storage.upload(running.id, &repository, ACTOR, now_ms).await.unwrap();
    let (session, progress) = found.unwrap();
    let digest = sha256(b"some bytes");
    world.storage.commit(&repository, Some(&session), progress, &digest).await.unwrap();
    let pointer = world.storage.pointer(&digest).await.unwrap().unwrap();
    assert_eq!(&world.storage.read_whole(&pointer).await.unwrap()[..], b"some bytes");
}

#[tokio::test]
async fn a_claimed_blob_is_spared_though_its_grace_was_over() {
    let world = World::new(true);
    let repository: RepositoryName = "a".parse().unwrap();
    let digest = world.push_blob(&repository, &Bytes::from_static(b"x")).await.unwrap();
    world.clock.advance(LONG_MS);
    world.collect().await.unwrap();
    world.clock.advance(LONG_MS);
    assert!(world.storage.claim_member(&repository, &digest).await.unwrap());
    let report = world.collect().await.unwrap();
    assert_eq!(freed(&[report], Kind::Membership), 0);
    assert!(world.storage.is_member(&repository, &digest).await.unwrap());
    world.clock.advance(LONG_MS);
    let report = world.collect().await.unwrap();
    assert_eq!(freed(&[report], Kind::Membership), 1);
}

#[tokio::test]
async fn what_belongs_to_nothing_is_freed_kind_by_kind() {
    let world = World::new(true);
    let (repository, _) = world.push_image("team/app", "v1", &[b"layer"]).await;
    let kept = world.contents().await;
    let (subject, gone) = (sha256(b"subject"), sha256(b"gone"));
    let referrer = Referrer {
        media_type: "m".into(),
        digest: gone,
        size: 1,
        artifact_type: String::new(),
        annotations: BTreeMap::new(),
    };
    world.storage.put_referrer(&repository, &subject, &referrer).await.unwrap();
    world.storage.add_repository(&"empty".parse().unwrap()).await.unwrap();
    let other: RepositoryName = "other".parse().unwrap();
    let key = crate::storage::Keys::reverse_reference(&sha256(b"layer"), &other);
    world.storage.mark(&key).await.unwrap();
    world.storage.mark(&"capabilities/0".into()).await.unwrap();
    let charge = crate::storage::Charge { digest: gone, size: 7 };
    let project = crate::storage::Project::of(&repository);
    world.storage.create_charge(&project, &charge).await.unwrap();
    let held = crate::storage::Charge { digest: sha256(b"layer"), size: 5 };
    world.storage.create_charge(&project, &held).await.unwrap();
    let reports = world.collect_all().await;
    for kind in [Kind::Referrer, Kind::Catalog, Kind::ReverseReference, Kind::Probe, Kind::Charge] {
        assert_eq!(freed(&reports, kind), 1, "{kind:?}");
    }
    assert!(world.storage.has_charge(&project, &held).await.unwrap());
    let mut after = world.contents().await;
    after.retain(|key, _| !key.starts_with("proj/"));
    assert_eq!(after, kept);
}

#[tokio::test]
async fn untagged_manifests_and_old_history_go_only_when_asked() {
    let world = World::new(true);
    let (repository, first) = world.push_image("app", "v1", &[b"one"]).await;
    world.clock.advance(1000);
    let (_, second) = world.push_image("app", "v1", &[b"two"]).await;
    world.collect_all().await;
    world.check_image(&repository, &first, "kept by default").await;
    let options =
        Options { untagged_after_ms: Some(HOUR_MS), tag_history_max: Some(1), ..World::options() };
    let mut reports = Vec::new();
    for _ in 0..6 {
        world.clock.advance(LONG_MS);
        let collector = Collector::new(world.storage.clone(), options.clone());
        reports.push(collector.run().await.unwrap());
    }
    world.check_image(&repository, &second, "tagged").await;
    assert_eq!(world.storage.manifest(&repository, &first).await.unwrap(), None);
    assert_eq!(freed(&reports, Kind::Manifest), 1);
    assert_eq!(freed(&reports, Kind::TagHistory), 1);
    assert_eq!(world.storage.pointer(&sha256(b"one")).await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_freed_that_an_unreadable_record_may_name() {
    let world = World::new(true);
    let (repository, _) = world.push_image("app", "v1", &[b"one"]).await;
    let lost = world.push_blob(&repository, &Bytes::from_static(b"lost")).await.unwrap();
    world.storage.mark(&format!("repo/app!/man/sha256/{}", lost.hex()).into()).await.unwrap();
    let reports = world.collect_all().await;
    assert!(world.storage.is_member(&repository, &lost).await.unwrap());
    assert!(!reports[0].unreadable.is_empty());

    let world = World::new(true);
    world.push_image("app", "v1", &[b"one"]).await;
    world.storage.mark(&"data/ab/20200101/ab000000000000000000000000000000".into()).await.unwrap();
    world.storage.mark(&format!("blob/sha256/00/{}/g", "00".repeat(32)).into()).await.unwrap();
    let digest: Digest = format!("sha256:{}", "00".repeat(32)).parse().unwrap();
    // Held, so that it is no garbage itself.
    let key =
        crate::storage::Keys::item(&"app".parse().unwrap(), crate::storage::Item::Blob(digest));
    world.storage.mark(&key).await.unwrap();
    world.clock.advance(LONG_MS);
    let report = world.collect().await.unwrap();
    assert_eq!(freed(std::slice::from_ref(&report), Kind::Segment), 0, "{report:?}");
    assert!(!report.unreadable.is_empty());
}

#[tokio::test]
async fn a_store_of_many_names_is_collected_in_shares() {
    let world = World::new(true);
    let (repository, kept) = world.push_image("app", "v1", &[b"one", b"two", b"three"]).await;
    for number in 0..40_u8 {
        let content = Bytes::copy_from_slice(&[number; 9]);
        world.push_blob(&repository, &content).await.unwrap();
    }
    let options = Options { items_max: 5, segments_max: 4, ..World::options() };
    for _ in 0..6 {
        world.clock.advance(LONG_MS);
        Collector::new(world.storage.clone(), options.clone()).run().await.unwrap();
    }
    world.check_image(&repository, &kept, "in shares").await;
    let keys = world.keys().await;
    let count = |prefix: &str| keys.iter().filter(|key| key.starts_with(prefix)).count();
    assert_eq!(
        [count("data/"), count("blob/"), count("bref/"), count("states/"), count("gc/")],
        [3, 3, 3, 3, 0]
    );
}

#[tokio::test]
async fn one_run_works_at_a_time_unless_the_other_is_dead() {
    let world = World::new(false);
    world.store.take_turns(true);
    let collect = |options| Collector::new(world.storage.clone(), options);
    let (first, second) = (collect(World::options()), collect(World::options()));
    world.push_image("app", "v1", &[b"one"]).await;
    let mut running = Box::pin(first.run());
    for _ in 0..8 {
        assert!(futures::poll!(running.as_mut()).is_pending());
    }
    let busy = second.run().await;
    assert!(matches!(busy, Err(GcError::Busy { .. })), "{busy:?}");
    let over = collect(Options { take_over: true, ..World::options() });
    over.run().await.unwrap();
    drop(running);
    world.clock.advance(4 * 60 * 1000);
    second.run().await.unwrap();
}

#[test]
fn ages_come_from_the_store() {
    let world = World::new(true);
    futures::executor::block_on(async {
        world.storage.mark(&"capabilities/0".into()).await.unwrap();
        world.store.set_age("capabilities/0", HOUR_MS);
        let seen = world.storage.look(&"capabilities/0".into()).await.unwrap();
        assert_eq!(seen, Some(Seen { at_ms: world.storage.now_ms() - HOUR_MS, bytes: 0 }));
    });
}
