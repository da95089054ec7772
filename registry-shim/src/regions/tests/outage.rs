//! A store goes away and returns: what clients see meanwhile, and what is left afterwards.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_replica_holds_what_was_written_once_it_is_mended() {
    let world = World::new();
    let process = world.process().await;
    let layer = content(6_000_000);
    let digest = push_blob(process.storage(), &layer).await.unwrap();
    let pushed = push_tag(process.storage(), "{}", 1).await.unwrap();
    assert_eq!(tag_of(&world.replica()).await, None);
    process.mend().await;
    let replica = world.replica();
    assert_eq!(tag_of(&replica).await, Some(pushed));
    assert!(replica.is_member(&repository(), &digest).await.unwrap());
    assert!(read_blob(&replica, &digest).await == layer);
    process.storage().delete_tag(&repository(), &"v1".parse().unwrap()).await.unwrap();
    process.mend().await;
    assert_eq!(tag_of(&replica).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_copied_yet_is_never_said_to_be_absent() {
    let world = World::new();
    let (writer, reader) = (world.process().await, world.process().await);
    let (known, other) = (repository(), "other/app".parse().unwrap());
    writer.mend().await;
    reader.mend().await;
    push_tag(writer.storage(), "{}", 1).await.unwrap();
    world.eu.set(Mode::Failing);
    for process in [&writer, &reader] {
        process.notice().await;
        process.pass().await;
        let storage = process.storage();
        assert_eq!(tag_of(storage).await, None);
        assert!(storage.may_lack(&known), "an absence of {known} is taken for certain");
        assert!(!storage.may_lack(&other), "an absence of {other} is taken for uncertain");
    }
    // An instance that starts now has never seen the marks of the primary: it knows of nothing.
    let late = world.process().await;
    assert!(late.storage().may_lack(&known) && late.storage().may_lack(&other));
    world.eu.set(Mode::Up);
    writer.recover().await;
    writer.mend().await;
    world.eu.set(Mode::Failing);
    writer.notice().await;
    writer.pass().await;
    assert!(!writer.storage().may_lack(&known));
    assert!(tag_of(writer.storage()).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_blob_goes_on_from_the_other_store_in_the_middle() {
    for mode in [Mode::Breaking, Mode::Stalling] {
        let world = World::new();
        let process = world.process().await;
        let layer = content(3_000_001);
        let digest = push_blob(process.storage(), &layer).await.unwrap();
        process.mend().await;
        world.eu.set(mode);
        assert!(read_blob(process.storage(), &digest).await == layer, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_within_a_clients_patience() {
    let world = World::new();
    let process = world.process().await;
    let pushed = push_tag(process.storage(), "{}", 1).await.unwrap();
    process.mend().await;
    world.eu.set(Mode::Hanging);
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(tag_of(process.storage()).await, Some(pushed));
    }
    // Three calls wait for their deadline, then the breaker is open.
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let asked = world.eu.asked();
    assert_eq!(tag_of(process.storage()).await, Some(pushed));
    assert_eq!(world.eu.asked(), asked, "an open breaker keeps requests away");
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_and_are_in_the_primary_after_its_return() {
    for mode in [Mode::Failing, Mode::Hanging] {
        let world = World::new();
        let process = world.process().await;
        push_tag(process.storage(), "before", 1).await.unwrap();
        process.mend().await;
        world.eu.set(mode);
        // Nothing has noticed yet: the first writes find out themselves.
        let layer = content(5_500_000);
        let digest = push_blob(process.storage(), &layer).await.unwrap();
        push_tag(process.storage(), "first", 2).await.unwrap();
        let last = push_tag(process.storage(), "second", 3).await.unwrap();
        assert_eq!(tag_of(process.storage()).await, Some(last));
        assert!(read_blob(process.storage(), &digest).await == layer);
        let repositories = process.storage().repositories(None, 9).await.unwrap();
        assert_eq!(repositories.items, ["team/app"]);
        assert!(matches!(process.home().state(), StoreState::FailedOver { .. }));
        assert!(!process.storage().capabilities().conditional_create);

        world.eu.set(Mode::Up);
        process.recover().await;
        let primary = world.primary();
        assert_eq!(tag_of(&primary).await, Some(last));
        assert!(primary.is_member(&repository(), &digest).await.unwrap());
        assert!(read_blob(&primary, &digest).await == layer);
        assert_eq!(history(&world).await, 3);
        assert!(process.storage().capabilities().conditional_create);
        assert_eq!(left_over(&world).await, Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn while_catching_up_every_key_is_read_where_it_was_written_last() {
    let world = World::new();
    let process = world.process().await;
    let gone = push_blob(process.storage(), &content(10)).await.unwrap();
    push_tag(process.storage(), "before", 1).await.unwrap();
    process.mend().await;
    world.eu.set(Mode::Failing);
    process.notice().await;
    let during = push_tag(process.storage(), "during", 2).await.unwrap();
    assert!(process.storage().remove_member(&repository(), &gone).await.unwrap());

    // Back, and nothing replayed yet.
    world.eu.set(Mode::Up);
    let home = process.home();
    while !home.primary.is_up() {
        tokio::time::advance(Duration::from_secs(1)).await;
        if home.primary.probe_due() {
            home.read_journal().await.unwrap();
            home.primary.probed(true);
        }
    }
    assert!(matches!(home.state(), StoreState::CatchingUp { .. }));
    assert_eq!(tag_of(process.storage()).await, Some(during));
    assert!(!process.storage().is_member(&repository(), &gone).await.unwrap());
    assert_eq!(process.storage().tags(&repository(), None, 9).await.unwrap().items, ["v1"]);
    // A push of the same tag follows the one that waits; another key goes to the primary.
    let after = push_tag(process.storage(), "after", 3).await.unwrap();
    assert_eq!(tag_of(process.storage()).await, Some(after));
    let fresh = push_blob(process.storage(), &content(20)).await.unwrap();
    assert!(world.primary().is_member(&repository(), &fresh).await.unwrap());

    process.recover().await;
    assert_eq!(tag_of(&world.primary()).await, Some(after));
    assert!(!world.primary().is_member(&repository(), &gone).await.unwrap());
    assert_eq!(history(&world).await, 3);
}

#[tokio::test(start_paused = true)]
async fn two_instances_see_and_replay_each_others_writes() {
    let world = World::new();
    let (one, two) = (world.process().await, world.process().await);
    push_tag(one.storage(), "before", 1).await.unwrap();
    one.mend().await;
    world.eu.set(Mode::Failing);
    one.notice().await;
    two.notice().await;
    push_tag(one.storage(), "one", 2).await.unwrap();
    let last = push_tag(two.storage(), "two", 3).await.unwrap();
    assert_eq!(tag_of(one.storage()).await, Some(last));
    world.eu.set(Mode::Up);
    tokio::join!(one.recover(), two.recover());
    assert_eq!(tag_of(&world.primary()).await, Some(last));
    assert_eq!(tag_of(one.storage()).await, Some(last));
    assert_eq!(history(&world).await, 3);
    assert_eq!(left_over(&world).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_newest_push_of_a_tag_stays_though_an_instance_had_not_noticed() {
    let world = World::new();
    let (away, near) = (world.process().await, world.process().await);
    near.mend().await;
    world.eu.set(Mode::Failing);
    away.notice().await;
    push_tag(away.storage(), "older", 2).await.unwrap();
    // The other instance reaches the primary all the time, and pushes later.
    world.eu.set(Mode::Up);
    let newest = push_tag(near.storage(), "newer", 3).await.unwrap();
    away.recover().await;
    near.mend().await;
    assert_eq!(tag_of(&world.primary()).await, Some(newest));
    assert_eq!(tag_of(&world.replica()).await, Some(newest));
    assert_eq!(history(&world).await, 2);
}

#[tokio::test(start_paused = true)]
async fn with_both_stores_away_a_request_fails_in_time_and_nothing_is_lost() {
    let world = World::new();
    let process = world.process().await;
    let pushed = push_tag(process.storage(), "{}", 1).await.unwrap();
    process.mend().await;
    for mode in [Mode::Failing, Mode::Hanging] {
        world.eu.set(mode);
        world.us.set(mode);
        let began = Instant::now();
        let tag = "v1".parse().unwrap();
        assert!(process.storage().tag(&repository(), &tag).await.is_err());
        assert!(push_tag(process.storage(), "lost", 2).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        while process.regions.readiness().serves {
            process.pass().await;
        }
        let readiness = process.regions.readiness();
        assert!(readiness.text.contains("region eu is away"), "{readiness:?}");
        world.eu.set(Mode::Up);
        world.us.set(Mode::Up);
        process.recover().await;
        while !process.home().replica.is_up() {
            process.pass().await;
        }
        assert_eq!(tag_of(process.storage()).await, Some(pushed));
    }
}

#[tokio::test(start_paused = true)]
async fn without_its_replica_the_primary_goes_on_and_the_copies_follow() {
    let world = World::new();
    let process = world.process().await;
    process.mend().await;
    world.us.set(Mode::Failing);
    let pushed = push_tag(process.storage(), "{}", 1).await.unwrap();
    assert_eq!(process.home().state(), StoreState::Primary);
    while process.home().replica.is_up() {
        process.pass().await;
    }
    let readiness = process.regions.readiness();
    assert!(readiness.serves && readiness.text.contains("replica"), "{readiness:?}");
    world.us.set(Mode::Up);
    while !process.home().replica.is_up() {
        process.pass().await;
    }
    process.mend().await;
    assert_eq!(tag_of(&world.replica()).await, Some(pushed));
}

#[tokio::test(start_paused = true)]
async fn a_flapping_store_loses_nothing() {
    let world = World::new();
    let process = world.process().await;
    let mut last = None;
    for round in 0..12 {
        world.eu.set(if round % 2 == 0 { Mode::Failing } else { Mode::Up });
        last = Some(push_tag(process.storage(), &format!("{round}"), round).await.unwrap());
        assert_eq!(tag_of(process.storage()).await, last);
        for _ in 0..round {
            process.pass().await;
        }
        assert_eq!(tag_of(process.storage()).await, last);
    }
    process.recover().await;
    assert_eq!(tag_of(&world.primary()).await, last);
    assert_eq!(history(&world).await, 12);
}

#[tokio::test(start_paused = true)]
async fn a_home_never_touches_what_another_keeps_in_the_same_store() {
    let world = World::new();
    let process = world.process().await;
    let us: RepositoryName = "us/app".parse().unwrap();
    let elsewhere = process.regions.of(&us).storage();
    elsewhere.add_repository(&us).await.unwrap();
    push_tag(process.storage(), "{}", 1).await.unwrap();
    for (home, _) in &process.regions.homes {
        home.look_around().await.unwrap();
        home.drain().await.unwrap();
        home.compare_all().await.unwrap();
    }
    assert_eq!(elsewhere.repositories(None, 9).await.unwrap().items, ["us/app"]);
    assert_eq!(process.storage().repositories(None, 9).await.unwrap().items, ["team/app"]);
    assert!(!process.regions.same_home(&us, &repository()));
    let keys: Vec<_> = world.us.inner.list(None).try_collect().await.unwrap();
    let nested =
        |key: &object_store::ObjectMeta| key.location.as_ref().matches("replica/").count() > 1;
    assert!(!keys.iter().any(nested), "a replica of a replica");
}

/// Entries of the tag's history in the primary.
async fn history(world: &World) -> usize {
    let log = "repo/team/app!/log/v1!".into();
    let keys: Vec<_> = world.eu.inner.list(Some(&log)).try_collect().await.unwrap();
    keys.len()
}

/// What is left of the journal.
async fn left_over(world: &World) -> Vec<String> {
    let journal = "regions/eu/journal".into();
    let keys: Vec<_> = world.us.inner.list(Some(&journal)).try_collect().await.unwrap();
    keys.into_iter().map(|key| key.location.to_string()).collect()
}
