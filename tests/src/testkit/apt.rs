//! Debian packages for the lab, unpacked into its cache and never installed.
//!
//! Uses apt's own client with a private configuration per suite (own lists, own sources), so that
//! neither the machine's lists, its third-party sources nor what is installed matter. The lists are fetched when they
//! are missing, and once more when a listed package is gone from the mirror.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::Cache;
use super::command::Run;
use super::error::{Context, LabError, Result};

/// Where the mirror is asked for when the machine names none.
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Fetching lists or one package.
const NETWORK_DEADLINE: Duration = Duration::from_secs(300);

/// A suite of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12, what the machine runs.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Unstable: it moves.
    Sid,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// A package as the suite's lists name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, `%3a` and the like decoded as apt names the file.
    pub version: String,
    /// The archive's file name.
    pub file: String,
}

/// apt with the private configuration of one suite.
#[derive(Debug)]
pub struct Apt {
    cache: Cache,
    suite: Suite,
    configuration: PathBuf,
    lists: PathBuf,
}

impl Apt {
    /// Writes the private configuration; the network is not used yet.
    pub fn new(cache: &Cache, suite: Suite) -> Result<Self> {
        let home = cache.directory(&format!("apt/{}", suite.name()))?;
        let lists = cache.directory(&format!("apt/{}/lists", suite.name()))?;
        cache.directory(&format!("apt/{}/cache/archives/partial", suite.name()))?;
        let sources = home.join("sources.list");
        let line = format!("deb [signed-by={KEYRING}] {} {} main\n", mirror(), suite.name());
        keep(&sources, &line)?;
        let installed = home.join("status");
        keep(&installed, "")?;
        let configuration = home.join("apt.conf");
        let text = format!(
            "Dir::State::Lists \"{}\";\nDir::Etc::sourcelist \"{}\";\n\
             Dir::State::status \"{}\";\nDir::Etc::sourceparts \"-\";\nDir::Cache \"{}\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n",
            lists.display(),
            sources.display(),
            // What is installed on the machine does not matter.
            installed.display(),
            home.join("cache").display(),
        );
        keep(&configuration, &text)?;
        Ok(Self { cache: cache.clone(), suite, configuration, lists })
    }

    /// The package that the suite has now, by its lists.
    pub fn candidate(&self, name: &str) -> Result<Package> {
        let mut found = self.candidates(&[name])?;
        found.pop().ok_or_else(|| LabError::Unexpected(format!("apt-get has no {name}")))
    }

    /// As [`Apt::candidate`] for several, in their order.
    pub fn candidates(&self, names: &[&str]) -> Result<Vec<Package>> {
        if !self.has_lists() {
            self.update()?;
        }
        let printed = self.apt_get().args(["download", "--print-uris"]).args(names).run_text()?;
        let one = |name: &&str| {
            parse_uri(name, &printed).ok_or_else(|| LabError::Unavailable {
                what: format!("the package {name} of {}", self.suite.name()),
                why: format!("apt-get printed {printed:?}"),
            })
        };
        names.iter().map(one).collect()
    }

    /// The package's archive in the cache, fetched when it is missing. Blocks.
    pub fn archive(&self, package: &Package) -> Result<PathBuf> {
        let directory = self.cache.entry("debs", &package.file, |half| {
            let versioned = format!("{}={}", package.name, package.version);
            let download = |target: &str| {
                let run = self.apt_get().args(["download", target]).deadline(NETWORK_DEADLINE);
                run.within(half).run().map(|_| ())
            };
            download(&versioned).or_else(|_| {
                // The list may be older than the mirror.
                self.update()?;
                download(&versioned)
            })
        })?;
        let mut files = fs::read_dir(&directory).during(|| directory.display().to_string())?;
        let file = files.next().and_then(std::result::Result::ok);
        file.map(|file| file.path()).ok_or_else(|| {
            LabError::Unexpected(format!("{} is empty: remove it", directory.display()))
        })
    }

    /// The package unpacked in the cache. Blocks.
    pub fn unpacked(&self, package: &Package) -> Result<PathBuf> {
        self.cache.entry("programs", &package.file, |half| {
            let archive = self.archive(package)?;
            Run::new("dpkg-deb").arg("-x").arg(archive).arg(half).run().map(|_| ())
        })
    }

    /// Fetches the suite's lists.
    pub fn update(&self) -> Result<()> {
        let _held = self.cache.lock(&format!("apt-{}", self.suite.name()))?;
        self.apt_get().arg("update").deadline(NETWORK_DEADLINE).run()?;
        Ok(())
    }

    fn has_lists(&self) -> bool {
        let names = fs::read_dir(&self.lists).into_iter().flatten().flatten();
        names.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    }

    fn apt_get(&self) -> Run {
        Run::new("apt-get").arg("-qq").env("APT_CONFIG", &self.configuration)
    }
}

/// `'http://…/containerd_1.6.20%7eds1-1_amd64.deb' containerd_1.6.20%7eds1-1_amd64.deb 259 SHA256:…`
fn parse_uri(name: &str, printed: &str) -> Option<Package> {
    let mut files = printed.lines().filter_map(|line| line.strip_prefix('\'')?.split(' ').nth(1));
    let file = files.find(|file| file.split('_').next() == Some(name))?;
    let version =
        file.split('_').nth(1)?.replace("%3a", ":").replace("%7e", "~").replace("%2b", "+");
    Some(Package { name: name.to_owned(), version, file: file.to_owned() })
}

/// Makes the file say this. One that says it already is left alone, and another is replaced whole:
/// apt of a lab beside this one may be reading it.
fn keep(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|said| said == text) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let written = tempfile::NamedTempFile::new_in(directory).and_then(|mut half| {
        half.write_all(text.as_bytes())?;
        half.persist(path).map_err(|failed| failed.error)
    });
    written.map(|_| ()).during(|| path.display().to_string())
}

/// The mirror that this machine uses for its own suite.
fn mirror() -> String {
    let configured = Run::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
        .run_text()
        .unwrap_or_default();
    let debian = configured.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    debian.unwrap_or(MIRROR).trim_end_matches('/').to_owned()
}

/// The archive's content as a tar stream.
pub(crate) fn content(archive: &Path) -> Result<Vec<u8>> {
    Run::new("dpkg-deb").arg("--fsys-tarfile").arg(archive).deadline(NETWORK_DEADLINE).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_says_it_already_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("apt.conf");
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        keep(&path, "one").unwrap();
        let before = inode();
        keep(&path, "one").unwrap();
        assert_eq!(inode(), before);
        keep(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn reads_what_apt_prints() {
        let printed = "'http://x/pool/llvm-14_14.0.6-12_amd64.deb' llvm-14_1%3a14.0.6-12_amd64.deb 1 SHA256:0\n";
        let package = parse_uri("llvm-14", printed).expect("apt's form");
        assert_eq!(package.version, "1:14.0.6-12");
        assert_eq!(package.file, "llvm-14_1%3a14.0.6-12_amd64.deb");
        assert_eq!(parse_uri("llvm-14", "E: nothing\n"), None);
    }
}
