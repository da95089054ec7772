//! Quotas through the public door: one store, one or several instances.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use longshore_proto::sign::SigningKey;
use longshore_proto::{Digest, media_type};
use longshore_registry::Instance;
use longshore_registry::config::{self, Config};
use longshore_registry::quota::{self, ProjectUsage, Recomputed};
use longshore_registry::storage::{Charge, Storage};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Client, Response, StatusCode};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::{content, header, image_manifest, refusal, refused, sha256};

/// Instances over one store.
struct Fleet {
    instances: Vec<Running>,
    store: Arc<dyn ObjectStore>,
    client: Client,
    config: Config,
    _directory: TempDir,
}

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Fleet {
    async fn start(instances: usize, limit: u64) -> Self {
        Self::start_with(instances, |quota| {
            quota.projects.insert("team".parse().unwrap(), limit);
        })
        .await
    }

    async fn start_with(instances: usize, change: impl FnOnce(&mut config::Quota)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.serve.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.storage.url = "memory:".parse().unwrap();
        config.identity.signing_key_file = directory.path().join("signing.pem");
        change(&mut config.quota);
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let client = Client::builder().build().unwrap();
        let mut fleet =
            Self { instances: Vec::new(), store, client, config, _directory: directory };
        for _ in 0..instances {
            fleet.add().await;
        }
        fleet
    }

    async fn add(&mut self) {
        let instance = Instance::start_over(&self.config, self.store.clone()).await.unwrap();
        let (address, shutdown) = (instance.address(), CancellationToken::new());
        let task = tokio::spawn(instance.run(shutdown.clone()));
        self.instances.push(Running { address, shutdown, task });
    }

    fn url(&self, at: usize, path: &str) -> String {
        format!("http://{}{path}", self.instances[at].address)
    }

    fn storage(&self) -> Storage {
        Storage::new(self.store.clone(), Arc::new(SigningKey::generate().0))
    }

    async fn usage(&self, project: &str) -> ProjectUsage {
        let project = project.parse().unwrap();
        quota::usage(&self.storage(), &self.config.quota, &project).await.unwrap()
    }

    async fn used(&self, project: &str) -> u64 {
        self.usage(project).await.used_bytes
    }

    /// In one request.
    async fn push(&self, at: usize, repository: &str, content: Vec<u8>) -> Response {
        let digest = sha256(&content);
        let url = self.url(at, &format!("/v2/{repository}/blobs/uploads/?digest={digest}"));
        self.client.post(url).body(content).send().await.unwrap()
    }

    /// POST, PATCH without a length, PUT: as docker does.
    async fn push_streamed(&self, at: usize, repository: &str, content: &[u8]) -> Response {
        let url = self.url(at, &format!("/v2/{repository}/blobs/uploads/"));
        let begun = self.client.post(url).send().await.unwrap();
        let location = header(&begun, LOCATION.as_str());
        let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
            content.chunks(1000).map(|chunk| Ok(chunk.to_vec())).collect();
        let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
        let patched = self.client.patch(self.url(at, &location)).body(body).send().await.unwrap();
        if patched.status() != StatusCode::ACCEPTED {
            return patched;
        }
        let url = self.url(at, &format!("{location}?digest={}", sha256(content)));
        self.client.put(url).send().await.unwrap()
    }

    async fn put_manifest(&self, at: usize, repository: &str, tag: &str, text: String) -> Response {
        let url = self.url(at, &format!("/v2/{repository}/manifests/{tag}"));
        let put = self.client.put(url).header(CONTENT_TYPE, media_type::OCI_MANIFEST);
        put.body(text).send().await.unwrap()
    }

    async fn stop(self) {
        drop(self.client);
        for running in self.instances {
            running.shutdown.cancel();
            running.task.await.unwrap();
        }
    }
}

fn limited(limit: u64, lease_ms: u64, wait_ms: u64) -> impl FnOnce(&mut config::Quota) {
    move |quota| {
        quota.projects.insert("team".parse().unwrap(), limit);
        (quota.lease_ms, quota.wait_ms) = (lease_ms, wait_ms);
    }
}

#[tokio::test]
async fn over_quota_is_a_refusal_that_names_used_limit_and_needed() {
    let fleet = Fleet::start(1, 2000).await;
    assert_eq!(fleet.push(0, "team/app", content(1500, 1)).await.status(), StatusCode::CREATED);
    let refused = fleet.push(0, "team/app", content(600, 2)).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let body: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(body["errors"][0]["code"], "DENIED");
    assert_eq!(
        body["errors"][0]["message"],
        "quota of project team is used up: 1.5 KiB (1500 bytes) used of 2.0 KiB (2000 bytes), \
         600 B (600 bytes) more needed"
    );
    // Nothing of it is there, and what fits still gets in.
    assert_eq!(fleet.used("team").await, 1500);
    assert_eq!(fleet.push(0, "team/app", content(500, 3)).await.status(), StatusCode::CREATED);
    assert_eq!(fleet.used("team").await, 2000);
    assert_eq!(fleet.push(0, "other/app", content(600, 2)).await.status(), StatusCode::CREATED);
    fleet.stop().await;
}

#[tokio::test]
async fn an_announced_length_is_refused_before_its_bytes_are_taken() {
    let fleet = Fleet::start(1, 2000).await;
    let url = fleet.url(0, "/v2/team/app/blobs/uploads/");
    let begun = fleet.client.post(url).send().await.unwrap();
    let location = fleet.url(0, &header(&begun, LOCATION.as_str()));
    // Its body never comes.
    let body = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, String>>());
    let patch = fleet.client.patch(location).header(CONTENT_LENGTH, 2001);
    let answer = patch.header("expect", "100-continue").body(body).send().await.unwrap();
    assert_eq!(refusal(answer).await, refused(403, "DENIED"));
}

#[tokio::test]
async fn a_stream_without_a_length_is_refused_where_it_stops_to_fit() {
    let fleet = Fleet::start(1, 20_000).await;
    let streamed = fleet.push_streamed(0, "team/app", &content(19_500, 1)).await;
    assert_eq!(streamed.status(), StatusCode::CREATED);
    assert_eq!(fleet.used("team").await, 19_500);
    let streamed = fleet.push_streamed(0, "team/app", &content(25_000, 2)).await;
    assert_eq!(refusal(streamed).await, refused(403, "DENIED"));
    fleet.stop().await;
}

#[tokio::test]
async fn a_shared_layer_is_paid_for_once_however_full_the_project_is() {
    let fleet = Fleet::start(2, 20_000).await;
    let layer = content(20_000, 1);
    assert_eq!(fleet.push(0, "team/a", layer.clone()).await.status(), StatusCode::CREATED);
    for (at, repository) in [(0, "team/b"), (1, "team/c"), (1, "team")] {
        let again = fleet.push(at, repository, layer.clone()).await;
        assert_eq!(again.status(), StatusCode::CREATED, "{repository}");
        let again = fleet.push_streamed(at, &format!("{repository}/s"), &layer).await;
        assert_eq!(again.status(), StatusCode::CREATED, "{repository}");
    }
    assert_eq!(fleet.used("team").await, 20_000);
    // As large as what is there, and not the same: refused when its digest is known.
    let streamed = fleet.push_streamed(0, "team/a", &content(20_000, 2)).await;
    assert_eq!(refusal(streamed).await, refused(403, "DENIED"));
    fleet.stop().await;
}

#[tokio::test]
async fn a_mount_is_charged_to_the_project_that_it_goes_to() {
    let fleet = Fleet::start(1, 2000).await;
    let mounted = |digest: Digest, to: &str| {
        let path = format!("/v2/{to}/blobs/uploads/?mount={digest}&from=other/app");
        fleet.client.post(fleet.url(0, &path)).send()
    };
    for size in [1500, 600] {
        let pushed = fleet.push(0, "other/app", content(size, 1)).await;
        assert_eq!(pushed.status(), StatusCode::CREATED);
    }
    let (large, small) = (sha256(&content(1500, 1)), sha256(&content(600, 1)));
    assert_eq!(mounted(large, "team/a").await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(mounted(large, "team/b").await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(refusal(mounted(small, "team/a").await.unwrap()).await, refused(403, "DENIED"));
    assert_eq!(fleet.used("team").await, 1500);
    fleet.stop().await;
}

#[tokio::test]
async fn manifests_count_too() {
    let fleet = Fleet::start(1, 1500).await;
    let layer = content(1000, 1);
    let config = b"{}";
    fleet.push(0, "team/app", layer.clone()).await;
    fleet.push(0, "team/app", config.to_vec()).await;
    let manifest = image_manifest(config, &[&layer]);
    assert!(manifest.len() < 498, "one fits and no second one");
    let put = fleet.put_manifest(0, "team/app", "v1", manifest.clone()).await;
    assert_eq!(put.status(), StatusCode::CREATED);
    // The same one under another tag costs nothing.
    let put = fleet.put_manifest(0, "team/app", "v2", manifest.clone()).await;
    assert_eq!(put.status(), StatusCode::CREATED);
    let other = manifest.replace("\"layers\"", "\"annotations\":{\"a\":\"b\"},\"layers\"");
    let put = fleet.put_manifest(0, "team/app", "v3", other).await;
    assert_eq!(refusal(put).await, refused(403, "DENIED"));
    assert_eq!(fleet.used("team").await, 1002 + manifest.len() as u64);
    fleet.stop().await;
}

#[tokio::test]
async fn a_push_that_fails_gives_back_its_reservation_and_nobodys_charge() {
    let fleet = Fleet::start(1, 2000).await;
    let wrong = sha256(b"something else");
    let url = fleet.url(0, &format!("/v2/team/app/blobs/uploads/?digest={wrong}"));
    for _ in 0..3 {
        let pushed = fleet.client.post(&url).body(content(1500, 1)).send().await.unwrap();
        assert_eq!(refusal(pushed).await, refused(400, "DIGEST_INVALID"));
    }
    assert_eq!(fleet.used("team").await, 0);
    assert_eq!(fleet.push(0, "team/app", content(2000, 2)).await.status(), StatusCode::CREATED);
    let pushed = fleet.client.post(&url).body(content(2000, 2)).send().await.unwrap();
    assert_eq!(refusal(pushed).await, refused(400, "DIGEST_INVALID"));
    assert_eq!(fleet.used("team").await, 2000);
    fleet.stop().await;
}

#[tokio::test]
async fn headroom_that_a_dead_instance_leased_comes_back() {
    let mut fleet = Fleet::start_with(1, limited(2000, 1000, 10_000)).await;
    // Its lease has some to spare, and it gives nothing back.
    assert_eq!(fleet.push(0, "team/app", content(1000, 1)).await.status(), StatusCode::CREATED);
    fleet.instances[0].task.abort();
    fleet.add().await;
    assert_eq!(fleet.push(1, "team/app", content(1000, 2)).await.status(), StatusCode::CREATED);
    assert_eq!(fleet.used("team").await, 2000);
}

#[tokio::test]
async fn an_instance_that_ends_gives_its_headroom_back_at_once() {
    let fleet = Fleet::start_with(1, limited(1_000_000, 600_000, 0)).await;
    assert_eq!(fleet.push(0, "team/app", content(1000, 1)).await.status(), StatusCode::CREATED);
    let (storage, config) = (fleet.storage(), fleet.config.quota.clone());
    fleet.stop().await;
    let usage = quota::usage(&storage, &config, &"team".parse().unwrap()).await.unwrap();
    assert_eq!((usage.leased_bytes, usage.leases, usage.used_bytes), (0, 0, 1000));
}

#[tokio::test]
async fn two_instances_share_the_last_bytes_exactly() {
    let fleet = Fleet::start(2, 100_000).await;
    let pushes = (0..60).map(|i| {
        let fleet = &fleet;
        async move {
            let content = content(1000 + i * 97, i);
            let size = content.len() as u64;
            let answer = fleet.push(i % 2, &format!("team/r{i}"), content).await;
            match answer.status() {
                StatusCode::CREATED => None,
                _ => {
                    assert_eq!(refusal(answer).await, refused(403, "DENIED"));
                    Some(size)
                }
            }
        }
    });
    let refused: Vec<Option<u64>> =
        futures::stream::iter(pushes).buffer_unordered(60).collect().await;
    let used = fleet.used("team").await;
    assert!(used <= 100_000);
    let smallest = refused.into_iter().flatten().min().expect("not all of them fit");
    assert!(used + smallest > 100_000, "{smallest} would have fitted beside {used}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_recomputation_charges_what_is_held_and_reports_what_is_not() {
    let mut fleet = Fleet::start_with(1, |_| {}).await;
    let (layer, config) = (content(1000, 1), b"{}");
    for repository in ["team/app", "team"] {
        fleet.push(0, repository, layer.clone()).await;
        fleet.push(0, repository, config.to_vec()).await;
        let manifest = image_manifest(config, &[&layer]);
        fleet.put_manifest(0, repository, "v1", manifest).await;
    }
    assert_eq!(fleet.used("team").await, 0, "nothing is charged while no quota is set");
    let (team, storage) = ("team".parse().unwrap(), fleet.storage());
    let stray = Charge { digest: sha256(b"stray"), size: 5 };
    storage.create_charge(&team, &stray).await.unwrap();
    let held = 1002 + image_manifest(config, &[&layer]).len() as u64;
    let first = Recomputed {
        project: "team".into(),
        used_bytes: held + 5,
        charges: 4,
        added: 3,
        added_bytes: held,
        unheld: 1,
        unheld_bytes: 5,
    };
    assert_eq!(quota::recompute(&storage, &team).await.unwrap(), first);
    let second = Recomputed { added: 0, added_bytes: 0, ..first };
    assert_eq!(quota::recompute(&storage, &team).await.unwrap(), second);
    // An instance that has a quota now counts them.
    fleet.config.quota.default_bytes = held + 10;
    fleet.add().await;
    let pushed = fleet.push(1, "team/app", content(6, 1)).await;
    assert_eq!(refusal(pushed).await, refused(403, "DENIED"));
    assert_eq!(fleet.push(1, "team/app", content(5, 1)).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn instances_learn_at_once_of_what_a_recomputation_adds() {
    let fleet = Fleet::start(1, 1_000_000).await;
    assert_eq!(fleet.push(0, "team/app", content(1000, 1)).await.status(), StatusCode::CREATED);
    let storage = fleet.storage();
    let repository = "team/app".parse().unwrap();
    // Bytes that came before there was a quota.
    let mut appender = storage
        .append(longshore_registry::storage::Progress::new(longshore_proto::Algorithm::Sha256));
    let old = content(500_000, 9);
    appender.write(old.clone().into()).await.unwrap();
    let progress = appender.finish().await.unwrap();
    storage.commit(&repository, None, progress, &sha256(&old)).await.unwrap();
    let team = "team".parse().unwrap();
    assert_eq!(quota::recompute(&storage, &team).await.unwrap().added_bytes, 500_000);
    let pushed = fleet.push(0, "team/app", content(600_000, 3)).await;
    assert_eq!(refusal(pushed).await, refused(403, "DENIED"));
    fleet.stop().await;
}

/// 500 pushers, 10 artifacts each: a layer of its own, the project's one config, a manifest.
async fn burst(instances: usize, limit: u64) -> (Fleet, Vec<Option<u64>>) {
    const PUSHERS: usize = 500;
    const ARTIFACTS: usize = 10;
    let fleet = Fleet::start(instances, limit).await;
    let config = b"{}".to_vec();
    let pushers = (0..PUSHERS).map(|pusher| {
        let (fleet, config) = (&fleet, config.clone());
        async move {
            let (at, repository) = (pusher % instances, format!("team/r{pusher}"));
            let mut refused_bytes = Vec::new();
            for artifact in 0..ARTIFACTS {
                let layer = format!("layer {pusher} {artifact}").into_bytes();
                let manifest = image_manifest(&config, &[&layer]);
                let pushed = [
                    fleet.push(at, &repository, config.clone()).await,
                    fleet.push(at, &repository, layer.clone()).await,
                ];
                let mut is_in = true;
                for (answer, bytes) in pushed.into_iter().zip([config.len(), layer.len()]) {
                    is_in &= accepted(answer, bytes, &mut refused_bytes).await;
                }
                if is_in {
                    let bytes = manifest.len();
                    let put = fleet.put_manifest(at, &repository, "v1", manifest).await;
                    accepted(put, bytes, &mut refused_bytes).await;
                }
            }
            refused_bytes.into_iter().min()
        }
    });
    let smallest = futures::stream::iter(pushers).buffer_unordered(PUSHERS).collect().await;
    (fleet, smallest)
}

/// Whether it was; else it was a refusal of the quota and nothing else.
async fn accepted(answer: Response, bytes: usize, refused_bytes: &mut Vec<u64>) -> bool {
    if answer.status() == StatusCode::CREATED {
        return true;
    }
    let (status, body) = (answer.status(), answer.text().await.unwrap());
    assert!(status == StatusCode::FORBIDDEN && body.contains("\"DENIED\""), "{status} {body}");
    refused_bytes.push(bytes as u64);
    false
}

fn burst_bytes() -> u64 {
    let all = (0..500).flat_map(|pusher| (0..10).map(move |artifact| (pusher, artifact)));
    let bytes = all.map(|(pusher, artifact)| {
        let layer = format!("layer {pusher} {artifact}").into_bytes();
        layer.len() + image_manifest(b"{}", &[&layer]).len()
    });
    2 + bytes.sum::<usize>() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_pushers_into_one_project_all_get_in_and_usage_is_exact() {
    let total = burst_bytes();
    let (fleet, refused) = burst(2, total).await;
    assert!(refused.iter().all(Option::is_none), "there is room for all of it to the byte");
    let usage = fleet.usage("team").await;
    assert_eq!((usage.used_bytes, usage.charges), (total, 10_001));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_five_hundred_pushers_who_do_not_all_fit_none_is_refused_in_vain() {
    let limit = burst_bytes() / 3;
    let (fleet, refused) = burst(2, limit).await;
    let used = fleet.used("team").await;
    assert!(used <= limit);
    let smallest = refused.into_iter().flatten().min().expect("two thirds do not fit");
    assert!(used + smallest > limit, "{smallest} would have fitted beside {used} of {limit}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_push_waits_for_what_another_may_give_back_and_then_says_try_again() {
    let fleet = Fleet::start_with(1, limited(2000, 60_000, 300)).await;
    let url = fleet.url(0, "/v2/team/app/blobs/uploads/");
    let begun = fleet.client.post(url).send().await.unwrap();
    let location = fleet.url(0, &header(&begun, LOCATION.as_str()));
    // A push that never ends holds 1500 bytes.
    let body = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, String>>());
    let patch = fleet.client.patch(location).header(CONTENT_LENGTH, 1500).body(body);
    let slow = tokio::spawn(patch.send());
    let held = async {
        while fleet.usage("team").await.leased_bytes < 1500 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), held).await.unwrap();
    let answer = fleet.push(0, "team/app", content(600, 1)).await;
    assert_eq!(header(&answer, "retry-after"), "5");
    assert_eq!(refusal(answer).await, refused(503, "UNAVAILABLE"));
    // What fits beside it gets in, and when its client hangs up so does the rest.
    assert_eq!(fleet.push(0, "team/app", content(500, 2)).await.status(), StatusCode::CREATED);
    slow.abort();
    let retried = async {
        while fleet.push(0, "team/app", content(1500, 3)).await.status() != StatusCode::CREATED {}
    };
    tokio::time::timeout(Duration::from_secs(20), retried).await.unwrap();
    assert_eq!(fleet.used("team").await, 2000);
}
