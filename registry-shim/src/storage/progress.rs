//! What has arrived of an upload, and how it is written down between two requests.
//!
//! Each request's record names all segments and carries the hash as it stands. The hash states, 32
//! or 64 bytes for each 256 KiB, are shed into objects of their own as they become many: repeated in
//! every record they would cost the square of a large upload. The objects lie among the segments,
//! are named by no pointer, and so are the collector's once the upload has ended.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_proto::piece::{ChainHasher, SavedChain};
use longshore_proto::{Algorithm, Digest};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{Note, Pointer, RECORD_VERSION, Segment, Storage, StorageError};

/// States that are shed together: those of 64 MiB.
const SHED_BYTES: usize = 8 * 1024;
/// States have at most one byte for so many of their blob: 64 for 256 KiB.
const STATES_SHARE: u64 = 4096;
/// Their objects that are read at once.
const READS_MAX: usize = 8;

/// What has arrived of an upload.
#[derive(Clone, Debug)]
pub struct Progress {
    pub(super) segments: Vec<Segment>,
    /// How many of them the session knows; those after are this request's own.
    pub(super) saved: usize,
    pub(super) hasher: ChainHasher,
    /// Where the first of the hasher's states are kept; it may have zeros in their place.
    pub(super) shed: Vec<Segment>,
    pub(super) note: Option<Note>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shed: Vec<Segment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<Note>,
}

impl Progress {
    /// Nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let hasher = ChainHasher::new(algorithm);
        Self { segments: Vec::new(), saved: 0, hasher, shed: Vec::new(), note: None }
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

    /// The same bytes, hashed anew.
    pub(super) fn with_hasher(self, hasher: ChainHasher) -> Self {
        Self { hasher, shed: Vec::new(), ..self }
    }

    /// Bytes of the states that lie elsewhere.
    fn shed_bytes(&self) -> usize {
        usize::try_from(bytes_of(&self.shed)).unwrap_or(usize::MAX)
    }
}

impl Storage {
    /// Puts states that have become many into an object of their own.
    pub(super) async fn shed_states(&self, progress: &mut Progress) -> Result<(), StorageError> {
        let states = &progress.hasher.states()[progress.shed_bytes()..];
        if states.len() < SHED_BYTES {
            return Ok(());
        }
        let mut writer = self.segment();
        writer.write(Bytes::copy_from_slice(states)).await?;
        progress.shed.extend(writer.finish().await?);
        Ok(())
    }

    /// All states of the bytes that have arrived, where `states` may have zeros in place of those
    /// that were shed.
    pub(super) async fn gather_states(
        &self,
        shed: &[Segment],
        states: Vec<u8>,
    ) -> Result<Vec<u8>, StorageError> {
        if shed.is_empty() {
            return Ok(states);
        }
        let mut gathered = Vec::with_capacity(states.len());
        let mut parts = stream::iter(shed.to_vec())
            .map(|segment| async move {
                let (size, segments) = (segment.len, vec![segment]);
                self.read_whole(&Pointer { generation: String::new(), size, segments }).await
            })
            .buffered(READS_MAX);
        while let Some(part) = parts.try_next().await? {
            gathered.extend_from_slice(&part);
        }
        drop(parts);
        gathered.extend_from_slice(&states[gathered.len()..]);
        Ok(gathered)
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
            states: STANDARD.encode(&saved.states[progress.shed_bytes()..]),
            shed: progress.shed.clone(),
            note: progress.note.clone(),
        }
    }

    pub(super) fn into_progress(self, key: &Path) -> Result<Progress, StorageError> {
        let corrupt = |reason: &str| StorageError::corrupt(key, reason);
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| corrupt("no base64"));
        let (states, shed_bytes) = (bytes(&self.states)?, bytes_of(&self.shed));
        if shed_bytes > self.total / STATES_SHARE {
            return Err(corrupt("more hash states than bytes"));
        }
        let mut padded = vec![0; usize::try_from(shed_bytes).unwrap_or(usize::MAX)];
        padded.extend_from_slice(&states);
        let saved = SavedChain {
            chain: bytes(&self.chain)?,
            tail: bytes(&self.tail)?,
            states: padded,
            algorithm: self.algorithm,
            total: self.total,
        };
        let hasher = ChainHasher::restore(saved).ok_or_else(|| corrupt("no hash state"))?;
        let (saved, segments) = (self.segments.len(), self.segments);
        Ok(Progress { saved, segments, hasher, shed: self.shed, note: self.note })
    }
}

fn bytes_of(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| segment.len).fold(0, u64::saturating_add)
}
