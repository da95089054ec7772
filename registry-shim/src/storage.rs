//! The truth: blobs, manifests, tags and uploads as objects in a store, without a database.
//!
//! Owns the layout and the order of writes. Only Create, Overwrite, Get, List and Delete are asked
//! of the store, so that every backend of `object_store` serves. A push becomes visible by its last
//! write; whoever dies before it leaves objects that nobody finds and that a collector may take. It
//! holds no state between calls, starts no task, and never asks who the caller is.

mod blob;
mod capabilities;
mod catalog;
mod charge;
mod claim;
mod clock;
mod cloud;
mod compose;
mod ending;
mod error;
mod immutable;
mod layout;
mod listing;
mod manifest;
mod membership;
mod note;
mod open;
mod pointer;
mod presign;
mod progress;
mod project;
mod referrer;
mod rehash;
mod segment;
mod slot;
mod split;
mod standing;
mod states;
mod sweep;
mod tag;
mod tail;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use longshore_proto::RepositoryName;
use longshore_proto::sign::{PublicKeys, SigningKey};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::sync::Semaphore;

pub use blob::BlobStream;
pub use capabilities::Capabilities;
pub use charge::{Charge, Holding, Released};
pub use claim::{CLOCK_SKEW_MS, GRACE_MIN_MS, Item};
pub use clock::{Clock, SystemClock};
pub use compose::Composed;
pub use error::StorageError;
pub(crate) use error::is_full;
pub use immutable::{InvalidTagPattern, TagPattern};
pub use listing::Page;
pub use manifest::StoredManifest;
pub use note::Note;
pub use open::{Bucket, InvalidStorageUrl, OpenError, OpenedStore, StorageUrl};
pub(crate) use pointer::COMMIT_MS;
pub use pointer::Pointer;
pub use presign::{Presigned, Presigner};
pub use progress::Progress;
pub use project::{InvalidProject, Project};
pub use referrer::Referrer;
pub use segment::{Segment, SegmentWriter};
pub use slot::Slot;
pub use standing::{Standing, StoreState};
pub use sweep::{Branch, Keys, RepositoryKey, Seen};
pub use tag::TagRecord;
pub(crate) use upload::SESSION_MS;
pub use upload::{Appender, Session, UploadError, Verified};

/// Blobs read at once for their hash states: each costs a core and the store's bandwidth, which
/// pulls need more.
const HASHING_MAX: usize = 2;
/// Version that every record carries.
const RECORD_VERSION: u32 = 1;

/// The store, and the key that signs what is kept there for verification.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    key: Arc<SigningKey>,
    /// Whose signatures count: `key`'s, and others' during a rotation.
    accepted: Arc<PublicKeys>,
    capabilities: Capabilities,
    /// Where there is more than one store.
    standing: Option<Arc<dyn Standing>>,
    /// Where clients may be sent to the store for bytes.
    presigner: Option<Presigner>,
    /// Tags that never move.
    immutable_tags: Arc<[TagPattern]>,
    /// Whether the store lists keys in the order of their bytes.
    lists_in_order: bool,
    /// Blobs that are read for nothing but their hash states.
    hashing: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

impl Storage {
    /// Over a store that does all that is asked of it; `key` signs hash states.
    pub fn new(store: Arc<dyn ObjectStore>, key: Arc<SigningKey>) -> Self {
        let hashing = Arc::new(Semaphore::new(HASHING_MAX));
        let accepted = Arc::new(PublicKeys::new([key.public().clone()]));
        Self {
            store,
            key,
            accepted,
            capabilities: Capabilities::FULL,
            standing: None,
            presigner: None,
            immutable_tags: Arc::default(),
            lists_in_order: false,
            hashing,
            clock: Arc::new(SystemClock),
        }
    }

    /// Takes what these keys signed for verified.
    #[must_use]
    pub fn accepting(self, keys: PublicKeys) -> Self {
        Self { accepted: Arc::new(keys), ..self }
    }

    /// With another clock than the machine's.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Over a store of which is known that it lists in order, or that it may not.
    #[must_use]
    pub fn listing_in_order(self, lists_in_order: bool) -> Self {
        Self { lists_in_order, ..self }
    }

    /// Over a store that is made of several; `standing` knows where it stands.
    pub fn standing(
        store: Arc<dyn ObjectStore>,
        key: Arc<SigningKey>,
        standing: Arc<dyn Standing>,
    ) -> Self {
        Self { standing: Some(standing), ..Self::new(store, key) }
    }

    /// Over any store: what it can do is found out by writing to it.
    ///
    /// # Errors
    /// When the store cannot be written or read.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        key: Arc<SigningKey>,
    ) -> Result<Self, StorageError> {
        let storage = Self::new(store, key);
        let capabilities = storage.find_capabilities().await?;
        Ok(Self { capabilities, ..storage })
    }

    /// Sends clients to the store for bytes where that can be.
    pub fn with_presigner(self, presigner: Option<Presigner>) -> Self {
        Self { presigner, ..self }
    }

    /// Promises that tags of these patterns never move.
    pub fn with_immutable_tags(self, patterns: &[TagPattern]) -> Self {
        Self { immutable_tags: patterns.into(), ..self }
    }

    /// What the store was found to do. While failed over it can do less.
    pub fn capabilities(&self) -> Capabilities {
        self.standing.as_ref().map_or(self.capabilities, |standing| standing.capabilities())
    }

    /// On which of its stores it stands; on the primary where it has only one.
    pub fn state(&self) -> StoreState {
        self.standing.as_ref().map_or(StoreState::Primary, |standing| standing.state())
    }

    /// How often it has left its primary store, or found that others had.
    pub fn departures(&self) -> u64 {
        self.standing.as_ref().map_or(0, |standing| standing.departures())
    }

    /// Whether a tag or a list that is read now may have changed in a store that is away.
    pub fn may_be_stale(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.may_be_stale())
    }

    /// Whether something of `repository` may have been acknowledged that cannot be read now.
    pub fn may_lack(&self, repository: &RepositoryName) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.may_lack(repository))
    }

    /// The same number for two storages over one store, as long as either lives.
    pub fn identity(&self) -> usize {
        Arc::as_ptr(&self.store).cast::<()>().addr()
    }

    /// Proves that the store can be written and read, as `/readyz` asks.
    pub async fn probe(&self) -> Result<(), StorageError> {
        let key = Path::from("probe");
        self.overwrite(&key, Bytes::from_static(b"longshore")).await?;
        self.read(&key).await.map(|_| ())
    }

    /// The object's content, `None` when it is not there.
    async fn read(&self, key: &Path) -> Result<Option<Bytes>, StorageError> {
        match self.store.get(key).await {
            // A copy: what came over the network is a part of a buffer many times as large, which
            // would live as long as a cache keeps the record.
            Ok(found) => Ok(Some(Bytes::copy_from_slice(&found.bytes().await?))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn exists(&self, key: &Path) -> Result<bool, StorageError> {
        match self.store.head(key).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn overwrite(&self, key: &Path, content: Bytes) -> Result<(), StorageError> {
        self.store.put(key, PutPayload::from_bytes(content)).await?;
        Ok(())
    }

    /// Writes unless something is there; whether this call wrote. Where the store does not refuse,
    /// of two calls at one moment both may be told yes.
    async fn create(&self, key: &Path, content: Bytes) -> Result<bool, StorageError> {
        if !self.capabilities().conditional_create && self.exists(key).await? {
            return Ok(false);
        }
        self.create_blindly(key, content).await
    }

    /// As [`Self::create`], of content that no other call writes: what a lost answer left of this
    /// very call counts as written.
    async fn claim_key(&self, key: &Path, content: Bytes) -> Result<bool, StorageError> {
        if self.create(key, content.clone()).await? {
            return Ok(true);
        }
        Ok(self.read(key).await? == Some(content))
    }

    /// A Create as the store understands it.
    async fn create_blindly(&self, key: &Path, content: Bytes) -> Result<bool, StorageError> {
        let payload = PutPayload::from_bytes(content);
        match self.store.put_opts(key, payload, PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            // Some stores answer 409 to a race and others 412.
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes; whether something was there (stores that do not say count as yes).
    async fn delete(&self, key: &Path) -> Result<bool, StorageError> {
        match self.store.delete(key).await {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_record<T: serde::de::DeserializeOwned>(
        &self,
        key: &Path,
    ) -> Result<Option<T>, StorageError> {
        match self.read(key).await? {
            None => Ok(None),
            Some(content) => serde_json::from_slice(&content)
                .map(Some)
                .map_err(|error| StorageError::corrupt(key, error)),
        }
    }
}

/// A record as it is written.
fn encode<T: serde::Serialize>(record: &T) -> Bytes {
    serde_json::to_vec(record).expect("records hold only texts and numbers").into()
}

#[cfg(test)]
pub(crate) mod tests;
