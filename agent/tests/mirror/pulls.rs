//! Pulls that go well.

use bytes::Bytes;
use futures::future::join_all;
use longshore_agent::containerd::MirrorSecret;
use longshore_agent::pull::PullState;
use reqwest::Method;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_as_containerd_makes_it_gets_the_image() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layers = [noise(1, 900 * KIB), noise(2, 3 * KIB), noise(3, 600 * KIB)];
    let image = registry.push(&layers).await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    let ns = registry.url.strip_prefix("http://").unwrap();

    let head = agent.ask(Method::HEAD, &format!("{}?ns={ns}", manifest_path(TAG)), &[]).await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["docker-content-digest"], digest(&image.manifest).to_string());
    assert_eq!(head.headers["content-length"], image.manifest.len().to_string());
    assert_eq!(head.headers["content-type"], longshore_proto::media_type::OCI_MANIFEST);
    assert_eq!(agent.pulls.blob_downloads_started.get(), 0, "a HEAD takes no layers");

    let by_digest = manifest_path(&digest(&image.manifest).to_string());
    let manifest = agent.get(&by_digest).await;
    assert_eq!((manifest.status, manifest.body), (200, Some(image.manifest.clone())));
    // The manifest alone starts all layers that did not come with the plan.
    until("all layers are fetched", || agent.pulls.blob_downloads_finished.get() == 2).await;

    assert_eq!(agent.get(&blob_path(&image.config)).await.body, Some(image.config.clone()));
    for layer in &image.layers {
        let answer = agent.get(&blob_path(layer)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-length"], layer.len().to_string());
        assert!(answer.body.is_some_and(|body| body == layer), "other bytes than the layer's");
    }
    assert_eq!(agent.pulls.plans.get(), 1, "one plan for it all");
    let inline = image.manifest.len() + image.config.len() + layers[1].len();
    assert_eq!(agent.pulls.inline_bytes.get(), inline as u64);

    let name = format!("{ns}/{REPOSITORY}:{TAG}").parse().unwrap();
    let explanation = agent.puller.explain(&name).unwrap();
    assert_eq!(explanation.state, PullState::Whole);
    let bytes: Vec<u64> = explanation.layers.iter().map(|l| l.entries.origin_bytes()).collect();
    assert_eq!(bytes, layers.map(|layer| layer.len() as u64));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_share_one_download() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(4, 2000 * KIB);
    registry.push(std::slice::from_ref(&layer)).await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    agent.fetcher.conduct.send_replace(Conduct::WaitAt(3));

    let path = blob_path(&layer);
    let clients = join_all((0..50).map(|_| agent.get(&path)));
    let open = async {
        until("clients stand at the gate", || agent.fetcher.cursors.lock().unwrap().len() == 50)
            .await;
        agent.fetcher.conduct.send_replace(Conduct::Fetch);
    };
    let (answers, ()) = tokio::join!(clients, open);
    assert!(answers.iter().all(|answer| answer.body.as_deref() == Some(layer.as_slice())));
    assert_eq!(agent.pulls.blob_downloads_started.get(), 1);
    assert_eq!(agent.pulls.plans.get(), 1);
    assert_eq!(agent.fetcher.fetched.lock().unwrap().len(), 8, "each piece once");
    assert!(agent.fetcher.cursors.lock().unwrap().is_empty(), "cursors left behind");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_answered_in_every_form() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layers = [noise(5, 700 * KIB), noise(6, 2 * KIB)];
    registry.push(&layers).await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    for layer in &layers {
        let (path, size) = (blob_path(layer), layer.len());
        for (range, expected) in [
            ("bytes=10-19".to_owned(), &layer[10..20]),
            (format!("bytes={}-", size / 2), &layer[size / 2..]),
            ("bytes=-5".to_owned(), &layer[size - 5..]),
            ("bytes=0-99999999".to_owned(), &layer[..]),
        ] {
            let answer = agent.range(&path, &range).await;
            assert_eq!(answer.status, 206, "{range}");
            assert_eq!(answer.body.as_deref(), Some(expected), "{range}");
            let first = size - expected.len();
            if range.ends_with('-') {
                let content = format!("bytes {first}-{}/{size}", size - 1);
                assert_eq!(answer.headers["content-range"], content);
            }
        }
        let outside = agent.range(&path, &format!("bytes={size}-")).await;
        assert_eq!(outside.status, 416);
        assert_eq!(outside.headers["content-range"], format!("bytes */{size}"));
        let several = agent.range(&path, "bytes=0-1,4-5").await;
        assert_eq!((several.status, several.body.map(|b| b.len())), (200, Some(size)));
        let head = agent.ask(Method::HEAD, &path, &[]).await;
        assert_eq!(head.headers["content-length"], size.to_string());
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_follows_the_download_piece_by_piece() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(7, 1000 * KIB);
    registry.push(std::slice::from_ref(&layer)).await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    agent.fetcher.conduct.send_replace(Conduct::WaitAt(2));
    let mut response = reqwest::get(format!("{}{}", agent.url, blob_path(&layer))).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 512 * KIB {
        got.extend_from_slice(&response.chunk().await.unwrap().unwrap());
    }
    assert_eq!(got, layer[..512 * KIB], "more than what was verified, or other bytes");
    until("the cursor stands there", || agent.fetcher.cursors.lock().unwrap().values().eq([&2]))
        .await;
    drop(response);
    until("a client that left takes its cursor along", || {
        agent.fetcher.cursors.lock().unwrap().is_empty()
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_secret_of_hosts_toml_opens() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let image = registry.push(&[noise(8, KIB)]).await;
    let secret = MirrorSecret::generate();
    let options = Options { secret: Some(secret.clone()), ..Options::new(&place) };
    let agent = Agent::start(&registry, &options).await;
    for (path, header) in [
        (manifest_path(TAG), None),
        (manifest_path(TAG), Some("Bearer wrong")),
        (blob_path(&image.config), Some("Basic dXNlcjpwYXNz")),
        ("/v2/".to_owned(), None),
    ] {
        let headers: Vec<_> = header.map(|value| ("authorization", value)).into_iter().collect();
        let answer = agent.ask(Method::GET, &path, &headers).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(!answer.headers.contains_key("www-authenticate"), "it would ask for credentials");
    }
    let right = secret.authorization();
    let answer = agent.ask(Method::GET, &manifest_path(TAG), &[("authorization", &right)]).await;
    assert_eq!(answer.body, Some(image.manifest));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_fetches_only_what_is_missing() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(9, 2000 * KIB);
    registry.push(std::slice::from_ref(&layer)).await;
    let options = Options::new(&place);
    let agent = Agent::start(&registry, &options).await;
    agent.fetcher.conduct.send_replace(Conduct::WaitAt(5));
    assert_eq!(agent.get(&manifest_path(TAG)).await.status, 200);
    let stored = || agent.store.blob(&digest(&layer)).map_or(0, |blob| blob.held().len());
    until("five pieces are here", || stored() == 5).await;
    agent.stop().await;

    let agent = Agent::start(&registry, &options).await;
    assert_eq!(agent.stored.resumed_pieces.get(), 5);
    let answer = agent.get(&blob_path(&layer)).await;
    assert_eq!(answer.body, Some(Bytes::from(layer)));
    let fetched: Vec<u32> = agent.fetcher.fetched.lock().unwrap().iter().map(|f| f.1).collect();
    assert_eq!(fetched, [5, 6, 7]);
    agent.stop().await;
}
