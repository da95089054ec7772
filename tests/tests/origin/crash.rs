//! The registry dies, or its store does, at every single write of a push and of deletes, over the
//! wire. Afterwards what was acknowledged reads back, and what was not is not there or is whole.
//!
//! The same in the process, write by write, is `storage::tests::crash`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod directory;
pub(crate) mod gate;
mod story;

use gate::{Closed, Gate, Last, Order};
use longshore_tests::testkit::{Backend, Origin, Result, Settings};
use story::Story;

use crate::conformance::subject::Repository;
use crate::harness::{Stage, on};

/// More writes than any story has.
const WRITES_MAX: usize = 200;

/// Whether the store still does the write at which it happens, by the write's number.
type Lasts = fn(usize) -> Last;

/// It never does.
const LOST: Lasts = |_| Last::Lost;
/// It always does, and nobody is told.
const DONE: Lasts = |_| Last::Done;
/// By turns: where there is no time for each write twice.
const BY_TURNS: Lasts = |at| if at % 2 == 0 { Last::Lost } else { Last::Done };

async fn start(stage: &Stage, gate: &Gate, name: &str) -> Result<Origin> {
    let mut settings = Settings::default();
    // What goes on in the background would be counted among the story's writes.
    settings.set("storage.endpoint", gate.url()).set("storage.compose", false);
    Origin::start_with(&stage.loopback, &stage.store, name, &settings).await
}

async fn gate(stage: &Stage) -> Gate {
    Gate::start(stage.store.server().expect("a store on the wire").endpoint()).await
}

/// SIGKILL at every write of the story, and a new process on what is left.
async fn killed_at_every_write(
    backend: Backend,
    lasts: Lasts,
    story: fn() -> Story,
    writes_min: usize,
) {
    on(backend, async |stage| {
        let gate = gate(stage).await;
        let mut origin = start(stage, &gate, "registry").await?;
        for at in 0..WRITES_MAX {
            let repository = Repository::new(&origin.url());
            let mut story = story();
            gate.arm(Order { at, last: lasts(at), closed: Closed::Silent });
            let killed = async {
                gate.closes().await;
                origin.process().kill().await
            };
            let ended = tokio::select! {
                ended = story.run(&repository) => ended,
                killed = killed => killed.map(|_| None)?,
            };
            if !gate.open() {
                ended.expect("the story ends well where nobody dies");
                story.check(&repository).await;
                assert!(at >= writes_min, "the story has {at} writes");
                return Ok(());
            }
            origin = start(stage, &gate, &format!("registry-{at}")).await?;
            story.check(&repository.moved(&origin.url())).await;
        }
        panic!("the story has more than {WRITES_MAX} writes");
    })
    .await;
}

/// The store is gone from one of the story's writes on, and comes back to the same process.
async fn cut_at_every_write(
    backend: Backend,
    lasts: Lasts,
    story: fn() -> Story,
    writes_min: usize,
) {
    on(backend, async |stage| {
        let gate = gate(stage).await;
        let origin = start(stage, &gate, "registry").await?;
        for at in 0..WRITES_MAX {
            let repository = Repository::new(&origin.url());
            let mut story = story();
            gate.arm(Order { at, last: lasts(at), closed: Closed::Breaks });
            let ended = story.run(&repository).await;
            if !gate.open() {
                ended.expect("the story ends well where the store does not go");
                assert!(at >= writes_min, "the story has {at} writes");
                return Ok(());
            }
            story.check(&repository).await;
        }
        panic!("the story has more than {WRITES_MAX} writes");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_before_any_write_shows_nothing_half() {
    killed_at_every_write(Backend::Moto, LOST, Story::of_an_image, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_after_any_write_shows_nothing_half() {
    killed_at_every_write(Backend::Moto, DONE, Story::of_an_image, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_at_any_write_into_garage_shows_nothing_half() {
    killed_at_every_write(Backend::Garage, BY_TURNS, Story::of_an_image, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_before_any_write_shows_nothing_half() {
    cut_at_every_write(Backend::Moto, LOST, Story::of_an_image, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_after_any_write_shows_nothing_half() {
    cut_at_every_write(Backend::Moto, DONE, Story::of_an_image, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_before_any_part_shows_no_partial_blob() {
    killed_at_every_write(Backend::Moto, LOST, Story::of_a_large_blob, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_after_any_part_shows_no_partial_blob() {
    killed_at_every_write(Backend::Moto, DONE, Story::of_a_large_blob, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_at_any_part_into_garage_shows_no_partial_blob() {
    killed_at_every_write(Backend::Garage, BY_TURNS, Story::of_a_large_blob, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_at_any_part_shows_no_partial_blob() {
    cut_at_every_write(Backend::Garage, BY_TURNS, Story::of_a_large_blob, 10).await;
}
