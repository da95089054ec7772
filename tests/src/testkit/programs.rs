//! The programs under test that are not ours, by version, and ours by their build directory.
//!
//! Theirs are Debian's packages unpacked in the cache; nothing is installed on the machine. All
//! functions block: they may download.

use std::fmt;
use std::path::{Path, PathBuf};

use super::apt::{Apt, Suite};
use super::cache::Cache;
use super::error::{LabError, Result};

/// Where our own binaries are looked for instead of beside the running one.
const BIN_DIR: &str = "LONGSHORE_BIN_DIR";

/// A containerd that the lab knows how to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerdVersion {
    /// Debian 12's.
    V1_6,
    /// Debian 13's.
    V1_7,
    /// Unstable's: it moves, and may be gone.
    V2_1,
}

impl ContainerdVersion {
    fn suite(self) -> Suite {
        match self {
            Self::V1_6 => Suite::Bookworm,
            Self::V1_7 => Suite::Trixie,
            Self::V2_1 => Suite::Sid,
        }
    }

    /// What the version printed must begin with for a test to count for this one.
    fn prefix(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6.",
            Self::V1_7 => "1.7.",
            Self::V2_1 => "2.",
        }
    }
}

impl fmt::Display for ContainerdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_6 => "containerd 1.6",
            Self::V1_7 => "containerd 1.7",
            Self::V2_1 => "containerd 2.1",
        })
    }
}

/// The binaries that one containerd needs.
#[derive(Debug, Clone)]
pub struct ContainerdPrograms {
    /// The version that the package carries.
    pub version: String,
    /// Directory of `containerd`, `ctr` and the shims.
    pub bin: PathBuf,
    /// Directory of `runc`.
    pub runc: PathBuf,
}

/// Finds programs in the cache, or gets them.
#[derive(Debug, Clone)]
pub struct Programs {
    cache: Cache,
}

impl Programs {
    /// Programs kept in this cache.
    pub fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// The cache they are kept in.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// containerd of this version with bookworm's runc, which all versions run with.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] when the suite has another version by now.
    pub fn containerd(&self, wanted: ContainerdVersion) -> Result<ContainerdPrograms> {
        let apt = Apt::new(&self.cache, wanted.suite())?;
        let package = apt.candidate("containerd")?;
        if !package.version.starts_with(wanted.prefix()) {
            return Err(LabError::Unavailable {
                what: wanted.to_string(),
                why: format!("its suite has {} now", package.version),
            });
        }
        let bin = apt.unpacked(&package)?.join("usr/bin");
        let runc = self.bookworm("runc")?.join("usr/sbin");
        Ok(ContainerdPrograms { version: package.version, bin, runc })
    }

    /// Debian's docker-registry: the registry that others would use.
    pub fn docker_registry(&self) -> Result<PathBuf> {
        Ok(self.bookworm("docker-registry")?.join("usr/bin/docker-registry"))
    }

    /// Debian's libfaketime, the one for programs with threads: it gives a program another time.
    pub fn faketime(&self) -> Result<PathBuf> {
        let libraries = self.bookworm("libfaketime")?.join("usr/lib");
        let entries = std::fs::read_dir(&libraries).into_iter().flatten().flatten();
        let library = |place: PathBuf| place.join("faketime/libfaketimeMT.so.1");
        let mut found = entries.map(|entry| library(entry.path()));
        found.find(|path| path.is_file()).ok_or_else(|| {
            LabError::Unexpected(format!("{} is not whole: make clean-lab", libraries.display()))
        })
    }

    /// Debian 13's oras: a client that knows artifacts and referrers.
    pub fn oras(&self) -> Result<PathBuf> {
        let apt = Apt::new(&self.cache, Suite::Trixie)?;
        let package = apt.candidate("oras")?;
        Ok(apt.unpacked(&package)?.join("usr/bin/oras"))
    }

    /// A static busybox: what the lab's small images run.
    pub fn busybox(&self) -> Result<PathBuf> {
        Ok(self.bookworm("busybox-static")?.join("bin/busybox"))
    }

    fn bookworm(&self, name: &str) -> Result<PathBuf> {
        let apt = Apt::new(&self.cache, Suite::Bookworm)?;
        let package = apt.candidate(name)?;
        apt.unpacked(&package)
    }
}

/// One of our own binaries: in `LONGSHORE_BIN_DIR`, or where the running test or program lies.
pub fn own_binary(name: &str) -> Result<PathBuf> {
    let missing = || LabError::MissingProgram { program: name.to_owned(), target: "build" };
    if let Some(directory) = std::env::var_os(BIN_DIR).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(directory).join(name);
        return if path.is_file() { Ok(path) } else { Err(missing()) };
    }
    let running = std::env::current_exe().map_err(|_| missing())?;
    // Tests lie in `deps/`, one below the binaries.
    let candidates = running.ancestors().skip(1).take(2).map(|place: &Path| place.join(name));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(missing)
}
