//! What a node is told of an image that lives at an upstream and is not here yet.

use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::plan_item::Wanted;
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, media_type};

use super::fake::Fake;
use super::fronted;
use crate::common::{content, image_manifest};
use crate::fleet::{Node, item, kinds};

/// An image of a small layer and a large one.
fn put_image(fake: &Fake, large: &[u8]) -> Digest {
    let (config, small) = (content(200, 1), content(500, 2));
    for blob in [&config[..], &small, large] {
        fake.put_blob(blob);
    }
    let manifest = image_manifest(&config, &[&small, large]);
    fake.put_manifest("library/web", "v1", media_type::OCI_MANIFEST, &manifest)
}

fn at_hub(number: u32, wanted: Wanted) -> rpc::PlanItem {
    rpc::PlanItem { namespace: "docker.io".to_owned(), ..item(number, "library/web", wanted) }
}

#[tokio::test]
async fn a_cold_image_of_an_upstream_is_planned_whole() {
    let (fake, registry) = fronted("").await;
    let large = content(3_000_000, 3);
    let image = put_image(&fake, &large);
    let node = Node::join(&registry).await;
    let by_prefix = item(2, "hub/library/web", Wanted::ManifestDigest(image.to_string()));
    let events = node.plan(vec![at_hub(1, Wanted::Tag("v1".into())), by_prefix]).await;
    for number in [1, 2] {
        let events = &events[&number];
        let expected = "manifest inline inline layer layer statement finished";
        assert_eq!(kinds(events), expected);
        let Event::Layer(layer) = &events[4] else { unreachable!() };
        let list = layer.forms[0].list.as_ref().unwrap();
        let list = SignedPieceList::from_wire(list, &registry.keys()).unwrap().list;
        assert_eq!(list.size(), large.len() as u64);
        let Event::Statement(statement) = &events[5] else { unreachable!() };
        let statement = statement.verified(&registry.keys()).unwrap();
        assert_eq!(statement.repository.as_str(), "hub/library/web");
        assert_eq!(statement.manifest, image);
    }
    // However many plans: each blob came once, and is here.
    assert_eq!(fake.count("GET", "/blobs/"), 3);
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    let again = node.plan(vec![at_hub(3, Wanted::ManifestDigest(image.to_string()))]).await;
    assert!(kinds(&again[&3]).ends_with("statement finished"), "{}", kinds(&again[&3]));
}

#[tokio::test]
async fn what_the_upstream_does_not_give_ends_its_item_alone() {
    let (fake, registry) = fronted("").await;
    let image = put_image(&fake, &content(100_000, 4));
    fake.put_manifest(
        "library/web",
        "broken",
        media_type::OCI_MANIFEST,
        &image_manifest(b"{}", &[b"nobody has it"]),
    );
    let node = Node::join(&registry).await;
    let unknown = rpc::PlanItem {
        namespace: "evil.example".to_owned(),
        ..item(4, "library/web", Wanted::Tag("v1".into()))
    };
    let events = node
        .plan(vec![
            at_hub(1, Wanted::Tag("v1".into())),
            at_hub(2, Wanted::Tag("nobody".into())),
            at_hub(3, Wanted::Tag("broken".into())),
            unknown,
        ])
        .await;
    assert!(kinds(&events[&1]).ends_with("statement finished"));
    for (number, code) in
        [(2, "MANIFEST_UNKNOWN"), (3, "MANIFEST_BLOB_UNKNOWN"), (4, "NAME_UNKNOWN")]
    {
        let Some(Event::Error(error)) = events[&number].last() else { panic!("{number}") };
        assert_eq!(error.code, code);
    }
    // An outage is no 404 for a node either.
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    let events = node.plan(vec![at_hub(5, Wanted::Tag("other".into()))]).await;
    let Some(Event::Error(error)) = events[&5].last() else { panic!("{}", kinds(&events[&5])) };
    assert_eq!(error.code, "UNAVAILABLE");
    let by_digest = node.plan(vec![at_hub(6, Wanted::ManifestDigest(image.to_string()))]).await;
    assert!(kinds(&by_digest[&6]).ends_with("statement finished"));
}
