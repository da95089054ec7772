//! What clients, load balancers and operators see of an outage, through the doors of an instance.

use std::net::SocketAddr;

use reqwest::{Client, StatusCode};

use super::*;
use crate::Instance;

const MANIFEST: &str = "application/vnd.oci.image.index.v1+json";
const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

struct Running {
    front: String,
    admin: String,
    client: Client,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _keys: tempfile::TempDir,
}

impl Running {
    async fn start(world: &World) -> Self {
        Self::start_with(world, |_| {}).await
    }

    async fn start_with(world: &World, change: impl FnOnce(&mut Config)) -> Self {
        let _another_test_may_have_been_first =
            rustls::crypto::ring::default_provider().install_default();
        let keys = tempfile::tempdir().unwrap();
        let mut config: Config = toml::from_str(CONFIG).unwrap();
        config.serve.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.identity.signing_key_file = keys.path().join("keys/signing.pem");
        config.storage.immutable_tags = vec!["team/*:v*".parse().unwrap()];
        config.cache.tag_fresh_ms = 0;
        change(&mut config);
        let opened = world.opened(&Machine::immortal());
        let instance = Instance::start_over_regions(&config, opened).await.unwrap();
        let (front, admin) = (instance.address(), instance.admin_address());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(instance.run(shutdown.clone()));
        let (front, admin) = (format!("http://{front}"), format!("http://{admin}"));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { front, admin, client, shutdown, running, _keys: keys }
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.get(format!("{}{path}", self.front)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// The answer's `Warning`, of any route.
    async fn warning(&self, path: &str) -> Option<String> {
        let answer = self.client.get(format!("{}{path}", self.front)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.headers().get("warning").map(|value| value.to_str().unwrap().to_owned())
    }

    async fn push_blob(&self, content: &Bytes) -> (StatusCode, String) {
        let digest = sha256(content);
        let url = format!("{}/v2/team/app/blobs/uploads/?digest={digest}", self.front);
        let pushed = self.client.post(url).body(content.clone()).send().await.unwrap();
        (pushed.status(), pushed.text().await.unwrap())
    }

    /// Waits until the replica lacks nothing and nobody says that it may.
    async fn replicated(&self, world: &World) {
        self.metric("replication_queue", "0").await;
        let marks = "regions/eu/dirty".into();
        let marked = async || world.us.inner.list(Some(&marks)).try_collect::<Vec<_>>().await;
        until("the mark is gone", async || marked().await.unwrap().is_empty()).await;
    }

    async fn put_manifest(&self, reference: &str) -> StatusCode {
        let url = format!("{}/v2/team/app/manifests/{reference}", self.front);
        let put = self.client.put(url).header("content-type", MANIFEST).body(INDEX);
        put.send().await.unwrap().status()
    }

    async fn admin(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.get(format!("{}{path}", self.admin)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Waits until `/readyz` says so.
    async fn ready(&self, says: impl Fn(&str) -> bool) -> (StatusCode, String) {
        let mut found = None;
        until("readiness changes", async || {
            let (status, text) = self.admin("/readyz").await;
            found = says(&text).then_some((status, text));
            found.is_some()
        })
        .await;
        found.expect("it was waited for")
    }

    /// Waits until a metric of `eu` has this value.
    async fn metric(&self, name: &str, value: &str) {
        self.says(&format!("region_{name}{{region=\"eu\"}} {value}\n")).await;
    }

    /// Waits until the metrics have this, from a line's begin.
    async fn says(&self, line: &str) {
        let line = format!("\nlongshore_registry_{line}");
        until(&line, async || self.admin("/metrics").await.1.contains(&line)).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        drop(self.client);
        self.running.await.unwrap();
    }
}

/// Looks until it is so. Others run between two looks, and nothing is slept through.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looked = async {
        while !look().await {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, looked).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_served_through_and_said_aloud() {
    let world = World::new();
    let registry = Running::start(&world).await;
    assert_eq!(registry.admin("/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
    assert_eq!(registry.put_manifest("latest").await, StatusCode::CREATED);
    registry.replicated(&world).await;

    world.eu.set(Mode::Failing);
    let (status, text) = registry.ready(|text| text.contains("failed over")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.starts_with("degraded: region eu failed over to us since "), "{text}");
    registry.metric("state", "2").await;
    registry.metric("failovers_total", "1").await;
    let (status, content) = registry.get("/v2/team/app/manifests/latest").await;
    assert_eq!((status, content.as_str()), (StatusCode::OK, INDEX));
    // An immutable tag needs both instances to agree about the store.
    assert_eq!(registry.put_manifest("v1").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(registry.put_manifest("next").await, StatusCode::CREATED);
    // Of a repository that nobody wrote in the last moments absence is certain.
    let missing = registry.get("/v2/team/app/manifests/missing").await.0;
    assert_eq!(missing, StatusCode::NOT_FOUND);

    world.eu.set(Mode::Up);
    registry.ready(|text| text == "ok\n").await;
    registry.metric("state", "0").await;
    registry.metric("pending_writes", "0").await;
    assert_eq!(registry.put_manifest("v1").await, StatusCode::CREATED);
    let next = world.primary().tag(&repository(), &"next".parse().unwrap()).await.unwrap();
    assert!(next.is_some());
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_that_is_not_certain_is_503_and_both_stores_away_too() {
    let world = World::new();
    world.eu.set(Mode::Failing);
    // Nobody has compared the stores yet.
    let registry = Running::start(&world).await;
    let (status, body) = registry.get("/v2/team/app/manifests/latest").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.contains("UNAVAILABLE") && body.contains("store is away"), "{body}");
    let url = format!("{}/v2/team/app/blobs/{}", registry.front, sha256(b"x"));
    let head = registry.client.head(url).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::NOT_FOUND, "a pusher may upload");
    assert_eq!(registry.put_manifest("latest").await, StatusCode::CREATED);
    assert_eq!(registry.get("/v2/team/app/manifests/latest").await.0, StatusCode::OK);

    world.us.set(Mode::Failing);
    let (status, text) = registry.ready(|text| text.contains("region us is away")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    let (status, body) = registry.get("/v2/team/other/manifests/latest").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_lists_that_the_replica_answers_for_carry_a_warning() {
    let world = World::new();
    let registry = Running::start(&world).await;
    assert_eq!(registry.put_manifest("latest").await, StatusCode::CREATED);
    registry.replicated(&world).await;
    let by_digest = format!("/v2/team/app/manifests/{}", sha256(INDEX.as_bytes()));
    let may_have_changed = [
        "/v2/team/app/manifests/latest",
        "/v2/team/app/tags/list",
        "/v2/_catalog",
        &format!("/v2/team/app/referrers/{}", sha256(INDEX.as_bytes())),
    ];
    for path in may_have_changed {
        assert_eq!(registry.warning(path).await, None, "{path}");
    }

    world.eu.set(Mode::Failing);
    let stale = Some("299 - \"Response is stale\"".to_owned());
    // Also before the outage is noticed, and by whichever call.
    assert_eq!(registry.warning(may_have_changed[0]).await, stale);
    registry.ready(|text| text.contains("failed over")).await;
    for path in may_have_changed {
        assert_eq!(registry.warning(path).await, stale, "{path}");
    }
    assert_eq!(registry.warning(&by_digest).await, None, "a digest names what never changes");
    let kept = registry.client.get(format!("{}{}", registry.front, may_have_changed[0]));
    let kept = kept.header("if-none-match", format!("\"{}\"", sha256(INDEX.as_bytes())));
    let kept = kept.send().await.unwrap();
    assert_eq!(kept.status(), StatusCode::NOT_MODIFIED);
    assert!(kept.headers().contains_key("warning"));

    world.eu.set(Mode::Up);
    registry.ready(|text| text == "ok\n").await;
    for path in may_have_changed {
        until(path, async || registry.warning(path).await.is_none()).await;
    }
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_failed_over_quota_is_approximate_and_collection_waits_and_both_say_so() {
    let world = World::new();
    let registry = Running::start_with(&world, |config| {
        config.quota = toml::from_str("default_bytes = 3000").unwrap();
        config.gc.interval_s = 1;
    })
    .await;
    assert_eq!(registry.push_blob(&content(1000)).await.0, StatusCode::CREATED);
    registry.says("quota_approximate_total 0\n").await;
    registry.replicated(&world).await;

    world.eu.set(Mode::Failing);
    let (_, text) = registry.ready(|text| text.contains("failed over")).await;
    assert!(text.contains("quota is approximate") && text.contains("collection waits"), "{text}");
    assert_eq!(registry.push_blob(&content(1500)).await.0, StatusCode::CREATED);
    registry.says("quota_approximate_total 1\n").await;
    let (status, body) = registry.push_blob(&content(600)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    for said in ["DENIED", "2500", "3000", "600"] {
        assert!(body.contains(said), "{said}: {body}");
    }
    registry.says("gc_runs_total{outcome=\"waits\"} ").await;

    world.eu.set(Mode::Up);
    registry.ready(|text| text == "ok\n").await;
    registry.says("gc_runs_total{outcome=\"done\"} ").await;
    registry.stop().await;
}
