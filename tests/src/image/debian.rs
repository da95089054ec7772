//! A real image from real Debian packages: libc, bash and coreutils below, big programs above.
//!
//! Each layer is the content of some packages as `dpkg -x` would lay it out. No maintainer script
//! runs: programs run from their files alone. The key of an image is the versions of all its
//! packages, so a new point release makes a new image.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use longshore_proto::{Algorithm, Digest, DigestHasher};

use super::layout::{Check, Image, Layer, LayoutWriter};
use crate::testkit::apt::{Apt, Package, Suite, content};
use crate::testkit::error::{Context, LabError, Result};
use crate::testkit::programs::Programs;

/// Raised when what is written here changes.
const VERSION: u32 = 1;

/// What the real image is made of: at least 10 layers, at least 200 MB compressed.
const LAYERS: [&[&str]; 11] = [
    &[
        "base-files",
        "libc6",
        "libc-bin",
        "bash",
        "coreutils",
        "dash",
        "libtinfo6",
        "libacl1",
        "libattr1",
        "libgmp10",
        "libselinux1",
        "libpcre2-8-0",
        "libgcc-s1",
        "libstdc++6",
        "libcrypt1",
        "zlib1g",
        "libzstd1",
        "liblzma5",
        "libbz2-1.0",
        "libexpat1",
        "libssl3",
    ],
    &["perl-base", "perl", "perl-modules-5.36", "libperl5.36"],
    &["python3.11-minimal", "python3.11", "libpython3.11-minimal", "libpython3.11-stdlib"],
    &["libicu72", "libsqlite3-0"],
    &["git", "libcurl3-gnutls"],
    &["cpp-12", "libisl23", "libmpfr6", "libmpc3"],
    &["gcc-12", "libgcc-12-dev"],
    &["g++-12", "libstdc++-12-dev"],
    &["libllvm14"],
    &["libclang-cpp14"],
    &["llvm-14", "libnode108"],
];

/// What a container prints at the end of its check.
const GREETING: &str = "longshore: bash, perl and python run";

/// The image, from the cache. Blocks; the first time it downloads and compresses for a minute.
pub fn image(programs: &Programs) -> Result<Image> {
    let apt = Apt::new(programs.cache(), Suite::Bookworm)?;
    let mut packages = apt.candidates(&LAYERS.concat())?.into_iter();
    let layers = LAYERS.map(|names| packages.by_ref().take(names.len()).collect::<Vec<_>>());
    let files = layers.iter().flatten().map(|package| package.file.as_str());
    let recipe: String = files.map(|file| format!("{file}\n")).collect();
    let versions = Digest::of(Algorithm::Sha256, recipe.as_bytes());
    let key = format!("debian-{VERSION}-{}", &versions.hex()[..16]);
    let layout = programs.cache().entry("images", &key, |half| {
        let writer = LayoutWriter::new(half)?;
        let built = build_layers(&apt, &writer, &layers)?;
        let check = check(&built);
        let layers: Vec<Layer> = built.into_iter().map(|built| built.layer).collect();
        writer.finish(&layers, &check).map(|_| ())
    })?;
    Image::open(&layout)
}

/// A layer and its largest file, which stands for it in the check.
struct Built {
    layer: Layer,
    largest: PathBuf,
    sum: Digest,
}

/// Builds on every core; the order of the result is that of the layers.
fn build_layers(apt: &Apt, writer: &LayoutWriter, layers: &[Vec<Package>]) -> Result<Vec<Built>> {
    let archives = layers
        .iter()
        .map(|packages| packages.iter().map(|package| apt.archive(package)).collect())
        .collect::<Result<Vec<Vec<PathBuf>>>>()?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(archives) = archives.get(number) else { return Ok(done) };
            done.push((number, build_layer(writer, number, archives)?));
        }
    };
    let mut built = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let outcomes = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| LabError::Unexpected("a layer's builder panicked".to_owned()))?
        });
        outcomes.collect::<Result<Vec<Vec<(usize, Built)>>>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    built.sort_by_key(|(number, _)| *number);
    Ok(built.into_iter().map(|(_, built)| built).collect())
}

fn build_layer(writer: &LayoutWriter, number: usize, archives: &[PathBuf]) -> Result<Built> {
    let mut largest = Largest::default();
    let layer = writer.layer(&number.to_string(), Compression::default(), |out| {
        let mut tar = tar::Builder::new(out);
        let mut seen = HashSet::new();
        for archive in archives {
            let tarball = content(archive)?;
            copy(&tarball, &mut tar, &mut seen, &mut largest)
                .during(|| archive.display().to_string())?;
        }
        tar.finish().during(|| format!("layer {number}"))
    })?;
    let Some((largest, sum)) = largest.file.zip(largest.sum) else {
        return Err(LabError::Unexpected(format!("layer {number} has no file")));
    };
    Ok(Built { layer, largest, sum })
}

/// Copies a package's entries, each path once.
fn copy<W: Write>(
    tarball: &[u8],
    tar: &mut tar::Builder<W>,
    seen: &mut HashSet<PathBuf>,
    largest: &mut Largest,
) -> io::Result<()> {
    for entry in tar::Archive::new(tarball).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let relative = path.strip_prefix("./").unwrap_or(&path).to_owned();
        if relative.as_os_str().is_empty() || !seen.insert(relative.clone()) {
            continue;
        }
        let mut header = entry.header().clone();
        // The package's names of users mean nothing without its own passwd.
        header.set_username("")?;
        header.set_groupname("")?;
        if let Some(target) = entry.link_name()? {
            let target = match entry.header().entry_type() {
                tar::EntryType::Link => target.strip_prefix("./").unwrap_or(&target).to_owned(),
                _ => target.into_owned(),
            };
            tar.append_link(&mut header, &relative, target)?;
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        largest.offer(&relative, &content);
        tar.append_data(&mut header, &relative, &content[..])?;
    }
    Ok(())
}

/// The largest regular file seen.
#[derive(Default)]
struct Largest {
    bytes: usize,
    file: Option<PathBuf>,
    sum: Option<Digest>,
}

impl Largest {
    fn offer(&mut self, path: &Path, content: &[u8]) {
        if content.len() <= self.bytes {
            return;
        }
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        hasher.update(content);
        *self = Self {
            bytes: content.len(),
            file: Some(Path::new("/").join(path)),
            sum: Some(hasher.finish()),
        };
    }
}

/// Sums one file of every layer with the image's own coreutils, and runs its interpreters.
fn check(layers: &[Built]) -> Check {
    let sum = |built: &Built| format!("{}  {}\n", built.sum.hex(), built.largest.display());
    let sums: String = layers.iter().map(sum).collect();
    let script = format!(
        "set -e\nsha256sum --check --strict --quiet - <<'SUMS'\n{sums}SUMS\n\
         printf 'longshore: bash, '\nperl -e 'print \"perl and \"'\n\
         python3.11 -c 'import hashlib, json; print(\"python run\")'\n"
    );
    let command = ["/bin/bash", "-c", &script].map(str::to_owned).to_vec();
    Check { command, prints: format!("{GREETING}\n") }
}
