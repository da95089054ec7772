//! Clients that cannot reach a store, which this process reaches very well.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::signer::Signer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::storage::Presigner;

/// The data path of a store: answers every GET with a byte, or with 503.
#[derive(Clone, Debug)]
struct DataPath {
    url: String,
    open: Arc<AtomicBool>,
}

impl DataPath {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = Arc::new(AtomicBool::new(true));
        let answers = open.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let read = client.read(&mut request).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&request[..read]).to_lowercase();
                let answer = match answers.load(Ordering::SeqCst) && asked.contains("bytes=0-0") {
                    true => "HTTP/1.1 206 Partial Content\r\ncontent-length: 1\r\n\r\nx",
                    false => "HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n",
                };
                let _ = client.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, open }
    }
}

#[async_trait]
impl Signer for DataPath {
    async fn signed_url(
        &self,
        _: http::Method,
        path: &Path,
        _: Duration,
    ) -> object_store::Result<reqwest::Url> {
        Ok(format!("{}/{path}?signed", self.url).parse().unwrap())
    }
}

#[tokio::test]
async fn redirects_lead_where_clients_can_go() {
    let _another_test_may_have_been_first =
        rustls::crypto::ring::default_provider().install_default();
    let world = World::new();
    let (eu, us) = (DataPath::start().await, DataPath::start().await);
    let mut opened = world.opened(&Machine::immortal());
    for (store, path) in opened.iter_mut().zip([&eu, &us]) {
        let signer = Arc::new(path.clone());
        let expiry = Duration::from_secs(60);
        store.presigner = Some(Presigner::new(signer, Path::default(), expiry));
    }
    let config: Config = toml::from_str(CONFIG).unwrap();
    let policy = Policy {
        probe_first: Duration::ZERO,
        probe_max: Duration::ZERO,
        probe_closed: Duration::ZERO,
        ..Policy::default()
    };
    let metrics = RegionMetrics::default();
    let (keys, how) = (Keyring::of(world.key.clone()), (policy, timing()));
    let regions = Regions::with_timing(&config, opened, &keys, &metrics, how).await.unwrap();
    let process = Process { regions };
    let (home, storage) = (process.home(), process.storage());
    let digest = push_blob(storage, &content(1000)).await.unwrap();
    let pointer = storage.pointer(&digest).await.unwrap().unwrap();
    let key = &pointer.segments[0].key;
    let location = async || storage.presign(&pointer).await.map(|signed| signed.url);
    let steps = async |steps: usize| {
        for _ in 0..steps {
            home.step(&mut Instant::now()).await;
        }
    };
    steps(1).await;
    assert_eq!(location().await, Some(format!("{}/{key}?signed", eu.url)));

    // Not copied yet: this process sends the bytes itself.
    let epoch = storage.redirect_epoch();
    eu.open.store(false, Ordering::SeqCst);
    steps(3).await;
    assert_ne!(storage.redirect_epoch(), epoch, "what was signed before is not handed out");
    assert_eq!(location().await, None);
    assert_eq!(home.state(), StoreState::Primary);
    assert!(process.regions.readiness().text.contains("clients cannot reach"));
    process.mend().await;
    assert_eq!(location().await, Some(format!("{}/replica/eu/{key}?signed", us.url)));
    us.open.store(false, Ordering::SeqCst);
    steps(3).await;
    assert_eq!(location().await, None);

    eu.open.store(true, Ordering::SeqCst);
    steps(2).await;
    assert_eq!(location().await, Some(format!("{}/{key}?signed", eu.url)));
}
