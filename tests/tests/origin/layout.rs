//! Images as OCI layouts on disk, for clients that copy them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use longshore_proto::{Algorithm, Digest, media_type};
use longshore_tests::testkit::Result;
use longshore_tests::testkit::error::Context as _;
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};

use crate::client::{Client, lost};

pub(crate) const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An index of two images, which share one of their three layers, as an OCI layout.
pub(crate) struct Layout {
    directory: PathBuf,
    /// Of the index.
    pub(crate) index: Digest,
    manifests: BTreeSet<Digest>,
    pub(crate) blobs: BTreeSet<Digest>,
}

impl Layout {
    pub(crate) fn write(directory: PathBuf) -> Result<Self> {
        let index = Digest::of(Algorithm::Sha256, b"");
        let mut layout =
            Self { directory, index, manifests: BTreeSet::new(), blobs: BTreeSet::new() };
        let mut images = Vec::new();
        for (seed, architecture) in [(1, "amd64"), (2, "arm64")] {
            let platform = json!({ "architecture": architecture, "os": "linux" });
            let config = layout.add(IMAGE_CONFIG, platform.to_string().as_bytes())?;
            let mut layers = Vec::new();
            for content in [layer(100, 0), layer(70_000, seed), layer(3_000_000, seed)] {
                layers.push(layout.add(LAYER, &content)?);
            }
            let kind = media_type::OCI_MANIFEST;
            let manifest = json!({
                "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers,
            });
            let mut image = layout.add(kind, manifest.to_string().as_bytes())?;
            image["platform"] = platform;
            images.push(image);
        }
        let kind = media_type::OCI_INDEX;
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": images });
        let index = index.to_string();
        layout.index = Digest::of(Algorithm::Sha256, index.as_bytes());
        let root =
            json!({ "schemaVersion": 2, "manifests": [layout.add(kind, index.as_bytes())?] });
        layout.put("index.json", root.to_string().as_bytes())?;
        layout.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(layout)
    }

    fn add(&mut self, kind: &str, content: &[u8]) -> Result<Value> {
        let digest = Digest::of(Algorithm::Sha256, content);
        self.put(&format!("blobs/sha256/{}", digest.hex()), content)?;
        let manifest = [media_type::OCI_MANIFEST, media_type::OCI_INDEX].contains(&kind);
        if manifest { &mut self.manifests } else { &mut self.blobs }.insert(digest);
        Ok(json!({ "mediaType": kind, "digest": digest.to_string(), "size": content.len() }))
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let directory = path.parent().expect("it lies in the layout");
        let written = fs::create_dir_all(directory).and_then(|()| fs::write(&path, content));
        written.during(|| path.display().to_string())
    }

    /// As skopeo names it.
    pub(crate) fn name(&self) -> String {
        format!("oci:{}", self.directory.display())
    }

    /// Reads everything at a registry whose repository is at `path`, byte for byte.
    pub(crate) async fn assert_at(&self, client: &Client, path: &str) -> Result<()> {
        let manifests = self.manifests.iter().map(|digest| ("manifests", digest));
        let blobs = self.blobs.iter().map(|digest| ("blobs", digest));
        for (kind, digest) in manifests.chain(blobs) {
            let got = client.request(Method::GET, &format!("{path}/{kind}/{digest}"));
            let got = got.header(ACCEPT, media_type::OCI_INDEX);
            let got = got.header(ACCEPT, media_type::OCI_MANIFEST).send().await;
            let got = got.map_err(|error| lost(&error))?;
            assert_eq!(got.status(), 200, "{kind}/{digest}");
            let got = got.bytes().await.map_err(|error| lost(&error))?;
            assert_eq!(Digest::of(Algorithm::Sha256, &got), *digest);
        }
        Ok(())
    }

    /// Whether the layout that was pulled to `at` has the same content.
    pub(crate) fn assert_pulled(&self, at: &Path) -> Result<()> {
        for digest in self.manifests.iter().chain(&self.blobs) {
            let path = at.join("blobs/sha256").join(digest.hex());
            let content = fs::read(&path).during(|| path.display().to_string())?;
            assert_eq!(Digest::of(Algorithm::Sha256, &content), *digest);
        }
        Ok(())
    }
}

/// Bytes that compress, and differ by `seed`.
pub(crate) fn layer(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at + seed) * 31 % 251) as u8).collect()
}
