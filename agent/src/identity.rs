//! The node's swarm identity: an Ed25519 key that lasts for one boot and is kept with the store.
//!
//! Owns the file `identity.key` in the store's directory, mode 0600. Another boot makes another
//! key: thousands of VMs that boot from one disk image must not all be the same peer. The secret
//! half leaves it for libp2p only and is never printed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;

const FILE_NAME: &str = "identity.key";
/// A boot id of 36 bytes, a line's end, and libp2p's protobuf encoding of an Ed25519 pair, 68 bytes.
const KEY_BYTES_MAX: u64 = 1024;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file can neither be read nor made.
    #[error("identity: {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could have read it.
    #[error("identity: {0} is open to other users; set its mode to 0600 or remove it")]
    Exposed(PathBuf),
}

/// What the file holds.
enum Kept {
    OfThisBoot(Box<Keypair>),
    OfAnotherBoot,
    Damaged,
}

/// Reads this boot's key of the store at `store_path`, or makes one. A file that is no key is
/// replaced: the node is then another peer, which costs it nothing.
pub fn load_or_make(store_path: &Path) -> Result<Keypair, IdentityError> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    of_boot(store_path, boot.trim())
}

fn of_boot(store_path: &Path, boot: &str) -> Result<Keypair, IdentityError> {
    let path = store_path.join(FILE_NAME);
    let failed = |source| IdentityError::File { path: path.clone(), source };
    match read(&path, boot) {
        Ok(Kept::OfThisBoot(pair)) => {
            let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(IdentityError::Exposed(path));
            }
            Ok(*pair)
        }
        Ok(Kept::OfAnotherBoot) => make(&path, boot).map_err(failed),
        Ok(Kept::Damaged) => {
            tracing::warn!(path = %path.display(), "identity is damaged, making another");
            make(&path, boot).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path, boot).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn read(path: &Path, boot: &str) -> io::Result<Kept> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_BYTES_MAX).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return Ok(Kept::Damaged);
    };
    let (of, pair) = (&bytes[..end], &bytes[end + 1..]);
    Ok(match Keypair::from_protobuf_encoding(pair) {
        Err(_) => Kept::Damaged,
        Ok(pair) if of == boot.as_bytes() => Kept::OfThisBoot(Box::new(pair)),
        Ok(_) => Kept::OfAnotherBoot,
    })
}

fn make(path: &Path, boot: &str) -> io::Result<Keypair> {
    let pair = Keypair::generate_ed25519();
    let bytes = pair.to_protobuf_encoding().map_err(io::Error::other)?;
    let temporary = path.with_extension("tmp");
    // A leftover may carry another mode.
    let _ = fs::remove_file(&temporary);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&[boot.as_bytes(), b"\n", &bytes].concat())?;
    fs::rename(&temporary, path)?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_the_same_and_is_nobody_elses_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_make(directory.path()).unwrap();
        let again = load_or_make(directory.path()).unwrap();
        assert_eq!(first.public(), again.public());
        let path = directory.path().join(FILE_NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load_or_make(directory.path()), Err(IdentityError::Exposed(_))));
    }

    #[test]
    fn another_boot_is_another_peer() {
        let directory = tempfile::tempdir().unwrap();
        let peer = |boot| of_boot(directory.path(), boot).unwrap().public();
        let first = peer("boot-1");
        assert_eq!(peer("boot-1"), first);
        assert_ne!(peer("boot-2"), first);
    }

    #[test]
    fn a_damaged_file_makes_another_peer() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_make(directory.path()).unwrap();
        fs::write(directory.path().join(FILE_NAME), b"nonsense").unwrap();
        assert_ne!(load_or_make(directory.path()).unwrap().public(), first.public());
    }
}
