//! Plans: everything that an image is made of, named and verified.

use super::*;

#[tokio::test]
async fn a_plan_names_and_verifies_everything() {
    let registry = TestRegistry::start().await;
    let (small, large) = (content(500, 1), content(3_000_000, 2));
    let image = registry.push_image("a", "v1", &[&large, &small]).await;
    let node = Node::join(&registry).await;
    let events = node.plan(vec![item(7, "a", Wanted::Tag("v1".into()))]).await.remove(&7).unwrap();
    assert_eq!(kinds(&events), "manifest inline inline layer layer statement finished");

    let Event::Manifest(manifest) = &events[0] else { unreachable!() };
    assert_eq!(sha256(&manifest.content), image);
    assert_eq!((manifest.tag.as_str(), manifest.stale), ("v1", false));
    assert!(manifest.fresh_ms > 0);
    let Event::Blob(inline) = &events[2] else { unreachable!() };
    assert_eq!(inline.content, small);

    let Event::Layer(layer) = &events[3] else { unreachable!() };
    assert_eq!((layer.index, layer.forms[0].kind.as_str()), (0, "blob"));
    let list = layer.forms[0].list.as_ref().unwrap();
    let list = SignedPieceList::from_wire(list, &registry.keys()).unwrap().list;
    assert_eq!(list, PieceList::of(longshore_proto::Algorithm::Sha256, &large, 262_144).unwrap());
    let last = PieceIndex(list.pieces() - 1);
    let range = list.range(last).unwrap();
    assert_eq!(list.verify(last, &large[range.offset() as usize..]), Ok(()));

    let Event::Statement(statement) = &events[5] else { unreachable!() };
    let statement = statement.verified(&registry.keys()).unwrap();
    assert_eq!(statement.manifest, image);
    assert_eq!(statement.layers.len(), 3);
    assert_eq!(statement.layers[1..], [sha256(&large), sha256(&small)]);
}

#[tokio::test]
async fn a_plan_follows_an_index_to_the_platform() {
    let registry = TestRegistry::start().await;
    let amd64 = registry.push_image("a", "amd64", &[b"one"]).await;
    let config = br#"{"architecture":"amd64","os":"linux"}"#;
    let size = image_manifest(config, &[b"one"]).len();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{amd64}","size":{size},
           "platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        media_type::OCI_MANIFEST
    );
    registry.put_manifest("a", "v1", media_type::OCI_INDEX, &index).await;
    let node = Node::join(&registry).await;
    let by_digest = Wanted::ManifestDigest(sha256(index.as_bytes()).to_string());
    for wanted in [Wanted::Tag("v1".into()), by_digest] {
        let events = node.plan(vec![item(1, "a", wanted)]).await.remove(&1).unwrap();
        let expected = "manifest manifest inline inline layer statement finished";
        assert_eq!(kinds(&events), expected);
    }
}

#[tokio::test]
async fn one_stream_answers_many_items_and_each_has_its_own_end() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", &[b"layer"]).await;
    let node = Node::join(&registry).await;
    let known =
        rpc::PlanItem { known_digest: image.to_string(), ..item(1, "a", Wanted::Tag("v1".into())) };
    let blob = |content: &[u8]| Wanted::BlobDigest(sha256(content).to_string());
    let events = node
        .plan(vec![
            known,
            item(2, "a", blob(b"layer")),
            item(3, "a", blob(b"nobody")),
            item(4, "a", Wanted::Tag("v2".into())),
            item(5, "A", Wanted::Tag("v1".into())),
            item(6, "other", blob(b"layer")),
        ])
        .await;
    assert_eq!(kinds(&events[&1]), "manifest finished");
    let Event::Manifest(unchanged) = &events[&1][0] else { unreachable!() };
    assert!(unchanged.content.is_empty());
    assert_eq!(kinds(&events[&2]), "inline layer statement finished");
    for (item, code) in
        [(3, "BLOB_UNKNOWN"), (4, "MANIFEST_UNKNOWN"), (5, "NAME_INVALID"), (6, "BLOB_UNKNOWN")]
    {
        let [Event::Error(error)] = events[&item].as_slice() else { panic!("{item}") };
        assert_eq!(error.code, code);
    }
}

#[tokio::test]
async fn a_layer_without_states_is_read_once_for_them() {
    let registry = TestRegistry::start().await;
    let layer = content(2_000_000, 6);
    registry.push_image("a", "v1", &[&layer]).await;
    let digest = sha256(&layer);
    let states = states_file(&registry, &digest);
    std::fs::remove_file(&states).unwrap();
    let registry = registry.restart().await;
    let node = Node::join(&registry).await;
    let wanted = Wanted::BlobDigest(digest.to_string());
    let events = node.plan(vec![item(1, "a", wanted)]).await.remove(&1).unwrap();
    let Event::Layer(planned) = &events[0] else { panic!("{}", kinds(&events)) };
    let list = planned.forms[0].list.as_ref().unwrap();
    assert!(SignedPieceList::from_wire(list, &registry.keys()).is_ok());
    assert!(states_file(&registry, &digest).exists());
}

#[tokio::test]
async fn a_blob_named_by_sha512_is_verified_by_its_own_chain() {
    let registry = TestRegistry::start().await;
    let layer = content(3_000_000, 7);
    let digest = Digest::of(longshore_proto::Algorithm::Sha512, &layer);
    let location = registry.begin_upload("a").await;
    let put = registry.request(Method::PUT, &format!("{location}?digest={digest}"));
    assert_eq!(put.body(layer.clone()).send().await.unwrap().status(), 201);
    let node = Node::join(&registry).await;
    let wanted = Wanted::BlobDigest(digest.to_string());
    let events = node.plan(vec![item(1, "a", wanted)]).await.remove(&1).unwrap();
    let Event::Layer(planned) = &events[0] else { panic!("{}", kinds(&events)) };
    let list = planned.forms[0].list.as_ref().unwrap();
    let list = SignedPieceList::from_wire(list, &registry.keys()).unwrap().list;
    for piece in (0..list.pieces()).map(PieceIndex) {
        let range = list.range(piece).unwrap();
        let bytes = &layer[range.offset() as usize..range.end() as usize];
        assert_eq!(list.verify(piece, bytes), Ok(()));
    }
}

#[tokio::test]
async fn a_layer_that_registries_need_not_hold_is_left_out() {
    let registry = TestRegistry::start().await;
    let (config, held, foreign) = (content(20, 1), content(9000, 2), content(9000, 3));
    registry.push_blob("a", &config).await;
    registry.push_blob("a", &held).await;
    let manifest = image_manifest(&config, &[&foreign, &held]).replacen(
        "layer.v1.tar+gzip",
        "layer.nondistributable.v1.tar+gzip",
        1,
    );
    let put = registry.put_manifest("a", "v1", media_type::OCI_MANIFEST, &manifest).await;
    assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
    let node = Node::join(&registry).await;
    let events = node.plan(vec![item(1, "a", Wanted::Tag("v1".into()))]).await.remove(&1).unwrap();
    assert_eq!(kinds(&events), "manifest inline layer statement finished");
    let Event::Layer(layer) = &events[2] else { unreachable!() };
    assert_eq!(layer.descriptor.as_ref().unwrap().digest, sha256(&held).to_string());
}

#[tokio::test]
async fn an_image_that_has_lost_a_layer_is_not_planned() {
    let registry = TestRegistry::start().await;
    let layer = content(9000, 1);
    registry.push_image("a", "v1", &[&layer]).await;
    registry.delete(&format!("/v2/a/blobs/{}", sha256(&layer))).await;
    let node = Node::join(&registry).await;
    let events = node.plan(vec![item(1, "a", Wanted::Tag("v1".into()))]).await.remove(&1).unwrap();
    let [Event::Manifest(_), Event::Error(error)] = events.as_slice() else {
        panic!("{}", kinds(&events))
    };
    assert_eq!(error.code, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn an_image_of_another_registry_is_never_taken_for_one_of_its_own() {
    let registry = TestRegistry::start().await;
    registry.push_image("library/web", "v1", &[b"layer"]).await;
    let node = Node::join(&registry).await;
    let elsewhere = rpc::PlanItem {
        namespace: "docker.io".to_owned(),
        ..item(1, "library/web", Wanted::Tag("v1".into()))
    };
    let events = node.plan(vec![elsewhere]).await.remove(&1).unwrap();
    let [Event::Error(error)] = events.as_slice() else { panic!("{}", kinds(&events)) };
    assert_eq!(error.code, "NAME_UNKNOWN");
}

#[tokio::test]
async fn an_index_without_the_platform_says_which_it_has() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "arm", &[b"one"]).await;
    let size = image_manifest(br#"{"architecture":"amd64","os":"linux"}"#, &[b"one"]).len();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{image}","size":{size},
           "platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}]}}"#,
        media_type::OCI_MANIFEST
    );
    registry.put_manifest("a", "v1", media_type::OCI_INDEX, &index).await;
    let node = Node::join(&registry).await;
    let events = node.plan(vec![item(1, "a", Wanted::Tag("v1".into()))]).await.remove(&1).unwrap();
    let [Event::Manifest(_), Event::Error(error)] = events.as_slice() else {
        panic!("{}", kinds(&events))
    };
    assert_eq!(error.code, "MANIFEST_UNKNOWN");
    let message = &error.message;
    assert!(message.contains("linux/amd64, but: linux/arm64/v8"), "{message}");
}

fn states_file(registry: &TestRegistry, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    registry.directory.path().join(format!("store/states/sha256/{}/{hex}", &hex[..2]))
}
