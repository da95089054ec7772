//! Processes that share one project on one S3 server.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{Backend, Origin, Result, Settings};
use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;
use std::collections::BTreeSet;
use std::time::Duration;

use super::{content, denied, limit, number, push, show};
use crate::client::{Client, header, lost};
use crate::harness::{Stage, on};

const PUSHERS: usize = 24;
const BLOBS: usize = 5;
/// Longer than a lease and its grace.
const LEASE_DEADLINE: Duration = Duration::from_secs(60);

fn blob(pusher: usize, number: usize) -> Vec<u8> {
    let seed = pusher * BLOBS + number;
    content(1000 + seed * 37, seed)
}

fn everything() -> u64 {
    let all = (0..PUSHERS).flat_map(|pusher| (0..BLOBS).map(move |number| blob(pusher, number)));
    all.map(|blob| blob.len() as u64).sum()
}

/// What one pusher had acknowledged, and the smallest that was refused.
struct Told {
    paid: u64,
    charges: u64,
    refused: Option<u64>,
}

/// Each pusher at one of the two processes; all of them push one blob that all share.
async fn crowd(stage: &Stage, settings: &Settings, limit: u64) -> Result<Told> {
    let (place, store) = (&stage.loopback, &stage.store);
    let first = Origin::start_with(place, store, "first", settings).await?;
    let second = Origin::start_with(place, store, "second", settings).await?;
    let clients = [Client::new(&first)?, Client::new(&second)?];
    let shared = content(5000, usize::MAX);
    assert_eq!(push(&clients[0], "team/shared", &shared).await?.status(), 201);
    let pusher = |pusher: usize| {
        let (client, shared) = (&clients[pusher % 2], &shared);
        async move {
            let repository = format!("team/r{pusher}");
            let mut told = Told { paid: 0, charges: 0, refused: None };
            assert_eq!(push(client, &repository, shared).await?.status(), 201, "it is paid for");
            for number in 0..BLOBS {
                let blob = blob(pusher, number);
                let answer = push(client, &repository, &blob).await?;
                if answer.status() == 201 {
                    told.paid += blob.len() as u64;
                    told.charges += 1;
                    continue;
                }
                let (_, needed) = denied(answer, limit).await?;
                assert_eq!(needed, blob.len() as u64);
                told.refused = Some(told.refused.map_or(needed, |least| least.min(needed)));
            }
            Ok(told)
        }
    };
    let all = stream::iter((0..PUSHERS).map(pusher)).buffer_unordered(PUSHERS);
    let begin = Told { paid: shared.len() as u64, charges: 1, refused: None };
    let told = all.try_fold(begin, |all, one| async move {
        let refused = [all.refused, one.refused].into_iter().flatten().min();
        Ok(Told { paid: all.paid + one.paid, charges: all.charges + one.charges, refused })
    });
    let told = told.await?;
    first.stop().await?;
    second.stop().await?;
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_fill_one_project_to_the_last_byte() {
    on(Backend::Moto, async |stage| {
        let total = everything() + 5000;
        let settings = limit(total);
        let told = crowd(stage, &settings, total).await?;
        assert_eq!((told.paid, told.refused), (total, None), "there is room for all of it");
        let usage = show(stage, &settings, "").await?;
        assert_eq!(number(&usage, "used_bytes"), total);
        assert_eq!(number(&usage, "charges"), told.charges);
        assert_eq!(number(&usage, "leases"), 0, "what ended in order holds nothing");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_do_not_all_fit_none_is_refused_in_vain() {
    on(Backend::Moto, async |stage| {
        let most = everything() * 2 / 3;
        let settings = limit(most);
        let told = crowd(stage, &settings, most).await?;
        let usage = show(stage, &settings, "").await?;
        assert_eq!(number(&usage, "used_bytes"), told.paid, "usage is what was acknowledged");
        assert_eq!(number(&usage, "charges"), told.charges);
        let smallest = told.refused.expect("a third does not fit");
        assert!(told.paid <= most && told.paid + smallest > most, "{} {smallest}", told.paid);
        Ok(())
    })
    .await;
}

/// One process holds most of the project for a push that has not ended, and is killed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_leased_comes_back() {
    on(Backend::Moto, async |stage| {
        const LIMIT: u64 = 100_000;
        const HELD: u64 = 60_000;
        let mut settings = limit(LIMIT);
        settings.set("quota.lease_ms", 3000);
        let (place, store) = (&stage.loopback, &stage.store);
        let killed = Origin::start_with(place, store, "killed", &settings).await?;
        let other = Origin::start_with(place, store, "other", &settings).await?;
        let (client, patient) = (Client::new(&killed)?, Client::new(&other)?);
        assert_eq!(push(&client, "team/app", &content(1000, 0)).await?.status(), 201);
        let begun = client.send(Method::POST, "/v2/team/app/blobs/uploads/").await?;
        let body = futures::stream::pending::<std::result::Result<Vec<u8>, String>>();
        let patch = client.request(Method::PATCH, &header(&begun, "location")?);
        let patch = patch.header(CONTENT_LENGTH, HELD).body(reqwest::Body::wrap_stream(body));
        let patch = tokio::spawn(patch.send());
        until("the push holds its headroom", LEASE_DEADLINE, async || {
            let leased = number(&show(stage, &settings, "").await?, "leased_bytes");
            Ok(if leased >= HELD { Seen::Yes(()) } else { Seen::NotYet(leased.to_string()) })
        })
        .await?;
        // Others are on their way when it dies.
        let mut asked = BTreeSet::from([1000]);
        let burst = stream::iter((1..=8).map(|seed| {
            asked.insert(1000 + seed as u64);
            let (client, blob) = (&client, content(1000 + seed, seed));
            async move { push(client, "team/app", &blob).await.map(|a| a.status() == 201) }
        }));
        let burst = burst.buffered(8).collect::<Vec<_>>();
        let (told, ended) = tokio::join!(burst, killed.kill());
        ended?;
        assert!(patch.await.expect("nobody aborts it").is_err(), "its process is gone");
        let acknowledged = told.iter().filter(|told| matches!(told, Ok(true))).count() as u64;

        let large = content(HELD as usize, 100);
        assert_eq!(push(&patient, "team/app", &large).await?.status(), 201);
        let usage = show(stage, &settings, "").await?;
        // What was paid for and not acknowledged is the collector's.
        let small = number(&usage, "used_bytes") - HELD;
        assert!(number(&usage, "charges") >= 2 + acknowledged, "{usage}");
        assert!(small <= asked.iter().sum(), "{usage}");

        let again = Origin::start_with(place, store, "again", &settings).await?;
        let client = Client::new(&again)?;
        let rest = LIMIT - HELD - small;
        let last = push(&client, "team/app", &content(rest as usize, 101)).await?;
        assert_eq!(last.status(), 201, "{}", last.text().await.map_err(|e| lost(&e))?);
        denied(push(&patient, "team/app", b"x").await?, LIMIT).await?;
        assert_eq!(number(&show(stage, &settings, "").await?, "used_bytes"), LIMIT);
        Ok(())
    })
    .await;
}
