//! The signing key's file: read, or made at first start where only this machine has the store.
//!
//! The secret never reaches a log. A file that others may read is refused.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use longshore_proto::sign::{InvalidKey, SigningKey};

/// A PKCS#8 Ed25519 key has 119 bytes in PEM; some put text in front.
const PEM_BYTES_MAX: usize = 64 * 1024;

/// Why there is no key: wrong configuration, exit 64.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Other instances need the same key, so none is made.
    #[error(
        "{0} does not exist; a first start on local storage makes it, else every instance needs the same"
    )]
    Missing(PathBuf),
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

/// Reads the key; with `may_make` a missing one is made.
pub fn load(path: &Path, may_make: bool) -> Result<SigningKey, KeyFileError> {
    match read(path) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            if !may_make {
                return Err(KeyFileError::Missing(path.to_owned()));
            }
            make(path).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
            // What two first starts at once leave is one key: read which.
            read(path)
        }
        read => read,
    }
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

/// Written whole under another name first: a crash leaves no half key.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let (_, pem) = SigningKey::generate();
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let partial = PathBuf::from(partial);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
    // A link fails where the key has appeared meanwhile; that one stands.
    let linked = std::fs::hard_link(&partial, path);
    std::fs::remove_file(&partial)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
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
