//! The secret that a request brings: written into hosts.toml for containerd, mode 0600, so that
//! other local users can not read private images through the mirror.
//!
//! Owns the file `mirror.secret` in the store's directory. One secret lasts for one boot, so that
//! a pull goes on across an agent's restart. It is never printed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use longshore_proto::{Algorithm, Digest};
use ring::rand::{SecureRandom, SystemRandom};

const FILE_NAME: &str = "mirror.secret";
const SECRET_BYTES: usize = 32;
const FILE_BYTES_MAX: u64 = 1024;

/// What the `Authorization` header must say.
#[derive(Clone)]
pub struct Secret {
    header: String,
}

impl Secret {
    /// This boot's secret, from the store's directory or made and kept there.
    pub fn of_this_boot(store_path: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::of_boot(store_path, boot.trim())
    }

    fn of_boot(store_path: &Path, boot: &str) -> io::Result<Self> {
        let path = store_path.join(FILE_NAME);
        if let Some(secret) = read(&path, boot) {
            return Ok(secret);
        }
        let secret = Self::generate();
        let temporary = path.with_extension("tmp");
        // A leftover may carry another mode.
        let _ = fs::remove_file(&temporary);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{boot}\n{}", secret.header)?;
        fs::rename(&temporary, &path)?;
        Ok(secret)
    }

    fn generate() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).expect("the system gives randomness");
        Self { header: format!("Bearer {}", hex::encode(bytes)) }
    }

    /// The header's value, for hosts.toml.
    pub fn header(&self) -> &str {
        &self.header
    }

    /// Whether the request brings it. Hashing both makes the time say nothing of the secret.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(one), None) = (given.next(), given.next()) else { return false };
        let hash = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
        hash(one.as_bytes()) == hash(self.header.as_bytes())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn read(path: &Path, boot: &str) -> Option<Secret> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let (of, header) = text.trim_end().split_once('\n')?;
    let hex = header.strip_prefix("Bearer ")?;
    let whole = hex.len() == SECRET_BYTES * 2 && hex.bytes().all(|c| c.is_ascii_hexdigit());
    (whole && of == boot && !boot.is_empty()).then(|| Secret { header: header.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn lasts_for_one_boot_and_is_nobody_elses_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let secret = |boot| Secret::of_boot(directory.path(), boot).unwrap().header().to_owned();
        let first = secret("boot-1");
        assert_eq!(secret("boot-1"), first);
        let mode = fs::metadata(directory.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(secret("boot-2"), first);
        fs::write(directory.path().join(FILE_NAME), "boot-2\nBearer \n").unwrap();
        assert_eq!(secret("boot-2").len(), first.len());
    }

    #[test]
    fn only_the_very_header_opens() {
        let secret = Secret::generate();
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            });
            secret.is_in(&headers)
        };
        assert!(with(&[secret.header()]));
        assert!(!with(&[]) && !with(&["Bearer x"]) && !with(&[&secret.header()[..20]]));
        assert!(!with(&[secret.header(), "Bearer x"]));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
