//! The agent dies, hangs or comes back in the middle of a pull.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use longshore_tests::testkit::agent::MIRROR;
use longshore_tests::testkit::containerd::hosts_dir;
use longshore_tests::testkit::{Agent, AgentOptions, Rate};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::{MB, Member, Origin, SOON, in_lab, received, run_check};

/// Of a link: slow enough that a pull is still under way when something happens to it.
const SLOW: Rate = Rate::mbit(40);
const WATCHDOG_BOUND: Duration = Duration::from_secs(3);

/// Starts a pull, and does something to the agent once a third of the image has arrived.
async fn pull_while(
    member: &Member,
    origin: &Origin,
    happens: impl AsyncFnOnce() -> longshore_tests::testkit::Result<()>,
) -> longshore_tests::testkit::Result<()> {
    let before = member.node.host.counter().await?.to_host;
    let meanwhile = async {
        received(&member.node.host, before, origin.image.bytes() / 3).await?;
        happens().await
    };
    let (pulled, happened) = tokio::join!(member.pull(origin), meanwhile);
    happened?;
    pulled?;
    run_check(&member.node, origin).await
}

/// hosts.toml files of registries, the lab's own `_default` aside.
fn hosts_files(member: &Member) -> usize {
    let directory = hosts_dir(&member.node.host);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name() != "_default" && entry.path().join("hosts.toml").exists())
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_mid_pull_leaves_the_pull_to_the_origin() {
    in_lab(async |stage| {
        let image = stage.image(4, &[6 * MB, 5 * MB, 4 * MB]).await?;
        let origin = stage.origin(SLOW, image).await?;
        let member = origin.node(stage, "node1", SLOW).await?;
        assert!(hosts_files(&member) > 0, "a ready agent has written no hosts.toml");
        pull_while(&member, &origin, async || member.agent.kill().await.map(|_| ())).await?;
        assert_eq!(hosts_files(&member), 0, "hosts.toml outlived the agent");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wedged_agent_is_ended_by_its_watchdog_and_the_pull_succeeds() {
    in_lab(async |stage| {
        let image = stage.image(4, &[6 * MB, 5 * MB, 4 * MB]).await?;
        let origin = stage.origin(SLOW, image).await?;
        let options = AgentOptions::joined(&origin.registry).hooked();
        let member = origin.node_with(stage, "node1", SLOW, &options).await?;
        pull_while(&member, &origin, async || {
            let wedged = Instant::now();
            member.agent.signal(Signal::USR2);
            let end = member.agent.ended(SOON).await?;
            let took = end.at - wedged;
            assert!(took <= WATCHDOG_BOUND, "the watchdog took {took:?}");
            let abort = Some(Signal::ABORT.as_raw());
            assert_eq!(end.status.signal(), abort, "{}", end.status);
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_fetches_no_verified_piece_again() {
    in_lab(async |stage| {
        let image = stage.image(5, &[20 * MB]).await?;
        let origin = stage.origin(SLOW, image).await?;
        let options = AgentOptions::joined(&origin.registry).with("mirror.open", true);
        let host = stage.lab.host("node1", SLOW)?;
        let agent = Agent::start(&host, &options).await?;
        let manifest = format!("http://{MIRROR}{}", origin.manifest_path());
        let layer = format!("http://{MIRROR}{}", origin.layer_path(0));

        let (status, _) = host.get(&manifest).await?;
        assert_eq!(status, 200);
        let before = host.counter().await?.to_host;
        received(&host, before, 8 * MB).await?;
        agent.kill().await?;
        let first = host.counter().await?.to_host - before;

        let agent = Agent::start(&host, &options).await?;
        let restarted = host.counter().await?.to_host;
        let (status, _) = host.get(&manifest).await?;
        assert_eq!(status, 200);
        let (status, bytes) = host.download(&layer).await?;
        assert_eq!((status, bytes), (200, origin.image.layers[0].size));
        let second = host.counter().await?.to_host - restarted;

        // Lost at the kill: pieces on the wire, at most what is in flight.
        let whole = origin.image.bytes();
        assert!(first + second < whole + whole / 4, "{first} and then {second} bytes for {whole}");
        let metrics = agent.metrics().await?;
        assert!(metrics.sum("longshore_store_resumed_pieces_total") > 0);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_asked_to_stop_takes_its_hosts_file_along() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        let member = origin.node(stage, "node1", Rate::UNSHAPED).await?;
        assert!(hosts_files(&member) > 0);
        let end = member.agent.stop().await?;
        assert!(end.status.success(), "{}", end.status);
        assert_eq!(hosts_files(&member), 0);
        member.pull(&origin).await
    })
    .await;
}
