//! A rotation of the signing key, step by step, as nodes live through it.

use std::path::Path;

use longshore_proto::sign::{PublicKey, PublicKeys};
use longshore_registry::keys;

use super::*;

/// Whether everything that is signed in a plan counts for an agent with these keys.
async fn counts(node: &Node, trusted: &PublicKeys) -> bool {
    let events = node.plan(vec![item(1, "a", Wanted::Tag("v1".into()))]).await.remove(&1).unwrap();
    assert!(kinds(&events).ends_with("finished"), "{}", kinds(&events));
    let mut signed = 0;
    for event in &events {
        let verified = match event {
            Event::Layer(layer) => {
                let list = layer.forms[0].list.as_ref().unwrap();
                SignedPieceList::from_wire(list, trusted).is_ok()
            }
            Event::Statement(statement) => statement.verified(trusted).is_ok(),
            _ => continue,
        };
        signed += 1;
        if !verified {
            return false;
        }
    }
    assert_eq!(signed, 2);
    true
}

async fn is_let_in(node: &Node, registry: &TestRegistry) -> bool {
    let mut client = TrackerClient::new(channel(registry).await);
    match client.permit(node.request(rpc::PermitRequest::default())).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::Unauthenticated);
            false
        }
    }
}

fn new_key(at: &Path) -> PublicKey {
    keys::make(at).unwrap()
}

#[tokio::test]
async fn a_key_is_rotated_and_no_node_notices() {
    let directory = tempfile::tempdir().unwrap();
    let [old, new] = ["old.pem", "new.pem"].map(|name| directory.path().join(name));
    let [by_old, by_new] = [&old, &new].map(|path| new_key(path));
    let only = |key: &PublicKey| PublicKeys::new([key.clone()]);
    let both = PublicKeys::new([by_old.clone(), by_new.clone()]);

    let first = old.clone();
    let registry =
        TestRegistry::start_with(|config| config.identity.signing_key_file = first).await;
    registry.push_image("a", "v1", &[&content(600_000, 1)]).await;
    let early = Node::join(&registry).await;
    assert!(counts(&early, &only(&by_old)).await);

    // The registry accepts the new key, agents learn it.
    let (signing, accepted) = (old.clone(), vec![new.clone()]);
    let registry = registry
        .restart_with(|config| {
            config.identity.signing_key_file = signing;
            config.identity.accepted_key_files = accepted;
        })
        .await;
    let node = Node::join(&registry).await;
    let kids: Vec<&str> = node.joined.origin_keys.iter().map(|key| key.kid.as_str()).collect();
    assert_eq!(kids, [by_old.kid().as_str(), by_new.kid().as_str()]);
    assert!(counts(&node, &only(&by_old)).await && counts(&node, &both).await);

    // The new one signs: sessions of the old one go on, and agents with both keys verify.
    let (signing, accepted) = (new.clone(), vec![old.clone()]);
    let registry = registry
        .restart_with(|config| {
            config.identity.signing_key_file = signing;
            config.identity.accepted_key_files = accepted;
        })
        .await;
    assert!(is_let_in(&early, &registry).await && is_let_in(&node, &registry).await);
    let late = Node::join(&registry).await;
    assert!(counts(&late, &both).await && counts(&late, &only(&by_new)).await);
    assert!(!counts(&late, &only(&by_old)).await, "an agent that was forgotten");

    // The old one is out.
    let registry =
        registry.restart_with(|config| config.identity.signing_key_file = new.clone()).await;
    assert!(is_let_in(&late, &registry).await && !is_let_in(&early, &registry).await);
    let node = Node::join(&registry).await;
    assert!(counts(&node, &only(&by_new)).await);
}
