//! Bytes of a blob on its way: a file without a name, written once from front to end, read at any
//! place that has arrived.
//!
//! Its room is taken at the start, so that a full disk is known before anybody is answered. What
//! clients are handed is shared by those at the same place, and counted until the last of them has
//! sent it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tokio::sync::OnceCell;

use super::budget::{Budget, Taken};
use super::error::UpstreamError;
use super::metrics::UpstreamsMetrics;

/// Pieces of one blob kept for clients that come to the same place soon: with
/// [`super::window::CHUNK_BYTES`], 4 MiB.
const SHARED_PIECES_MAX: usize = 32;

/// A piece by its first byte and its end, once it was read.
type SharedPiece = ((u64, u64), Arc<OnceCell<Bytes>>);

/// The bytes of one blob.
#[derive(Debug)]
pub(super) struct Spool {
    file: Arc<File>,
    /// Those asked for last, the newest at the back.
    shared: Mutex<VecDeque<SharedPiece>>,
    taken: Mutex<Taken>,
    metrics: UpstreamsMetrics,
}

/// Bytes that count as buffered for as long as anybody holds them.
struct Counted {
    bytes: Vec<u8>,
    metrics: UpstreamsMetrics,
}

impl Spool {
    /// Room for `size` bytes, if that is known, in `directory` or where the system keeps temporary
    /// files.
    pub(super) async fn create(
        directory: Option<PathBuf>,
        size: Option<u64>,
        budget: &Arc<Budget>,
        metrics: UpstreamsMetrics,
    ) -> Result<Self, UpstreamError> {
        let size = size.unwrap_or(0);
        let taken = Mutex::new(budget.take(size)?);
        let file = blocking(move || {
            let directory = directory.unwrap_or_else(std::env::temp_dir);
            let file = tempfile::tempfile_in(directory)?;
            if size > 0 {
                match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
                    // Not every file system can; then a full disk is met later.
                    Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(file)
        });
        Ok(Self { file: Arc::new(file.await?), shared: Mutex::default(), taken, metrics })
    }

    /// Writes the pieces behind each other, the first at `at`.
    pub(super) async fn write(&self, at: u64, pieces: Vec<Bytes>) -> Result<(), UpstreamError> {
        let end = at + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.taken.lock().expect("nobody panics with it").grow_to(end)?;
        let file = self.file.clone();
        blocking(move || {
            let mut at = at;
            for piece in pieces {
                file.write_all_at(&piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        })
        .await
    }

    /// The bytes from `first` to before `end`, which have arrived; one read for all who ask for
    /// the same at about the same time.
    pub(super) async fn share(&self, first: u64, end: u64) -> Result<Bytes, UpstreamError> {
        let piece = self.piece((first, end));
        let read = async || {
            let bytes = self.read(first, end).await?;
            Ok(Bytes::from_owner(Counted::new(bytes, self.metrics.clone())))
        };
        piece.get_or_try_init(read).await.cloned()
    }

    fn piece(&self, key: (u64, u64)) -> Arc<OnceCell<Bytes>> {
        let mut shared = self.shared.lock().expect("nobody panics with it");
        let known = shared.iter().rposition(|(known, _)| *known == key);
        let (_, piece) = known.and_then(|at| shared.remove(at)).unwrap_or_default();
        shared.push_back((key, piece.clone()));
        if shared.len() > SHARED_PIECES_MAX {
            shared.pop_front();
        }
        piece
    }

    /// The same for one caller.
    pub(super) async fn read(&self, first: u64, end: u64) -> Result<Vec<u8>, UpstreamError> {
        let file = self.file.clone();
        let length = usize::try_from(end - first).unwrap_or(usize::MAX);
        blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, first)?;
            Ok(bytes)
        })
        .await
    }
}

impl Counted {
    fn new(bytes: Vec<u8>, metrics: UpstreamsMetrics) -> Self {
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let held = metrics.buffered_bytes.inc_by(length) + length;
        let peak = metrics.buffered_bytes_peak.inner();
        peak.fetch_max(held, std::sync::atomic::Ordering::Relaxed);
        Self { bytes, metrics }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.buffered_bytes.dec_by(i64::try_from(self.bytes.len()).unwrap_or(i64::MAX));
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, UpstreamError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| UpstreamError::Ended)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_at_one_place_share_bytes_which_count_once() {
        let metrics = UpstreamsMetrics::default();
        let spool =
            Spool::create(None, Some(10), &Budget::new(Some(10)), metrics.clone()).await.unwrap();
        let pieces = vec![Bytes::from_static(b"01234"), Bytes::from_static(b"56789")];
        spool.write(0, pieces).await.unwrap();
        let (one, two) = (spool.share(2, 7).await.unwrap(), spool.share(2, 7).await.unwrap());
        assert_eq!((&one[..], one.as_ptr()), (&b"23456"[..], two.as_ptr()));
        assert_eq!(metrics.buffered_bytes.get(), 5);
        drop((one, spool));
        assert_eq!(metrics.buffered_bytes.get(), 5);
        drop(two);
        assert_eq!((metrics.buffered_bytes.get(), metrics.buffered_bytes_peak.get()), (0, 5));
    }

    #[tokio::test]
    async fn what_has_not_arrived_is_an_error_and_so_is_a_directory_that_is_none() {
        let (budget, metrics) = (Budget::new(None), UpstreamsMetrics::default());
        let spool = Spool::create(None, None, &budget, metrics.clone()).await.unwrap();
        assert!(matches!(spool.read(0, 1).await, Err(UpstreamError::Spool(_))));
        let nowhere = Some("/nowhere/at/all".into());
        let failed = Spool::create(nowhere, Some(1), &budget, metrics).await;
        assert!(matches!(failed, Err(UpstreamError::Spool(_))));
    }
}
