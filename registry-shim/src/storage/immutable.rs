//! Immutable tags: which tags never move once they are there, and never go.
//!
//! The promise stands on a Create that the store refuses where something is: a store without it
//! must not be used with such patterns, and the start says so.

use std::fmt;
use std::str::FromStr;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_proto::{Digest, RepositoryName, Tag};
use wildmatch::WildMatch;

use super::{Storage, StorageError, TagRecord, encode, layout};

/// Tags that are read from the store at once.
const READS_IN_FLIGHT_MAX: usize = 16;
/// Races that nobody won, in a row.
const CREATE_ATTEMPTS: usize = 3;

/// `REPOSITORY:TAG`, with `*` for any characters, `/` too, and `?` for one.
#[derive(Clone)]
pub struct TagPattern {
    text: String,
    repository: WildMatch,
    tag: WildMatch,
}

/// Not `REPOSITORY:TAG`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not REPOSITORY:TAG, such as prod/*:*")]
pub struct InvalidTagPattern(String);

impl FromStr for TagPattern {
    type Err = InvalidTagPattern;

    fn from_str(text: &str) -> Result<Self, InvalidTagPattern> {
        match text.split_once(':') {
            Some((repository, tag))
                if !repository.is_empty() && !tag.is_empty() && !tag.contains(':') =>
            {
                let [repository, tag] = [repository, tag].map(WildMatch::new);
                Ok(Self { text: text.to_owned(), repository, tag })
            }
            _ => Err(InvalidTagPattern(text.to_owned())),
        }
    }
}

impl TagPattern {
    /// Whether the pattern names this tag.
    pub fn matches(&self, repository: &RepositoryName, tag: &Tag) -> bool {
        self.matches_in(repository) && self.tag.matches(tag.as_str())
    }

    fn matches_in(&self, repository: &RepositoryName) -> bool {
        self.repository.matches(repository.as_str())
    }
}

impl fmt::Debug for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl Storage {
    /// Whether the tag may be created but neither moved nor deleted.
    pub fn is_immutable(&self, repository: &RepositoryName, tag: &Tag) -> bool {
        self.immutable_tags.iter().any(|pattern| pattern.matches(repository, tag))
    }

    /// Whether an immutable tag names the manifest. Where the repository has patterns all its tags
    /// are listed, and those that match are read: deletes are rare.
    pub(super) async fn is_named_for_good(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        if !self.immutable_tags.iter().any(|pattern| pattern.matches_in(repository)) {
            return Ok(false);
        }
        let keys = self.keys(&layout::tags(repository)).await?;
        let tags = keys.iter().filter_map(|key| key.filename()?.parse::<Tag>().ok());
        let frozen: Vec<Tag> = tags.filter(|tag| self.is_immutable(repository, tag)).collect();
        let read = |tag: Tag| async move { self.tag(repository, &tag).await };
        stream::iter(frozen)
            .map(read)
            .buffer_unordered(READS_IN_FLIGHT_MAX)
            .try_any(|there| std::future::ready(there.is_some_and(|there| there.digest == *digest)))
            .await
    }

    /// Creates an immutable tag. The same manifest again is no move.
    pub(super) async fn create_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StorageError> {
        if let Some(there) = self.tag(repository, tag).await? {
            return same(record, &there);
        }
        if !self.capabilities().conditional_create {
            return Err(StorageError::NotNow("immutable tags wait for the store to be back"));
        }
        let log = self.log_tag(repository, tag, record).await?;
        for _ in 0..CREATE_ATTEMPTS {
            if self.create(&layout::tag(repository, tag), encode(record)).await? {
                return Ok(());
            }
            // Perhaps the refusal was of a retry, and what is there is this very record; perhaps it
            // was of a race that nobody won (S3 answers 409), and nothing is there.
            if let Some(there) = self.tag(repository, tag).await? {
                let outcome = same(record, &there);
                if outcome.is_err() {
                    self.delete(&log).await?;
                }
                return outcome;
            }
        }
        self.delete(&log).await?;
        Err(StorageError::NotNow("several pushes of this tag hinder each other"))
    }
}

fn same(record: &TagRecord, there: &TagRecord) -> Result<(), StorageError> {
    if there.digest == record.digest {
        return Ok(());
    }
    Err(StorageError::TagImmutable { digest: there.digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_tags_by_repository_and_tag() {
        let matches = |pattern: &str, repository: &str, tag: &str| {
            let pattern: TagPattern = pattern.parse().unwrap();
            pattern.matches(&repository.parse().unwrap(), &tag.parse().unwrap())
        };
        assert!(matches("prod/*:*", "prod/app", "v1"));
        assert!(matches("prod/*:*", "prod/a/b", "latest"));
        assert!(!matches("prod/*:*", "production", "v1"));
        assert!(matches("*:v?.*", "any/where", "v1.2"));
        assert!(!matches("*:v?.*", "any/where", "latest"));
        assert!(!matches("app:v1", "team/app", "v1"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "app", ":", "app:", ":v1", "a:b:c"] {
            assert!(bad.parse::<TagPattern>().is_err(), "{bad}");
        }
    }
}
