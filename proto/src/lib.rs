//! What two Longshore processes must agree on.
//!
//! Owns the names of the field as types that are parsed once at the edge (`Digest`,
//! `RepositoryName`, `Tag`, `Reference`, `Descriptor`, `ByteRange`), the manifests' shape, the OCI
//! error codes, the piece list with its verification, the forms that the origin signs, and the
//! generated messages in [`rpc`]. It does no I/O and starts nothing.

mod byte_range;
mod descriptor;
mod digest;
mod error;
mod manifest;
pub mod piece;
mod reference;
pub mod rpc;
pub mod sign;
pub mod wire;

pub use byte_range::{ByteRange, InvalidRange, RequestedRange};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestHasher, InvalidDigest};
pub use error::{ErrorBody, ErrorCode};
pub use manifest::{
    InvalidManifest, MANIFEST_BYTES_MAX, Manifest, ManifestEntry, Platform, media_type,
};
pub use reference::{ImageName, InvalidName, Reference, RepositoryName, Tag};

/// Version of the swarm's wire format; peers with another one are not talked to.
pub const SWARM_VERSION: u32 = 1;
