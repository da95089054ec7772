//! A set that may say yes to what is not in it, in a fixed number of bytes.
//!
//! Such a yes keeps garbage for a run; the next one hashes with another salt.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// Bits that one entry sets.
const HASHES: u64 = 5;

/// The set.
#[derive(Debug)]
pub struct Bloom {
    words: Vec<u64>,
    salt: u64,
}

impl Bloom {
    /// An empty one of about `bytes`.
    pub fn new(bytes: usize, salt: u64) -> Self {
        Self { words: vec![0; (bytes / 8).max(1)], salt }
    }

    /// Puts an entry in.
    pub fn insert(&mut self, entry: &impl Hash) {
        for bit in self.bits(entry) {
            self.words[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// No means no.
    pub fn may_contain(&self, entry: &impl Hash) -> bool {
        self.bits(entry).into_iter().all(|bit| self.words[bit / 64] & (1 << (bit % 64)) != 0)
    }

    fn bits(&self, entry: &impl Hash) -> [usize; HASHES as usize] {
        let hash = |step: u64| {
            let mut hasher = DefaultHasher::new();
            (self.salt, step).hash(&mut hasher);
            entry.hash(&mut hasher);
            hasher.finish()
        };
        let (first, second, all) = (hash(0), hash(1) | 1, self.words.len() as u64 * 64);
        std::array::from_fn(|i| {
            let bit = first.wrapping_add((i as u64).wrapping_mul(second)) % all;
            usize::try_from(bit).expect("a bit of a vector in memory")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_denies_what_is_in_it_and_seldom_claims_what_is_not() {
        let mut bloom = Bloom::new(16 * 1024, 7);
        (0..10_000_u32).for_each(|entry| bloom.insert(&entry));
        assert!((0..10_000).all(|entry: u32| bloom.may_contain(&entry)));
        let wrong = (10_000..20_000).filter(|entry: &u32| bloom.may_contain(entry)).count();
        assert!(wrong < 500, "{wrong} of 10000");
    }
}
