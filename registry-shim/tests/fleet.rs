//! What a node does: join, plan, announce, ask for permits, and read by them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::collections::BTreeMap;

use common::{TestRegistry, content, image_manifest, refusal, refused, sha256};
use longshore_proto::piece::{PieceIndex, PieceList};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::membership_client::MembershipClient;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::plan_item::Wanted;
use longshore_proto::rpc::origin::planner_client::PlannerClient;
use longshore_proto::rpc::origin::tracker_client::TrackerClient;
use longshore_proto::sign::SigningKey;
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, SWARM_VERSION, media_type};
use longshore_registry::config::auth::{Rule, RuleAction};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, RANGE};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// A node that joined.
struct Node {
    channel: Channel,
    joined: rpc::JoinResponse,
}

fn join_request(token: &str) -> rpc::JoinRequest {
    let (key, _) = SigningKey::generate();
    // libp2p's protobuf: type Ed25519, 32 bytes.
    let public_key = [&[8, 1, 18, 32], key.public().as_bytes().as_slice()].concat();
    let kind = if token.is_empty() {
        rpc::credential::Kind::Anonymous(rpc::Anonymous {})
    } else {
        rpc::credential::Kind::Token(token.to_owned())
    };
    rpc::JoinRequest {
        credential: Some(rpc::Credential { kind: Some(kind) }),
        public_key: public_key.into(),
        addresses: vec!["/ip4/0.0.0.0/tcp/7770".to_owned()],
        swarm_version: SWARM_VERSION,
        zone: "a".to_owned(),
        ..rpc::JoinRequest::default()
    }
}

async fn channel(registry: &TestRegistry) -> Channel {
    Channel::from_shared(registry.url("")).unwrap().connect().await.unwrap()
}

async fn join(
    registry: &TestRegistry,
    request: rpc::JoinRequest,
) -> Result<rpc::JoinResponse, Status> {
    let mut client = MembershipClient::new(channel(registry).await);
    client.join(request).await.map(tonic::Response::into_inner)
}

impl Node {
    async fn join(registry: &TestRegistry) -> Self {
        let joined = join(registry, join_request("")).await.unwrap();
        Self { channel: channel(registry).await, joined }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.joined.session).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    async fn plan(&self, items: Vec<rpc::PlanItem>) -> BTreeMap<u32, Vec<Event>> {
        let message = rpc::PlanRequest {
            items,
            platform: None,
            forms: vec!["blob".to_owned()],
            inline_bytes_max: 1000,
        };
        let mut client = PlannerClient::new(self.channel.clone());
        let mut stream = client.plan(self.request(message)).await.unwrap().into_inner();
        let mut events: BTreeMap<u32, Vec<Event>> = BTreeMap::new();
        while let Some(event) = stream.message().await.unwrap() {
            events.entry(event.item).or_default().push(event.event.unwrap());
        }
        events
    }

    async fn permit(&self, message: rpc::PermitRequest) -> rpc::PermitResponse {
        let mut client = TrackerClient::new(self.channel.clone());
        client.permit(self.request(message)).await.unwrap().into_inner()
    }

    async fn announce(&self, message: rpc::AnnounceRequest) -> rpc::AnnounceResponse {
        let mut client = TrackerClient::new(self.channel.clone());
        client.announce(self.request(message)).await.unwrap().into_inner()
    }
}

fn item(item: u32, repository: &str, wanted: Wanted) -> rpc::PlanItem {
    let repository = repository.to_owned();
    rpc::PlanItem { item, repository, wanted: Some(wanted), ..rpc::PlanItem::default() }
}

fn want(repository: &str, content: &[u8], have: &[u32]) -> rpc::PermitWant {
    let mut bitmap = vec![0_u8; 8];
    have.iter().for_each(|piece| bitmap[*piece as usize / 8] |= 1 << (piece % 8));
    bitmap.truncate(content.len().div_ceil(256 * 1024).div_ceil(8));
    rpc::PermitWant {
        repository: repository.to_owned(),
        digest: sha256(content).to_string(),
        size: content.len() as u64,
        piece_length: 256 * 1024,
        have_bitmap: bitmap.into(),
        urgent: Vec::new(),
    }
}

fn kinds(events: &[Event]) -> String {
    let kind = |event: &Event| match event {
        Event::Manifest(_) => "manifest",
        Event::Blob(_) => "inline",
        Event::Layer(_) => "layer",
        Event::Statement(_) => "statement",
        Event::Finished(_) => "finished",
        Event::Peers(_) => "peers",
        Event::Error(_) => "error",
        Event::States(_) | Event::Permits(_) => "other",
    };
    events.iter().map(kind).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_node_joins_and_learns_its_cell() {
    let registry = TestRegistry::start().await;
    let joined = Node::join(&registry).await.joined;
    assert_eq!((joined.pool.as_str(), joined.cell.as_str()), ("default", "default/a"));
    assert_eq!(joined.observed_ip, "127.0.0.1");
    assert_eq!(joined.origin_keys[0].kid, registry.key.kid().to_string());
    assert!(joined.session_seconds > 0 && joined.announce_period_ms == 5000);
    assert_eq!(joined.instances[0].url, registry.url(""), "as the client called it");
}

#[tokio::test]
async fn only_a_token_of_the_file_lets_a_node_join() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "0123456789abcdef\n").unwrap();
    let path = tokens.path().to_owned();
    let registry = TestRegistry::start_with(|config| config.join.token_file = Some(path)).await;
    for wrong in ["", "0123456789abcdeX"] {
        let refused = join(&registry, join_request(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    join(&registry, join_request("0123456789abcdef")).await.unwrap();

    let malformed =
        rpc::JoinRequest { public_key: vec![1, 2, 3].into(), ..join_request("0123456789abcdef") };
    assert_eq!(join(&registry, malformed).await.unwrap_err().code(), Code::InvalidArgument);
    let older = rpc::JoinRequest { swarm_version: 0, ..join_request("0123456789abcdef") };
    assert_eq!(join(&registry, older).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn where_clients_are_asked_a_node_joins_by_token_and_pulls_what_rules_give_nodes() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "0123456789abcdef\n").unwrap();
    let path = tokens.path().to_owned();
    let rule = |subject: &str, repository: &str, action| Rule {
        subjects: vec![subject.to_owned()],
        repositories: vec![repository.to_owned()],
        actions: vec![action],
    };
    let rules = vec![
        rule("anonymous", "*", RuleAction::All),
        rule("node", "base/*", RuleAction::All),
        rule("node:gpu", "cuda/*", RuleAction::Pull),
    ];
    let registry = TestRegistry::start_with(|config| {
        config.join.token_file = Some(path);
        config.auth.rule = rules.clone();
    })
    .await;
    let layer = content(300_000, 9);
    for repository in ["base/app", "cuda/app"] {
        registry.push_image(repository, "v1", &[&layer]).await;
    }
    let joined = join(&registry, join_request("0123456789abcdef")).await.unwrap();
    let node = Node { channel: channel(&registry).await, joined };
    let tag = || Wanted::Tag("v1".to_owned());
    let events = node.plan(vec![item(1, "base/app", tag()), item(2, "cuda/app", tag())]).await;
    assert!(kinds(&events[&1]).ends_with("finished"), "{}", kinds(&events[&1]));
    assert_eq!(kinds(&events[&2]), "error");
    let asked = rpc::PermitRequest {
        wants: vec![want("cuda/app", &layer, &[])],
        ..rpc::PermitRequest::default()
    };
    let mut tracker = TrackerClient::new(node.channel.clone());
    let answer = tracker.permit(node.request(asked)).await.unwrap().into_inner();
    assert!(answer.permits.is_empty());
    let session = &node.joined.session;
    for (method, path, status) in [
        (Method::GET, "/v2/base/app/manifests/v1", 200),
        (Method::GET, "/v2/cuda/app/manifests/v1", 403),
        (Method::DELETE, "/v2/base/app/manifests/v1", 403),
        (Method::POST, "/v2/base/app/blobs/uploads/", 403),
    ] {
        let request = registry.request(method.clone(), path).bearer_auth(session);
        let found = request.send().await.unwrap().status().as_u16();
        assert_eq!(found, status, "{method} {path}");
    }

    // Who shows nothing is no node, even where no token is configured.
    let without = TestRegistry::start_with(|config| config.auth.rule = rules).await;
    let refused = join(&without, join_request("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn every_other_call_asks_for_the_session() {
    let registry = TestRegistry::start().await;
    let mut node = Node::join(&registry).await;
    node.joined.session = "forged".to_owned();
    let mut client = TrackerClient::new(node.channel.clone());
    let without = client.permit(rpc::PermitRequest::default()).await.unwrap_err();
    assert_eq!(without.code(), Code::Unauthenticated);
    let forged = client.permit(node.request(rpc::PermitRequest::default())).await.unwrap_err();
    assert_eq!(forged.code(), Code::Unauthenticated);
    let mut client = PlannerClient::new(node.channel.clone());
    let planned = client.plan(node.request(rpc::PlanRequest::default())).await.unwrap_err();
    assert_eq!(planned.code(), Code::Unauthenticated);
    // The distribution API tells a bad session, too, and a node may not push.
    let base = registry.request(Method::GET, "/v2/").header(AUTHORIZATION, "Bearer forged");
    assert_eq!(refusal(base.send().await.unwrap()).await, refused(401, "UNAUTHORIZED"));
    let session = Node::join(&registry).await.joined.session;
    let push = registry.request(Method::POST, "/v2/a/blobs/uploads/");
    let push = push.header(AUTHORIZATION, format!("Bearer {session}")).send().await.unwrap();
    assert_eq!(refusal(push).await, refused(403, "DENIED"));
}

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
async fn a_permit_opens_its_range_alone_and_nothing_else() {
    let registry = TestRegistry::start().await;
    let layer = content(3_000_000, 3);
    registry.push_image("a", "v1", &[&layer]).await;
    let node = Node::join(&registry).await;
    let request = rpc::PermitRequest {
        wants: vec![want("a", &layer, &[0])],
        pieces_max: 2,
        ..rpc::PermitRequest::default()
    };
    let answer = node.permit(request).await;
    let runs: Vec<_> = answer.permits.iter().map(|p| (p.first_piece, p.pieces)).collect();
    assert_eq!(runs, [(1, 2)]);

    let permit = &answer.permits[0];
    assert!(permit.url.starts_with(&registry.url("/v2/a/blobs/")), "{}", permit.url);
    let fetch = async |url: &str, range: Option<&str>| {
        let request = registry.client.get(url);
        let request =
            range.into_iter().fold(request, |request, range| request.header(RANGE, range));
        request.send().await.unwrap()
    };
    let range = &permit.headers[0].value;
    let got = fetch(&permit.url, Some(range)).await;
    assert_eq!(got.status(), 206);
    let expected = &layer[permit.offset as usize..(permit.offset + permit.length) as usize];
    assert!(got.bytes().await.unwrap() == expected);
    let sent = registry.metric("longshore_registry_sent_bytes_total{kind=\"permit\"}").await;
    assert_eq!(sent, permit.length);

    let denied = refused(403, "DENIED");
    assert_eq!(refusal(fetch(&permit.url, None).await).await, denied);
    assert_eq!(refusal(fetch(&permit.url, Some("bytes=0-9")).await).await, denied);
    let elsewhere = permit.url.replace("/v2/a/", "/v2/b/");
    assert_eq!(refusal(fetch(&elsewhere, Some(range)).await).await, denied);
    let forged = format!("{}AA", permit.url);
    assert_eq!(refusal(fetch(&forged, Some(range)).await).await, denied);
}

#[tokio::test]
async fn each_piece_leaves_the_store_once_and_others_are_told_who_has_it() {
    let registry = TestRegistry::start().await;
    let layer = content(20_000_000, 4);
    registry.push_image("a", "v1", &[&layer]).await;
    let (first, second) = (Node::join(&registry).await, Node::join(&registry).await);
    let want = |have: &[u32]| rpc::PermitWant {
        piece_length: 1024 * 1024,
        have_bitmap: have
            .iter()
            .fold(vec![0_u8; 3], |mut bits, piece| {
                bits[*piece as usize / 8] |= 1 << (piece % 8);
                bits
            })
            .into(),
        ..self::want("a", &layer, &[])
    };
    let ask = |have: &[u32]| rpc::PermitRequest {
        wants: vec![want(have)],
        pieces_max: 4,
        ..rpc::PermitRequest::default()
    };
    let mut given: Vec<u32> = Vec::new();
    for node in [&first, &second] {
        let permits = node.permit(ask(&[])).await.permits;
        given.extend(permits.iter().flat_map(|p| p.first_piece..p.first_piece + p.pieces));
    }
    assert_eq!(given.len(), 8);
    given.sort_unstable();
    given.dedup();
    assert_eq!(given, [0, 1, 2, 3, 4, 5, 6, 7]);

    // The first has its pieces now; the second hears so by whom it may ask.
    let answer = first.permit(ask(&[0, 1, 2, 3])).await;
    assert_eq!(answer.permits[0].first_piece, 8);
    let refusal = &answer.refusals[0];
    assert_eq!(refusal.piece, 4);
    assert_eq!(refusal.holders[0].addresses, ["/ip4/127.0.0.1/tcp/7770"]);
    let announced = second
        .announce(rpc::AnnounceRequest {
            sequence: 1,
            complete: true,
            wanted_digests: vec![sha256(&layer).to_string()],
            ..rpc::AnnounceRequest::default()
        })
        .await;
    assert_eq!((announced.peers.len(), announced.resync), (1, false));
    let gap = rpc::AnnounceRequest { sequence: 5, ..rpc::AnnounceRequest::default() };
    assert!(second.announce(gap).await.resync);
}

#[tokio::test]
async fn messages_that_mean_nothing_are_refused() {
    let registry = TestRegistry::start().await;
    let layer = content(600_000, 5);
    registry.push_image("a", "v1", &[&layer]).await;
    let node = Node::join(&registry).await;
    let good = want("a", &layer, &[]);
    let mut client = TrackerClient::new(node.channel.clone());
    for bad in [
        rpc::PermitWant { digest: "sha256:zz".into(), ..good.clone() },
        rpc::PermitWant { repository: "A".into(), ..good.clone() },
        rpc::PermitWant { piece_length: 1, ..good.clone() },
        rpc::PermitWant { have_bitmap: vec![255; 9].into(), ..good.clone() },
    ] {
        let request = rpc::PermitRequest { wants: vec![bad], ..rpc::PermitRequest::default() };
        let refused = client.permit(node.request(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    // What the repository does not hold, or holds otherwise, is not handed out.
    for other in [
        rpc::PermitWant { repository: "b".into(), ..good.clone() },
        rpc::PermitWant { size: 600_001, ..good.clone() },
    ] {
        let request =
            rpc::PermitRequest { wants: vec![other], pieces_max: 9, ..Default::default() };
        assert_eq!(node.permit(request).await.permits, []);
    }
    let holding = rpc::Holding {
        digest: sha256(&layer).to_string(),
        size: 600_000,
        piece_length: 7,
        ..rpc::Holding::default()
    };
    let request = rpc::AnnounceRequest { holdings: vec![holding], ..Default::default() };
    let refused = client.announce(node.request(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
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

#[tokio::test]
async fn requests_over_the_bounds_are_refused() {
    let registry = TestRegistry::start().await;
    let node = Node::join(&registry).await;
    let mut client = PlannerClient::new(node.channel.clone());
    let mut plan = async |message: rpc::PlanRequest| {
        client.plan(node.request(message)).await.unwrap_err().code()
    };
    let items = (0..257).map(|at| item(at, "a", Wanted::Tag("v1".into()))).collect();
    let many = rpc::PlanRequest { items, ..Default::default() };
    assert_eq!(plan(many).await, Code::InvalidArgument);
    let platform = rpc::Platform { os: "a".repeat(65), ..Default::default() };
    let long = rpc::PlanRequest { platform: Some(platform), ..Default::default() };
    assert_eq!(plan(long).await, Code::InvalidArgument);
    let items = vec![item(0, &"a".repeat(5 << 20), Wanted::Tag("v1".into()))];
    let large = rpc::PlanRequest { items, ..Default::default() };
    assert_eq!(plan(large).await, Code::OutOfRange);
    let mut client = TrackerClient::new(node.channel.clone());
    let bitmap = rpc::Holding { bitmap: vec![0; 5 << 20].into(), ..Default::default() };
    let large = rpc::AnnounceRequest { holdings: vec![bitmap], ..Default::default() };
    let refused = client.announce(node.request(large)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let key = rpc::JoinRequest { public_key: vec![8; 200].into(), ..join_request("") };
    assert_eq!(join(&registry, key).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_session_of_another_origin_counts_for_nothing() {
    let (registry, other) = (TestRegistry::start().await, TestRegistry::start().await);
    let mut node = Node::join(&registry).await;
    node.joined.session = Node::join(&other).await.joined.session;
    let mut client = TrackerClient::new(node.channel.clone());
    let refused = client.permit(node.request(rpc::PermitRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

fn states_file(registry: &TestRegistry, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    registry.directory.path().join(format!("store/states/sha256/{}/{hex}", &hex[..2]))
}
