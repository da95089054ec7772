//! A registry in this process, behind the same door as `main`'s, and what a client needs.

use std::net::SocketAddr;
use std::time::Duration;

use longshore_proto::sign::{PublicKey, PublicKeys};
use longshore_proto::{Algorithm, Digest, media_type};
use longshore_registry::Instance;
use longshore_registry::config::Config;
use longshore_registry::reload::Reload;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Whatever is waited for has happened long before.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running registry on free ports; its files go when it is dropped.
pub(crate) struct TestRegistry {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) client: Client,
    pub(crate) directory: TempDir,
    pub(crate) reload: Reload,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl TestRegistry {
    /// On a local directory.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    async fn start_in(directory: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.serve.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let store = format!("file://{}", directory.path().join("store").display());
        config.storage.url = store.parse().unwrap();
        config.identity.signing_key_file = directory.path().join("keys/signing.pem");
        change(&mut config);
        let instance = Instance::start(&config).await.unwrap();
        let (address, admin) = (instance.address(), instance.admin_address());
        let key = instance.public_key();
        let reload = instance.reload();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(instance.run(shutdown.clone()));
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().build().unwrap();
        Self { address, admin, key, client, directory, reload, shutdown, running }
    }

    /// Ends it, drained, and starts another on the same store and keys.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same, with another configuration.
    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Self {
        let directory = self.stop().await;
        Self::start_in(directory, change).await
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        // Kept connections would be waited for.
        drop(self.client);
        self.running.await.unwrap();
        self.directory
    }

    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn keys(&self) -> PublicKeys {
        PublicKeys::new([self.key.clone()])
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) async fn head(&self, path: &str) -> Response {
        self.request(Method::HEAD, path).send().await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.request(Method::DELETE, path).send().await.unwrap()
    }

    /// Begins an upload; its path.
    pub(crate) async fn begin_upload(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let response = self.request(Method::POST, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        header(&response, LOCATION.as_str())
    }

    /// POST, then PUT with all bytes.
    pub(crate) async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = sha256(content);
        let location = self.begin_upload(repository).await;
        let put = self
            .request(Method::PUT, &format!("{location}?digest={digest}"))
            .body(content.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap());
        digest
    }

    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        content: &str,
    ) -> Response {
        self.request(Method::PUT, &format!("/v2/{repository}/manifests/{reference}"))
            .header(CONTENT_TYPE, media_type)
            .body(content.to_owned())
            .send()
            .await
            .unwrap()
    }

    /// An image of these layers under that tag; its manifest's digest.
    pub(crate) async fn push_image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Digest {
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        self.push_blob(repository, config).await;
        for layer in layers {
            self.push_blob(repository, layer).await;
        }
        let manifest = image_manifest(config, layers);
        let put = self.put_manifest(repository, tag, media_type::OCI_MANIFEST, &manifest).await;
        assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap());
        sha256(manifest.as_bytes())
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let url = format!("http://{}/metrics", self.admin);
        let text = self.client.get(url).send().await.unwrap().text().await.unwrap();
        let values =
            text.lines().filter_map(|line| line.strip_prefix(name)?.split(' ').next_back());
        values.map(|value| value.parse::<f64>().unwrap() as u64).sum()
    }
}

/// Looks until it is so. Others run between two looks, and nothing is slept through.
pub(crate) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looked = async {
        while !look().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn image_manifest(config: &[u8], layers: &[&[u8]]) -> String {
    let descriptor = |media_type: &str, content: &[u8]| {
        let (digest, size) = (sha256(content), content.len());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::OCI_MANIFEST,
        descriptor("application/vnd.oci.image.config.v1+json", config),
        layers.join(",")
    )
}

pub(crate) fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

pub(crate) fn content(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|i| ((i + seed) * 31 % 251) as u8).collect()
}

pub(crate) fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.unwrap_or_else(|| panic!("no {name}")).to_str().unwrap().to_owned()
}

pub(crate) fn content_length(response: &Response) -> u64 {
    header(response, CONTENT_LENGTH.as_str()).parse().unwrap()
}

/// The status and the first error's code.
pub(crate) async fn refusal(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: serde_json::Value = response.json().await.unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}

/// A refusal as the specification names it.
pub(crate) fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
