//! Small files that say whether they are still what was written.
//!
//! A sealed file is 32 bytes of SHA-256 and the content. It is written under another name and
//! renamed, so it is there whole or not at all; one that does not match its seal is not there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use longshore_proto::{Algorithm, Digest};

/// Longest sealed file that is read back: a plan with many lists stays far below.
const SEALED_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SEAL_BYTES: usize = 32;

/// Writes `content` under `path`, replacing what is there.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let seal = Digest::of(Algorithm::Sha256, content);
    write_atomically(path, &[seal.as_bytes(), content])
}

/// Writes `parts` one after another under another name, then renames.
pub(super) fn write_atomically(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let written = File::create_new(&temporary).and_then(|mut file| {
        parts.iter().try_for_each(|part| file.write_all(part))?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // It holds nothing that anyone misses; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The content, if it is there and whole.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    File::open(path).ok()?.take(SEALED_BYTES_MAX).read_to_end(&mut all).ok()?;
    let (seal, content) = all.split_at_checked(SEAL_BYTES)?;
    let whole = Digest::of(Algorithm::Sha256, content).as_bytes() == seal;
    whole.then(|| content.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        write(&path, b"content").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"content"[..]));

        let mut damaged = fs::read(&path).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(read(&path), None);
        fs::write(&path, &damaged[..20]).unwrap();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn leaves_no_temporary_file_behind() {
        let directory = tempfile::tempdir().unwrap();
        write(&directory.path().join("record"), b"content").unwrap();
        assert!(write(&directory.path().join("absent/record"), b"content").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
