//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>`.
//!
//! Source: OCI image-spec, descriptor.md "Digests". Other algorithms and upper-case hex are refused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A registered digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256: 64-byte blocks, 32-byte chaining values.
    Sha256,
    /// SHA-512: 128-byte blocks, 64-byte chaining values.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a digest, which is also the size of a chaining value.
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Bytes that one compression consumes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The name of some bytes: their hash, with its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// No `algorithm:hex` shape.
    #[error("digest has no algorithm")]
    NoAlgorithm,
    /// Neither sha256 nor sha512.
    #[error("digest algorithm is neither sha256 nor sha512")]
    UnknownAlgorithm,
    /// Not the algorithm's count of lower-case hex characters.
    #[error("digest is not {expected} lower-case hex characters")]
    BadHex {
        /// How many the algorithm has.
        expected: usize,
    },
}

impl Digest {
    /// A digest from its raw bytes; `None` when their count is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        if raw.len() != algorithm.digest_bytes() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(Self { algorithm, bytes })
    }

    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = DigestHasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// Its algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash, 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_bytes()]
    }

    /// The part after the colon.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    /// The first twelve hex characters, for logs.
    pub fn fmt_short(&self) -> String {
        hex::encode(&self.bytes[..6])
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (name, encoded) = text.split_once(':').ok_or(InvalidDigest::NoAlgorithm)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(InvalidDigest::UnknownAlgorithm),
        };
        let expected = algorithm.digest_bytes() * 2;
        let lower_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if encoded.len() != expected || !encoded.bytes().all(lower_hex) {
            return Err(InvalidDigest::BadHex { expected });
        }
        let mut bytes = [0; 64];
        hex::decode_to_slice(encoded, &mut bytes[..expected / 2])
            .map_err(|_| InvalidDigest::BadHex { expected })?;
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Digests stand in every answer: no allocation, and no character by character.
        let mut text = [0; 128];
        let text = &mut text[..self.algorithm.digest_bytes() * 2];
        hex::encode_to_slice(self.as_bytes(), text).map_err(|_| fmt::Error)?;
        f.write_str(self.algorithm.name())?;
        f.write_str(":")?;
        f.write_str(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream whose algorithm is known at run time.
#[derive(Clone, Debug)]
pub enum DigestHasher {
    /// For `sha256:`.
    Sha256(sha2::Sha256),
    /// For `sha512:`.
    Sha512(sha2::Sha512),
}

impl DigestHasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes seen.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self {
            Self::Sha256(hasher) => {
                bytes[..32].copy_from_slice(&hasher.finalize());
                Algorithm::Sha256
            }
            Self::Sha512(hasher) => {
                bytes.copy_from_slice(&hasher.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parses_what_it_prints() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest, Digest::of(Algorithm::Sha256, b""));
        let long = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(long.to_string().parse(), Ok(long));
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let bad_hex = Err(InvalidDigest::BadHex { expected: 64 });
        assert_eq!("latest".parse::<Digest>(), Err(InvalidDigest::NoAlgorithm));
        assert_eq!("md5:00".parse::<Digest>(), Err(InvalidDigest::UnknownAlgorithm));
        assert_eq!(EMPTY.to_uppercase().replace("SHA", "sha").parse::<Digest>(), bad_hex);
        assert_eq!(EMPTY[..70].parse::<Digest>(), bad_hex);
        assert_eq!("sha256:../../etc/passwd".parse::<Digest>(), bad_hex);
    }
}
