//! Blobs: one read upstream, any number of readers here, and nothing that is not its digest.

use futures::future::join_all;
use http::{Method, StatusCode};
use reqwest::header::{CONTENT_RANGE, RANGE};

use super::fake::Fake;
use super::{blob_path, fills, fronted, is_kept, upstream};
use crate::common::{
    TestRegistry, content, content_length, header, refusal, refused, sha256, until,
};

const MIB: usize = 1024 * 1024;
/// What stays until the digest has matched.
const WITHHELD: usize = 64 * 1024;

#[tokio::test]
async fn a_blob_comes_through_and_is_kept() {
    let (fake, registry) = fronted("").await;
    for size in [0, 1, WITHHELD, WITHHELD + 1, 3 * MIB + 7] {
        let blob = content(size, 3);
        let digest = fake.put_blob(&blob);
        let got = registry.get(&blob_path(&digest)).await;
        assert_eq!((got.status(), content_length(&got)), (StatusCode::OK, size as u64));
        assert_eq!(header(&got, "docker-content-digest"), digest.to_string());
        assert!(got.bytes().await.unwrap() == blob);
        until("a fill is kept", async || fills(&registry, "kept").await > 0).await;
        until("the blob is kept", async || is_kept(&registry, &fake, &digest).await).await;
        let again = registry.get(&blob_path(&digest)).await;
        assert!(again.bytes().await.unwrap() == blob);
        let reads = fake.seen().into_iter().filter(|seen| seen.path.contains(&digest.to_string()));
        // Those during the outage are not reads of the body.
        assert!(reads.filter(|seen| seen.method == "GET").count() >= 1);
    }
    let reads = registry.metric("longshore_registry_upstream_blob_reads_total").await;
    assert_eq!(reads, 5);
}

/// The bound of what the whole registry may hold for its clients: two pieces each if all stand
/// elsewhere, and what the cache keeps.
const HELD_MAX: u64 = (800 * 2 * 128 * 1024 + 8 * MIB) as u64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_a_cold_blob_cost_one_read_and_bounded_memory() {
    let (fake, registry) = fronted("").await;
    let blob = content(64 * MIB, 9);
    let digest = fake.put_blob(&blob);
    let client = |at: usize| {
        let (registry, blob) = (&registry, &blob);
        async move {
            let mut got = registry.get(&blob_path(&digest)).await;
            assert_eq!((got.status(), content_length(&got)), (StatusCode::OK, 64 * MIB as u64));
            let (mut read, stops) = (0, if at < 20 { 64 * MIB } else { MIB });
            while read < stops
                && let Some(bytes) = got.chunk().await.unwrap()
            {
                assert!(blob[read..read + bytes.len()] == bytes);
                read += bytes.len();
            }
            assert!(read >= stops);
        }
    };
    join_all((0..800).map(client)).await;
    assert_eq!(registry.metric("longshore_registry_upstream_blob_reads_total").await, 1);
    assert_eq!(fake.count("GET", "/blobs/"), 1);
    let received = registry.metric("longshore_registry_upstream_received_bytes_total").await;
    assert_eq!(received, 64 * MIB as u64);
    let peak = registry.metric("longshore_registry_upstream_buffered_bytes_peak").await;
    assert!(peak > 0 && peak <= HELD_MAX, "{peak}");
    until("nobody reads and nothing is held", async || {
        registry.metric("longshore_registry_upstream_readers").await == 0
            && registry.metric("longshore_registry_upstream_buffered_bytes ").await == 0
    })
    .await;
    assert_eq!(fills(&registry, "kept").await, 1);
}

#[tokio::test]
async fn bytes_leave_as_they_come_and_the_last_ones_after_the_digest() {
    let (fake, registry) = fronted("").await;
    let blob = content(2 * MIB, 4);
    let digest = fake.put_blob(&blob);
    fake.release(MIB);
    let mut got = registry.get(&blob_path(&digest)).await;
    assert_eq!(got.status(), StatusCode::OK);
    let mut whole = Vec::new();
    while whole.len() < MIB {
        whole.extend_from_slice(&got.chunk().await.unwrap().unwrap());
    }
    // All but the last byte is there: what is withheld is.
    fake.release(2 * MIB - 1);
    while whole.len() < 2 * MIB - WITHHELD {
        whole.extend_from_slice(&got.chunk().await.unwrap().unwrap());
    }
    assert_eq!(whole.len(), 2 * MIB - WITHHELD);
    fake.release(usize::MAX);
    while let Some(bytes) = got.chunk().await.unwrap() {
        whole.extend_from_slice(&bytes);
    }
    assert!(whole == blob);
}

#[tokio::test]
async fn any_range_of_a_growing_blob_can_be_read() {
    let (fake, registry) = fronted("").await;
    let blob = content(2 * MIB, 5);
    let digest = fake.put_blob(&blob);
    fake.release(MIB);
    let ranged = async |range: &str| {
        registry
            .request(Method::GET, &blob_path(&digest))
            .header(RANGE, range)
            .send()
            .await
            .unwrap()
    };
    let early = ranged("bytes=1000-200000").await;
    assert_eq!(early.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(header(&early, CONTENT_RANGE.as_str()), "bytes 1000-200000/2097152");
    assert!(early.bytes().await.unwrap() == blob[1000..200_001]);
    let outside = ranged("bytes=2097152-").await;
    assert_eq!(refusal(outside).await, refused(416, "SIZE_INVALID"));
    // This one's bytes are still to come.
    let late = ranged("bytes=-100").await;
    assert_eq!(late.status(), StatusCode::PARTIAL_CONTENT);
    fake.release(usize::MAX);
    assert!(late.bytes().await.unwrap() == blob[2 * MIB - 100..]);
    assert_eq!(fake.count("GET", "/blobs/"), 1);
}

#[tokio::test]
async fn the_first_client_may_hang_up() {
    let (fake, registry) = fronted("").await;
    let blob = content(MIB, 6);
    let digest = fake.put_blob(&blob);
    fake.release(100_000);
    let first = registry.get(&blob_path(&digest)).await;
    let second = registry.get(&blob_path(&digest)).await;
    drop(first);
    until("one reader is left", async || {
        registry.metric("longshore_registry_upstream_readers").await == 1
    })
    .await;
    fake.release(usize::MAX);
    assert!(second.bytes().await.unwrap() == blob);
    assert_eq!(fake.count("GET", "/blobs/"), 1);
}

#[tokio::test]
async fn with_no_reader_left_a_fill_goes_on_when_little_is_left() {
    let (fake, registry) = fronted("").await;
    let digest = fake.put_blob(&content(MIB, 7));
    fake.release(100_000);
    drop(registry.get(&blob_path(&digest)).await);
    until("no reader is left", async || {
        registry.metric("longshore_registry_upstream_readers").await == 0
    })
    .await;
    fake.release(usize::MAX);
    until("a fill is kept", async || fills(&registry, "kept").await == 1).await;
}

#[tokio::test]
async fn with_no_reader_left_a_fill_ends_when_much_is_left() {
    let fake = Fake::start().await;
    let _already = rustls::crypto::ring::default_provider().install_default();
    let one = upstream(&fake.url(), "");
    let registry = TestRegistry::start_with(|config| {
        config.upstream.registry = vec![one];
        config.upstream.abandoned_bytes_max = 100_000;
        config.upstream.abandoned_s = 0;
    })
    .await;
    let blob = content(4 * MIB, 8);
    let digest = fake.put_blob(&blob);
    fake.release(MIB);
    drop(registry.get(&blob_path(&digest)).await);
    until("no reader is left", async || {
        registry.metric("longshore_registry_upstream_readers").await == 0
    })
    .await;
    fake.release(2 * MIB);
    until("a fill is abandoned", async || fills(&registry, "abandoned").await == 1).await;
    // Whoever comes later begins another.
    fake.release(usize::MAX);
    assert!(registry.get(&blob_path(&digest)).await.bytes().await.unwrap() == blob);
    assert_eq!(fake.count("GET", "/blobs/"), 2);
}

#[tokio::test]
async fn a_read_that_breaks_off_goes_on_where_it_stood() {
    for whole_only in [false, true] {
        let (fake, registry) = fronted("").await;
        fake.conduct(|conduct| {
            conduct.cut_after = vec![300_000, 200_000, 0];
            conduct.whole_only = whole_only;
        });
        let blob = content(MIB, 10);
        let digest = fake.put_blob(&blob);
        let got = registry.get(&blob_path(&digest)).await;
        let got = got.bytes().await.unwrap();
        let differs = got.iter().zip(&blob).position(|(got, sent)| got != sent);
        assert_eq!((got.len(), differs), (blob.len(), None), "{:?}", fake.seen());
        let ranges: Vec<_> = fake.seen().into_iter().filter_map(|seen| seen.range).collect();
        assert!(ranges.len() >= 2, "{ranges:?}");
        assert!(ranges[0] != "bytes=0-", "{ranges:?}");
        assert!(registry.metric("longshore_registry_upstream_resumes_total").await >= 2);
        until("a fill is kept", async || fills(&registry, "kept").await == 1).await;
    }
}

#[tokio::test]
async fn bytes_of_another_digest_are_cut_before_their_end_and_never_kept() {
    let (fake, registry) = fronted("").await;
    for size in [10, MIB] {
        let blob = content(size, 11);
        let digest = fake.put_blob(&blob);
        fake.conduct(|conduct| conduct.corrupt = true);
        let mut got = registry.get(&blob_path(&digest)).await;
        if size <= WITHHELD {
            assert_eq!(refusal(got).await, refused(502, "UNAVAILABLE"));
            assert!(!is_kept(&registry, &fake, &digest).await);
            continue;
        }
        assert_eq!(got.status(), StatusCode::OK);
        let mut read = 0;
        let cut = loop {
            match got.chunk().await {
                Ok(Some(bytes)) => read += bytes.len(),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(cut && read <= size.saturating_sub(WITHHELD), "{read} of {size}");
        until("a fill is refused", async || fills(&registry, "mismatch").await > 0).await;
        fake.conduct(|conduct| conduct.corrupt = false);
        assert!(!is_kept(&registry, &fake, &digest).await);
        // The upstream has mended its ways: so has the answer.
        let got = registry.get(&blob_path(&digest)).await;
        assert!(got.bytes().await.unwrap() == blob);
    }
    assert_eq!(fills(&registry, "mismatch").await, 2);
}

#[tokio::test]
async fn head_gives_the_size_and_fetches_nothing() {
    let (fake, registry) = fronted("").await;
    let digest = fake.put_blob(&content(MIB, 12));
    for _ in 0..3 {
        let head = registry.head(&blob_path(&digest)).await;
        assert_eq!((head.status(), content_length(&head)), (StatusCode::OK, MIB as u64));
    }
    assert_eq!((fake.count("HEAD", "/blobs/"), fake.count("GET", "/blobs/")), (1, 0));
    let unknown = registry.head(&blob_path(&sha256(b"nobody"))).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bytes_that_are_here_already_are_not_fetched_again_but_asked_for() {
    let (fake, registry) = fronted("").await;
    let blob = content(MIB, 13);
    let digest = registry.push_blob("own", &blob).await;
    // That another repository has it proves nothing.
    let unknown = registry.get(&blob_path(&digest)).await;
    assert_eq!(refusal(unknown).await, refused(404, "BLOB_UNKNOWN"));
    fake.put_blob(&blob);
    let got = registry.get(&blob_path(&digest)).await;
    assert!(got.bytes().await.unwrap() == blob);
    assert_eq!(fake.count("GET", "/blobs/"), 0);
    assert_eq!(fills(&registry, "mounted").await, 1);
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_is_an_error_before_the_head() {
    let fake = Fake::start().await;
    let _already = rustls::crypto::ring::default_provider().install_default();
    let one = upstream(&fake.url(), "");
    let registry = TestRegistry::start_with(|config| {
        config.upstream.registry = vec![one];
        config.upstream.spool_directory = Some("/nowhere/at/all".into());
    })
    .await;
    let digest = fake.put_blob(&content(MIB, 14));
    let got = registry.get(&blob_path(&digest)).await;
    assert_eq!(header(&got, "retry-after"), "2");
    assert_eq!(refusal(got).await, refused(503, "UNAVAILABLE"));
}
