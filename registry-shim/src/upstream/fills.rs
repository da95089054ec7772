//! The fills that are under way at one upstream: at most one per blob and repository.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, try_unfold};
use longshore_proto::{Digest, RepositoryName};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::UpstreamError;
use super::fill::{End, Fill, State};
use crate::storage::Pointer;

/// Until a client that asked gets an answer's head: less than the 30 s that it waits.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Pieces that one slow client may hold: with [`super::window::CHUNK_BYTES`], 256 KiB.
const PIECES_PER_READER_MAX: usize = 2;

type Key = (RepositoryName, Digest);

/// The table.
#[derive(Debug, Default)]
pub(super) struct Fills(Mutex<HashMap<Key, Arc<Fill>>>);

/// A reader's hold on a fill: it counts for as long as this lives.
#[derive(Debug)]
pub(super) struct Reading {
    fill: Arc<Fill>,
    readers: Gauge,
}

/// A blob that a client may read.
#[derive(Debug)]
pub(crate) enum Blob {
    /// In the store.
    Kept(Arc<Pointer>),
    /// On its way.
    Growing(GrowingBlob),
}

/// A blob on its way, with a place among its readers.
#[derive(Debug)]
pub(crate) struct GrowingBlob {
    reading: Reading,
    size: Option<u64>,
}

/// A piece on its way out; the next but one waits for its end.
struct Handed {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Fills {
    /// A place at the blob's fill, which `start` begins when there is none.
    pub(super) fn join(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        readers: &Gauge,
        start: impl FnOnce(Arc<Fill>),
    ) -> Reading {
        let mut fills = self.0.lock().expect("nobody panics with it");
        let fill = fills.entry((repository.clone(), *digest)).or_insert_with(|| {
            let fill = Arc::new(Fill::new());
            start(fill.clone());
            fill
        });
        Reading::new(fill.clone(), readers)
    }

    /// The size of a blob whose fill has begun.
    pub(super) fn size(&self, repository: &RepositoryName, digest: &Digest) -> Option<u64> {
        let fills = self.0.lock().expect("nobody panics with it");
        let state = fills.get(&(repository.clone(), *digest))?.state.borrow();
        state.growing.as_ref().and_then(|(_, window)| window.size())
    }

    /// The fill is over; another that began since stays.
    pub(super) fn remove(&self, repository: &RepositoryName, digest: &Digest, fill: &Arc<Fill>) {
        let mut fills = self.0.lock().expect("nobody panics with it");
        let key = (repository.clone(), *digest);
        if fills.get(&key).is_some_and(|known| Arc::ptr_eq(known, fill)) {
            fills.remove(&key);
        }
    }

    /// Takes the fill out unless somebody reads it: whoever comes then begins another.
    pub(super) fn remove_unread(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        let mut fills = self.0.lock().expect("nobody panics with it");
        let key = (repository.clone(), *digest);
        let unread = fills.get(&key).is_some_and(|fill| *fill.readers.borrow() == 0);
        if unread {
            fills.remove(&key);
        }
        unread
    }
}

impl Reading {
    fn new(fill: Arc<Fill>, readers: &Gauge) -> Self {
        fill.readers.send_modify(|count| *count += 1);
        readers.inc();
        Self { fill, readers: readers.clone() }
    }

    async fn until<T>(
        &self,
        mut found: impl FnMut(&State) -> Option<Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let mut states = self.fill.state.subscribe();
        loop {
            if let Some(found) = found(&states.borrow_and_update()) {
                return found;
            }
            states.changed().await.map_err(|_| UpstreamError::Ended)?;
        }
    }

    /// Once the upstream has answered.
    pub(super) async fn opened(self) -> Result<Blob, UpstreamError> {
        let opened = self.until(|state| match (&state.growing, &state.end) {
            // Of a small blob nothing leaves before the digest has matched: an error that comes
            // instead shall find the answer's head unsent.
            (Some((_, window)), None) if !window.leaves_early() => None,
            (Some((_, window)), end) => match end {
                Some(Err(error)) if !window.leaves_early() => Some(Err(error.clone())),
                _ => Some(Ok(Err(window.size()))),
            },
            (None, Some(Ok(End::Kept(pointer)))) => Some(Ok(Ok(pointer.clone()))),
            (None, Some(Ok(End::Passed))) => Some(Err(UpstreamError::Storage)),
            (None, Some(Err(error))) => Some(Err(error.clone())),
            (None, None) => None,
        });
        let opened = tokio::time::timeout(OPEN_TIMEOUT, opened).await;
        Ok(match opened.map_err(|_| UpstreamError::TimedOut)?? {
            Ok(pointer) => Blob::Kept(pointer),
            Err(size) => Blob::Growing(GrowingBlob { reading: self, size }),
        })
    }

    /// Once the blob is in the store.
    pub(super) async fn kept(self, within: Duration) -> Result<Arc<Pointer>, UpstreamError> {
        let kept = self.until(|state| match state.end.as_ref()? {
            Ok(End::Kept(pointer)) => Some(Ok(pointer.clone())),
            Ok(End::Passed) => Some(Err(UpstreamError::Storage)),
            Err(error) => Some(Err(error.clone())),
        });
        tokio::time::timeout(within, kept).await.map_err(|_| UpstreamError::TimedOut)?
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.fill.readers.send_modify(|count| *count -= 1);
        self.readers.dec();
    }
}

impl GrowingBlob {
    /// Bytes of the whole blob; `None` while nobody knows.
    pub(crate) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// The bytes from `from` to before `to`, or to the blob's end, as they arrive; an error when the blob does not end
    /// in its digest.
    pub(crate) fn stream(
        self,
        from: u64,
        to: u64,
    ) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
        let room = Arc::new(Semaphore::new(PIECES_PER_READER_MAX));
        let reading = Arc::new(self.reading);
        try_unfold(from, move |at| {
            let (reading, room) = (reading.clone(), room.clone());
            async move {
                if at >= to {
                    return Ok(None);
                }
                let room = room.acquire_owned().await.expect("the semaphore is never closed");
                let next = reading.until(|state| {
                    let growing = state.growing.as_ref();
                    let piece = growing.and_then(|(spool, window)| {
                        if window.is_read(at) {
                            return Some(Ok(None));
                        }
                        window.next(at, to).map(|piece| Ok(Some((spool.clone(), piece))))
                    });
                    piece.or_else(|| match state.end.as_ref()? {
                        Ok(_) => Some(Err(UpstreamError::Ended)),
                        Err(error) => Some(Err(error.clone())),
                    })
                });
                let Some((spool, (first, end))) = next.await? else { return Ok(None) };
                let bytes = spool.share(first, end).await?;
                Ok(Some((Bytes::from_owner(Handed { bytes, _room: room }), end)))
            }
        })
        .boxed()
    }
}

impl AsRef<[u8]> for Handed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
