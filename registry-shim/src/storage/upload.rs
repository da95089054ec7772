//! Uploads: sessions that any instance can go on with.
//!
//! A session is written once; each request that adds bytes creates one record of the whole
//! progress under the offset at which it began. Of two requests that begin at one offset one wins
//! and the other is told. Nothing is visible before [`Storage::commit`], whose last writes are the
//! reference and the membership; the session is deleted after them. An upload ends once, see
//! [`super::ending`]. An expired session is unknown.

use bytes::Bytes;
use longshore_proto::piece::{ChainHasher, HashedBlob};
use longshore_proto::{Algorithm, Digest, RepositoryName};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::progress::ProgressRecord;
use super::{
    Note, Pointer, Progress, RECORD_VERSION, Segment, SegmentWriter, Storage, StorageError, encode,
    layout,
};

/// How long an upload may take: a day.
pub(crate) const SESSION_MS: u64 = 24 * 60 * 60 * 1000;
/// How often an upload is looked for again whose progress went away under the reader.
const FIND_ATTEMPTS: usize = 4;

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name, unguessable.
    pub id: Uuid,
    /// Where the blob goes.
    pub repository: RepositoryName,
}

/// An upload whose bytes are what its client says, and which is visible nowhere yet.
#[derive(Debug)]
pub struct Verified {
    segments: Vec<Segment>,
    saved: usize,
    hashed: HashedBlob,
}

impl Verified {
    /// Bytes of the blob.
    pub const fn size(&self) -> u64 {
        self.hashed.size
    }
}

/// Takes the bytes of one request.
#[derive(Debug)]
pub struct Appender {
    progress: Progress,
    from: u64,
    writer: SegmentWriter,
}

/// Why an upload does not go on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Another request added bytes at the same offset, or ended the upload.
    #[error("another request was faster on this upload")]
    Raced,
    /// The bytes are not what the client says.
    #[error("uploaded bytes are {found} and not {claimed}")]
    WrongDigest {
        /// In the request.
        claimed: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

#[derive(Serialize, Deserialize)]
struct SessionRecord {
    v: u32,
    repository: RepositoryName,
    actor: String,
    algorithm: String,
    expires_at_ms: u64,
}

impl Appender {
    /// Adds bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.progress.hasher.update(&bytes);
        self.writer.write(bytes).await
    }

    /// Gives up: the upload stays where it was.
    pub async fn abort(self) {
        self.writer.abort().await;
    }

    /// Notes something for the upload's next request.
    pub fn annotate(&mut self, note: Option<Note>) {
        self.progress.note = note;
    }

    /// Bytes of the upload, these included.
    pub const fn offset(&self) -> u64 {
        self.progress.offset()
    }

    /// What the bytes are hashed with.
    pub const fn algorithm(&self) -> Algorithm {
        self.progress.hasher.algorithm()
    }

    /// Of the bytes of the upload, these included.
    pub fn digest(&self) -> Digest {
        self.progress.digest()
    }

    /// The bytes become part of the upload, not yet of its session.
    pub async fn finish(mut self) -> Result<Progress, StorageError> {
        self.progress.push(self.writer.finish().await?);
        Ok(self.progress)
    }

    /// What had arrived, but for the hash, and the bytes of this request.
    pub(super) fn into_parts(self) -> (Progress, SegmentWriter) {
        (self.progress, self.writer)
    }
}

impl Storage {
    /// Begins an upload for `actor`.
    pub async fn begin_upload(
        &self,
        repository: &RepositoryName,
        actor: &str,
        algorithm: Algorithm,
        now_ms: u64,
    ) -> Result<Session, StorageError> {
        let session = Session { id: Uuid::new_v4(), repository: repository.clone() };
        let record = SessionRecord {
            v: RECORD_VERSION,
            repository: repository.clone(),
            actor: actor.to_owned(),
            algorithm: algorithm.name().to_owned(),
            expires_at_ms: now_ms + SESSION_MS,
        };
        self.overwrite(&layout::upload_session(session.id), encode(&record)).await?;
        Ok(session)
    }

    /// The upload and what has arrived; `None` when it is another's, expired, or unknown.
    pub async fn upload(
        &self,
        id: Uuid,
        repository: &RepositoryName,
        actor: &str,
        now_ms: u64,
    ) -> Result<Option<(Session, Progress)>, StorageError> {
        for _ in 0..FIND_ATTEMPTS {
            let key = layout::upload_session(id);
            let record = self.read_record::<SessionRecord>(&key).await?;
            let ours = |record: &SessionRecord| {
                record.repository == *repository
                    && record.actor == actor
                    && now_ms < record.expires_at_ms
            };
            let Some(record) = record.filter(ours) else { return Ok(None) };
            let keys = self.keys(&layout::upload(id)).await?;
            let end = layout::upload_end(id);
            if keys.iter().any(|key| key.prefix_matches(&end)) {
                return Ok(None);
            }
            let progresses = layout::upload_progresses(id);
            let session = Session { id, repository: repository.clone() };
            let Some(key) = keys.iter().rfind(|key| key.prefix_matches(&progresses)) else {
                let algorithm = match record.algorithm.as_str() {
                    "sha512" => Algorithm::Sha512,
                    _ => Algorithm::Sha256,
                };
                return Ok(Some((session, Progress::new(algorithm))));
            };
            // One that went since the listing gave way to another, or its upload has ended.
            if let Some(progress) = self.read_progress(key).await? {
                return Ok(Some((session, progress)));
            }
        }
        Err(StorageError::Contended)
    }

    /// When the session under a key ends, in Unix milliseconds; `None` when there is none.
    pub(crate) async fn upload_expiry(&self, session: &Path) -> Result<Option<u64>, StorageError> {
        let record = self.read_record::<SessionRecord>(session).await?;
        Ok(record.map(|record| record.expires_at_ms))
    }

    async fn read_progress(&self, key: &Path) -> Result<Option<Progress>, StorageError> {
        let record: Option<ProgressRecord> = self.read_record(key).await?;
        record.map(|record| record.into_progress(key)).transpose()
    }

    /// Takes more bytes for an upload.
    pub fn append(&self, progress: Progress) -> Appender {
        Appender { from: progress.offset(), progress, writer: self.segment() }
    }

    /// Ends a request that added bytes: whoever asks from now on sees them.
    pub async fn save_upload(
        &self,
        session: &Session,
        appender: Appender,
    ) -> Result<Progress, UploadError> {
        let from = appender.from;
        let mut progress = match self.finish_joined(appender).await {
            // Whoever cancelled the upload meanwhile took its bytes.
            Err(StorageError::Corrupt { .. }) => return Err(UploadError::Raced),
            finished => finished?,
        };
        if progress.offset() == from {
            return Ok(progress);
        }
        self.shed_states(&mut progress).await?;
        if self.write_progress(session, from, &progress).await? {
            progress.saved = progress.segments.len();
            return Ok(progress);
        }
        Err(UploadError::Raced)
    }

    /// Whether this call is the one that goes on at `from`. A store that overwrites what should be
    /// created keeps the progress of each caller, and who sees another one gives way, as with
    /// [`super::ending`]; its bytes stay for the collector, for a third may build upon them.
    async fn write_progress(
        &self,
        session: &Session,
        from: u64,
        progress: &Progress,
    ) -> Result<bool, StorageError> {
        let (key, record) =
            (layout::upload_progress(session.id, from), encode(&ProgressRecord::of(progress)));
        if self.capabilities().conditional_create {
            // Its segments' names make the record unlike any other call's.
            let created = self.claim_key(&key, record).await?;
            if !created {
                self.discard(&progress.segments[progress.saved..]).await;
            }
            return Ok(created);
        }
        let mine = key.clone().join(Uuid::new_v4().simple().to_string());
        self.overwrite(&mine, record).await?;
        if self.keys(&key).await? == [mine.clone()] {
            return Ok(true);
        }
        self.delete(&mine).await?;
        Ok(false)
    }

    /// Makes what has arrived the blob `claimed` of the repository, without moving a byte.
    ///
    /// After [`UploadError::WrongDigest`] the session stands where it stood before the request.
    pub async fn commit(
        &self,
        repository: &RepositoryName,
        session: Option<&Session>,
        progress: Progress,
        claimed: &Digest,
    ) -> Result<Pointer, UploadError> {
        let verified = self.verify(progress, claimed).await?;
        self.commit_verified(repository, session, verified).await
    }

    /// The first half of [`Self::commit`]: the bytes are what the client says, and nothing of them
    /// is written yet. Whoever does not go on calls [`Self::discard_verified`].
    pub async fn verify(
        &self,
        progress: Progress,
        claimed: &Digest,
    ) -> Result<Verified, UploadError> {
        let Progress { segments, saved, hasher, shed, note: _ } = progress;
        let hashed = match self.hashed_as(claimed.algorithm(), &segments, hasher, &shed).await {
            // Whoever cancelled the upload meanwhile took its bytes.
            Err(StorageError::Corrupt { .. }) => return Err(UploadError::Raced),
            hashed => hashed?,
        };
        if hashed.digest == *claimed {
            return Ok(Verified { segments, saved, hashed });
        }
        self.discard(&segments[saved..]).await;
        Err(UploadError::WrongDigest { claimed: *claimed, found: hashed.digest })
    }

    /// Takes back what one request brought: the session stands where it stood before it.
    pub async fn discard_verified(&self, verified: Verified) {
        self.discard(&verified.segments[verified.saved..]).await;
    }

    /// The second half of [`Self::commit`]: the blob becomes visible in the repository.
    pub async fn commit_verified(
        &self,
        repository: &RepositoryName,
        session: Option<&Session>,
        verified: Verified,
    ) -> Result<Pointer, UploadError> {
        let Verified { segments, saved, hashed } = verified;
        if let Some(session) = session
            && !self.claim_end(session).await?
        {
            self.discard(&segments[saved..]).await;
            return Err(UploadError::Raced);
        }
        self.keep_states(&hashed.digest, hashed.size, hashed.states).await?;
        Ok(self.attach(repository, &hashed.digest, segments).await?)
    }

    /// The bytes of an upload that is not committed yet.
    pub fn stream_progress(&self, progress: &Progress) -> super::BlobStream {
        let (size, segments) = (progress.offset(), progress.segments.clone());
        self.stream(&Pointer { generation: String::new(), size, segments }, None)
    }

    /// Takes back what a request added that is not part of its session.
    pub async fn discard_unsaved(&self, progress: &Progress) {
        self.discard(&progress.segments[progress.saved..]).await;
    }

    /// What the stream gave, or, where the digest's algorithm came only at the end, the bytes read
    /// again.
    async fn hashed_as(
        &self,
        algorithm: Algorithm,
        segments: &[Segment],
        hasher: ChainHasher,
        shed: &[Segment],
    ) -> Result<HashedBlob, StorageError> {
        let size = hasher.total();
        let hashed = hasher.finish();
        if hashed.digest.algorithm() == algorithm {
            let states = self.gather_states(shed, hashed.states).await?;
            return Ok(HashedBlob { states, ..hashed });
        }
        let pointer = Pointer { generation: String::new(), size, segments: segments.to_vec() };
        self.hash(algorithm, &pointer).await
    }
}
