//! A content descriptor.
//!
//! Source: OCI image-spec 1.1, descriptor.md. Fields that Longshore does not read stay in the
//! manifest's raw bytes, which are never re-encoded.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// What some content is, its name and how many bytes it has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// An IANA media type; empty where an index left it out.
    #[serde(default)]
    pub media_type: String,
    /// The content's name.
    pub digest: Digest,
    /// The content's length in bytes.
    pub size: u64,
}
