//! Small records: content by digest (manifests, configurations), tags, and plans as they came.
//!
//! Content is verified against its digest whenever it is read, so a damaged file is simply not
//! there. The oldest content goes when there is more than [`CONTENT_BYTES_MAX`]. Everything here
//! can be fetched again; an answer given from here is only given for a repository that a plan
//! named.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use longshore_proto::{Algorithm, Digest, RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use super::{PieceStore, StoreError, file_name, sealed};

/// Most bytes of records of one kind: 64 manifests of the largest size, some thousands of usual ones.
pub const CONTENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

const KINDS: [&str; 3] = ["content", "tags", "plans"];

/// Verified content with what a plan said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// As the descriptor said; never empty for a manifest.
    pub media_type: String,
    /// The content.
    pub bytes: Bytes,
}

/// What a tag meant when the origin was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTag {
    /// The manifest.
    pub digest: Digest,
    /// Since the origin's answer, by the wall clock.
    pub age: Duration,
    /// How long that answer may be used without asking, as the origin said.
    pub fresh: Duration,
}

#[derive(Serialize, Deserialize)]
struct ContentHeader {
    media_type: String,
    repositories: Vec<RepositoryName>,
}

#[derive(Serialize, Deserialize)]
struct TagRecord {
    digest: Digest,
    asked_at_s: u64,
    fresh_ms: u64,
}

/// The directories and how full they are.
#[derive(Debug)]
pub(super) struct Records {
    root: PathBuf,
    /// Of each kind: names with their size, oldest first by the number in front.
    ages: [Mutex<Ages>; 3],
}

#[derive(Debug, Default)]
struct Ages {
    next: u64,
    order: BTreeMap<u64, (String, u64)>,
    bytes: u64,
}

impl PieceStore {
    /// Keeps `content` if its digest is right; false when it is not.
    pub fn put_content(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        content: &Content,
    ) -> Result<bool, StoreError> {
        if Digest::of(digest.algorithm(), &content.bytes) != *digest {
            return Ok(false);
        }
        let records = &self.0.records;
        let name = file_name(digest);
        let known = records.read(0, &name).and_then(|record| split(&record));
        let mut repositories = known.map(|(header, _)| header.repositories).unwrap_or_default();
        if !repositories.contains(repository) {
            repositories.push(repository.clone());
        }
        let header = ContentHeader { media_type: content.media_type.clone(), repositories };
        let mut record = serde_json::to_vec(&header).expect("names and texts always encode");
        record.push(b'\n');
        record.extend_from_slice(&content.bytes);
        records.put(0, &name, &record)?;
        Ok(true)
    }

    /// Content that a plan named in this repository, verified.
    pub fn content(&self, repository: &RepositoryName, digest: &Digest) -> Option<Content> {
        let record = self.0.records.read(0, &file_name(digest))?;
        let (header, at) = split(&record)?;
        let bytes = Bytes::from(record).slice(at..);
        let right = Digest::of(digest.algorithm(), &bytes) == *digest;
        let known = header.repositories.contains(repository);
        (right && known).then_some(Content { media_type: header.media_type, bytes })
    }

    /// Notes that the origin has just said what a tag means.
    pub fn put_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
        fresh: Duration,
    ) -> Result<(), StoreError> {
        let fresh_ms = fresh.as_millis() as u64;
        let record = TagRecord { digest: *digest, asked_at_s: unix_seconds(), fresh_ms };
        let record = serde_json::to_vec(&record).expect("numbers and texts always encode");
        self.0.records.put(1, &tag_file(repository, tag), &record)
    }

    /// What the tag meant when the origin was last asked.
    pub fn tag(&self, repository: &RepositoryName, tag: &Tag) -> Option<StoredTag> {
        let record = self.0.records.read(1, &tag_file(repository, tag))?;
        let record: TagRecord = serde_json::from_slice(&record).ok()?;
        let age = unix_seconds().saturating_sub(record.asked_at_s);
        Some(StoredTag {
            digest: record.digest,
            age: Duration::from_secs(age),
            fresh: Duration::from_millis(record.fresh_ms),
        })
    }

    pub(super) fn put_plan_record(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        plan: &[u8],
    ) -> Result<(), StoreError> {
        self.0.records.put(2, &plan_file(repository, digest), plan)
    }

    pub(super) fn plan_record(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<Bytes> {
        self.0.records.read(2, &plan_file(repository, digest)).map(Bytes::from)
    }
}

impl Records {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let records = Self { root: root.to_owned(), ages: Default::default() };
        for (kind, ages) in KINDS.iter().zip(&records.ages) {
            let directory = root.join(kind);
            fs::create_dir_all(&directory)?;
            let mut found = Vec::new();
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".tmp") {
                    fs::remove_file(entry.path())?;
                    continue;
                }
                let metadata = entry.metadata()?;
                found.push((metadata.modified()?, name, metadata.len()));
            }
            found.sort();
            let mut ages = ages.lock().expect("nobody else has it yet");
            found.into_iter().for_each(|(_, name, bytes)| ages.add(name, bytes));
        }
        Ok(records)
    }

    fn read(&self, kind: usize, name: &str) -> Option<Vec<u8>> {
        sealed::read(&self.root.join(KINDS[kind]).join(name))
    }

    fn put(&self, kind: usize, name: &str, record: &[u8]) -> Result<(), StoreError> {
        let directory = self.root.join(KINDS[kind]);
        let mut ages = self.ages[kind].lock().expect("nothing panics while it holds the ages");
        sealed::write(&directory.join(name), record).map_err(super::blob::store_error)?;
        ages.add(name.to_owned(), record.len() as u64);
        while ages.bytes > CONTENT_BYTES_MAX {
            let Some((_, (oldest, bytes))) = ages.order.pop_first() else { break };
            ages.bytes -= bytes;
            if let Err(error) = fs::remove_file(directory.join(&oldest)) {
                tracing::warn!(record = oldest, %error, "cannot delete");
            }
        }
        Ok(())
    }
}

impl Ages {
    fn add(&mut self, name: String, bytes: u64) {
        let before = self.order.iter().find(|(_, (known, _))| *known == name).map(|(at, _)| *at);
        if let Some((_, old)) = before.and_then(|at| self.order.remove(&at)) {
            self.bytes -= old;
        }
        self.order.insert(self.next, (name, bytes));
        self.next += 1;
        self.bytes += bytes;
    }
}

/// The header and where the content begins.
fn split(record: &[u8]) -> Option<(ContentHeader, usize)> {
    let end = record.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&record[..end]).ok()?, end + 1))
}

fn tag_file(repository: &RepositoryName, tag: &Tag) -> String {
    file_name(&Digest::of(Algorithm::Sha256, format!("{repository}:{tag}").as_bytes()))
}

fn plan_file(repository: &RepositoryName, digest: &Digest) -> String {
    file_name(&Digest::of(Algorithm::Sha256, format!("{repository}@{digest}").as_bytes()))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
