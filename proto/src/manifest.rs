//! Manifests: what a pull has to fetch after one.
//!
//! Reads OCI image manifests and indexes (image-spec 1.1) and Docker schema 2, leniently: fields
//! that nobody here reads are not checked. The raw bytes are the manifest; this is a view of them.

use serde::Deserialize;

use crate::{Descriptor, Digest};

/// Largest manifest that is taken or served: 4 MiB, distribution-spec "Pushing Manifests".
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Media types that decide how content is read.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
}

/// What a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One manifest per platform, or a list of artifacts.
    Index {
        /// In the index's order.
        manifests: Vec<ManifestEntry>,
        /// `subject` of a referrer.
        subject: Option<Descriptor>,
    },
    /// An image or an artifact.
    Image {
        /// Configuration, or an artifact's empty blob.
        config: Descriptor,
        /// In the order in which they are unpacked.
        layers: Vec<Descriptor>,
        /// `subject` of a referrer.
        subject: Option<Descriptor>,
    },
}

/// An entry of an index.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ManifestEntry {
    /// The manifest.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// What it runs on, when said.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// Operating system and architecture in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct Platform {
    /// `linux`
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`
    #[serde(default)]
    pub architecture: String,
    /// `v8`
    #[serde(default)]
    pub variant: String,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// Over 4 MiB: answer 413.
    #[error("manifest has more than {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    /// No JSON of the right shape.
    #[error("manifest is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Docker schema 1, or neither layers nor manifests.
    #[error("manifest is neither an image nor an index")]
    UnknownKind,
    /// Its own `mediaType` contradicts the one it came with.
    #[error("manifest says mediaType {said} but came as {came}")]
    MediaTypeMismatch {
        /// In the body.
        said: String,
        /// In the request.
        came: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<ManifestEntry>>,
    subject: Option<Descriptor>,
}

impl Manifest {
    /// Reads `content`, which came with `media_type` (empty: unknown).
    pub fn parse(content: &[u8], media_type: &str) -> Result<Self, InvalidManifest> {
        if content.len() > MANIFEST_BYTES_MAX {
            return Err(InvalidManifest::TooLarge);
        }
        let raw: Raw = serde_json::from_slice(content)?;
        if !raw.media_type.is_empty() && !media_type.is_empty() && raw.media_type != media_type {
            return Err(InvalidManifest::MediaTypeMismatch {
                said: raw.media_type,
                came: media_type.to_owned(),
            });
        }
        match raw {
            // A body that could be both is a known confusion attack (CVE-2021-41190).
            Raw { manifests: Some(_), layers: Some(_), .. } => Err(InvalidManifest::UnknownKind),
            Raw { manifests: Some(manifests), config: None, subject, .. } => {
                Ok(Self::Index { manifests, subject })
            }
            Raw { config: Some(config), layers: Some(layers), subject, .. } => {
                Ok(Self::Image { config, layers, subject })
            }
            _ => Err(InvalidManifest::UnknownKind),
        }
    }

    /// The referrer's subject.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Index { subject, .. } | Self::Image { subject, .. } => subject.as_ref(),
        }
    }

    /// Of an index, the manifest for `platform`: an equal variant before any, in the index's order.
    pub fn for_platform(&self, platform: &Platform) -> Option<&Descriptor> {
        let Self::Index { manifests, .. } = self else {
            return None;
        };
        let fits = |entry: &&ManifestEntry, exact: bool| {
            entry.platform.as_ref().is_some_and(|p| {
                p.os == platform.os
                    && p.architecture == platform.architecture
                    && (!exact || p.variant == platform.variant)
            })
        };
        let exact = manifests.iter().find(|entry| fits(entry, true));
        let loose = || manifests.iter().find(|entry| fits(entry, false));
        exact.or_else(loose).map(|entry| &entry.descriptor)
    }

    /// Every digest that must be in the same repository for the manifest to be complete.
    pub fn references(&self) -> Vec<Digest> {
        match self {
            Self::Index { manifests, .. } => {
                manifests.iter().map(|m| m.descriptor.digest).collect()
            }
            Self::Image { config, layers, .. } => {
                std::iter::once(config).chain(layers).map(|d| d.digest).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Algorithm;

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    fn image() -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{}","size":1}},
               "layers":[{{"mediaType":"l","digest":"{}","size":2}}]}}"#,
            digest("config"),
            digest("layer")
        )
    }

    #[test]
    fn lists_what_an_image_needs() {
        let manifest = Manifest::parse(image().as_bytes(), media_type::OCI_MANIFEST).unwrap();
        assert_eq!(manifest.references(), [digest("config"), digest("layer")]);
    }

    #[test]
    fn chooses_the_platform_and_its_variant() {
        let entry = |name: &str, variant: &str| {
            format!(
                r#"{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"arm64","variant":"{variant}"}}}}"#,
                digest(name)
            )
        };
        let index =
            format!(r#"{{"manifests":[{},{}]}}"#, entry("first", ""), entry("second", "v8"));
        let index = Manifest::parse(index.as_bytes(), "").unwrap();
        let wanted = |variant: &str| {
            let platform = Platform {
                os: "linux".into(),
                architecture: "arm64".into(),
                variant: variant.into(),
            };
            index.for_platform(&platform).map(|d| d.digest)
        };
        assert_eq!(wanted("v8"), Some(digest("second")));
        assert_eq!(wanted("v9"), Some(digest("first")));
    }

    #[test]
    fn refuses_what_could_be_read_two_ways() {
        let both = image().replacen('{', r#"{"manifests":[],"#, 1);
        assert!(matches!(Manifest::parse(both.as_bytes(), ""), Err(InvalidManifest::UnknownKind)));
        let typed =
            image().replacen('{', r#"{"mediaType":"application/vnd.oci.image.index.v1+json","#, 1);
        let mismatch = Manifest::parse(typed.as_bytes(), media_type::OCI_MANIFEST);
        assert!(matches!(mismatch, Err(InvalidManifest::MediaTypeMismatch { .. })));
    }

    #[test]
    fn refuses_more_than_four_mebibytes() {
        let large = vec![b' '; MANIFEST_BYTES_MAX + 1];
        assert!(matches!(Manifest::parse(&large, ""), Err(InvalidManifest::TooLarge)));
    }
}
