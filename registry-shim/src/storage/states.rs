//! Hash states: a blob's chaining values every 256 KiB, kept with the origin's signature.
//!
//! The bucket is not trusted: states count only with a signature of a key that this origin has.
//! Missing or refused ones are computed by reading the blob once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::TryStreamExt as _;
use longshore_proto::piece::{ChainHasher, PieceList, STATE_INTERVAL_BYTES};
use longshore_proto::sign::{KeyId, PieceListStatement, Signature};
use longshore_proto::{Algorithm, Digest};
use serde::{Deserialize, Serialize};

use super::{Pointer, RECORD_VERSION, Storage, StorageError, encode, layout};

/// The line before the raw values.
#[derive(Serialize, Deserialize)]
struct StatesRecord {
    v: u32,
    size: u64,
    kid: String,
    signature: String,
}

impl Storage {
    /// The blob's list at the finest piece length, from what is kept or by reading the blob.
    pub async fn piece_list(
        &self,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<PieceList, StorageError> {
        if let Some((list, kid)) = self.kept_list(digest).await?
            && list.size() == pointer.size
        {
            if kid != *self.key.public().kid() {
                self.sign_anew(&list).await;
            }
            return Ok(list);
        }
        let _place = self.hashing.acquire().await.expect("the semaphore is never closed");
        tracing::info!(digest = %digest.fmt_short(), "reads a blob for its hash states");
        let states = self.read_states(digest, pointer).await?;
        self.keep_states(digest, pointer.size, states).await
    }

    /// Signs and keeps the values of a blob whose chain has ended in `digest`.
    pub(super) async fn keep_states(
        &self,
        digest: &Digest,
        size: u64,
        states: Vec<u8>,
    ) -> Result<PieceList, StorageError> {
        let list = PieceList::new(*digest, size, STATE_INTERVAL_BYTES, states)
            .map_err(|error| StorageError::corrupt(&layout::states(digest), error))?;
        self.keep_list(&list).await?;
        Ok(list)
    }

    /// What a key signed that will soon count no more: nobody reads the blob again for that. A store
    /// that does not take it is asked again by the next reader.
    async fn sign_anew(&self, list: &PieceList) {
        if let Err(error) = self.keep_list(list).await {
            let digest = list.digest().fmt_short();
            tracing::debug!(%digest, %error, "hash states keep their old signature");
        }
    }

    async fn keep_list(&self, list: &PieceList) -> Result<(), StorageError> {
        let signature = self.key.sign(&PieceListStatement { list, provisional: false });
        let record = StatesRecord {
            v: RECORD_VERSION,
            size: list.size(),
            kid: signature.kid.to_string(),
            signature: STANDARD.encode(&signature.bytes),
        };
        let mut content = encode(&record).to_vec();
        content.push(b'\n');
        content.extend_from_slice(list.states());
        self.overwrite(&layout::states(&list.digest()), content.into()).await
    }

    async fn kept_list(&self, digest: &Digest) -> Result<Option<(PieceList, KeyId)>, StorageError> {
        let Some(content) = self.read(&layout::states(digest)).await? else { return Ok(None) };
        let list = self.verified_list(digest, &content);
        if list.is_none() {
            tracing::warn!(digest = %digest.fmt_short(), "kept hash states do not count");
        }
        Ok(list)
    }

    fn verified_list(&self, digest: &Digest, content: &Bytes) -> Option<(PieceList, KeyId)> {
        let end = content.iter().position(|&byte| byte == b'\n')?;
        let record: StatesRecord = serde_json::from_slice(&content[..end]).ok()?;
        let states = content[end + 1..].to_vec();
        let list = PieceList::new(*digest, record.size, STATE_INTERVAL_BYTES, states).ok()?;
        let signature = Signature {
            kid: KeyId::from_wire(&record.kid),
            bytes: STANDARD.decode(&record.signature).ok()?,
        };
        let statement = PieceListStatement { list: &list, provisional: false };
        self.accepted.verify(&statement, &signature).ok()?;
        Some((list, signature.kid))
    }

    async fn read_states(
        &self,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<Vec<u8>, StorageError> {
        let hashed = self.hash(digest.algorithm(), pointer).await?;
        if hashed.digest != *digest {
            let key = layout::pointer(digest, &pointer.generation);
            return Err(StorageError::corrupt(&key, "segments do not hash to the digest"));
        }
        Ok(hashed.states)
    }

    /// Reads all bytes again with another algorithm.
    pub(super) async fn hash(
        &self,
        algorithm: Algorithm,
        pointer: &Pointer,
    ) -> Result<longshore_proto::piece::HashedBlob, StorageError> {
        let mut hasher = ChainHasher::new(algorithm);
        let mut bytes = self.stream(pointer, None);
        while let Some(chunk) = bytes.try_next().await? {
            hasher.update(&chunk);
        }
        Ok(hasher.finish())
    }
}
