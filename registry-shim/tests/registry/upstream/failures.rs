//! What goes wrong in the middle of a blob: at the upstream, on this machine, at the end of the
//! process. Readers get whole blobs or errors, and half a blob is kept nowhere.

use futures::future::join_all;
use http::StatusCode;
use longshore_registry::config::Config;

use super::fake::Fake;
use super::{blob_path, fills, fronted, is_kept, upstream};
use crate::common::{TestRegistry, content, content_length, header, refusal, refused, until};

const MIB: usize = 1024 * 1024;

async fn start(fake: &Fake, change: impl FnOnce(&mut Config)) -> TestRegistry {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let one = upstream(&fake.url(), "");
    TestRegistry::start_with(|config| {
        config.upstream.registry = vec![one];
        config.upstream.absent_s = 0;
        change(config);
    })
    .await
}

/// Reads until the end or the break: what came, and whether it was all.
async fn read(mut response: reqwest::Response) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => read.extend_from_slice(&bytes),
            Ok(None) => return (read, true),
            Err(_) => return (read, false),
        }
    }
}

#[tokio::test]
async fn a_blob_whose_length_nobody_says_comes_whole_is_verified_and_kept() {
    for size in [0, 10, 64 * 1024, 3 * MIB + 1] {
        let (fake, registry) = fronted("").await;
        fake.conduct(|conduct| conduct.no_length = true);
        let blob = content(size, 1);
        let digest = fake.put_blob(&blob);
        let head = registry.head(&blob_path(&digest)).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert!(!head.headers().contains_key("content-length"), "{size}");
        let all =
            join_all((0..5).map(|_| async { read(registry.get(&blob_path(&digest)).await).await }));
        for (got, whole) in all.await {
            assert!(whole && got == blob, "{size}: {}", got.len());
        }
        assert_eq!(fake.count("GET", "/blobs/"), 1);
        until("it is kept", async || is_kept(&registry, &fake, &digest).await).await;
        assert_eq!(content_length(&registry.get(&blob_path(&digest)).await), size as u64);
    }
}

#[tokio::test]
async fn such_a_blob_leaves_as_it_comes_and_can_break_off_and_lie() {
    let (fake, registry) = fronted("").await;
    fake.conduct(|conduct| {
        conduct.no_length = true;
        conduct.cut_after = vec![300_000, 0];
    });
    let blob = content(2 * MIB, 2);
    let digest = fake.put_blob(&blob);
    fake.release(MIB);
    let mut got = registry.get(&blob_path(&digest)).await;
    let mut whole = Vec::new();
    while whole.len() < MIB - 64 * 1024 {
        whole.extend_from_slice(&got.chunk().await.unwrap().unwrap());
    }
    fake.release(usize::MAX);
    let (rest, ended) = read(got).await;
    whole.extend_from_slice(&rest);
    assert!(ended && whole == blob);

    let other = content(2 * MIB, 3);
    let digest = fake.put_blob(&other);
    fake.conduct(|conduct| conduct.corrupt = true);
    let (got, ended) = read(registry.get(&blob_path(&digest)).await).await;
    assert!(!ended && got.len() <= 2 * MIB - 64 * 1024, "{}", got.len());
    fake.conduct(|conduct| conduct.corrupt = false);
    assert!(!is_kept(&registry, &fake, &digest).await);
}

#[tokio::test]
async fn a_length_that_lies_is_no_blob() {
    let (fake, registry) = fronted("").await;
    let blob = content(MIB, 4);
    let digest = fake.put_blob(&blob);
    fake.conduct(|conduct| conduct.longer = 10);
    let (got, ended) = read(registry.get(&blob_path(&digest)).await).await;
    assert!(!ended && got.len() < MIB, "{}", got.len());
    fake.conduct(|conduct| conduct.longer = 0);
    // Shorter than it is: other bytes than the digest says.
    fake.replace_blob(&digest, &blob[..MIB - 10]);
    let (got, ended) = read(registry.get(&blob_path(&digest)).await).await;
    assert!(!ended && got.len() <= MIB - 10 - 64 * 1024);
    assert!(!is_kept(&registry, &fake, &digest).await);
    fake.replace_blob(&digest, &blob);
    assert_eq!(read(registry.get(&blob_path(&digest)).await).await, (blob, true));
}

#[tokio::test]
async fn another_blob_behind_a_break_is_found_out() {
    let (blob, longer) = (content(MIB, 5), content(MIB + 1, 5));
    for (after, outcome) in [(content(MIB, 6), "mismatch"), (longer, "bad_answer")] {
        let (fake, registry) = fronted("").await;
        let digest = fake.put_blob(&blob);
        fake.conduct(|conduct| conduct.cut_after = vec![400_000]);
        fake.release(300_000);
        let got = registry.get(&blob_path(&digest)).await;
        fake.replace_blob(&digest, &after);
        fake.release(usize::MAX);
        let (read, ended) = read(got).await;
        assert!(!ended && read.len() <= MIB - 64 * 1024, "{outcome}: {}", read.len());
        until("the fill is over", async || fills(&registry, outcome).await == 1).await;
        assert!(!is_kept(&registry, &fake, &digest).await);
    }
}

#[tokio::test]
async fn a_full_spool_is_told_at_once_and_the_others_go_on() {
    let fake = Fake::start().await;
    let registry = start(&fake, |config| config.upstream.spool_bytes_max = 3 * MIB as u64).await;
    let (first, second) = (content(2 * MIB, 7), content(2 * MIB, 8));
    let (first_digest, second_digest) = (fake.put_blob(&first), fake.put_blob(&second));
    fake.release(MIB);
    let growing = registry.get(&blob_path(&first_digest)).await;
    assert_eq!(growing.status(), StatusCode::OK);
    let full = registry.get(&blob_path(&second_digest)).await;
    assert_eq!(header(&full, "retry-after"), "2");
    assert_eq!(refusal(full).await, refused(507, "UNAVAILABLE"));
    fake.release(usize::MAX);
    assert_eq!(read(growing).await, (first, true));
    until("there is room again", async || {
        registry.get(&blob_path(&second_digest)).await.status() == StatusCode::OK
    })
    .await;
    assert_eq!(read(registry.get(&blob_path(&second_digest)).await).await, (second, true));

    // One whose length nobody says finds out in the middle: its readers are cut, and told then.
    fake.conduct(|conduct| conduct.no_length = true);
    let endless = fake.put_blob(&content(4 * MIB, 9));
    let (got, ended) = read(registry.get(&blob_path(&endless)).await).await;
    assert!(!ended && got.len() <= 3 * MIB);
    assert!(!is_kept(&registry, &fake, &endless).await);
}

#[tokio::test]
async fn a_store_that_fails_in_mid_blob_costs_the_keeping_alone() {
    // Behind the first bytes that go to the store, and at the last ones.
    for size in [12 * MIB, MIB] {
        let (fake, registry) = fronted("").await;
        let blob = content(size, 10);
        let digest = fake.put_blob(&blob);
        fake.release(size / 4);
        let got = registry.get(&blob_path(&digest)).await;
        assert_eq!(got.status(), StatusCode::OK);
        let data = registry.directory.path().join("store/data");
        let _ = std::fs::remove_dir_all(&data);
        std::fs::write(&data, "no directory").unwrap();
        fake.release(usize::MAX);
        assert_eq!(read(got).await, (blob.clone(), true), "{size}");
        until("it was passed on", async || fills(&registry, "passed").await == 1).await;
        assert!(!is_kept(&registry, &fake, &digest).await);
        // The store is well again.
        std::fs::remove_file(&data).unwrap();
        assert_eq!(read(registry.get(&blob_path(&digest)).await).await, (blob, true));
        until("it is kept", async || fills(&registry, "kept").await == 1).await;
    }
}

#[tokio::test]
async fn readers_finish_within_the_grace_of_a_shutdown() {
    let fake = Fake::start().await;
    let registry = start(&fake, |_| {}).await;
    let blob = content(2 * MIB, 11);
    let digest = fake.put_blob(&blob);
    fake.release(MIB);
    let got = registry.get(&blob_path(&digest)).await;
    registry.begin_shutdown();
    fake.release(usize::MAX);
    assert_eq!(read(got).await, (blob, true));
    let one = upstream(&fake.url(), "");
    let registry = registry.restart_with(|config| config.upstream.registry = vec![one]).await;
    assert!(is_kept(&registry, &fake, &digest).await);
}

#[tokio::test]
async fn a_blob_that_does_not_come_within_the_grace_is_cut_and_half_of_it_is_nowhere() {
    let fake = Fake::start().await;
    let registry = start(&fake, |config| config.serve.drain_grace_ms = 100).await;
    let blob = content(12 * MIB, 12);
    let digest = fake.put_blob(&blob);
    fake.release(8 * MIB);
    let got = registry.get(&blob_path(&digest)).await;
    registry.begin_shutdown();
    let (read_bytes, ended) = read(got).await;
    assert!(!ended && read_bytes.len() <= 8 * MIB);
    let one = upstream(&fake.url(), "");
    let registry = registry.restart_with(|config| config.upstream.registry = vec![one]).await;
    assert!(!is_kept(&registry, &fake, &digest).await);
    fake.release(usize::MAX);
    assert_eq!(read(registry.get(&blob_path(&digest)).await).await, (blob, true));
}
