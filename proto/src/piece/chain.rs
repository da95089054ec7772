//! Chaining values of SHA-256 and SHA-512, and the hasher that keeps them as bytes stream by.
//!
//! Source: FIPS 180-4, sections 5.1 (padding), 5.3 (initial values) and 6.2/6.4.

use sha2::block_api::{compress256, compress512};

use crate::{Algorithm, Digest};

/// Distance between the chaining values that the origin keeps: 256 KiB.
pub const STATE_INTERVAL_BYTES: u64 = 256 * 1024;

/// A chaining value: what the hash function remembers between blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    Sha256([u32; 8]),
    Sha512([u64; 8]),
}

impl Chain {
    pub(super) const fn initial(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256([
                0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
                0x5be0cd19,
            ]),
            Algorithm::Sha512 => Self::Sha512([
                0x6a09e667f3bcc908,
                0xbb67ae8584caa73b,
                0x3c6ef372fe94f82b,
                0xa54ff53a5f1d36f1,
                0x510e527fade682d1,
                0x9b05688c2b3e6c1f,
                0x1f83d9abfb41bd6b,
                0x5be0cd19137e2179,
            ]),
        }
    }

    /// From big-endian bytes; `None` when their count is not the algorithm's.
    pub(super) fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != algorithm.digest_bytes() {
            return None;
        }
        Some(match algorithm {
            Algorithm::Sha256 => {
                let (words, _) = bytes.as_chunks::<4>();
                Self::Sha256(std::array::from_fn(|i| u32::from_be_bytes(words[i])))
            }
            Algorithm::Sha512 => {
                let (words, _) = bytes.as_chunks::<8>();
                Self::Sha512(std::array::from_fn(|i| u64::from_be_bytes(words[i])))
            }
        })
    }

    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Sha256(words) => words.iter().for_each(|w| out.extend(w.to_be_bytes())),
            Self::Sha512(words) => words.iter().for_each(|w| out.extend(w.to_be_bytes())),
        }
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Compresses all whole blocks and returns the bytes that are left.
    pub(super) fn absorb<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Sha256(words) => {
                let (blocks, rest) = bytes.as_chunks::<64>();
                compress256(words, blocks);
                rest
            }
            Self::Sha512(words) => {
                let (blocks, rest) = bytes.as_chunks::<128>();
                compress512(words, blocks);
                rest
            }
        }
    }

    /// Pads a message of `total` bytes whose last, unfinished block is `tail`.
    pub(super) fn finish(mut self, tail: &[u8], total: u64) -> Digest {
        let algorithm = self.algorithm();
        let block = algorithm.block_bytes();
        let length_bytes = block / 8;
        debug_assert!(tail.len() < block, "a tail is less than a block");
        let mut padded = tail.to_vec();
        padded.push(0x80);
        while padded.len() % block != block - length_bytes {
            padded.push(0);
        }
        let bits = u128::from(total) * 8;
        padded.extend(&bits.to_be_bytes()[16 - length_bytes..]);
        self.absorb(&padded);
        let mut raw = Vec::with_capacity(64);
        self.write_to(&mut raw);
        Digest::from_bytes(algorithm, &raw).expect("a chaining value has the digest's length")
    }
}

/// Hashes a stream and keeps its chaining value every [`STATE_INTERVAL_BYTES`].
#[derive(Clone, Debug)]
pub struct ChainHasher {
    chain: Chain,
    /// Bytes after the last whole block.
    tail: Vec<u8>,
    total: u64,
    states: Vec<u8>,
    interval: u64,
}

/// A hasher put aside between two requests of one upload.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SavedChain {
    /// `sha256` or `sha512`
    pub algorithm: String,
    /// The chaining value after the last whole block.
    pub chain: Vec<u8>,
    /// Bytes after the last whole block.
    pub tail: Vec<u8>,
    /// Bytes hashed so far.
    pub total: u64,
    /// The chaining values kept so far.
    pub states: Vec<u8>,
}

/// What a finished [`ChainHasher`] knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedBlob {
    /// The blob's digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Chaining values at 256 KiB, 512 KiB, … strictly inside the blob.
    pub states: Vec<u8>,
}

impl ChainHasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self::with_interval(algorithm, STATE_INTERVAL_BYTES)
    }

    pub(super) fn with_interval(algorithm: Algorithm, interval: u64) -> Self {
        Self {
            chain: Chain::initial(algorithm),
            tail: Vec::with_capacity(algorithm.block_bytes()),
            total: 0,
            states: Vec::new(),
            interval,
        }
    }

    /// Of the digest in which it will end.
    pub const fn algorithm(&self) -> Algorithm {
        self.chain.algorithm()
    }

    /// Bytes hashed so far.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The chaining values kept so far, in order.
    pub fn states(&self) -> &[u8] {
        &self.states
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let to_boundary = self.interval - self.total % self.interval;
            let take = bytes.len().min(usize::try_from(to_boundary).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(take);
            // A boundary is kept only once a byte follows it: the blob's end is its digest.
            if self.total > 0 && self.total.is_multiple_of(self.interval) {
                self.chain.write_to(&mut self.states);
            }
            self.absorb(now);
            self.total += take as u64;
            bytes = later;
        }
    }

    fn absorb(&mut self, mut bytes: &[u8]) {
        let block = self.chain.algorithm().block_bytes();
        if !self.tail.is_empty() {
            let (fill, rest) = bytes.split_at(bytes.len().min(block - self.tail.len()));
            self.tail.extend_from_slice(fill);
            bytes = rest;
            if self.tail.len() < block {
                return;
            }
            self.chain.absorb(&self.tail);
            self.tail.clear();
        }
        let rest = self.chain.absorb(bytes);
        self.tail.extend_from_slice(rest);
    }

    /// The digest and the kept values of all bytes seen.
    pub fn finish(self) -> HashedBlob {
        HashedBlob {
            digest: self.chain.finish(&self.tail, self.total),
            size: self.total,
            states: self.states,
        }
    }

    /// Puts the hasher aside.
    pub fn save(&self) -> SavedChain {
        let mut chain = Vec::new();
        self.chain.write_to(&mut chain);
        SavedChain {
            algorithm: self.chain.algorithm().name().to_owned(),
            chain,
            tail: self.tail.clone(),
            total: self.total,
            states: self.states.clone(),
        }
    }

    /// Takes up where [`ChainHasher::save`] stopped; `None` when the parts contradict each other.
    pub fn restore(saved: SavedChain) -> Option<Self> {
        let algorithm = match saved.algorithm.as_str() {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return None,
        };
        let block = algorithm.block_bytes() as u64;
        let kept = saved.total.saturating_sub(1) / STATE_INTERVAL_BYTES;
        let consistent = saved.tail.len() as u64 == saved.total % block
            && saved.states.len() as u64 == kept * algorithm.digest_bytes() as u64;
        consistent.then_some(Self {
            chain: Chain::from_bytes(algorithm, &saved.chain)?,
            tail: saved.tail,
            total: saved.total,
            states: saved.states,
            interval: STATE_INTERVAL_BYTES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn agrees_with_the_hash_function_at_every_length() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for length in 0..600 {
                let content = content(length);
                let mut hasher = ChainHasher::with_interval(algorithm, 128);
                for part in content.chunks(37) {
                    hasher.update(part);
                }
                let hashed = hasher.finish();
                assert_eq!(hashed.digest, Digest::of(algorithm, &content), "{length}");
                let boundaries = length.saturating_sub(1) / 128;
                assert_eq!(hashed.states.len(), boundaries * algorithm.digest_bytes());
            }
        }
    }

    #[test]
    fn goes_on_after_being_put_aside() {
        let content = content(700_001);
        let mut whole = ChainHasher::new(Algorithm::Sha256);
        whole.update(&content);
        for cut in [0, 1, 64, 262_144, 262_145, 524_288, 700_001] {
            let mut first = ChainHasher::new(Algorithm::Sha256);
            first.update(&content[..cut]);
            let mut second = ChainHasher::restore(first.save()).unwrap();
            second.update(&content[cut..]);
            assert_eq!(second.finish(), whole.clone().finish(), "{cut}");
        }
    }

    #[test]
    fn refuses_a_saved_hasher_that_contradicts_itself() {
        let mut hasher = ChainHasher::new(Algorithm::Sha256);
        hasher.update(&content(300_000));
        let mut saved = hasher.save();
        saved.total += 1;
        assert!(ChainHasher::restore(saved).is_none());
    }
}
