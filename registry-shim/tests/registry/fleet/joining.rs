//! Joining: who may, what a session opens, and the bounds of every call.

use super::*;

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
