//! Blobs: their bytes, from any offset, streamed from their segments.
//!
//! Holds at most [`READ_BYTES`] per reader beside what the store's own client buffers.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream, TryStreamExt as _};
use longshore_proto::ByteRange;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload};

use super::{Pointer, Storage, StorageError};

/// Read from a local file at once. The store's own 8 KiB cost a thread switch each.
const READ_BYTES: usize = 256 * 1024;

/// A blob's bytes, or an error in the middle of them.
pub type BlobStream = BoxStream<'static, Result<Bytes, StorageError>>;

impl Storage {
    /// The bytes of `range`, or all of them; `range` lies within the blob.
    pub fn stream(&self, pointer: &Pointer, range: Option<ByteRange>) -> BlobStream {
        let parts = parts_of(pointer, range);
        let storage = self.clone();
        stream::iter(parts)
            .then(move |(key, from, to)| {
                let storage = storage.clone();
                async move { storage.read_part(key, from, to).await }
            })
            .try_flatten()
            .boxed()
    }

    /// All bytes of a blob that is known to be small; the caller has looked at `pointer.size`.
    pub async fn read_whole(&self, pointer: &Pointer) -> Result<Bytes, StorageError> {
        let mut whole = Vec::with_capacity(usize::try_from(pointer.size).unwrap_or_default());
        let mut bytes = self.stream(pointer, None);
        while let Some(chunk) = bytes.try_next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    async fn read_part(&self, key: Path, from: u64, to: u64) -> Result<BlobStream, StorageError> {
        let options = GetOptions { range: Some(GetRange::Bounded(from..to)), ..Default::default() };
        let found = self.store.get_opts(&key, options).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                StorageError::corrupt(&key, "segment is missing")
            }
            error => error.into(),
        })?;
        if found.range != (from..to) {
            return Err(StorageError::corrupt(&key, "segment is shorter than its pointer says"));
        }
        Ok(match found.payload {
            GetResultPayload::File(file, _) => read_file(file, from, to),
            GetResultPayload::Stream(bytes) => bytes.map_err(StorageError::from).boxed(),
        })
    }
}

/// The parts of the segments that the range touches: key, first byte, one past the last.
fn parts_of(pointer: &Pointer, range: Option<ByteRange>) -> Vec<(Path, u64, u64)> {
    let (first, end) = range.map_or((0, pointer.size), |r| (r.offset(), r.end()));
    let mut parts = Vec::new();
    let mut at = 0;
    for segment in &pointer.segments {
        let (from, to) = (first.max(at), end.min(at + segment.len));
        if from < to {
            parts.push((Path::from(segment.key.as_str()), from - at, to - at));
        }
        at += segment.len;
    }
    parts
}

fn read_file(file: File, from: u64, to: u64) -> BlobStream {
    stream::try_unfold((file, from), move |(mut file, at)| async move {
        if at == to {
            return Ok(None);
        }
        let want = usize::try_from(to - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; want];
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut buffer)?;
            Ok::<_, std::io::Error>((file, buffer))
        });
        let failed = |error| object_store::Error::Generic { store: "local", source: error };
        let (file, buffer) = read
            .await
            .map_err(|error| failed(Box::new(error)))?
            .map_err(|error| failed(Box::new(error)))?;
        Ok(Some((Bytes::from(buffer), (file, at + want as u64))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Segment;

    #[test]
    fn a_range_touches_only_its_segments() {
        let segment = |key: &str, len| Segment { key: key.into(), len };
        let pointer = Pointer {
            generation: String::new(),
            size: 30,
            segments: vec![segment("a", 10), segment("b", 10), segment("c", 10)],
        };
        let parts = |offset, length| {
            parts_of(&pointer, ByteRange::new(offset, length))
                .into_iter()
                .map(|(key, from, to)| (key.to_string(), from, to))
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(0, 10), [("a".into(), 0, 10)]);
        assert_eq!(parts(9, 2), [("a".into(), 9, 10), ("b".into(), 0, 1)]);
        assert_eq!(parts(5, 20).len(), 3);
        assert_eq!(parts_of(&pointer, None).len(), 3);
    }
}
