//! Uploads: sessions that any instance can go on with.
//!
//! A session is written once; each request that adds bytes creates one record of the whole
//! progress under the offset at which it began. Of two requests that begin at one offset one wins
//! and the other is told. Nothing is visible before [`Storage::commit`], whose last writes are the
//! reference and the membership; the session is deleted after them. An upload ends once, see
//! [`super::ending`]. An expired session is unknown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use longshore_proto::piece::{ChainHasher, HashedBlob, SavedChain};
use longshore_proto::{Algorithm, Digest, RepositoryName};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Note, Pointer, RECORD_VERSION, Segment, SegmentWriter, Storage, StorageError, encode, layout,
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

/// What has arrived of an upload.
#[derive(Clone, Debug)]
pub struct Progress {
    segments: Vec<Segment>,
    /// How many of them the session knows; those after are this request's own.
    saved: usize,
    hasher: ChainHasher,
    note: Option<Note>,
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

/// Byte strings as base64: JSON's numbers would make them four times as long.
#[derive(Serialize, Deserialize)]
pub(super) struct ProgressRecord {
    v: u32,
    segments: Vec<Segment>,
    algorithm: String,
    chain: String,
    tail: String,
    total: u64,
    states: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<Note>,
}

impl Progress {
    /// Nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let hasher = ChainHasher::new(algorithm);
        Self { segments: Vec::new(), saved: 0, hasher, note: None }
    }

    /// Bytes that have arrived.
    pub const fn offset(&self) -> u64 {
        self.hasher.total()
    }

    /// Of the hash that is kept as bytes arrive.
    pub const fn algorithm(&self) -> Algorithm {
        self.hasher.algorithm()
    }

    /// Of the bytes that have arrived, with the algorithm that the upload began with.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish().digest
    }

    /// What its keeper noted at the end of the last request.
    pub const fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Adds what a request brought.
    pub(super) fn push(&mut self, segment: Option<Segment>) {
        self.segments.extend(segment);
    }

    /// Takes the last segments out: their bytes come back in another one, which is the request's own.
    pub(super) fn take_last(&mut self, count: usize) -> Vec<Segment> {
        let stays = self.segments.len() - count;
        self.saved = self.saved.min(stays);
        self.segments.split_off(stays)
    }

    pub(super) fn with_hasher(self, hasher: ChainHasher) -> Self {
        Self { hasher, ..self }
    }
}

impl ProgressRecord {
    pub(super) fn of(progress: &Progress) -> Self {
        let saved = progress.hasher.save();
        Self {
            v: RECORD_VERSION,
            segments: progress.segments.clone(),
            algorithm: saved.algorithm,
            chain: STANDARD.encode(saved.chain),
            tail: STANDARD.encode(saved.tail),
            total: saved.total,
            states: STANDARD.encode(saved.states),
            note: progress.note.clone(),
        }
    }

    pub(super) fn into_progress(self, key: &Path) -> Result<Progress, StorageError> {
        let corrupt = |reason: &str| StorageError::corrupt(key, reason);
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| corrupt("no base64"));
        let saved = SavedChain {
            chain: bytes(&self.chain)?,
            tail: bytes(&self.tail)?,
            states: bytes(&self.states)?,
            algorithm: self.algorithm,
            total: self.total,
        };
        let hasher = ChainHasher::restore(saved).ok_or_else(|| corrupt("no hash state"))?;
        let (saved, segments) = (self.segments.len(), self.segments);
        Ok(Progress { saved, segments, hasher, note: self.note })
    }
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
        let Progress { segments, saved, hasher, note: _ } = progress;
        let hashed = match self.hashed_as(claimed.algorithm(), &segments, hasher).await {
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
    ) -> Result<HashedBlob, StorageError> {
        let size = hasher.total();
        let hashed = hasher.finish();
        if hashed.digest.algorithm() == algorithm {
            return Ok(hashed);
        }
        let pointer = Pointer { generation: String::new(), size, segments: segments.to_vec() };
        self.hash(algorithm, &pointer).await
    }
}
