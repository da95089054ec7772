//! The file that says which pieces of a blob are on disk.
//!
//! Magic, the boot in which it was written, a bitmap. A bit is set after its piece was written.
//! Within one boot that order is what every later reader sees, also after SIGKILL; across boots
//! the disk may have kept the bit and lost the piece, so the bits are claims only.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use longshore_proto::piece::{PieceIndex, PieceSet};

use super::sealed::write_atomically;

const MAGIC: &[u8; 8] = b"lsheld1\n";
/// A boot id is a UUID's text; another length is padded or cut.
const BOOT_ID_BYTES: usize = 36;
const HEADER_BYTES: usize = MAGIC.len() + BOOT_ID_BYTES;

/// What the file says.
pub(super) struct Found {
    pub(super) pieces: PieceSet,
    pub(super) same_boot: bool,
}

/// Reads the file; `None` when it is damaged or not of this blob.
pub(super) fn read(path: &Path, pieces: u32, boot_id: &str) -> Option<Found> {
    let content = fs::read(path).ok()?;
    let (header, bitmap) = content.split_at_checked(HEADER_BYTES)?;
    let boot = header.strip_prefix(MAGIC)?;
    let whole = bitmap.len() == pieces.div_ceil(8) as usize;
    let pieces = PieceSet::from_bitmap(pieces, bitmap).filter(|_| whole)?;
    // A machine that does not tell its boot id gets nothing for granted.
    let same_boot = !boot_id.is_empty() && boot == padded(boot_id);
    Some(Found { pieces, same_boot })
}

/// Writes the whole file anew, in this boot.
pub(super) fn write(path: &Path, pieces: &PieceSet, boot_id: &str) -> io::Result<()> {
    write_atomically(path, &[MAGIC, &padded(boot_id), &pieces.to_bitmap()])
}

/// Writes the byte that holds the bit of `piece`.
pub(super) fn write_bit(path: &Path, pieces: &PieceSet, piece: PieceIndex) -> io::Result<()> {
    let at = piece.0 / 8;
    let bit = |i: u32| u8::from(pieces.contains(PieceIndex(at * 8 + i))) << i;
    let byte: u8 = (0..8).map(bit).sum();
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&[byte], HEADER_BYTES as u64 + u64::from(at))
}

fn padded(boot_id: &str) -> [u8; BOOT_ID_BYTES] {
    let mut padded = [b' '; BOOT_ID_BYTES];
    let length = boot_id.len().min(BOOT_ID_BYTES);
    padded[..length].copy_from_slice(&boot_id.as_bytes()[..length]);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_reads_back_and_belongs_to_its_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("held");
        let mut pieces = PieceSet::empty(20);
        write(&path, &pieces, "boot-1").unwrap();
        for piece in [0, 9, 19] {
            pieces.insert(PieceIndex(piece));
            write_bit(&path, &pieces, PieceIndex(piece)).unwrap();
        }
        let found = read(&path, 20, "boot-1").unwrap();
        assert_eq!((found.pieces, found.same_boot), (pieces, true));
        assert!(!read(&path, 20, "boot-2").unwrap().same_boot);
        assert!(!read(&path, 20, "").unwrap().same_boot);
    }

    #[test]
    fn a_damaged_file_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("held");
        write(&path, &PieceSet::empty(20), "boot").unwrap();
        assert!(read(&path, 30, "boot").is_none());
        fs::write(&path, b"lsheld1\nshort").unwrap();
        assert!(read(&path, 20, "boot").is_none());
    }
}
