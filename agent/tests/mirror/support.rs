//! A registry with an image, an agent's mirror before it, and a client.

#![allow(clippy::unwrap_used, reason = "what a helper misses fails its test")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use longshore_agent::containerd::MirrorSecret;
use longshore_agent::mirror::{Mirror, MirrorMetrics, MirrorOptions};
use longshore_agent::origin::{ClientConfig, Fetch, JoinAs, Origin, OriginClient, OriginMetrics};
use longshore_agent::pull::fetcher::{Fetcher, Want};
use longshore_agent::pull::ledger::OriginReason;
use longshore_agent::pull::{PullConfig, PullMetrics, Puller, Registries, own_platform};
use longshore_agent::store::{
    BlobFailure, PieceStore, StoreConfig, StoreError, StoreMetrics, WriteError,
};
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{PublicKey, PublicKeys};
use longshore_proto::{Algorithm, Digest, Reference, RepositoryName, media_type};
use longshore_registry::Instance;
use longshore_registry::serve::Ends;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const REPOSITORY: &str = "team/app";
pub(crate) const TAG: &str = "v1";
pub(crate) const KIB: usize = 1024;

/// A registry on a free port, in a directory of its own.
pub(crate) struct Registry {
    pub(crate) url: String,
    pub(crate) key: PublicKey,
    running: Option<(Ends, JoinHandle<()>)>,
    _directory: tempfile::TempDir,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "serve.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n\
             storage.url = \"file://{0}/data\"\nidentity.signing_key_file = \"{0}/keys/key.pem\"\n",
            directory.path().display()
        );
        std::fs::create_dir_all(directory.path().join("keys")).unwrap();
        let instance = Instance::start(&toml::from_str(&text).unwrap()).await.unwrap();
        let (url, key) = (format!("http://{}", instance.address()), instance.public_key());
        let ends = Ends::default();
        let task = tokio::spawn(instance.run_until(ends.clone()));
        let running = Some((ends, task));
        Self { url, key, running, _directory: directory }
    }

    /// Ends it and its connections; the port refuses from then on.
    pub(crate) async fn stop(&mut self) {
        let (ends, task) = self.running.take().unwrap();
        ends.cut.cancel();
        ends.drain.cancel();
        task.await.unwrap();
    }

    /// Pushes an image with these layers.
    pub(crate) async fn push(&self, layers: &[Vec<u8>]) -> Image {
        let config = br#"{"architecture":"amd64","os":"linux"}"#.to_vec();
        self.push_blob(&config).await;
        for layer in layers {
            self.push_blob(layer).await;
        }
        let entries: Vec<String> = layers
            .iter()
            .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer))
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            media_type::OCI_MANIFEST,
            descriptor("application/vnd.oci.image.config.v1+json", &config),
            entries.join(",")
        );
        let url = format!("{}/v2/{REPOSITORY}/manifests/{TAG}", self.url);
        let request = reqwest::Client::new()
            .put(url)
            .header("content-type", media_type::OCI_MANIFEST)
            .body(manifest.clone());
        assert_eq!(request.send().await.unwrap().status(), 201);
        Image { manifest: manifest.into(), config: config.into(), layers: layers.to_vec() }
    }

    async fn push_blob(&self, content: &[u8]) {
        let digest = digest(content);
        let url = format!("{}/v2/{REPOSITORY}/blobs/uploads/?digest={digest}", self.url);
        let request = reqwest::Client::new()
            .post(url)
            .header("content-type", "application/octet-stream")
            .body(content.to_vec());
        assert_eq!(request.send().await.unwrap().status(), 201);
    }
}

pub(crate) struct Image {
    pub(crate) manifest: Bytes,
    pub(crate) config: Bytes,
    pub(crate) layers: Vec<Vec<u8>>,
}

/// Bytes that do not repeat within a piece.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

pub(crate) fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

fn descriptor(media_type: &str, content: &[u8]) -> String {
    let (digest, size) = (digest(content), content.len());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// What the fetcher does with the pieces that it is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Conduct {
    #[default]
    Fetch,
    /// Stops before this piece of every blob.
    WaitAt(u32),
    /// Fails every blob before this piece.
    FailAt(u32, BlobFailure),
    /// Flips a bit in every piece.
    Corrupt,
}

/// Reads the registry, one piece after another.
#[derive(Debug)]
pub(crate) struct Direct {
    origin: Arc<dyn Origin>,
    pub(crate) conduct: watch::Sender<Conduct>,
    /// What was read; it may not be stored yet.
    pub(crate) fetched: Mutex<Vec<(Digest, u32)>>,
    pub(crate) cursors: Mutex<HashMap<(Digest, u64), u32>>,
    /// The store of a peer that tells plans.
    pub(crate) peer: Mutex<Option<PieceStore>>,
}

impl Direct {
    async fn fetch(self: Arc<Self>, want: Want) {
        let mut conduct = self.conduct.subscribe();
        let list = &want.blob.list().list;
        let missing: Vec<PieceIndex> = want.blob.held().missing().collect();
        for piece in missing {
            let now = conduct
                .wait_for(|conduct| !matches!(conduct, Conduct::WaitAt(at) if *at <= piece.0))
                .await
                .unwrap()
                .clone();
            if let Conduct::FailAt(at, why) = &now
                && *at <= piece.0
            {
                want.blob.fail(why.clone());
                return;
            }
            let fetch = Fetch {
                repository: want.repository.clone(),
                digest: list.digest(),
                range: list.range(piece).unwrap(),
                permit: None,
            };
            let read = async { self.origin.fetch(fetch).await?.try_collect::<Vec<Bytes>>().await };
            let Ok(parts) = read.await else {
                want.blob.fail(BlobFailure::NotFound);
                return;
            };
            let mut bytes = parts.concat();
            if now == Conduct::Corrupt {
                bytes[7] ^= 1;
            }
            let length = bytes.len() as u64;
            self.fetched.lock().unwrap().push((list.digest(), piece.0));
            match want.blob.write(piece, bytes.into()).await {
                Ok(_) => want.ledger.from_origin(OriginReason::Direct, length),
                Err(WriteError::Full) => return want.blob.fail(BlobFailure::Full),
                Err(_) => {
                    let waited = Duration::from_secs(1);
                    return want.blob.fail(BlobFailure::NoProgress(waited));
                }
            }
        }
    }
}

/// What the puller holds of it.
#[derive(Debug)]
struct Handle(Arc<Direct>);

#[async_trait]
impl Fetcher for Handle {
    fn want(&self, want: Want) {
        tokio::spawn(Arc::clone(&self.0).fetch(want));
    }

    fn unwant(&self, _: Digest) {}

    fn cursor(&self, digest: Digest, client: u64, piece: Option<PieceIndex>) {
        let mut cursors = self.0.cursors.lock().unwrap();
        match piece {
            Some(piece) => cursors.insert((digest, client), piece.0),
            None => cursors.remove(&(digest, client)),
        };
    }

    fn meet(&self, _: Vec<rpc::Peer>) {}

    fn use_permits(&self, _: Vec<rpc::PiecePermit>) {}

    async fn ask_plan(&self, repository: &RepositoryName, reference: &Reference) -> Option<Bytes> {
        self.0.peer.lock().unwrap().as_ref()?.relayed_plan(repository, reference)
    }
}

/// How an agent is started.
pub(crate) struct Options {
    pub(crate) path: PathBuf,
    pub(crate) bytes_max: u64,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) secret: Option<MirrorSecret>,
}

impl Options {
    pub(crate) fn new(place: &tempfile::TempDir) -> Self {
        Self {
            path: place.path().join("store"),
            bytes_max: 1 << 30,
            first_byte_timeout: Duration::from_secs(20),
            secret: None,
        }
    }
}

/// A mirror and what stands behind it.
pub(crate) struct Agent {
    pub(crate) url: String,
    pub(crate) puller: Puller,
    pub(crate) store: PieceStore,
    pub(crate) fetcher: Arc<Direct>,
    pub(crate) pulls: PullMetrics,
    pub(crate) stored: StoreMetrics,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Agent {
    pub(crate) async fn start(registry: &Registry, options: &Options) -> Self {
        let shutdown = CancellationToken::new();
        let (pulls, stored) = (PullMetrics::default(), StoreMetrics::default());
        let config = StoreConfig { path: options.path.clone(), bytes_max: options.bytes_max };
        let store = opened(&config, &stored).await;
        let identity = longshore_agent::identity::load_or_make(&options.path).unwrap();
        let client = ClientConfig {
            url: registry.url.parse().unwrap(),
            join: JoinAs {
                node_name: "node".into(),
                pool: "default".into(),
                zone: "default".into(),
                public_key: identity.public().encode_protobuf(),
                token_file: None,
            },
        };
        let client = Arc::new(OriginClient::new(&client, OriginMetrics::default()).unwrap());
        client.sessions().set_addresses(vec!["/ip4/127.0.0.1/tcp/7770".into()]);
        let joined = tokio::spawn(Arc::clone(&client).keep_joined(shutdown.clone()));
        let fetcher = Arc::new(Direct {
            origin: client.clone(),
            conduct: watch::Sender::default(),
            fetched: Mutex::default(),
            cursors: Mutex::default(),
            peer: Mutex::default(),
        });
        let authority = registry.url.strip_prefix("http://").unwrap();
        let pull = PullConfig {
            registries: Registries::new(vec![authority.parse().unwrap()]),
            keys: PublicKeys::new([registry.key.clone()]),
            platform: own_platform(),
            tag_stale_max: Duration::from_secs(3600),
            stall_timeout: Duration::from_secs(5),
        };
        let handle = Arc::new(Handle(Arc::clone(&fetcher)));
        let puller =
            Puller::new(pull, store.clone(), client, handle, pulls.clone(), shutdown.clone());
        let mirror_options = MirrorOptions {
            secret: options.secret.clone(),
            first_byte_timeout: options.first_byte_timeout,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mirror =
            Mirror::new(listener, mirror_options, puller.clone(), MirrorMetrics::default());
        let tasks = vec![joined, tokio::spawn(mirror.run(shutdown.clone()))];
        Self { url, puller, store, fetcher, pulls, stored, shutdown, tasks }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        // What the test holds back would wait for ever.
        self.fetcher.conduct.send_replace(Conduct::FailAt(0, BlobFailure::NotFound));
        self.puller.join().await;
        for task in self.tasks {
            task.await.unwrap();
        }
        drop((self.puller, self.fetcher));
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(reqwest::Method::GET, path, &[]).await
    }

    pub(crate) async fn range(&self, path: &str, range: &str) -> Answer {
        self.ask(reqwest::Method::GET, path, &[("range", range)]).await
    }

    pub(crate) async fn ask(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = reqwest::Client::new().request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        Answer { status, headers, body: response.bytes().await.ok() }
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    /// None when it broke off.
    pub(crate) body: Option<Bytes>,
}

pub(crate) fn manifest_path(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

pub(crate) fn blob_path(content: &[u8]) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}", digest(content))
}

/// The store, once the last write of an agent that was stopped has let go of it.
async fn opened(config: &StoreConfig, metrics: &StoreMetrics) -> PieceStore {
    let opened = async {
        loop {
            match PieceStore::open(config, metrics.clone()) {
                Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), opened).await.expect("the store is free")
}

/// Waits for what will be true.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), met).await.expect(what);
}
