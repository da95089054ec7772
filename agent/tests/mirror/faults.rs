//! What the mirror answers when something is wrong: never anything that makes containerd fail.

use std::time::{Duration, Instant};

use longshore_agent::store::BlobFailure;
use reqwest::Method;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_means_nothing_is_refused_with_an_oci_body() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    registry.push(&[noise(1, KIB)]).await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    let zeros = "0".repeat(64);
    for (path, status, code) in [
        (format!("/v2/{REPOSITORY}/blobs/sha256:xyz"), 400, "DIGEST_INVALID"),
        (format!("/v2/{REPOSITORY}/blobs/md5:{zeros}"), 400, "DIGEST_INVALID"),
        (format!("/v2/{REPOSITORY}/manifests/sha256:0"), 400, "DIGEST_INVALID"),
        ("/v2/TEAM/app/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/{REPOSITORY}/manifests/{}", "t".repeat(200)), 400, "TAG_INVALID"),
        (format!("/v2/{REPOSITORY}/blobs/sha256:{zeros}"), 404, "BLOB_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/manifests/sha256:{zeros}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/manifests/other"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/manifests/{TAG}?ns=elsewhere.example"), 404, "NAME_UNKNOWN"),
        ("/anything".to_owned(), 404, "NAME_UNKNOWN"),
    ] {
        let answer = agent.get(&path).await;
        let body = String::from_utf8(answer.body.unwrap().to_vec()).unwrap();
        assert_eq!(answer.status, status, "{path:.90}: {body}");
        assert!(body.contains(code), "{path:.90}: {body}");
    }
    let push = agent.ask(Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/"), &[]).await;
    assert_eq!(push.status, 405);
    assert_eq!(agent.get("/v2/").await.status, 200);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_fails_in_its_body_hangs_up_and_its_resume_goes_elsewhere() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(2, 1500 * KIB);
    registry.push(std::slice::from_ref(&layer)).await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    let why = BlobFailure::NoProgress(Duration::from_secs(1));
    agent.fetcher.conduct.send_replace(Conduct::FailAt(3, why));

    let answer = agent.get(&blob_path(&layer)).await;
    assert_eq!((answer.status, answer.body), (200, None), "it must break off");
    let resume = agent.range(&blob_path(&layer), "bytes=786432-").await;
    assert_eq!(resume.status, 404, "upstream takes the resume only after a 404");
    let anew = agent.get(&blob_path(&layer)).await;
    assert_eq!(anew.status, 503);
    assert_eq!(agent.pulls.blob_downloads_failed.get(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_first_byte_in_time_containerd_is_sent_on() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(3, 600 * KIB);
    registry.push(std::slice::from_ref(&layer)).await;
    let options =
        Options { first_byte_timeout: Duration::from_millis(300), ..Options::new(&place) };
    let agent = Agent::start(&registry, &options).await;
    agent.fetcher.conduct.send_replace(Conduct::WaitAt(0));
    let began = Instant::now();
    let answer = agent.get(&blob_path(&layer)).await;
    assert_eq!(answer.status, 503);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(agent.fetcher.cursors.lock().unwrap().is_empty(), "a cursor was left behind");

    // It goes on behind the answer, for the next who asks.
    agent.fetcher.conduct.send_replace(Conduct::Fetch);
    until("it became whole", || agent.pulls.blob_downloads_finished.get() == 1).await;
    assert_eq!(agent.get(&blob_path(&layer)).await.status, 200);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_reach_nobody() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(4, 600 * KIB);
    registry.push(std::slice::from_ref(&layer)).await;
    let agent = Agent::start(&registry, &Options::new(&place)).await;
    agent.fetcher.conduct.send_replace(Conduct::Corrupt);
    assert_eq!(agent.get(&blob_path(&layer)).await.status, 503);
    assert_eq!(agent.stored.pieces_verified.get(), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_sends_containerd_to_the_origin_and_goes_on() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let (large, small) = (noise(5, 1200 * KIB), noise(6, 300 * KIB));
    registry.push(&[large.clone(), small.clone()]).await;
    let options = Options { bytes_max: 600 * KIB as u64, ..Options::new(&place) };
    let agent = Agent::start(&registry, &options).await;
    let answer = agent.get(&blob_path(&large)).await;
    assert!(answer.status == 503 || answer.body.is_none(), "{}", answer.status);
    assert_eq!(agent.get(&blob_path(&large)).await.status, 503);
    let answer = agent.get(&blob_path(&small)).await;
    assert_eq!(answer.body.as_deref(), Some(small.as_slice()), "{}", answer.status);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_damaged_on_disk_is_fetched_again_within_the_answer() {
    let (registry, place) = (Registry::start().await, tempfile::tempdir().unwrap());
    let layer = noise(7, 1000 * KIB);
    registry.push(std::slice::from_ref(&layer)).await;
    let options = Options::new(&place);
    let agent = Agent::start(&registry, &options).await;
    assert_eq!(agent.get(&blob_path(&layer)).await.status, 200);
    agent.stop().await;

    let name = digest(&layer).to_string().replace(':', "-");
    let data = options.path.join("v1/blobs").join(name).join("data");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[300 * KIB] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let agent = Agent::start(&registry, &options).await;
    let answer = agent.get(&blob_path(&layer)).await;
    assert_eq!(answer.body.as_deref(), Some(layer.as_slice()));
    let fetched: Vec<u32> = agent.fetcher.fetched.lock().unwrap().iter().map(|f| f.1).collect();
    assert_eq!(fetched, [1]);
    agent.stop().await;
}
