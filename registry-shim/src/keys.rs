//! The keys' files: read, or made by command, and the signing key at a first start where only this
//! machine has the store.
//!
//! A secret never reaches a log. A file that others may read is refused, and one that is there is
//! never written over.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_proto::sign::{InvalidKey, PublicKey, PublicKeys, SigningKey};

/// A PKCS#8 Ed25519 key has 119 bytes in PEM; some put text in front.
const PEM_BYTES_MAX: usize = 64 * 1024;

/// Accepted keys: more than any rotation has.
const ACCEPTED_MAX: usize = 16;

/// The key that signs, and those whose signatures count beside its own.
#[derive(Clone, Debug)]
pub struct Keyring {
    signing: Arc<SigningKey>,
    accepted: Arc<[SigningKey]>,
}

/// Why there is no key: wrong configuration, exit 64.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Other instances need the same key, so none is made.
    #[error(
        "{0} does not exist; a first start on local storage makes it, else every instance needs the same"
    )]
    Missing(PathBuf),
    /// It is there, and is not written over.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// More than are looked through.
    #[error("more than {ACCEPTED_MAX} keys")]
    TooMany,
    /// It cannot be read or made.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its group or anyone may read it.
    #[error("{path} has mode {mode:03o} and not 600")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("{path}: {source}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: InvalidKey,
    },
}

impl Keyring {
    /// One key, as between two rotations.
    pub fn of(signing: Arc<SigningKey>) -> Self {
        Self { signing, accepted: Arc::default() }
    }

    /// The same, with the keys of these files accepted.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn accepting(self, files: &[PathBuf]) -> Result<Self, KeyFileError> {
        if files.len() > ACCEPTED_MAX {
            return Err(KeyFileError::TooMany);
        }
        let accepted = files.iter().map(|path| load(path, false)).collect::<Result<_, _>>()?;
        Ok(Self { accepted, ..self })
    }

    /// The key that signs.
    pub const fn signing(&self) -> &Arc<SigningKey> {
        &self.signing
    }

    /// All of them, the one that signs first.
    pub fn all(&self) -> Vec<&SigningKey> {
        std::iter::once(&*self.signing).chain(self.accepted.iter()).collect()
    }

    /// Their public halves, that of the one that signs first.
    pub fn public(&self) -> Vec<PublicKey> {
        self.all().into_iter().map(|key| key.public().clone()).collect()
    }

    /// What counts as signed here.
    pub fn verifying(&self) -> PublicKeys {
        PublicKeys::new(self.public())
    }
}

/// Reads the key; with `may_make` a missing one is made.
pub fn load(path: &Path, may_make: bool) -> Result<SigningKey, KeyFileError> {
    match read(path) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            if !may_make {
                return Err(KeyFileError::Missing(path.to_owned()));
            }
            match make(path) {
                // What two first starts at once leave is one key: read which.
                Ok(_) | Err(KeyFileError::Exists(_)) => read(path),
                Err(error) => Err(error),
            }
        }
        read => read,
    }
}

/// Makes a signing key in a new file.
///
/// # Errors
/// When something is there, or the file cannot be made.
pub fn make(path: &Path) -> Result<PublicKey, KeyFileError> {
    let (key, pem) = SigningKey::generate();
    write_new(path, pem.as_bytes())?;
    Ok(key.public().clone())
}

fn read(path: &Path) -> Result<SigningKey, KeyFileError> {
    let pem = read_secret(path, PEM_BYTES_MAX)?;
    SigningKey::from_pem(&String::from_utf8_lossy(&pem))
        .map_err(|source| KeyFileError::Invalid { path: path.to_owned(), source })
}

/// A file that nobody but its owner may read; at most one byte more than `bytes_max`.
pub(crate) fn read_secret(path: &Path, bytes_max: usize) -> Result<Vec<u8>, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Open { path: path.to_owned(), mode });
    }
    let mut content = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}

/// Makes a file that only its owner may read. Written whole under another name first: a crash leaves
/// no half key.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(io)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let partial = PathBuf::from(partial);
    let written = write_synced(&partial, content)
        // A link fails where a key is or has appeared meanwhile; that one stands.
        .and_then(|()| std::fs::hard_link(&partial, path));
    // Where it was not made there is nothing to remove.
    let _ = std::fs::remove_file(&partial);
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => io(error),
    })
}

fn write_synced(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/signing.pem");
        assert!(matches!(load(&path, false), Err(KeyFileError::Missing(_))));
        let made = load(&path, true).unwrap();
        assert_eq!(load(&path, false).unwrap().public(), made.public());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_there_is_never_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.pem");
        let made = make(&path).unwrap();
        assert!(matches!(make(&path), Err(KeyFileError::Exists(_))));
        assert!(matches!(write_new(&path, b"other"), Err(KeyFileError::Exists(_))));
        assert_eq!(load(&path, false).unwrap().public(), &made);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no half key stays");
    }

    #[test]
    fn a_keyring_signs_with_one_and_counts_all() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let [old, new] = ["old", "new"].map(|name| make(&at(name)).unwrap());
        let ring = Keyring::of(Arc::new(load(&at("new"), false).unwrap()));
        let ring = ring.accepting(&[at("old")]).unwrap();
        assert_eq!(ring.public(), [new.clone(), old.clone()]);
        assert!(ring.verifying().contains(old.kid()) && ring.verifying().contains(new.kid()));
        assert_eq!(ring.signing().public(), &new);
        assert!(matches!(ring.clone().accepting(&[at("none")]), Err(KeyFileError::Missing(_))));
        let many = vec![at("old"); ACCEPTED_MAX + 1];
        assert!(matches!(ring.accepting(&many), Err(KeyFileError::TooMany)));
    }

    #[test]
    fn refuses_a_key_that_others_can_read_and_a_file_that_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.pem");
        load(&path, true).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&path, true), Err(KeyFileError::Open { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(load(&path, true), Err(KeyFileError::Invalid { .. })));
    }
}
