//! distribution-spec 1.1.1, "Listing Referrers".

use serde_json::{Value, json};

use super::subject::{Answer, Content, IMAGE, INDEX, Repository, sha256, with_query};

/// A subject with these artifacts about it, whose blobs are there.
async fn pushed(repository: &Repository, types: &[&str]) -> (Content, Vec<Content>) {
    let subject = repository.push_image("subject").await;
    repository.push(&Content::empty()).await;
    let mut artifacts = Vec::new();
    for artifact_type in types {
        let artifact = Content::artifact(artifact_type, &subject);
        repository.put_manifest(&artifact.digest, &artifact).await.is(201);
        artifacts.push(artifact);
    }
    (subject, artifacts)
}

async fn referrers(repository: &Repository, digest: &str, query: &str) -> Answer {
    let list = repository.get(&format!("referrers/{digest}{query}")).await.is(200);
    assert_eq!(list.header("content-type"), INDEX);
    let index = list.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
    list
}

#[track_caller]
fn descriptors(list: &Answer) -> Vec<Value> {
    list.json()["manifests"].as_array().expect("a list of manifests").clone()
}

#[track_caller]
fn digests(list: &Answer) -> Vec<String> {
    let digest = |found: &Value| found["digest"].as_str().expect("a digest").to_owned();
    let mut digests: Vec<String> = descriptors(list).iter().map(digest).collect();
    digests.sort();
    digests
}

fn sorted(artifacts: &[Content]) -> Vec<String> {
    let mut digests: Vec<String> = artifacts.iter().map(|one| one.digest.clone()).collect();
    digests.sort();
    digests
}

/// An index of the descriptors of all that name the subject.
pub(super) async fn every_referrer_of_a_subject_is_listed(repository: &Repository) {
    let (subject, artifacts) = pushed(repository, &["a/one", "a/two", "a/two"]).await;
    let list = referrers(repository, &subject.digest, "").await;
    assert_eq!(digests(&list), sorted(&artifacts));
    assert!(!list.has("oci-filters-applied"));
    for descriptor in descriptors(&list) {
        let of = artifacts.iter().find(|one| descriptor["digest"] == one.digest).unwrap();
        assert_eq!(descriptor["mediaType"], IMAGE);
        assert_eq!(descriptor["size"], of.bytes.len());
    }
}

/// An empty index where nothing names the digest, never 404.
pub(super) async fn a_subject_without_referrers_has_an_empty_list(repository: &Repository) {
    let image = repository.push_image("v1").await;
    let unknown = sha256(b"nobody pushed this");
    for digest in [&image.digest, &unknown] {
        assert!(descriptors(&referrers(repository, digest, "").await).is_empty());
    }
    assert!(descriptors(&referrers(&repository.other(), &unknown, "").await).is_empty());
}

/// 400 for what is no digest.
pub(super) async fn referrers_of_what_is_no_digest_are_refused(repository: &Repository) {
    for malformed in ["latest", "sha256:zz", "sha256:", &sha256(b"x")[..70]] {
        let refused = repository.get(&format!("referrers/{malformed}")).await;
        refused.refused(400, "DIGEST_INVALID");
    }
}

/// `artifactType`, annotations; the config's type stands in for an image, nothing for an index.
pub(super) async fn a_referrer_is_described_as_it_is(repository: &Repository) {
    let (subject, _) = pushed(repository, &[]).await;
    let config = Content::new("application/vnd.example.config", "{}");
    let base = json!({"schemaVersion": 2, "subject": subject.descriptor()});
    let of = |fields: Value| {
        let mut manifest = base.clone();
        manifest.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Content::manifest(manifest)
    };
    let typed = of(json!({
        "mediaType": IMAGE, "artifactType": "application/vnd.example.own",
        "config": Content::empty().descriptor(), "layers": [],
        "annotations": {"org.example.one": "1", "org.example.two": ""},
    }));
    let untyped = of(json!({"mediaType": IMAGE, "config": config.descriptor(), "layers": []}));
    let blank = of(json!({
        "mediaType": IMAGE, "artifactType": "", "config": config.descriptor(), "layers": [],
    }));
    let index = of(json!({"mediaType": INDEX, "manifests": []}));
    let typed_index = of(json!({
        "mediaType": INDEX, "artifactType": "application/vnd.example.list", "manifests": [],
        "annotations": {"a": "b"},
    }));
    for manifest in [&typed, &untyped, &blank, &index, &typed_index] {
        let put = repository.put_manifest(&manifest.digest, manifest).await.is(201);
        assert_eq!(put.header("oci-subject"), subject.digest);
    }
    let list = descriptors(&referrers(repository, &subject.digest, "").await);
    assert_eq!(list.len(), 5);
    let described = |manifest: &Content| {
        let found = list.iter().find(|found| found["digest"] == manifest.digest).unwrap();
        assert_eq!(found["mediaType"], manifest.media_type);
        (found["artifactType"].clone(), found["annotations"].clone())
    };
    let annotations = json!({"org.example.one": "1", "org.example.two": ""});
    assert_eq!(described(&typed), (json!("application/vnd.example.own"), annotations));
    assert_eq!(described(&untyped).0, json!("application/vnd.example.config"));
    assert_eq!(described(&blank).0, json!("application/vnd.example.config"));
    assert_eq!(described(&index).0, Value::Null);
    let typed_index = described(&typed_index);
    assert_eq!(typed_index, (json!("application/vnd.example.list"), json!({"a": "b"})));
}

/// `artifactType` filters, and `OCI-Filters-Applied` says so.
pub(super) async fn referrers_are_filtered_by_their_type(repository: &Repository) {
    let types = ["application/vnd.one+json", "a/two", "application/vnd.one+json"];
    let (subject, artifacts) = pushed(repository, &types).await;
    let path = repository.url(&format!("referrers/{}", subject.digest));
    let filtered = async |artifact_type: &str| {
        let url = with_query(&path, "artifactType", artifact_type);
        let list = repository.get_url(url).await.is(200);
        assert_eq!(list.header("content-type"), INDEX);
        assert_eq!(list.header("oci-filters-applied"), "artifactType");
        digests(&list)
    };
    let ones = sorted(&[artifacts[0].clone(), artifacts[2].clone()]);
    assert_eq!(filtered(types[0]).await, ones);
    assert_eq!(filtered("a/two").await, [artifacts[1].digest.clone()]);
    assert_eq!(filtered("a/three").await, [""; 0]);
}

/// `Link` where a list has more than one page; every page is an index.
pub(super) async fn pages_of_referrers_lead_to_each_other(repository: &Repository) {
    let (subject, artifacts) = pushed(repository, &["a/b", "a/c", "a/b", "a/b", "a/c"]).await;
    for (query, expected) in [
        ("?n=2", sorted(&artifacts)),
        ("?n=1", sorted(&artifacts)),
        ("?n=1&artifactType=a/c", sorted(&[artifacts[1].clone(), artifacts[4].clone()])),
    ] {
        let mut page = referrers(repository, &subject.digest, query).await;
        let mut found = digests(&page);
        while let Some(next) = page.next() {
            page = repository.get_url(next).await.is(200);
            assert_eq!(page.header("content-type"), INDEX);
            assert_eq!(page.has("oci-filters-applied"), query.contains("artifactType"));
            found.extend(digests(&page));
        }
        found.sort();
        assert_eq!(found, expected, "{query}");
    }
}

/// "pushed in either order": referrers of what comes later.
pub(super) async fn referrers_may_come_before_their_subject(repository: &Repository) {
    repository.push(&Content::empty()).await;
    let config = Content::config();
    let subject = Content::image(&config, &[]);
    let artifact = Content::artifact("a/b", &subject);
    repository.put_manifest("early", &artifact).await.is(201);
    let before = referrers(repository, &subject.digest, "").await;
    assert_eq!(digests(&before), std::slice::from_ref(&artifact.digest));
    repository.push(&config).await;
    repository.put_manifest("subject", &subject).await.is(201);
    let after = referrers(repository, &subject.digest, "").await;
    assert_eq!(digests(&after), [artifact.digest]);
}

/// A referrer is listed once, however often it is pushed, and by digest as by tag.
pub(super) async fn a_referrer_that_is_pushed_again_is_listed_once(repository: &Repository) {
    let (subject, artifacts) = pushed(repository, &["a/b"]).await;
    for reference in ["one", "two", &artifacts[0].digest] {
        repository.put_manifest(reference, &artifacts[0]).await.is(201);
    }
    assert_eq!(digests(&referrers(repository, &subject.digest, "").await), sorted(&artifacts));
}

/// What is deleted names nothing any more.
pub(super) async fn a_deleted_referrer_is_not_listed(repository: &Repository) {
    let (subject, artifacts) = pushed(repository, &["a/b", "a/b"]).await;
    repository.delete(&format!("manifests/{}", artifacts[0].digest)).await.is(202);
    let left = referrers(repository, &subject.digest, "").await;
    assert_eq!(digests(&left), [artifacts[1].digest.clone()]);
    repository.put_manifest(&artifacts[0].digest, &artifacts[0]).await.is(201);
    assert_eq!(digests(&referrers(repository, &subject.digest, "").await), sorted(&artifacts));
}

/// The referrers of a subject outlive it.
pub(super) async fn a_deleted_subject_keeps_its_referrers(repository: &Repository) {
    let (subject, artifacts) = pushed(repository, &["a/b"]).await;
    repository.delete(&format!("manifests/{}", subject.digest)).await.is(202);
    assert_eq!(digests(&referrers(repository, &subject.digest, "").await), sorted(&artifacts));
}

/// A list is the repository's own.
pub(super) async fn referrers_of_another_repository_are_not_listed(repository: &Repository) {
    let (subject, artifacts) = pushed(repository, &["a/b"]).await;
    let other = repository.other();
    assert!(descriptors(&referrers(&other, &subject.digest, "").await).is_empty());
    assert_eq!(digests(&referrers(repository, &subject.digest, "").await), sorted(&artifacts));
}
