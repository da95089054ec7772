//! The origin is down.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_joined_sends_containerd_on_at_once() {
    let (mut registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let image = registry.push(&[noise(1, KIB)]).await;
    registry.stop().await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    for path in [manifest_path(TAG), blob_path(&image.config)] {
        let began = Instant::now();
        assert_eq!(agent.get(&path).await.status, 503);
        assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_served_and_a_stale_tag_says_so() {
    let (mut registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(2, 600 * KIB);
    let image = registry.push(std::slice::from_ref(&layer)).await;
    let options = Options::new(&place);
    let agent = Agent::start(&registry, &options).await;
    let fresh = agent.get(&manifest_path(TAG)).await;
    assert!(fresh.status == 200 && !fresh.headers.contains_key("warning"));
    assert_eq!(agent.get(&blob_path(&layer)).await.status, 200);
    agent.stop().await;
    registry.stop().await;

    // Another process, no origin, and a tag that is fresh no longer.
    let agent = Agent::start(&registry, &options).await;
    let (repository, tag) = (REPOSITORY.parse().unwrap(), TAG.parse().unwrap());
    let digest = digest(&image.manifest);
    agent.store.put_tag(&repository, &tag, &digest, Duration::ZERO).unwrap();
    let stale = agent.ask(Method::HEAD, &manifest_path(TAG), &[]).await;
    assert_eq!(stale.status, 200);
    assert!(stale.headers["warning"].starts_with("299 - "), "{:?}", stale.headers);
    let manifest = agent.get(&manifest_path(&digest.to_string())).await;
    assert_eq!(manifest.body, Some(image.manifest));
    assert_eq!(agent.get(&blob_path(&layer)).await.body.as_deref(), Some(layer.as_slice()));
    assert_eq!(agent.pulls.stale_tags.get(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peers_plan_is_as_good_as_the_origins() {
    let mut registry = Registry::start().await;
    let (first_place, second_place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let layer = noise(3, 600 * KIB);
    let image = registry.push(std::slice::from_ref(&layer)).await;
    let first = Agent::start(&registry, &Options::new(&first_place)).await;
    assert_eq!(first.get(&manifest_path(TAG)).await.status, 200);
    let second = Agent::start(&registry, &Options::new(&second_place)).await;
    registry.stop().await;

    assert_eq!(second.get(&manifest_path(TAG)).await.status, 503, "nobody told it");
    *second.fetcher.peer.lock().unwrap() = Some(first.store.clone());
    let head = second.ask(Method::HEAD, &manifest_path(TAG), &[]).await;
    assert_eq!(head.status, 200);
    assert!(head.headers.contains_key("warning"));
    let by_digest = manifest_path(&digest(&image.manifest).to_string());
    assert_eq!(second.get(&by_digest).await.body, Some(image.manifest));
    assert_eq!(second.get(&blob_path(&image.config)).await.body, Some(image.config));
    // The layer's list came along: its download has begun, from whoever has it.
    until("the layer is wanted", || second.pulls.blob_downloads_started.get() == 1).await;
    assert_eq!(second.pulls.plans_without_origin.get(), 1);
    second.fetcher.peer.lock().unwrap().take();
    second.stop().await;
    first.stop().await;
}
