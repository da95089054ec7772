//! Bytes of a blob that go on from the other store when theirs breaks off or stands still.
//!
//! Both stores hold the same bytes under one key, for such keys are written once. A reader that
//! has had its bytes from both stores gets an error.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, GetResultPayload, Result};

use super::home::Home;
use super::side::{Which, failure, late};

/// Stores that a stream goes on from before it gives up.
const CHANGES_MAX: u32 = 2;

/// A stream and where it is.
pub(super) struct Continued {
    home: Arc<Home>,
    which: Which,
    at: Path,
    bytes: BoxStream<'static, Result<Bytes>>,
    next: u64,
    end: u64,
    changes: u32,
}

impl Continued {
    /// The same answer, its bytes continued from the other store. A file needs none of it.
    pub(super) fn over(home: &Arc<Home>, which: Which, at: &Path, found: GetResult) -> GetResult {
        let GetResult { payload, meta, range, attributes, extensions } = found;
        let payload = match payload {
            GetResultPayload::Stream(bytes) => {
                let (home, at) = (home.clone(), at.clone());
                let (next, end) = (range.start, range.end);
                let reader = Self { home, which, at, bytes, next, end, changes: 0 };
                GetResultPayload::Stream(reader.stream())
            }
            file => file,
        };
        GetResult { payload, meta, range, attributes, extensions }
    }

    fn stream(self) -> BoxStream<'static, Result<Bytes>> {
        stream::unfold(Some(self), |reader| async {
            let mut reader = reader?;
            if reader.next >= reader.end {
                return None;
            }
            match reader.read().await {
                Ok(bytes) => Some((Ok(bytes), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn read(&mut self) -> Result<Bytes> {
        loop {
            let idle = self.home.timing.idle;
            let error = match tokio::time::timeout(idle, self.bytes.next()).await {
                Ok(Some(Ok(bytes))) => {
                    self.next += bytes.len() as u64;
                    return Ok(bytes);
                }
                Ok(Some(Err(error))) => error,
                Ok(None) => failure("stream ended before its bytes"),
                Err(_) => late(),
            };
            self.home.side(self.which).report(Some(&error));
            self.change(error).await?;
        }
    }

    /// Goes on from the other store, or ends in `error`.
    async fn change(&mut self, error: Error) -> Result<()> {
        let other = match self.which {
            Which::Primary => Which::Replica,
            Which::Replica => Which::Primary,
        };
        self.changes += 1;
        if self.changes > CHANGES_MAX || !self.home.side(other).is_up() {
            return Err(error);
        }
        let range = Some(GetRange::Bounded(self.next..self.end));
        let how = GetOptions { range, ..GetOptions::default() };
        match self.home.get(other, &self.at, how).await {
            Ok(found) if found.range == (self.next..self.end) => {
                tracing::info!(region = self.home.name, store = other.label(), "blob goes on");
                self.which = other;
                self.bytes = found.into_stream();
                Ok(())
            }
            _ => Err(error),
        }
    }
}
