//! distribution-spec 1.1.1, "Pushing Manifests", with what image-spec 1.1 says of manifests.

use http::Method;
use serde_json::json;

use super::subject::{Content, IMAGE, INDEX, Repository, answer, sha256};

const MIB: usize = 1024 * 1024;

/// 201, Location and the digest.
pub(super) async fn a_manifest_is_pushed_by_tag(repository: &Repository) {
    let image = a_manifest(repository).await;
    let put = repository.put_manifest("v1", &image).await.is(201);
    assert_eq!(put.header("docker-content-digest"), image.digest);
    assert_eq!(repository.get_url(put.location()).await.is(200).body, image.bytes);
}

/// A manifest whose blobs are there.
async fn a_manifest(repository: &Repository) -> Content {
    let (config, layer) = (Content::config(), Content::layer(50));
    repository.push(&config).await;
    repository.push(&layer).await;
    Content::image(&config, &[&layer])
}

/// 201, Location and the digest.
pub(super) async fn a_manifest_is_pushed_by_digest(repository: &Repository) {
    let image = a_manifest(repository).await;
    let put = repository.put_manifest(&image.digest, &image).await.is(201);
    assert_eq!(put.header("docker-content-digest"), image.digest);
    assert_eq!(repository.get_url(put.location()).await.is(200).body, image.bytes);
    repository.get(&format!("manifests/{}", image.digest)).await.is(200);
}

/// The digest in the path has to be the content's.
pub(super) async fn a_manifest_under_anothers_digest_is_refused(repository: &Repository) {
    let (image, other) = (a_manifest(repository).await, sha256(b"another"));
    repository.put_manifest(&other, &image).await.refused(400, "DIGEST_INVALID");
    for digest in [other, image.digest] {
        repository.get(&format!("manifests/{digest}")).await.is(404);
    }
}

/// A tag names one manifest at a time; the others stay.
pub(super) async fn a_tag_moves_to_what_was_pushed_last(repository: &Repository) {
    let (old, new) = (repository.push_image("v1").await, repository.push_image("v1").await);
    assert_eq!(repository.get("manifests/v1").await.is(200).body, new.bytes);
    let still = repository.get(&format!("manifests/{}", old.digest)).await.is(200);
    assert_eq!(still.body, old.bytes);
    repository.put_manifest("v1", &old).await.is(201);
    assert_eq!(repository.get("manifests/v1").await.is(200).body, old.bytes);
}

/// "Registries SHOULD ignore" a media type's parameters.
pub(super) async fn parameters_of_a_media_type_are_ignored(repository: &Repository) {
    let image = a_manifest(repository).await;
    let put = repository.request(Method::PUT, "manifests/v1");
    let put = put.header("content-type", format!("{IMAGE}; charset=utf-8"));
    answer(put.body(image.bytes)).await.is(201);
    assert_eq!(repository.get("manifests/v1").await.is(200).header("content-type"), IMAGE);
}

/// image-spec: `mediaType` should be there, and need not.
pub(super) async fn a_manifest_need_not_name_its_own_type(repository: &Repository) {
    let config = Content::config();
    repository.push(&config).await;
    let text = json!({"schemaVersion": 2, "config": config.descriptor(), "layers": []});
    repository.put_manifest("v1", &Content::new(IMAGE, text.to_string())).await.is(201);
    assert_eq!(repository.get("manifests/v1").await.is(200).header("content-type"), IMAGE);
    let index = json!({"schemaVersion": 2, "manifests": []});
    repository.put_manifest("v2", &Content::new(INDEX, index.to_string())).await.is(201);
    assert_eq!(repository.get("manifests/v2").await.is(200).header("content-type"), INDEX);
}

/// "clients MUST set" the type that the manifest names.
pub(super) async fn a_manifest_of_another_type_than_it_says_is_refused(repository: &Repository) {
    let image = a_manifest(repository).await;
    let typed = Content { media_type: INDEX.to_owned(), ..image };
    repository.put_manifest("v1", &typed).await.refused(400, "MANIFEST_INVALID");
    repository.get("manifests/v1").await.is(404);
}

/// "at least 4 megabytes"; 413 beyond the registry's limit.
pub(super) async fn a_manifest_of_four_mebibytes_is_taken_and_more_is_413(repository: &Repository) {
    let image = a_manifest(repository).await;
    let padded = |length: usize| {
        let mut bytes = image.bytes.clone();
        bytes.resize(length, b' ');
        Content::new(IMAGE, bytes)
    };
    let (fits, too_large) = (padded(4 * MIB), padded(4 * MIB + 1));
    repository.put_manifest("large", &fits).await.is(201);
    assert!(repository.get("manifests/large").await.is(200).body == fits.bytes);
    repository.put_manifest("larger", &too_large).await.refused(413, "SIZE_INVALID");
    repository.get("manifests/larger").await.is(404);
}

/// "at least 4 megabytes", of JSON.
pub(super) async fn a_manifest_of_many_annotations_is_taken(repository: &Repository) {
    let image = a_manifest(repository).await;
    let mut json: serde_json::Value = serde_json::from_slice(&image.bytes).unwrap();
    let annotation = |number| (format!("org.example.{number}"), json!("A".repeat(10_000)));
    json["annotations"] = (0..390).map(annotation).collect();
    let large = Content::manifest(json);
    assert!(large.bytes.len() > 3_900_000);
    repository.put_manifest("annotated", &large).await.is(201);
    assert!(repository.get("manifests/annotated").await.is(200).body == large.bytes);
}

/// RFC 9112, 7.1: a client that streams does not say how long the manifest is.
pub(super) async fn a_manifest_of_unknown_length_is_taken(repository: &Repository) {
    let image = a_manifest(repository).await;
    let halves: Vec<_> =
        image.bytes.chunks(100).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
    let body = reqwest::Body::wrap_stream(futures::stream::iter(halves));
    let put = repository.request(Method::PUT, "manifests/v1").header("content-type", IMAGE);
    answer(put.body(body)).await.is(201);
    assert_eq!(repository.get("manifests/v1").await.is(200).body, image.bytes);
}

/// image-spec, "Descriptors": `data` is the content once more; the blobs are pushed all the same.
pub(super) async fn descriptors_may_hold_their_content(repository: &Repository) {
    let (config, layer) = (Content::config(), Content::new("text/plain", "a file"));
    repository.push(&config).await;
    repository.push(&layer).await;
    let with_data = |content: &Content, data: &str| {
        let mut descriptor = content.descriptor();
        descriptor["data"] = json!(data);
        descriptor
    };
    let image = Content::manifest(json!({
        "schemaVersion": 2, "mediaType": IMAGE, "config": config.descriptor(),
        "layers": [with_data(&layer, "YSBmaWxl")],
    }));
    repository.put_manifest("v1", &image).await.is(201);
    let index = Content::manifest(json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [with_data(&image, "e30=")],
    }));
    repository.put_manifest("list", &index).await.is(201);
    assert_eq!(repository.get("manifests/list").await.is(200).body, index.bytes);
}

/// Beyond 1.1.1, the next version's "Pushing Manifests": the tags of a push by digest are
/// acknowledged, ten at least are taken, and too many are 414.
pub(super) async fn the_tags_of_a_digest_are_acknowledged(repository: &Repository) {
    let image = a_manifest(repository).await;
    let tags: Vec<String> = (0..10).map(|number| format!("t{number}")).collect();
    let reference = format!("{}?tag={}", image.digest, tags.join("&tag="));
    let put = repository.put_manifest(&reference, &image).await.is(201);
    assert_eq!(put.all("oci-tag"), tags);
    let list = repository.get("tags/list").await.is(200).json();
    assert_eq!(list["tags"], json!(tags));
    let many = format!("{}{}", image.digest, "&tag=x".repeat(100).replacen('&', "?", 1));
    repository.put_manifest(&many, &image).await.is(414);
    repository.get("manifests/x").await.is(404);
    let none = repository.put_manifest("v1?tag=v2", &image).await.is(201);
    assert!(!none.has("oci-tag"));
    repository.get("manifests/v2").await.is(404);
}

/// Code MANIFEST_INVALID.
pub(super) async fn what_is_no_manifest_is_refused(repository: &Repository) {
    let config = Content::config();
    repository.push(&config).await;
    let (config, digest) = (config.descriptor(), config.digest);
    let descriptor =
        |digest: &str, size: i64| json!({"mediaType": "a/b", "digest": digest, "size": size});
    let image = |config, layers| json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers});
    let texts = [
        String::new(),
        "no JSON".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        json!({"schemaVersion": 2, "mediaType": IMAGE}).to_string(),
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config}).to_string(),
        json!({"schemaVersion": 2, "mediaType": IMAGE, "layers": []}).to_string(),
        json!({"schemaVersion": 1, "mediaType": IMAGE, "config": config, "layers": []}).to_string(),
        json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []}).to_string(),
        image(descriptor("sha256:zz", 1), json!([])).to_string(),
        image(descriptor("latest", 1), json!([])).to_string(),
        image(descriptor(&digest, -1), json!([])).to_string(),
        image(descriptor(&digest, 1), json!([])).to_string(),
        image(config.clone(), json!({})).to_string(),
        image(config.clone(), json!(["a layer"])).to_string(),
        image(config.clone(), json!([])).to_string().trim_end_matches('}').to_owned(),
    ];
    for text in texts {
        let manifest = Content::new(IMAGE, text.clone());
        let (refused, codes) = repository.put_manifest("v1", &manifest).await.codes();
        assert_eq!((refused.status(), codes[0].as_str()), (400, "MANIFEST_INVALID"), "{text}");
    }
    repository.get("manifests/v1").await.is(404);
}

/// A registry that refuses a manifest with missing blobs says MANIFEST_BLOB_UNKNOWN.
pub(super) async fn a_manifest_of_missing_blobs_is_refused(repository: &Repository) {
    let (config, layer) = (Content::config(), Content::layer(50));
    let image = Content::image(&config, &[&layer]);
    repository.other().push(&layer).await;
    for there in [&config, &layer] {
        let (refused, codes) = repository.put_manifest("v1", &image).await.codes();
        refused.one_of(&[400, 404]);
        assert!(codes.iter().all(|code| code == "MANIFEST_BLOB_UNKNOWN"), "{codes:?}");
        repository.get("manifests/v1").await.is(404);
        repository.get(&format!("manifests/{}", image.digest)).await.is(404);
        repository.push(there).await;
    }
    repository.put_manifest("v1", &image).await.is(201);
}

/// image-spec, "Image Index"; an index may name another.
pub(super) async fn an_index_names_manifests_and_other_indexes(repository: &Repository) {
    let (one, other) = (repository.push_image("one").await, repository.push_image("other").await);
    let inner = Content::index(&[&one, &other]);
    repository.put_manifest("inner", &inner).await.is(201);
    let outer = Content::index(&[&inner, &one]);
    repository.put_manifest(&outer.digest, &outer).await.is(201);
    let got = repository.get(&format!("manifests/{}", outer.digest)).await.is(200);
    assert_eq!((&got.body[..], got.header("content-type")), (&outer.bytes[..], INDEX));
    let empty = Content::index(&[]);
    repository.put_manifest("empty", &empty).await.is(201);
}

/// "MAY reject", and then with MANIFEST_BLOB_UNKNOWN.
pub(super) async fn an_index_of_missing_manifests_is_taken_or_refused_by_code(
    repository: &Repository,
) {
    let missing = Content::index(&[]);
    let index = Content::index(&[&repository.push_image("v1").await, &missing]);
    let put = repository.put_manifest("index", &index).await;
    if put.status() == 201 {
        repository.get("manifests/index").await.is(200);
        return;
    }
    let (refused, codes) = put.codes();
    refused.one_of(&[400, 404]);
    assert!(codes.iter().all(|code| code == "MANIFEST_BLOB_UNKNOWN"), "{codes:?}");
    repository.get("manifests/index").await.is(404);
}

/// image-spec: a type that is unknown is no error; build caches are indexes of layers.
pub(super) async fn an_index_may_name_what_is_no_manifest(repository: &Repository) {
    let (layer, cache) = (Content::layer(80), Content::new("application/vnd.example.cache", "{}"));
    repository.push(&layer).await;
    repository.push(&cache).await;
    repository.put_manifest("cache", &Content::index(&[&layer, &cache])).await.is(201);
    repository.get("manifests/cache").await.is(200);
}

/// image-spec, "Guidelines for Artifact Usage".
pub(super) async fn an_artifact_has_a_type_and_an_empty_config(repository: &Repository) {
    let (empty, file) = (Content::empty(), Content::new("text/plain", "a file"));
    repository.push(&empty).await;
    repository.push(&file).await;
    let mut config = empty.descriptor();
    config["data"] = json!("e30=");
    let artifact = Content::manifest(json!({
        "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "application/vnd.example.file",
        "config": config, "layers": [file.descriptor()], "annotations": {"a": "b"},
    }));
    repository.put_manifest("artifact", &artifact).await.is(201);
    assert_eq!(repository.get("manifests/artifact").await.is(200).body, artifact.bytes);
    let list = Content::manifest(json!({
        "schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/vnd.example.list",
        "manifests": [artifact.descriptor()],
    }));
    repository.put_manifest("list", &list).await.is(201);
}

/// "Pushing Manifests with Subject": the subject need not be there.
pub(super) async fn a_manifest_of_a_missing_subject_is_taken(repository: &Repository) {
    repository.push(&Content::empty()).await;
    let subject = Content::layer(9);
    let subject = Content { media_type: IMAGE.to_owned(), ..subject };
    let artifact = Content::artifact("application/vnd.example", &subject);
    let put = repository.put_manifest(&artifact.digest, &artifact).await.is(201);
    assert_eq!(put.header("oci-subject"), subject.digest);
    repository.get(&format!("manifests/{}", artifact.digest)).await.is(200);
}

/// "Pushing Manifests with Subject": the header tells that the subject was seen, and nothing else.
pub(super) async fn only_a_subject_is_acknowledged(repository: &Repository) {
    let image = a_manifest(repository).await;
    assert!(!repository.put_manifest("v1", &image).await.is(201).has("oci-subject"));
    repository.push(&Content::empty()).await;
    let artifact = Content::artifact("application/vnd.example", &image);
    let put = repository.put_manifest("about", &artifact).await.is(201);
    assert_eq!(put.header("oci-subject"), image.digest);
    let list = Content::manifest(json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [image.descriptor()],
        "subject": image.descriptor(),
    }));
    let put = repository.put_manifest("list", &list).await.is(201);
    assert_eq!(put.header("oci-subject"), image.digest);
}

/// image-spec, "Extensibility": what is unknown is kept and no error.
pub(super) async fn fields_that_nobody_knows_are_no_error(repository: &Repository) {
    let config = Content::config();
    repository.push(&config).await;
    let mut descriptor = config.descriptor();
    descriptor["org.example.own"] = json!([1, {"a": null}]);
    let manifest = Content::manifest(json!({
        "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor, "layers": [],
        "org.example": {"deep": [[]]}, "annotations": {},
    }));
    repository.put_manifest("v1", &manifest).await.is(201);
    assert_eq!(repository.get("manifests/v1").await.is(200).body, manifest.bytes);
}

/// image-spec, "Non-Distributable Layers": they need not be pushed.
pub(super) async fn layers_that_must_not_be_distributed_may_be_missing(repository: &Repository) {
    let config = Content::config();
    repository.push(&config).await;
    for form in ["tar", "tar+gzip", "tar+zstd"] {
        let mut layer = Content::layer(70).descriptor();
        layer["mediaType"] =
            json!(format!("application/vnd.oci.image.layer.nondistributable.v1.{form}"));
        layer["urls"] = json!(["https://example.com/layer"]);
        let image = Content::manifest(json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": config.descriptor(),
            "layers": [layer],
        }));
        repository.put_manifest("windows", &image).await.is(201);
        assert_eq!(repository.get("manifests/windows").await.is(200).body, image.bytes);
    }
}

/// "Pulling manifests": a reference is a digest or a tag and nothing else.
pub(super) async fn what_is_neither_tag_nor_digest_is_refused(repository: &Repository) {
    let image = a_manifest(repository).await;
    for digest in
        ["sha256:zz", "sha256:", &sha256(b"x")[..70], "md5:d41d8cd98f00b204e9800998ecf8427e"]
    {
        repository.put_manifest(digest, &image).await.refused(400, "DIGEST_INVALID");
        repository.get(&format!("manifests/{digest}")).await.one_of(&[400, 404]);
    }
    let long = "t".repeat(129);
    for tag in [".hidden", "-x", "a+b", "a%20b", &long] {
        let put = repository.put_manifest(tag, &image).await;
        put.refused(400, "MANIFEST_INVALID");
        repository.get(&format!("manifests/{tag}")).await.one_of(&[400, 404]);
    }
}

/// "Pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
pub(super) async fn every_tag_of_the_grammar_is_taken(repository: &Repository) {
    let image = a_manifest(repository).await;
    let long = "T".repeat(128);
    for tag in ["a", "_", "0", "A.b-C_d", "sha256-abc", "v1..2--3__", "latest", &long] {
        repository.put_manifest(tag, &image).await.is(201);
        assert_eq!(repository.get(&format!("manifests/{tag}")).await.is(200).body, image.bytes);
    }
}
