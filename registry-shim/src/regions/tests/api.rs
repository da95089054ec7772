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
        let _another_test_may_have_been_first =
            rustls::crypto::ring::default_provider().install_default();
        let keys = tempfile::tempdir().unwrap();
        let mut config: Config = toml::from_str(CONFIG).unwrap();
        config.serve.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.identity.signing_key_file = keys.path().join("keys/signing.pem");
        config.storage.immutable_tags = vec!["team/*:v*".parse().unwrap()];
        config.cache.tag_fresh_ms = 0;
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
        let wait = async {
            loop {
                let (status, text) = self.admin("/readyz").await;
                if says(&text) {
                    return (status, text);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("readiness changes")
    }

    /// Waits until a metric of `eu` has this value.
    async fn metric(&self, name: &str, value: &str) {
        let line = format!("longshore_registry_region_{name}{{region=\"eu\"}} {value}");
        let wait = async {
            while !self.admin("/metrics").await.1.lines().any(|found| found == line) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect(&line);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        drop(self.client);
        self.running.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_served_through_and_said_aloud() {
    let world = World::new();
    let registry = Running::start(&world).await;
    assert_eq!(registry.admin("/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
    assert_eq!(registry.put_manifest("latest").await, StatusCode::CREATED);
    registry.metric("replication_queue", "0").await;
    // The mark of the repository is gone a little after the last copy.
    let marks = "regions/eu/dirty".into();
    while !world.us.inner.list(Some(&marks)).try_collect::<Vec<_>>().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

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
