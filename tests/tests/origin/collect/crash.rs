//! `gc` is killed at each of its writes to the store; the next one goes on.
//!
//! The same in the process, write by write, is `gc::tests::crash`.

use std::time::Duration;

use longshore_tests::testkit::process::Process;
use longshore_tests::testkit::{Backend, Origin, Result, Settings};

use super::image::{Image, content};
use super::place::{Place, on_servers};
use super::{LONG, gc, shared, until_nothing_is_left};
use crate::client::Client;
use crate::crash::gate::{Closed, Gate, Last, Order};

/// More writes than a collection has.
const WRITES_MAX: usize = 200;
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Every second write, from this one on; two tests have them all.
async fn killed_at_writes_from(first: usize) {
    on_servers(Backend::Moto, &Settings::default(), async |servers| {
        let server = servers.stage.store.server().expect("a store on the wire");
        let gate = Gate::start(server.endpoint()).await;
        let mut settings = Settings::default();
        settings.set("storage.endpoint", gate.url());
        let place = &servers.with(settings);
        // What it keeps in memory is asked for no more: it takes the garbage.
        let origin = place.serve(0).await?;
        let client = Client::new(&origin)?;
        let layers = [shared(), content(500, "kept")];
        let kept = Image::push(&client, "team/kept", "x/y", &layers).await?;
        for at in (first..WRITES_MAX).step_by(2) {
            // Garbage at its first step; that of earlier rounds is a step further each.
            let (gone, layer) = (format!("team/gone-{at}"), content(800, &format!("gone {at}")));
            let image = Image::push(&client, &gone, "team/kept", &[shared(), layer]).await?;
            image.delete(&client).await?;
            place.pass(LONG).await?;

            gate.arm(Order { at, last: Last::Lost, closed: Closed::Silent });
            let killed = spawn_gc(place, at)?;
            tokio::select! {
                () = gate.closes() => {}
                ended = killed.wait(END_DEADLINE) => assert!(ended?.success(), "{}", killed.tail()),
            }
            killed.kill().await?;
            if gate.open() {
                gc(place, &["--take-over"]).await?;
                continue;
            }
            assert!(at >= 25, "a collection has {at} writes");
            origin.stop().await?;
            until_nothing_is_left(place).await?;
            let origin = place.serve(1).await?;
            kept.check(&Client::new(&origin)?).await?;
            let bucket = place.list().await?;
            assert_eq!((bucket.below("blob/"), bucket.below("data/")), (3, 3));
            return Ok(());
        }
        panic!("a collection has more than {WRITES_MAX} writes");
    })
    .await;
}

fn spawn_gc(place: &Place<'_>, at: usize) -> Result<Process> {
    let (stage, name) = (place.stage, format!("gc-{at}"));
    Origin::spawn_command(&stage.loopback, &stage.store, &name, &place.settings, "", &["gc"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_killed_at_any_even_write_is_gone_on_with() {
    killed_at_writes_from(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_killed_at_any_odd_write_is_gone_on_with() {
    killed_at_writes_from(1).await;
}
