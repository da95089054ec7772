//! Pushing, as distribution-spec 1.1.1 describes it.

use longshore_proto::{Algorithm, Digest, media_type};
use reqwest::header::{CONTENT_RANGE, LOCATION, RANGE};
use reqwest::{Method, StatusCode};

use crate::common::{TestRegistry, content, header, image_manifest, refusal, refused, sha256};

#[tokio::test]
async fn a_blob_is_pushed_in_one_request_or_two() {
    let registry = TestRegistry::start().await;
    let blob = content(100_000, 1);
    let digest = sha256(&blob);
    let post = registry
        .request(Method::POST, &format!("/v2/a/b/blobs/uploads/?digest={digest}"))
        .body(blob.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(post.status(), StatusCode::CREATED);
    assert_eq!(header(&post, LOCATION.as_str()), format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(header(&post, "docker-content-digest"), digest.to_string());

    let digest = registry.push_blob("a/b", b"second").await;
    let got = registry.get(&format!("/v2/a/b/blobs/{digest}")).await;
    assert_eq!(got.bytes().await.unwrap(), &b"second"[..]);
}

#[tokio::test]
async fn chunks_come_in_order_or_are_told_where_to_go_on() {
    let registry = TestRegistry::start().await;
    let blob = content(30_000, 2);
    let upload = registry.begin_upload("a").await;
    let patch = |range: &str, bytes: &[u8]| {
        let request = registry.request(Method::PATCH, &upload).header(CONTENT_RANGE, range);
        request.body(bytes.to_vec()).send()
    };
    let first = patch("0-9999", &blob[..10_000]).await.unwrap();
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    assert_eq!(header(&first, RANGE.as_str()), "0-9999");

    for wrong in ["0-9999", "20000-29999"] {
        let early = patch(wrong, &blob[..10_000]).await.unwrap();
        assert_eq!(early.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(header(&early, RANGE.as_str()), "0-9999");
    }
    let short = patch("10000-19999", &blob[..9_999]).await.unwrap();
    assert_eq!(refusal(short).await, refused(400, "SIZE_INVALID"));
    let garbled = patch("ten", &blob[..10]).await.unwrap();
    assert_eq!(refusal(garbled).await, refused(400, "BLOB_UPLOAD_INVALID"));

    let status = registry.get(&upload).await;
    assert_eq!(status.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&status, RANGE.as_str()), "0-9999");
    patch("10000-19999", &blob[10_000..20_000]).await.unwrap();

    let digest = sha256(&blob);
    let put = |range: &str| {
        let request = registry.request(Method::PUT, &format!("{upload}?digest={digest}"));
        request.header(CONTENT_RANGE, range).body(blob[20_000..].to_vec()).send()
    };
    let out_of_order = put("10000-19999").await.unwrap();
    assert_eq!(out_of_order.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(put("20000-29999").await.unwrap().status(), StatusCode::CREATED);
    let got = registry.get(&format!("/v2/a/blobs/{digest}")).await;
    assert!(got.bytes().await.unwrap() == blob);
    assert_eq!(refusal(registry.get(&upload).await).await, refused(404, "BLOB_UPLOAD_UNKNOWN"));
}

#[tokio::test]
async fn an_upload_goes_on_at_another_instance() {
    let registry = TestRegistry::start().await;
    let blob = content(600_000, 3);
    let upload = registry.begin_upload("a").await;
    let patch = registry.request(Method::PATCH, &upload).body(blob[..300_001].to_vec());
    patch.send().await.unwrap();

    let registry = registry.restart().await;
    let patch = registry.request(Method::PATCH, &upload).body(blob[300_001..].to_vec());
    assert_eq!(header(&patch.send().await.unwrap(), RANGE.as_str()), "0-599999");
    let digest = sha256(&blob);
    let put = registry.request(Method::PUT, &format!("{upload}?digest={digest}"));
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
    let got = registry.get(&format!("/v2/a/blobs/{digest}")).await;
    assert!(got.bytes().await.unwrap() == blob);
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_the_upload_stands() {
    let registry = TestRegistry::start().await;
    let upload = registry.begin_upload("a").await;
    let wrong = sha256(b"something else");
    let put = |digest: &Digest| {
        let request = registry.request(Method::PUT, &format!("{upload}?digest={digest}"));
        request.body("bytes").send()
    };
    let refusal_of = refusal(put(&wrong).await.unwrap()).await;
    assert_eq!(refusal_of, refused(400, "DIGEST_INVALID"));
    assert_eq!(registry.head(&format!("/v2/a/blobs/{wrong}")).await.status(), 404);
    assert_eq!(put(&sha256(b"bytes")).await.unwrap().status(), StatusCode::CREATED);

    let upload = registry.begin_upload("a").await;
    let none = registry.request(Method::PUT, &upload).send().await.unwrap();
    assert_eq!(refusal(none).await, refused(400, "DIGEST_INVALID"));
    let malformed = registry.request(Method::PUT, &format!("{upload}?digest=sha256:zz"));
    assert_eq!(refusal(malformed.send().await.unwrap()).await, refused(400, "DIGEST_INVALID"));
}

#[tokio::test]
async fn a_cancelled_upload_is_unknown() {
    let registry = TestRegistry::start().await;
    let upload = registry.begin_upload("a").await;
    registry.request(Method::PATCH, &upload).body("bytes").send().await.unwrap();
    assert_eq!(registry.delete(&upload).await.status(), StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let gone = registry.request(method, &upload).send().await.unwrap();
        assert_eq!(refusal(gone).await, refused(404, "BLOB_UPLOAD_UNKNOWN"));
    }
    let other = upload.replace("/v2/a/", "/v2/b/");
    assert_eq!(refusal(registry.get(&other).await).await, refused(404, "BLOB_UPLOAD_UNKNOWN"));
    let no_id = registry.get("/v2/a/blobs/uploads/not-an-id").await;
    assert_eq!(refusal(no_id).await, refused(404, "BLOB_UPLOAD_UNKNOWN"));
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_it_is_or_uploaded() {
    let registry = TestRegistry::start().await;
    let digest = registry.push_blob("from/here", b"layer").await;
    let mount = |query: String| {
        registry.request(Method::POST, &format!("/v2/to/there/blobs/uploads/?{query}")).send()
    };
    let nowhere = mount(format!("mount={}", sha256(b"another"))).await.unwrap();
    assert_eq!(nowhere.status(), StatusCode::ACCEPTED);
    let missing = mount(format!("mount={digest}&from=else/where")).await.unwrap();
    assert_eq!(missing.status(), StatusCode::ACCEPTED);
    assert!(header(&missing, LOCATION.as_str()).starts_with("/v2/to/there/blobs/uploads/"));
    assert_eq!(registry.head(&format!("/v2/to/there/blobs/{digest}")).await.status(), 404);

    let mounted = mount(format!("mount={digest}&from=from%2Fhere")).await.unwrap();
    assert_eq!(mounted.status(), StatusCode::CREATED);
    assert_eq!(header(&mounted, LOCATION.as_str()), format!("/v2/to/there/blobs/{digest}"));
    let from_anywhere = format!("/v2/to/others/blobs/uploads/?mount={digest}");
    let mounted = registry.request(Method::POST, &from_anywhere).send().await.unwrap();
    assert_eq!(mounted.status(), StatusCode::CREATED);
    for repository in ["to/there", "to/others"] {
        let got = registry.get(&format!("/v2/{repository}/blobs/{digest}")).await;
        assert_eq!(got.bytes().await.unwrap(), &b"layer"[..]);
    }
}

#[tokio::test]
async fn sha512_names_blobs_and_manifests_as_well() {
    let registry = TestRegistry::start().await;
    let blob = content(300_000, 4);
    let digest = Digest::of(Algorithm::Sha512, &blob);
    // The algorithm comes with the last request only.
    let upload = registry.begin_upload("a").await;
    registry.request(Method::PATCH, &upload).body(blob.clone()).send().await.unwrap();
    let put = registry.request(Method::PUT, &format!("{upload}?digest={digest}"));
    let put = put.send().await.unwrap();
    assert_eq!(header(&put, "docker-content-digest"), digest.to_string());
    let got = registry.get(&format!("/v2/a/blobs/{digest}")).await;
    assert!(got.bytes().await.unwrap() == blob);

    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{digest}","size":300000}},"layers":[]}}"#
    );
    let name = Digest::of(Algorithm::Sha512, manifest.as_bytes());
    let put =
        registry.put_manifest("a", &name.to_string(), media_type::OCI_MANIFEST, &manifest).await;
    assert_eq!(put.status(), StatusCode::CREATED);
    let got = registry.get(&format!("/v2/a/manifests/{name}")).await;
    assert_eq!(header(&got, "docker-content-digest"), name.to_string());
    assert_eq!(got.text().await.unwrap(), manifest);
}

#[tokio::test]
async fn a_manifest_names_only_what_the_repository_has() {
    let registry = TestRegistry::start().await;
    let (config, layer) = (b"{}".as_slice(), b"layer".as_slice());
    let manifest = image_manifest(config, &[layer]);
    let put = async || registry.put_manifest("a", "v1", media_type::OCI_MANIFEST, &manifest).await;
    registry.push_blob("a", config).await;
    registry.push_blob("other", layer).await;
    assert_eq!(refusal(put().await).await, refused(404, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(registry.head("/v2/a/manifests/v1").await.status(), 404);
    registry.push_blob("a", layer).await;
    let created = put().await;
    let digest = sha256(manifest.as_bytes());
    assert_eq!(created.status(), StatusCode::CREATED);
    assert_eq!(header(&created, "docker-content-digest"), digest.to_string());
    assert_eq!(header(&created, LOCATION.as_str()), format!("/v2/a/manifests/{digest}"));

    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{}","size":1}}]}}"#,
        sha256(b"no such manifest")
    );
    let put = registry.put_manifest("a", "index", media_type::OCI_INDEX, &index).await;
    assert_eq!(refusal(put).await, refused(404, "MANIFEST_BLOB_UNKNOWN"));
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{digest}","size":{}}}]}}"#,
        manifest.len()
    );
    let put = registry.put_manifest("a", "index", media_type::OCI_INDEX, &index).await;
    assert_eq!(put.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn layers_that_must_not_be_distributed_may_be_missing() {
    let registry = TestRegistry::start().await;
    registry.push_blob("a", b"{}").await;
    let foreign = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    for media_type_of_layer in foreign {
        let manifest = image_manifest(b"{}", &[b"elsewhere"])
            .replace("application/vnd.oci.image.layer.v1.tar+gzip", media_type_of_layer);
        let put = registry.put_manifest("a", "v1", media_type::OCI_MANIFEST, &manifest).await;
        assert_eq!(put.status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn manifests_that_are_none_are_refused() {
    let registry = TestRegistry::start().await;
    registry.push_blob("a", b"{}").await;
    let put = async |reference: &str, media_type: &str, content: &str| {
        refusal(registry.put_manifest("a", reference, media_type, content).await).await
    };
    let invalid = refused(400, "MANIFEST_INVALID");
    assert_eq!(put("v1", media_type::OCI_MANIFEST, "no json").await, invalid);
    assert_eq!(put("v1", media_type::OCI_MANIFEST, "{}").await, invalid);
    let image = image_manifest(b"{}", &[]);
    assert_eq!(put("v1", media_type::OCI_INDEX, &image).await, invalid);
    let wrong_size = image.replace(r#""size":2"#, r#""size":3"#);
    assert_eq!(put("v1", media_type::OCI_MANIFEST, &wrong_size).await, invalid);
    let elsewhere = sha256(b"elsewhere").to_string();
    let digest_invalid = refused(400, "DIGEST_INVALID");
    assert_eq!(put(&elsewhere, media_type::OCI_MANIFEST, &image).await, digest_invalid);
    assert_eq!(put("sha256:zz", media_type::OCI_MANIFEST, &image).await, digest_invalid);
    assert_eq!(put(".hidden", media_type::OCI_MANIFEST, &image).await, invalid);
    let large = " ".repeat(4 * 1024 * 1024 + 1);
    let too_large = refused(413, "SIZE_INVALID");
    assert_eq!(put("v1", media_type::OCI_MANIFEST, &large).await, too_large);
    let just_fits = format!("{image}{}", " ".repeat(4 * 1024 * 1024 - image.len()));
    let fits = registry.put_manifest("a", "v1", media_type::OCI_MANIFEST, &just_fits).await;
    assert_eq!(fits.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_subject_is_acknowledged_and_lists_its_referrers() {
    let registry = TestRegistry::start().await;
    let subject = registry.push_image("a", "v1", &[b"layer"]).await;
    let signature = |artifact_type: &str| {
        let (digest, size) = (sha256(b"{}"), 2);
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest}","artifactType":"{artifact_type}",
               "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{digest}","size":{size}}},
               "layers":[],"annotations":{{"by":"me"}},
               "subject":{{"mediaType":"{manifest}","digest":"{subject}","size":1}}}}"#,
            manifest = media_type::OCI_MANIFEST
        )
    };
    registry.push_blob("a", b"{}").await;
    let signatures = [signature("type/one"), signature("type/two")];
    for manifest in &signatures {
        let name = sha256(manifest.as_bytes()).to_string();
        let put = registry.put_manifest("a", &name, media_type::OCI_MANIFEST, manifest).await;
        assert_eq!(header(&put, "oci-subject"), subject.to_string());
    }
    let list = async |query: &str| {
        let got = registry.get(&format!("/v2/a/referrers/{subject}{query}")).await;
        assert_eq!(header(&got, "content-type"), media_type::OCI_INDEX);
        let applied = got.headers().contains_key("oci-filters-applied");
        let index: serde_json::Value = got.json().await.unwrap();
        (index["manifests"].as_array().unwrap().clone(), applied)
    };
    let (all, applied) = list("").await;
    assert_eq!((all.len(), applied), (2, false));
    let (one, applied) = list("?artifactType=type%2Fone").await;
    assert_eq!((one.len(), applied), (1, true));
    assert_eq!(one[0]["artifactType"], "type/one");
    assert_eq!(one[0]["annotations"]["by"], "me");

    let gone = sha256(signatures[0].as_bytes());
    registry.delete(&format!("/v2/a/manifests/{gone}")).await;
    assert_eq!(list("").await.0.len(), 1);
    let nobody = sha256(b"nobody");
    let none = registry.get(&format!("/v2/unknown/referrers/{nobody}")).await;
    assert_eq!(none.status(), StatusCode::OK);
    let malformed = registry.get("/v2/a/referrers/sha256:zz").await;
    assert_eq!(refusal(malformed).await, refused(400, "DIGEST_INVALID"));
}

/// Sends this much of a request that announces more, and ends the connection.
async fn break_off(registry: &TestRegistry, method: &str, path: &str, sent: &[u8]) {
    use tokio::io::AsyncWriteExt as _;
    let mut connection = tokio::net::TcpStream::connect(registry.address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(sent).await.unwrap();
    connection.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_came_of_a_broken_patch_is_kept() {
    let registry = TestRegistry::start().await;
    let blob = content(30_000, 5);
    let upload = registry.begin_upload("a").await;
    break_off(&registry, "PATCH", &upload, &blob[..20_000]).await;
    let arrived = async {
        loop {
            let status = registry.get(&upload).await;
            if header(&status, RANGE.as_str()) == "0-19999" {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), arrived).await.unwrap();
    let patch = registry.request(Method::PATCH, &upload).header(CONTENT_RANGE, "20000-29999");
    let patch = patch.body(blob[20_000..].to_vec()).send().await.unwrap();
    assert_eq!(patch.status(), StatusCode::ACCEPTED);
    let digest = sha256(&blob);
    let put = registry.request(Method::PUT, &format!("{upload}?digest={digest}"));
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_broken_put_can_be_sent_again_as_it_was() {
    let registry = TestRegistry::start().await;
    let blob = content(30_000, 6);
    let (upload, digest) = (registry.begin_upload("a").await, sha256(&blob));
    let close = format!("{upload}?digest={digest}");
    break_off(&registry, "PUT", &close, &blob[..20_000]).await;
    let gone = async {
        while registry.metric("longshore_registry_received_bytes_total").await < 20_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.unwrap();
    let put = registry.request(Method::PUT, &close).body(blob.clone()).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap());
    assert!(registry.get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap() == blob);
}
