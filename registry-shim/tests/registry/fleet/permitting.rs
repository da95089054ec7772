//! Permits: each piece leaves the store once, for whom the tracker says.

use super::*;

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
