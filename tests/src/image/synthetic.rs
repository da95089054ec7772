//! Small images of random bytes: incompressible, of any size, the same for the same seed.
//!
//! The first layer also has a static busybox, so that containers of the image run and can check
//! every byte of every layer.

use std::fs::File;
use std::io::{self, Read};

use flate2::Compression;
use longshore_proto::{Algorithm, DigestHasher};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::layout::{Check, Image, LayoutWriter, append_file};
use crate::testkit::error::{Context, Result};
use crate::testkit::programs::Programs;

/// Raised when what is written here changes.
const VERSION: u32 = 1;
const BLOCK_BYTES: usize = 64 * 1024;

/// The image with one layer of about each of these sizes (bytes), from the cache. Blocks.
pub fn image(programs: &Programs, seed: u64, layers: &[u64]) -> Result<Image> {
    let busybox = programs.busybox()?;
    let sizes: Vec<String> = layers.iter().map(u64::to_string).collect();
    let key = format!("random-{VERSION}-{seed}-{}", sizes.join("-"));
    let layout = programs.cache().entry("images", &key, |half| {
        let writer = LayoutWriter::new(half)?;
        let mut made = Vec::new();
        let mut sums = String::new();
        for (number, &bytes) in layers.iter().enumerate() {
            let stream = seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
            let layer = writer.layer(&number.to_string(), Compression::none(), |out| {
                let mut tar = tar::Builder::new(out);
                if number == 0 {
                    let file = File::open(&busybox).during(|| busybox.display().to_string())?;
                    let size = file.metadata().during(|| busybox.display().to_string())?.len();
                    append_file(&mut tar, "bin/busybox", 0o755, size, file)?;
                }
                let path = format!("data/{number}");
                append_file(&mut tar, &path, 0o644, bytes, Random::new(stream, bytes))?;
                tar.finish().during(|| "a layer".to_owned())
            })?;
            made.push(layer);
            sums.push_str(&format!("{}  /data/{number}\n", hex_of(stream, bytes)));
        }
        let script = format!("/bin/busybox sha256sum -c - <<'SUMS'\n{sums}SUMS\n");
        let prints = (0..layers.len()).map(|number| format!("/data/{number}: OK\n")).collect();
        let command = ["/bin/busybox", "sh", "-c", &script].map(str::to_owned).to_vec();
        writer.finish(&made, &Check { command, prints }).map(|_| ())
    })?;
    Image::open(&layout)
}

fn hex_of(stream: u64, bytes: u64) -> String {
    let mut hasher = DigestHasher::new(Algorithm::Sha256);
    let mut random = Random::new(stream, bytes);
    let mut block = vec![0; BLOCK_BYTES];
    while let Ok(read @ 1..) = random.read(&mut block) {
        hasher.update(&block[..read]);
    }
    hasher.finish().hex()
}

/// The first `left` bytes of a seeded generator.
struct Random {
    generator: StdRng,
    block: Vec<u8>,
    at: usize,
    left: u64,
}

impl Random {
    fn new(seed: u64, bytes: u64) -> Self {
        let block = vec![0; BLOCK_BYTES];
        Self { generator: StdRng::seed_from_u64(seed), at: block.len(), block, left: bytes }
    }
}

impl Read for Random {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            // Whole blocks, so that the bytes do not depend on how they are read.
            self.generator.fill_bytes(&mut self.block);
            self.at = 0;
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = out.len().min(self.block.len() - self.at).min(left);
        out[..bytes].copy_from_slice(&self.block[self.at..self.at + bytes]);
        self.at += bytes;
        self.left -= bytes as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_depend_on_the_seed_and_not_on_the_reads() {
        let mut whole = Vec::new();
        Random::new(7, 200_000).read_to_end(&mut whole).expect("endless bytes");
        let mut parts = Vec::new();
        let mut random = Random::new(7, 200_000);
        let mut part = [0; 777];
        while let Ok(read @ 1..) = random.read(&mut part) {
            parts.extend_from_slice(&part[..read]);
        }
        let mut other = Vec::new();
        Random::new(8, 200_000).read_to_end(&mut other).expect("endless bytes");
        assert_eq!(whole.len(), 200_000);
        assert!(whole == parts && whole != other);
    }
}
