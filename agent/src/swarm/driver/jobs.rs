//! Work that takes time: reading the store, verifying, loading pieces, talking to the tracker.
//!
//! Each job is one task that ends with an answer to the driver; none decides anything. How many
//! run at once is bounded by the engine's windows.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use libp2p::PeerId;
use longshore_proto::ByteRange;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Wanted;
use crate::origin::{Fetch, Origin, OriginError};
use crate::pull::ledger::OriginReason;
use crate::store::{BlobFailure, ReadError, StoredBlob, WriteError, Written};
use crate::swarm::engine::{From, ReadEnd, ReadId};

/// The tracker must answer by then.
const TRACKER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a job has to say.
#[derive(Debug)]
pub(super) enum Done {
    /// A piece went through its verification.
    Wrote(Wrote),
    /// Bytes of a read came.
    ReadMoved { read: ReadId, bytes: u64 },
    /// A read is over.
    ReadEnded { read: ReadId, end: ReadEnd, refusal: Option<BlobFailure>, wanted: Arc<Wanted> },
    /// The tracker answered a question for permits.
    Permits(Result<rpc::PermitResponse, OriginError>),
    /// The tracker answered an announce.
    Announced(Result<rpc::AnnounceResponse, OriginError>),
    /// A piece that a peer asked for is in memory.
    Loaded { peer: PeerId, request: u64, piece: Result<Bytes, ReadError> },
    /// A plan that a peer asked for, where there is one.
    Plan { peer: PeerId, request: u64, plan: Option<Bytes> },
}

/// A piece's end.
#[derive(Debug)]
pub(super) struct Wrote {
    pub(super) wanted: Arc<Wanted>,
    pub(super) piece: PieceIndex,
    pub(super) from: From,
    /// Where it is the origin's.
    pub(super) why: OriginReason,
    pub(super) bytes: u64,
    pub(super) result: Result<Written, WriteError>,
}

/// A read of the store.
#[derive(Debug)]
pub(super) struct ReadJob {
    pub(super) read: ReadId,
    pub(super) wanted: Arc<Wanted>,
    pub(super) first: PieceIndex,
    pub(super) pieces: u32,
    pub(super) why: OriginReason,
    pub(super) permit: Option<rpc::PiecePermit>,
}

/// Verifies a piece and stores it.
pub(super) async fn write(
    wanted: Arc<Wanted>,
    piece: PieceIndex,
    payload: Bytes,
    from: From,
    why: OriginReason,
) -> Wrote {
    let bytes = payload.len() as u64;
    let result = wanted.want.blob.write(piece, payload).await;
    Wrote { wanted, piece, from, why, bytes, result }
}

/// Reads pieces from the store until they are all through or `cancel` says otherwise; then its end
/// is silent. A piece that is being stored is reported all the same: it counts.
pub(super) async fn read(
    origin: Arc<dyn Origin>,
    job: ReadJob,
    done: mpsc::Sender<Done>,
    cancel: CancellationToken,
) {
    let (read, wanted) = (job.read, Arc::clone(&job.wanted));
    let ended = job.run(&*origin, &done, &cancel).await;
    if cancel.is_cancelled() {
        return;
    }
    let (end, refusal) = match ended {
        Ok(()) => (ReadEnd::Whole, None),
        Err(error) => {
            tracing::debug!(digest = wanted.want.blob.digest().fmt_short(), %error, "read failed");
            judge(error)
        }
    };
    // Nobody listens only when the driver has ended.
    let _ = done.send(Done::ReadEnded { read, end, refusal, wanted }).await;
}

fn judge(error: OriginError) -> (ReadEnd, Option<BlobFailure>) {
    match error {
        OriginError::NotFound { .. } => (ReadEnd::Closed, Some(BlobFailure::NotFound)),
        OriginError::Denied(why) => (ReadEnd::Closed, Some(BlobFailure::Denied(why))),
        OriginError::Busy { retry_after } => (ReadEnd::Busy(retry_after), None),
        OriginError::Unavailable(_) | OriginError::Invalid(_) => (ReadEnd::Unavailable, None),
    }
}

impl ReadJob {
    /// Ends early, without an error, when it is cancelled or nobody listens.
    async fn run(
        self,
        origin: &dyn Origin,
        done: &mpsc::Sender<Done>,
        cancel: &CancellationToken,
    ) -> Result<(), OriginError> {
        let range = self.range().ok_or_else(|| OriginError::Invalid("no such pieces".into()))?;
        let want = &self.wanted.want;
        let repository = want.repository.clone();
        let digest = want.blob.digest();
        let permit = self.permit.clone();
        let fetch = origin.fetch(Fetch { repository, digest, range, permit });
        let Some(stream) = cancel.run_until_cancelled(fetch).await else { return Ok(()) };
        let mut stream = stream?;
        let (mut piece, mut buffer) = (self.first, BytesMut::new());
        while piece.0 < self.first.0 + self.pieces {
            let length = want.blob.list().list.range(piece).map_or(0, |range| range.length());
            while (buffer.len() as u64) < length {
                let Some(chunk) = cancel.run_until_cancelled(stream.next()).await else {
                    return Ok(());
                };
                let chunk =
                    chunk.ok_or_else(|| OriginError::Invalid("it ended early".into()))??;
                let moved = Done::ReadMoved { read: self.read, bytes: chunk.len() as u64 };
                buffer.extend_from_slice(&chunk);
                if done.send(moved).await.is_err() {
                    return Ok(());
                }
            }
            let payload = buffer.split_to(length as usize).freeze();
            let from = From::Store(self.read);
            let wrote = write(Arc::clone(&self.wanted), piece, payload, from, self.why).await;
            if done.send(Done::Wrote(wrote)).await.is_err() {
                return Ok(());
            }
            piece.0 += 1;
        }
        Ok(())
    }

    fn range(&self) -> Option<ByteRange> {
        let list = &self.wanted.want.blob.list().list;
        let last = self.first.0.checked_add(self.pieces)?.checked_sub(1)?;
        let (first, last) = (list.range(self.first)?, list.range(PieceIndex(last))?);
        ByteRange::new(first.offset(), last.end() - first.offset())
    }
}

/// Asks the tracker for leave.
pub(super) async fn permits(origin: Arc<dyn Origin>, request: rpc::PermitRequest) -> Done {
    Done::Permits(in_time(origin.permit(request)).await)
}

/// Tells the tracker what is here.
pub(super) async fn announce(origin: Arc<dyn Origin>, request: rpc::AnnounceRequest) -> Done {
    Done::Announced(in_time(origin.announce(request)).await)
}

/// Loads a piece that a peer asked for.
pub(super) async fn load(
    blob: Arc<StoredBlob>,
    piece: PieceIndex,
    peer: PeerId,
    request: u64,
) -> Done {
    Done::Loaded { peer, request, piece: blob.read(piece).await }
}

async fn in_time<T>(
    answer: impl Future<Output = Result<T, OriginError>>,
) -> Result<T, OriginError> {
    let late = || Err(OriginError::Unavailable("no answer from the tracker in time".into()));
    tokio::time::timeout(TRACKER_TIMEOUT, answer).await.unwrap_or_else(|_| late())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::origin::memory::MemoryOrigin;
    use crate::pull::fetcher::Want;
    use crate::store::{PieceStore, StoreConfig, StoreMetrics};

    #[tokio::test]
    async fn a_piece_that_was_stored_is_reported_though_its_read_is_cancelled() {
        let (origin, repository) = (MemoryOrigin::default(), "a/b".parse().unwrap());
        let list = origin.put_blob(&repository, Bytes::from_static(&[7; 4096]), 4096);
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: directory.path().to_owned(), bytes_max: 0 };
        let store = PieceStore::open(&config, StoreMetrics::default()).unwrap();
        let blob = store.open_blob(&list, &repository).unwrap();
        let want = Want { blob: blob.clone(), repository, order: 0, ledger: Arc::default() };
        let (delivered, refusal) = (Mutex::default(), Mutex::default());
        let job = ReadJob {
            read: 1,
            wanted: Arc::new(Wanted { want, delivered, refusal }),
            first: PieceIndex(0),
            pieces: 1,
            why: OriginReason::Direct,
            permit: None,
        };
        // Room for the first answer only: the job waits with the second.
        let (done, mut answers) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let client = Arc::new(origin.client("p", Vec::new(), "z"));
        let reading = tokio::spawn(read(client, job, done, cancel.clone()));
        let mut changes = blob.changes();
        while !blob.is_whole() {
            changes.changed().await.unwrap();
        }
        cancel.cancel();
        let mut said = Vec::new();
        while let Some(answer) = answers.recv().await {
            said.push(answer);
        }
        reading.await.unwrap();
        assert!(matches!(&said[..], [Done::ReadMoved { .. }, Done::Wrote(_)]), "{said:?}");
    }
}
