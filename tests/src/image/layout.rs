//! Writes and reads an OCI image layout: layers, configuration, manifest, index.
//!
//! Source: OCI image-spec 1.1, image-layout.md. Everything written depends on the layers' content
//! alone: no times, no host names.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use longshore_proto::{Algorithm, Descriptor, Digest, DigestHasher};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::testkit::error::{Context, LabError, Result};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of the manifests that the lab writes.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The reference that the layout's index gives its only manifest.
pub const REFERENCE: &str = "latest";
/// What a container of the image is asked to do and print.
const CHECK: &str = "check.json";

/// An image in an OCI layout on disk.
#[derive(Debug, Clone)]
pub struct Image {
    /// The layout's directory.
    pub layout: PathBuf,
    /// The manifest's digest: the image's name.
    pub digest: Digest,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The configuration, what CRI calls the image's id.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What a container of it does to show that it is whole.
    pub check: Check,
}

/// A command that reads every layer, and what it prints when all is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The command.
    pub command: Vec<String>,
    /// Its standard output.
    pub prints: String,
}

impl Image {
    /// Bytes of all descriptors: the layers and the configuration.
    pub fn bytes(&self) -> u64 {
        self.config.size + self.layers.iter().map(|layer| layer.size).sum::<u64>()
    }

    /// The file with a blob of the image.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.layout, digest)
    }

    /// Opens a layout that [`LayoutWriter`] wrote.
    pub fn open(layout: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Descriptor>,
        }
        #[derive(Deserialize)]
        struct Manifest {
            config: Descriptor,
            layers: Vec<Descriptor>,
        }
        let index: Index = read_json(&layout.join("index.json"))?;
        let digest = match &index.manifests[..] {
            [only] => only.digest,
            other => return Err(LabError::Unexpected(format!("{} manifests", other.len()))),
        };
        let path = blob_path(layout, &digest);
        let manifest = fs::read(&path).during(|| path.display().to_string())?;
        let Manifest { config, layers } = parse_json(&path, &manifest)?;
        let check = read_json(&layout.join(CHECK))?;
        Ok(Self { layout: layout.to_owned(), digest, manifest, config, layers, check })
    }
}

/// A finished layer: its descriptor, and the digest of its tar.
#[derive(Debug, Clone)]
pub struct Layer {
    descriptor: Descriptor,
    diff_id: Digest,
}

/// Writes a layout into an empty directory.
#[derive(Debug)]
pub struct LayoutWriter {
    directory: PathBuf,
    entrypoint: Vec<String>,
}

impl LayoutWriter {
    /// Begins a layout.
    pub fn new(directory: &Path) -> Result<Self> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).during(|| blobs.display().to_string())?;
        Ok(Self { directory: directory.to_owned(), entrypoint: Vec::new() })
    }

    /// What a container runs when it is told nothing else.
    pub fn entrypoint(mut self, command: Vec<String>) -> Self {
        self.entrypoint = command;
        self
    }

    /// Adds a layer with the tar that `fill` writes. `name` keeps concurrent layers apart.
    pub fn layer(
        &self,
        name: &str,
        compression: Compression,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Layer> {
        let path = self.directory.join(format!(".{name}"));
        let subject = || path.display().to_string();
        let file = BufWriter::new(File::create(&path).during(subject)?);
        let gzip = GzBuilder::new().mtime(0).write(Hashing::new(file), compression);
        let mut tar = Hashing::new(gzip);
        fill(&mut tar)?;
        let (diff_id, _, gzip) = tar.finish();
        let (digest, size, file) = gzip.finish().during(subject)?.finish();
        file.into_inner().map_err(io::IntoInnerError::into_error).during(subject)?;
        fs::rename(&path, blob_path(&self.directory, &digest)).during(subject)?;
        Ok(Layer { descriptor: Descriptor { media_type: LAYER.to_owned(), digest, size }, diff_id })
    }

    /// Writes configuration, manifest, index and check over these layers.
    pub fn finish(self, layers: &[Layer], check: &Check) -> Result<Image> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes())?;
        let descriptors: Vec<&Descriptor> = layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors,
        });
        let manifest = self.blob(MANIFEST, manifest.to_string().as_bytes())?;
        let mut entry = serde_json::to_value(&manifest).unwrap_or_default();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": REFERENCE });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        self.file("index.json", index.to_string().as_bytes())?;
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.file(CHECK, json!(check).to_string().as_bytes())?;
        Image::open(&self.directory)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        let path = blob_path(&self.directory, &digest);
        fs::write(&path, bytes).during(|| path.display().to_string())?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 })
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, bytes).during(|| path.display().to_string())
    }
}

/// The digest of a file's content.
pub fn file_digest(path: &Path) -> Result<Digest> {
    let file = File::open(path).during(|| path.display().to_string())?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut hasher = Hashing::new(io::sink());
    io::copy(&mut reader, &mut hasher).during(|| path.display().to_string())?;
    Ok(hasher.finish().0)
}

/// The name of this machine's architecture in OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).during(|| path.display().to_string())?;
    parse_json(path, &bytes)
}

fn parse_json<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|failed| LabError::Unexpected(format!("{}: {failed}", path.display())))
}

/// Hashes and counts what passes.
struct Hashing<W> {
    inner: W,
    hasher: DigestHasher,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: DigestHasher::new(Algorithm::Sha256), bytes: 0 }
    }

    fn finish(self) -> (Digest, u64, W) {
        (self.hasher.finish(), self.bytes, self.inner)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Appends a regular file with fixed metadata to a tar.
pub(crate) fn append_file<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    size: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, path, content).during(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(directory: &Path) -> Image {
        let writer = LayoutWriter::new(directory).expect("a layout");
        let layer = writer.layer("0", Compression::fast(), |out| {
            let mut tar = tar::Builder::new(out);
            append_file(&mut tar, "data/x", 0o644, 5, &b"bytes"[..])?;
            tar.finish().during(|| "tar".to_owned())
        });
        let check = Check { command: vec!["true".to_owned()], prints: String::new() };
        writer.finish(&[layer.expect("a layer")], &check).expect("an image")
    }

    #[test]
    fn the_same_parts_make_the_same_image() {
        let (one, two) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let (one, two) = (build(one.path()), build(two.path()));
        assert_eq!(one.digest, two.digest);
    }

    #[test]
    fn every_descriptor_names_its_blob() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = build(directory.path());
        for descriptor in image.layers.iter().chain([&image.config]) {
            let path = image.blob(&descriptor.digest);
            assert_eq!(file_digest(&path).expect("readable"), descriptor.digest);
            assert_eq!(fs::metadata(&path).expect("there").len(), descriptor.size);
        }
        assert_eq!(Digest::of(Algorithm::Sha256, &image.manifest), image.digest);
    }
}
