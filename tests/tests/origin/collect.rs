//! Collections by the program itself over real stores, while clients push and mount; hours pass
//! between them, by a clock that the test sets forward.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod crash;
mod image;
mod place;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_tests::testkit::error::LabError;
use longshore_tests::testkit::{Backend, Result, Settings};
use reqwest::Method;
use serde_json::Value;

use crate::client::{Client, header, lost};
use crate::harness::on;
use image::{Image, content};
use place::Place;

/// Longer than every grace and age.
const LONG: Duration = Duration::from_secs(100 * 3600);
/// Collections beside clients. Garbage of the first is gone after four.
const ROUNDS: usize = 4;
/// Collections after which nothing waits any more.
const LAST_ROUNDS_MAX: usize = 10;
/// A client pushes as many images while a collection runs, and no more than the last.
const IMAGES_MIN: usize = 2;
const IMAGES_MAX: usize = 5;

async fn gc(place: &Place<'_>, more: &[&str]) -> Result<Value> {
    let arguments = [&["gc", "--json"], more].concat();
    place.ask(&arguments).await
}

fn freed(report: &Value, field: &str) -> u64 {
    report["total"][field].as_u64().unwrap_or_else(|| panic!("no {field} in {report}"))
}

/// Images of every round, pushed until the collection has ended: a layer that is garbage by now, a
/// layer that another repository has, and one of its own.
async fn push_until(ended: &AtomicBool, client: &Client, round: usize) -> Result<Vec<Image>> {
    let mut pushed = Vec::new();
    while pushed.len() < IMAGES_MIN || (pushed.len() < IMAGES_MAX && !ended.load(Ordering::SeqCst))
    {
        let number = pushed.len();
        let repository = format!("team/live-{round}-{number}");
        let layers = [garbage(number % 3), shared(), content(700, &repository)];
        pushed.push(Image::push(client, &repository, "team/kept", &layers).await?);
    }
    Ok(pushed)
}

fn shared() -> Vec<u8> {
    content(5000, "shared")
}

fn garbage(number: usize) -> Vec<u8> {
    content(3000 + number, &format!("garbage {number}"))
}

/// What is garbage from the beginning: images without a manifest, a blob that none names.
async fn litter(client: &Client) -> Result<()> {
    for number in 0..3 {
        let repository = format!("team/gone-{number}");
        let image = Image::push(client, &repository, "x/y", &[garbage(number), shared()]).await?;
        image.delete(client).await?;
    }
    client.push_blob("team/stray", &[&content(1234, "stray")]).await?;
    Ok(())
}

/// An upload whose client never comes back.
async fn abandon(client: &Client) -> Result<String> {
    let begun = client.send(Method::POST, "/v2/team/kept/blobs/uploads/").await?;
    let upload = header(&begun, "location")?;
    let patch = client.request(Method::PATCH, &upload).body(content(2000, "abandoned"));
    let patched = patch.send().await.map_err(|error| lost(&error))?;
    assert_eq!(patched.status(), 202);
    Ok(upload)
}

async fn collects(place: &Place<'_>) -> Result<()> {
    let origin = place.serve(0).await?;
    let client = Client::new(&origin)?;
    let kept = Image::push(&client, "team/kept", "x/y", &[shared(), content(900, "kept")]).await?;
    litter(&client).await?;
    let upload = if place.expires_uploads() { Some(abandon(&client).await?) } else { None };
    let (mut acknowledged, mut total) = (vec![kept], 0);
    origin.stop().await?;
    for round in 1..=ROUNDS {
        place.pass(LONG).await?;
        // A cache forgets what it saw a hundred hours ago: this one is new.
        let origin = place.serve(round).await?;
        let client = Client::new(&origin)?;
        let ended = AtomicBool::new(false);
        let collected = async {
            let report = gc(place, &[]).await;
            ended.store(true, Ordering::SeqCst);
            report
        };
        let (report, pushed) = tokio::join!(collected, push_until(&ended, &client, round));
        total += freed(&report?, "freed_bytes");
        acknowledged.extend(pushed?);
        for image in &acknowledged {
            image.check(&client).await?;
        }
        origin.stop().await?;
    }
    total += until_nothing_is_left(place).await?;
    assert!(total > 1234, "the stray blob was garbage from the beginning");

    let origin = place.serve(ROUNDS + 1).await?;
    let client = Client::new(&origin)?;
    for image in &acknowledged {
        image.check(&client).await?;
    }
    let bucket = place.list().await?;
    let mut digests: Vec<_> = acknowledged.iter().flat_map(Image::blobs).collect();
    digests.sort();
    digests.dedup();
    assert_eq!(bucket.below("blob/"), digests.len(), "a pointer for each blob that is named");
    assert_eq!(bucket.below("data/"), digests.len(), "and its bytes");
    assert_eq!(bucket.below("up/"), 0);
    if let Some(upload) = upload {
        assert_eq!(client.get(&upload).await?.status(), 404);
    }
    // What was collected can be pushed again.
    let again = Image::push(&client, "team/again", "x/y", &[content(1234, "stray")]).await?;
    again.check(&client).await?;
    origin.stop().await?;
    Ok(())
}

/// Collects what is left, with nobody else there: a dry run says what the next one does, and that
/// frees in the bucket what it says. All bytes that were freed.
async fn until_nothing_is_left(place: &Place<'_>) -> Result<u64> {
    let mut all = 0;
    for _ in 0..LAST_ROUNDS_MAX {
        place.pass(LONG).await?;
        let before = place.list().await?;
        let said = gc(place, &["--dry-run"]).await?;
        assert_eq!(place.list().await?, before, "a dry run changes something");
        let done = gc(place, &[]).await?;
        let after = place.list().await?;
        assert_eq!(said["kinds"], done["kinds"], "the dry run says something else");
        let bytes = freed(&done, "freed_bytes");
        assert_eq!(before.bytes() - after.bytes(), bytes, "{done}");
        let objects = freed(&done, "freed_objects");
        assert_eq!(before.contents() - after.contents(), objects, "{done}");
        all += bytes;
        let waits = freed(&done, "waiting_objects");
        if objects == 0 && waits == 0 {
            return Ok(all);
        }
    }
    Err(LabError::Unexpected(format!("garbage is left after {LAST_ROUNDS_MAX} collections")))
}

#[tokio::test(flavor = "multi_thread")]
async fn collects_beside_clients_on_moto() {
    place::on_servers(Backend::Moto, &Settings::default(), collects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collects_beside_clients_on_garage() {
    place::on_servers(Backend::Garage, &Settings::default(), collects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collects_beside_clients_on_a_directory() {
    on(Backend::Directory, async |stage| {
        collects(&Place::of_files(stage, &Settings::default())).await
    })
    .await;
}

/// With a quota every blob and manifest has a charge: they go as well, and usage with them.
#[tokio::test(flavor = "multi_thread")]
async fn charges_go_with_what_they_paid_for() {
    let mut settings = Settings::default();
    settings.set("quota.projects", "team=1000000");
    place::on_servers(Backend::Moto, &settings, async |place: &Place<'_>| {
        let origin = place.serve(0).await?;
        let client = Client::new(&origin)?;
        let kept = Image::push(&client, "team/kept", "x/y", &[shared()]).await?;
        let used = async || {
            let usage = place.ask(&["quota", "show", "team", "--json"]).await?;
            Ok::<_, LabError>(usage["used_bytes"].as_u64().unwrap())
        };
        let before = used().await?;
        litter(&client).await?;
        assert!(used().await? > before);
        origin.stop().await?;
        until_nothing_is_left(place).await?;
        assert_eq!(used().await?, before);
        let origin = place.serve(1).await?;
        kept.check(&Client::new(&origin)?).await?;
        origin.stop().await?;
        Ok(())
    })
    .await;
}
