//! The images of a node start, and ten thousand more: small, so that only requests are measured.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_proto::{Algorithm, Digest, media_type};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::json;

use crate::testkit::error::{LabError, Result};

/// Bytes of a layer: nobody reads them.
const LAYER_BYTES: usize = 1024;
/// Requests of the pusher that are under way at once.
const PUSHES_IN_FLIGHT: usize = 16;
/// Repositories that the many images lie in.
const KNOWN_REPOSITORIES: usize = 100;

/// One image of the set.
#[derive(Debug, Clone)]
pub(super) struct SmallImage {
    /// `bench/app-07`
    pub(super) repository: String,
    /// `v1`
    pub(super) tag: String,
    /// The manifest's.
    pub(super) digest: Digest,
    /// As it is pushed.
    pub(super) manifest: Vec<u8>,
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
}

impl SmallImage {
    /// Its layers' digests, in order.
    pub(super) fn layers(&self) -> impl Iterator<Item = Digest> + '_ {
        self.layers.iter().map(|layer| Digest::of(Algorithm::Sha256, layer))
    }

    fn new(repository: String, tag: String, note: &str, layers: Vec<Vec<u8>>) -> Self {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let config = config.to_string().into_bytes();
        let descriptor = |media_type: &str, content: &[u8]| {
            let digest = Digest::of(Algorithm::Sha256, content).to_string();
            json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
        };
        let layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|layer| descriptor(layer_type, layer)).collect::<Vec<_>>(),
            "annotations": { "org.opencontainers.image.title": note },
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(Algorithm::Sha256, &manifest);
        Self { repository, tag, digest, manifest, config, layers }
    }
}

/// What a node pulls at its start: `images` repositories, each image with layers of its own.
pub(super) fn node_start(images: usize, layers: usize) -> Vec<SmallImage> {
    let layer = |image: usize, layer: usize| {
        let mut content = format!("layer {layer} of image {image} ").into_bytes();
        content.resize(LAYER_BYTES, b'.');
        content
    };
    let image = |number: usize| {
        let layers = (0..layers).map(|at| layer(number, at)).collect();
        SmallImage::new(format!("bench/app-{number:02}"), "v1".to_owned(), "app", layers)
    };
    (0..images).map(image).collect()
}

/// Images that share all blobs and differ in their manifests.
pub(super) fn known(count: usize, like: &SmallImage) -> Vec<SmallImage> {
    let image = |number: usize| {
        let repository = format!("known/app-{:02}", number % KNOWN_REPOSITORIES);
        let (tag, note) = (format!("v{number}"), format!("build {number}"));
        SmallImage::new(repository, tag, &note, like.layers.clone())
    };
    (0..count).map(image).collect()
}

/// A registry that images are pushed to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// For all requests.
    pub(super) client: Client,
    /// `http://127.0.0.1:5000`
    pub(super) url: String,
    /// Name and password.
    pub(super) basic: Option<(String, String)>,
}

impl Target {
    /// Pushes images with all their blobs; blobs of a repository go once.
    pub(super) async fn push(&self, images: &[SmallImage]) -> Result<()> {
        let mut blobs = std::collections::BTreeMap::new();
        for image in images {
            for content in image.layers.iter().chain([&image.config]) {
                let digest = Digest::of(Algorithm::Sha256, content);
                blobs.insert((image.repository.as_str(), digest), content.as_slice());
            }
        }
        let pushes = blobs.into_iter().map(|((repository, digest), content)| {
            self.push_blob(repository, digest, content.to_vec())
        });
        stream::iter(pushes.map(Ok)).try_for_each_concurrent(PUSHES_IN_FLIGHT, |push| push).await?;
        let pushes = images.iter().map(|image| self.push_manifest(image));
        stream::iter(pushes).buffer_unordered(PUSHES_IN_FLIGHT).try_collect().await
    }

    /// Gets each image's manifest by its tag, once.
    pub(super) async fn get(&self, images: &[SmallImage]) -> Result<()> {
        let gets = images.iter().map(|image| async move {
            let path = format!("/v2/{}/manifests/{}", image.repository, image.tag);
            let got = expect(self.request(Method::GET, &path).send().await, StatusCode::OK).await?;
            let bytes = got.bytes().await.map_err(|error| unexpected(&error.to_string()))?;
            match bytes == image.manifest {
                true => Ok(()),
                false => Err(unexpected(&format!("{path} is another manifest"))),
            }
        });
        stream::iter(gets).buffer_unordered(PUSHES_IN_FLIGHT).try_collect().await
    }

    async fn push_blob(&self, repository: &str, digest: Digest, content: Vec<u8>) -> Result<()> {
        let begin = self.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"));
        let begun = expect(begin.send().await, StatusCode::ACCEPTED).await?;
        let location = begun.headers().get("location").and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| unexpected("an upload has no location"))?;
        let base = begun.url().join(location).map_err(|error| unexpected(&error.to_string()))?;
        let mut url = base;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let put = self.with_credentials(self.client.put(url)).body(content);
        expect(put.send().await, StatusCode::CREATED).await.map(|_| ())
    }

    async fn push_manifest(&self, image: &SmallImage) -> Result<()> {
        let path = format!("/v2/{}/manifests/{}", image.repository, image.tag);
        let put = self
            .request(Method::PUT, &path)
            .header("content-type", media_type::OCI_MANIFEST)
            .body(image.manifest.clone());
        expect(put.send().await, StatusCode::CREATED).await.map(|_| ())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.with_credentials(self.client.request(method, format!("{}{path}", self.url)))
    }

    fn with_credentials(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.basic {
            Some((name, password)) => request.basic_auth(name, Some(password)),
            None => request,
        }
    }
}

async fn expect(sent: reqwest::Result<Response>, status: StatusCode) -> Result<Response> {
    let response = sent.map_err(|error| unexpected(&error.to_string()))?;
    if response.status() == status {
        return Ok(response);
    }
    let (url, got) = (response.url().clone(), response.status());
    let body = response.text().await.unwrap_or_default();
    Err(unexpected(&format!("{url}: {got} and not {status}: {body}")))
}

fn unexpected(what: &str) -> LabError {
    LabError::Unexpected(what.to_owned())
}
