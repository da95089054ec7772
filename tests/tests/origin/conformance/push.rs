//! distribution-spec 1.1.1, "Pushing blobs".

use http::Method;
use reqwest::Url;
use tokio::io::AsyncWriteExt as _;

use super::subject::{Answer, Content, Repository, answer, noise, sha256, with_query};

/// "POST then PUT"
pub(super) async fn a_blob_is_pushed_by_post_then_put(repository: &Repository) {
    let blob = Content::layer(5000);
    let upload = repository.begin().await;
    let closed = repository.close(&upload, &blob.digest, &blob.bytes).await;
    is_pullable(repository, &closed, &blob).await;
}

/// 201 with the location of a blob that can be pulled there.
async fn is_pullable(repository: &Repository, created: &Answer, blob: &Content) {
    assert_eq!(created.status(), 201);
    assert!(repository.get_url(created.location()).await.is(200).body == blob.bytes);
    repository.has(blob).await;
}

/// "POST then PUT": a location holds a UUID of this upload alone.
pub(super) async fn each_upload_has_a_location_of_its_own(repository: &Repository) {
    let (one, other) = (repository.begin().await, repository.begin().await);
    assert_ne!(one, other);
    for location in [one, other] {
        let word = |c: char| !c.is_ascii_hexdigit() && c != '-';
        let mut words = location.as_str().split(word).map(|word| word.replace('-', ""));
        assert!(words.any(|word| word.len() == 32), "{location} has no UUID");
    }
}

/// "Single POST"
pub(super) async fn a_blob_is_pushed_by_a_single_post(repository: &Repository) {
    let blob = Content::layer(5000);
    let posted = post(repository, &blob.digest, &blob.bytes).await;
    is_pullable(repository, &posted, &blob).await;
}

async fn post(repository: &Repository, digest: &str, bytes: &[u8]) -> Answer {
    let url = with_query(&repository.url("blobs/uploads/"), "digest", digest);
    answer(repository.at(Method::POST, url).body(bytes.to_vec())).await
}

/// "Single POST": the digest has to be the bytes'.
pub(super) async fn a_single_post_of_other_bytes_is_refused(repository: &Repository) {
    let digest = sha256(b"other bytes");
    post(repository, &digest, b"bytes").await.refused(400, "DIGEST_INVALID");
    repository.lacks(&digest).await;
    repository.lacks(&sha256(b"bytes")).await;
}

/// "Pushing a blob monolithically"
pub(super) async fn a_closing_put_of_other_bytes_is_refused(repository: &Repository) {
    let digest = sha256(b"other bytes");
    let upload = repository.begin().await;
    repository.close(&upload, &digest, b"bytes").await.refused(400, "DIGEST_INVALID");
    repository.lacks(&digest).await;
    repository.lacks(&sha256(b"bytes")).await;
}

/// "Pushing a blob in chunks": what the chunks make has to be what the closing PUT names, with a last
/// chunk of its own and without.
pub(super) async fn chunks_of_other_bytes_are_refused(repository: &Repository) {
    for last in [b"".as_slice(), b"bytes"] {
        let (blob, upload) = (Content::layer(3000), repository.begin().await);
        let upload = repository.patch(&upload, 0, &blob.bytes).await.is(202).location();
        let digest = sha256(b"other bytes");
        repository.close(&upload, &digest, last).await.refused(400, "DIGEST_INVALID");
        repository.lacks(&digest).await;
        repository.lacks(&blob.digest).await;
    }
}

/// "Pushing a blob in chunks": the closing PUT names the whole blob's digest.
pub(super) async fn a_closing_put_needs_a_digest(repository: &Repository) {
    let upload = repository.begin().await;
    let none = answer(repository.at(Method::PUT, upload.clone()).body("bytes")).await;
    none.refused(400, "DIGEST_INVALID");
    for malformed in ["", "sha256", "sha256:", "sha256:xyz", "md5:d41d8cd98f00b204e9800998ecf8427e"]
    {
        let closed = repository.close(&upload, malformed, b"bytes").await;
        closed.refused(400, "DIGEST_INVALID");
    }
}

/// "Pushing a blob in chunks": 202, Location and Range of each chunk.
pub(super) async fn chunks_in_order_make_a_blob(repository: &Repository) {
    let blob = Content::layer(3000);
    let mut upload = repository.begin().await;
    for from in [0, 1000, 2000] {
        let taken = repository.patch(&upload, from, &blob.bytes[from..from + 1000]).await.is(202);
        assert_eq!(taken.last_byte(), from + 999);
        upload = taken.location();
    }
    let closed = repository.close(&upload, &blob.digest, b"").await;
    is_pullable(repository, &closed, &blob).await;
}

/// "Pushing a blob in chunks": the last chunk may come with the closing PUT.
pub(super) async fn the_last_chunk_may_close_the_upload(repository: &Repository) {
    let blob = Content::layer(3000);
    let upload = repository.begin().await;
    let taken = repository.patch(&upload, 0, &blob.bytes[..2000]).await.is(202);
    let closed = close_with(repository, &taken.location(), &blob, 2000).await;
    is_pullable(repository, &closed, &blob).await;
}

/// The closing PUT with the bytes from `from` on and their range.
async fn close_with(repository: &Repository, upload: &Url, blob: &Content, from: usize) -> Answer {
    let range = format!("{from}-{}", blob.bytes.len() - 1);
    let put = repository.at(Method::PUT, with_query(upload, "digest", &blob.digest));
    answer(put.header("content-range", range).body(blob.bytes[from..].to_vec())).await
}

/// "Pushing a blob in chunks"; chunks larger than what a store takes in one part.
pub(super) async fn large_chunks_make_a_blob(repository: &Repository) {
    let blob = Content::layer(6_500_000);
    let upload = repository.begin().await;
    let taken = repository.patch(&upload, 0, &blob.bytes[..5_400_000]).await.is(202);
    let closed = close_with(repository, &taken.location(), &blob, 5_400_000).await;
    assert_eq!(closed.status(), 201);
    repository.has(&blob).await;
    let over_the_seam = repository.request(Method::GET, &format!("blobs/{}", blob.digest));
    let part = answer(over_the_seam.header("range", "bytes=5399990-5400009")).await.is(206);
    assert!(part.body == blob.bytes[5_399_990..5_400_010]);
}

/// Docker's clients send one PATCH without a range and without a length.
pub(super) async fn a_stream_of_unknown_length_makes_a_blob(repository: &Repository) {
    let blob = Content::layer(70_000);
    let upload = repository.begin().await;
    let chunks: Vec<_> =
        blob.bytes.chunks(9999).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let taken = answer(repository.at(Method::PATCH, upload).body(body)).await.is(202);
    assert_eq!(taken.last_byte(), 69_999);
    let closed = repository.close(&taken.location(), &blob.digest, b"").await;
    is_pullable(repository, &closed, &blob).await;
}

/// "Pushing a blob in chunks": the first chunk begins with 0.
pub(super) async fn a_first_chunk_that_begins_elsewhere_is_416(repository: &Repository) {
    let upload = repository.begin().await;
    repository.patch(&upload, 10, b"bytes").await.is(416);
    repository.patch(&upload, 0, b"bytes").await.is(202);
}

/// "Pushing a blob in chunks": 416 out of order, and the upload goes on.
pub(super) async fn chunks_out_of_order_are_416(repository: &Repository) {
    let blob = Content::layer(3000);
    let upload = repository.begin().await;
    let upload = repository.patch(&upload, 0, &blob.bytes[..1000]).await.is(202).location();
    for wrong in [0, 500, 999, 1001, 2000] {
        let refused = repository.patch(&upload, wrong, &blob.bytes[wrong..wrong + 900]).await;
        refused.refused(416, "BLOB_UPLOAD_INVALID");
    }
    let status = repository.get_url(upload.clone()).await.is(204);
    assert_eq!(status.last_byte(), 999);
    let taken = repository.patch(&status.location(), 1000, &blob.bytes[1000..]).await.is(202);
    let closed = repository.close(&taken.location(), &blob.digest, b"").await;
    is_pullable(repository, &closed, &blob).await;
}

/// "Pushing a blob in chunks": a closing PUT with a chunk obeys the order as well.
pub(super) async fn a_last_chunk_out_of_order_is_416(repository: &Repository) {
    let blob = Content::layer(3000);
    let upload = repository.begin().await;
    let upload = repository.patch(&upload, 0, &blob.bytes[..1000]).await.is(202).location();
    for wrong in [0, 999, 1001] {
        close_with(repository, &upload, &blob, wrong).await.is(416);
    }
    repository.lacks(&blob.digest).await;
    let closed = close_with(repository, &upload, &blob, 1000).await;
    is_pullable(repository, &closed, &blob).await;
}

/// "Pushing a blob in chunks": `^[0-9]+-[0-9]+$`
pub(super) async fn a_chunks_range_has_two_numbers(repository: &Repository) {
    let upload = repository.begin().await;
    for malformed in ["0", "-4", "0-", "a-b", "4-0", "0-99999999999999999999"] {
        let patch = repository.at(Method::PATCH, upload.clone());
        let patch = patch.header("content-range", malformed).body("bytes");
        answer(patch).await.one_of(&[400, 416]);
    }
    repository.patch(&upload, 0, b"bytes").await.is(202);
}

/// "Error Codes": SIZE_INVALID where the length is not the content's.
pub(super) async fn a_chunk_has_the_length_of_its_range(repository: &Repository) {
    let upload = repository.begin().await;
    for wrong in ["0-3", "0-5"] {
        let patch = repository.at(Method::PATCH, upload.clone());
        let patch = patch.header("content-range", wrong).body("bytes");
        answer(patch).await.refused(400, "SIZE_INVALID");
    }
    assert_eq!(repository.patch(&upload, 0, b"bytes").await.is(202).last_byte(), 4);
}

/// "Pushing a blob in chunks": chunks of the length that the registry asks for are taken.
pub(super) async fn the_least_length_of_a_chunk_is_told(repository: &Repository) {
    let begun = answer(repository.request(Method::POST, "blobs/uploads/")).await.is(202);
    let least = begun
        .has("oci-chunk-min-length")
        .then(|| begun.header("oci-chunk-min-length").parse::<usize>().expect("a number of bytes"));
    let chunk = noise(least.unwrap_or(1).max(1));
    let taken = repository.patch(&begun.location(), 0, &chunk).await.is(202);
    repository.patch(&taken.location(), chunk.len(), &chunk).await.is(202);
}

/// "Pushing a blob in chunks": status of an active upload.
pub(super) async fn an_upload_tells_how_far_it_is(repository: &Repository) {
    let upload = repository.begin().await;
    let status = repository.get_url(upload.clone()).await.is(204);
    assert!(status.header("range").starts_with("0-"));
    repository.patch(&status.location(), 0, &noise(1000)).await.is(202);
    let status = repository.get_url(upload).await.is(204);
    assert_eq!(status.last_byte(), 999);
    repository.patch(&status.location(), 1000, &noise(1)).await.is(202);
}

/// "Cancel a blob upload"
pub(super) async fn a_cancelled_upload_is_unknown(repository: &Repository) {
    let blob = Content::layer(100);
    let upload = repository.begin().await;
    let upload = repository.patch(&upload, 0, &blob.bytes).await.is(202).location();
    answer(repository.at(Method::DELETE, upload.clone())).await.is(204);
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let gone = answer(repository.at(method, upload.clone())).await;
        gone.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    let closed = repository.close(&upload, &blob.digest, b"").await;
    closed.refused(404, "BLOB_UPLOAD_UNKNOWN");
    repository.lacks(&blob.digest).await;
}

/// "Cancel a blob upload": one that no bytes came for is one all the same.
pub(super) async fn an_upload_without_bytes_can_be_cancelled(repository: &Repository) {
    let upload = repository.begin().await;
    answer(repository.at(Method::DELETE, upload.clone())).await.is(204);
    repository.get_url(upload).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

/// "Endpoints": 404 where there is no upload.
pub(super) async fn an_upload_that_nobody_began_is_unknown(repository: &Repository) {
    let mine = repository.begin().await;
    let other = repository.other();
    let elsewhere = mine.as_str().replace(&repository.name, &other.name).parse().unwrap();
    let nowhere = repository.url("blobs/uploads/00000000-0000-4000-8000-000000000000");
    let no_id = repository.url("blobs/uploads/no-such-upload");
    for url in [elsewhere, nowhere, no_id] {
        for method in [Method::GET, Method::PATCH, Method::DELETE] {
            let unknown = answer(repository.at(method, Url::clone(&url))).await;
            unknown.refused(404, "BLOB_UPLOAD_UNKNOWN");
        }
        let closed = repository.close(&url, &sha256(b"x"), b"x").await;
        closed.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    repository.get_url(mine).await.is(204);
}

/// An upload ends once.
pub(super) async fn a_closed_upload_is_unknown(repository: &Repository) {
    let blob = Content::layer(100);
    let upload = repository.begin().await;
    repository.close(&upload, &blob.digest, &blob.bytes).await.is(201);
    repository.get_url(upload.clone()).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    let again = repository.close(&upload, &blob.digest, &blob.bytes).await;
    again.refused(404, "BLOB_UPLOAD_UNKNOWN");
    repository.has(&blob).await;
}

/// Content of no bytes is content: by POST and PUT, by a single POST, by PATCH and PUT.
pub(super) async fn a_blob_without_bytes_is_pushed(repository: &Repository) {
    let blob = Content::layer(0);
    let two = repository.other();
    let closed = repository.close(&repository.begin().await, &blob.digest, b"").await;
    is_pullable(repository, &closed, &blob).await;
    is_pullable(&two, &post(&two, &blob.digest, b"").await, &blob).await;
    let three = repository.other();
    let patch = answer(three.at(Method::PATCH, three.begin().await).body("")).await.is(202);
    let closed = three.close(&patch.location(), &blob.digest, b"").await;
    is_pullable(&three, &closed, &blob).await;
}

/// "Layer Upload De-duplication": both uploads end well.
pub(super) async fn a_blob_may_be_pushed_twice_at_once(repository: &Repository) {
    let blob = Content::layer(50_000);
    let (one, other) = tokio::join!(repository.push(&blob), repository.push(&blob));
    assert_eq!((one, other), ((), ()));
    repository.push(&blob).await;
    repository.has(&blob).await;
}

/// "Resumable Push": after a broken connection the client goes on from what the registry has.
pub(super) async fn a_push_goes_on_after_the_connection_broke(repository: &Repository) {
    let blob = Content::layer(300_000);
    let upload = repository.begin().await;
    let upload = repository.patch(&upload, 0, &blob.bytes[..1000]).await.is(202).location();
    break_off(&upload, 1000, &blob.bytes).await;
    // What the registry still had in hand may be entered while this client asks.
    for _attempt in 0..100 {
        let status = repository.get_url(upload.clone()).await.is(204);
        let from = status.last_byte() + 1;
        assert!((1000..=150_000).contains(&from), "{from} bytes of 150000 that were sent");
        let taken = repository.patch(&status.location(), from, &blob.bytes[from..]).await;
        if taken.status() == 202 {
            let closed = repository.close(&taken.location(), &blob.digest, b"").await;
            return is_pullable(repository, &closed, &blob).await;
        }
        taken.is(416);
    }
    panic!("the upload never stood still");
}

/// A PATCH of all the rest whose connection ends after half of the blob.
async fn break_off(upload: &Url, from: usize, bytes: &[u8]) {
    let host = format!("{}:{}", upload.host_str().unwrap(), upload.port().unwrap());
    let mut connection = tokio::net::TcpStream::connect(&host).await.unwrap();
    let head = format!(
        "PATCH {} HTTP/1.1\r\nHost: {host}\r\nContent-Range: {from}-{}\r\n\
         Content-Length: {}\r\n\r\n",
        upload
            .query()
            .map_or(upload.path().to_owned(), |query| format!("{}?{query}", upload.path())),
        bytes.len() - 1,
        bytes.len() - from,
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&bytes[from..bytes.len() / 2]).await.unwrap();
    connection.shutdown().await.unwrap();
}
