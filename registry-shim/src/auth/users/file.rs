//! The users' file: `NAME:$argon2id$…` a line, `#` begins a comment line.
//!
//! Parses, and rewrites one user's line for the CLI: whole under another name first, then renamed,
//! mode 0600. Errors name lines, never what stands in them.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};

use crate::auth::credential::NAME_CHARS_MAX;

/// Largest file: some ten thousand users.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A hash that needs more would let a few logins take the machine's memory.
const HASH_KIBIBYTES_MAX: u32 = 256 * 1024;
const HASH_PASSES_MAX: u32 = 16;
/// Longest password that is looked at.
pub(super) const PASSWORD_BYTES_MAX: usize = 1024;

/// Tells one state of the file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    bytes: u64,
    inode: u64,
    mode: u32,
}

/// The users of one state of the file.
pub(super) struct Table {
    hashes: HashMap<String, Box<str>>,
    /// What an unknown name costs: as much as the dearest known one.
    pub(super) cost: Params,
    pub(super) stamp: Stamp,
}

/// Why there are no users.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    /// It cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Larger than is read.
    #[error("{0} has more than {FILE_BYTES_MAX} bytes")]
    TooLarge(PathBuf),
    /// A line is not `NAME:$argon2id$…`.
    #[error("{path} line {line}: {message}")]
    Line {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Without what stands there.
        message: &'static str,
    },
    /// A name or password that cannot be kept.
    #[error("{0}")]
    Refused(&'static str),
}

impl Stamp {
    pub(super) const fn is_readable_by_all(&self) -> bool {
        self.mode & 0o004 != 0
    }
}

impl Table {
    pub(super) fn load(path: &Path) -> Result<Self, UsersFileError> {
        let (text, stamp) = read(path)?;
        let mut hashes = HashMap::new();
        let mut cost = Params::DEFAULT;
        let mut dearest = 0;
        for (at, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad =
                |message| UsersFileError::Line { path: path.to_owned(), line: at + 1, message };
            let (name, hash) = line.split_once(':').ok_or_else(|| bad("not NAME:HASH"))?;
            check_name(name).map_err(bad)?;
            let params = check_hash(hash).map_err(bad)?;
            let price = u64::from(params.m_cost()) * u64::from(params.t_cost());
            if price > dearest {
                (cost, dearest) = (params, price);
            }
            if hashes.insert(name.to_owned(), hash.into()).is_some() {
                return Err(bad("name stands twice"));
            }
        }
        Ok(Self { hashes, cost, stamp })
    }

    pub(super) fn hash(&self, name: &str) -> Option<&str> {
        self.hashes.get(name).map(|hash| &**hash)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.hashes.keys().map(String::as_str)
    }
}

/// What the file looks like now.
pub(super) fn stamp(path: &Path) -> std::io::Result<Stamp> {
    std::fs::metadata(path).map(|metadata| stamp_of(&metadata))
}

fn stamp_of(metadata: &std::fs::Metadata) -> Stamp {
    Stamp {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        bytes: metadata.len(),
        inode: metadata.ino(),
        mode: metadata.mode(),
    }
}

fn read(path: &Path) -> Result<(String, Stamp), UsersFileError> {
    let io = |source| UsersFileError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let stamp = stamp_of(&file.metadata().map_err(io)?);
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(UsersFileError::TooLarge(path.to_owned()));
    }
    Ok((text, stamp))
}

/// A name stands before a colon, and behind `user:` in rules, where `*` means something.
fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
        return Err("name is not at most 128 letters, digits, '.', '-', '_', '@' and '+'");
    }
    Ok(())
}

fn check_hash(hash: &str) -> Result<Params, &'static str> {
    let parsed = PasswordHash::new(hash).map_err(|_| "hash is not $argon2id$…")?;
    if parsed.algorithm.as_str() != "argon2id" || parsed.hash.is_none() || parsed.salt.is_none() {
        return Err("hash is not $argon2id$…");
    }
    let params =
        Params::try_from(&parsed).map_err(|_| "hash has parameters that argon2 has not")?;
    if params.m_cost() > HASH_KIBIBYTES_MAX || params.t_cost() > HASH_PASSES_MAX {
        return Err("hash costs more than 256 MiB or 16 passes");
    }
    Ok(params)
}

/// Adds the user, or gives it another password; whether it is new.
pub fn put(path: &Path, name: &str, password: &str) -> Result<bool, UsersFileError> {
    check_name(name).map_err(UsersFileError::Refused)?;
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(UsersFileError::Refused("password is empty or has more than 1024 bytes"));
    }
    let hashed = Argon2::default().hash_password(password.as_bytes());
    let hash = hashed.map_err(|_| UsersFileError::Refused("password cannot be hashed"))?;
    let line = format!("{name}:{hash}");
    let mut lines = lines(path)?;
    let known = lines.iter_mut().find(|line| name_of(line) == Some(name));
    let is_new = known.is_none();
    match known {
        Some(known) => *known = line,
        None => lines.push(line),
    }
    replace(path, &lines)?;
    Ok(is_new)
}

/// Takes the user out; whether it was there.
pub fn remove(path: &Path, name: &str) -> Result<bool, UsersFileError> {
    Table::load(path)?;
    let mut lines = lines(path)?;
    let before = lines.len();
    lines.retain(|line| name_of(line) != Some(name));
    if lines.len() == before {
        return Ok(false);
    }
    replace(path, &lines)?;
    Ok(true)
}

/// The users' names, sorted.
pub fn list(path: &Path) -> Result<Vec<String>, UsersFileError> {
    let mut names: Vec<String> = Table::load(path)?.names().map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// Whether that is the user's password.
pub fn verify(path: &Path, name: &str, password: &str) -> Result<bool, UsersFileError> {
    let table = Table::load(path)?;
    Ok(table.hash(name).is_some_and(|hash| super::is_password(hash, password)))
}

/// All lines; none where there is no file yet. A file that is not one of users is left alone.
fn lines(path: &Path) -> Result<Vec<String>, UsersFileError> {
    match Table::load(path) {
        Err(UsersFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(read(path)?.0.lines().map(str::to_owned).collect()),
    }
}

fn name_of(line: &str) -> Option<&str> {
    let line = line.trim();
    (!line.starts_with('#')).then(|| line.split_once(':').map(|(name, _)| name)).flatten()
}

fn replace(path: &Path, lines: &[String]) -> Result<(), UsersFileError> {
    let io = |source| UsersFileError::Io { path: path.to_owned(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let partial = PathBuf::from(partial);
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&partial)?;
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.sync_all()?;
        std::fs::rename(&partial, path)
    })();
    written.map_err(|error| {
        // What is left behind says nothing that the error does not.
        let _ = std::fs::remove_file(&partial);
        io(error)
    })
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} users)", self.hashes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn users_come_change_and_go_and_comments_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        assert!(put(&path, "alice", "one").unwrap());
        let commented = format!("# people\n\n{}", std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, commented).unwrap();
        assert!(put(&path, "bob", "two").unwrap());
        assert!(!put(&path, "alice", "three").unwrap());
        assert_eq!(list(&path).unwrap(), ["alice", "bob"]);
        assert!(
            verify(&path, "alice", "three").unwrap() && !verify(&path, "alice", "one").unwrap()
        );
        assert!(!verify(&path, "carol", "one").unwrap());
        assert!(remove(&path, "alice").unwrap() && !remove(&path, "alice").unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# people\n\nbob:$argon2id$"), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_line_that_is_none_is_named_and_not_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let good = "a:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$QT8bxbxTeXdzNF2yVCPKLA";
        for (line, why) in [
            ("alice", "not NAME:HASH"),
            (":$argon2id$x", "name is not"),
            ("a*:$argon2id$x", "name is not"),
            ("alice:secret", "hash is not"),
            ("alice:$2y$05$abcdefghijklmnopqrstuv", "hash is not"),
            ("a:$argon2id$v=19$m=999999,t=1,p=1$c29tZXNhbHQ$QT8bxbxTeXdzNF2yVCPKLA", "hash costs"),
            (good, "name stands twice"),
        ] {
            std::fs::write(&path, format!("{good}\n{line}\n")).unwrap();
            let error = Table::load(&path).unwrap_err().to_string();
            assert!(error.contains(" line 2: ") && error.contains(why), "{error}");
            assert!(!error.contains("secret") && !error.contains("$2y"), "{error}");
            // Nor is such a file rewritten.
            assert!(put(&path, "bob", "x").is_err() && remove(&path, "a").is_err());
        }
        std::fs::write(&path, good).unwrap();
        assert!(matches!(put(&path, "a:b", "x"), Err(UsersFileError::Refused(_))));
        assert!(matches!(put(&path, "b", ""), Err(UsersFileError::Refused(_))));
    }
}
