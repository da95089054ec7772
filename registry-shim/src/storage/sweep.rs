//! The collector's view: keys with their ages, what they mean, and deletion.
//!
//! Reads the keys that `layout` spells. Decides nothing: that is `gc`.

use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use longshore_proto::{Digest, RepositoryName};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Charge, Item, Pointer, Project, Storage, StorageError, encode, layout};

/// A deletion that takes longer is given up: it must not come to effect when its reason has gone.
const DELETE_TIMEOUT: Duration = Duration::from_secs(15);

/// What lies under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Unix milliseconds of its last write, by the store's clock.
    pub at_ms: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// What a key of a repository means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryKey {
    /// A blob's membership.
    Member(Digest),
    /// A manifest.
    Manifest(Digest),
    /// The collector's announcement.
    Tombstone(Item),
    /// A referrer and its subject.
    Referrer {
        /// What is referred to.
        subject: Digest,
        /// Who refers.
        digest: Digest,
    },
    /// A tag.
    Tag(String),
    /// An entry of a tag's history.
    History {
        /// Whose.
        tag: String,
    },
}

/// A directory of the tree that repositories' names make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The last part of the name.
    pub part: String,
    /// Whether it is a repository's name.
    pub is_repository: bool,
    /// Whether names go on below.
    pub has_more: bool,
}

impl From<&ObjectMeta> for Seen {
    fn from(object: &ObjectMeta) -> Self {
        let at_ms = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default();
        Self { at_ms, bytes: object.size }
    }
}

impl Storage {
    /// Every object under `prefix`, in no order.
    pub fn sweep(&self, prefix: &str) -> BoxStream<'static, Result<(Path, Seen), StorageError>> {
        let listing = self.store.list(Some(&Path::from(prefix)));
        listing
            .map_ok(|object| (object.location.clone(), Seen::from(&object)))
            .map_err(StorageError::from)
            .boxed()
    }

    /// The names of the directories directly under `prefix`, sorted.
    pub async fn directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let listing = self.store.list_with_delimiter(Some(&Path::from(prefix))).await?;
        let names = listing.common_prefixes.iter().filter_map(Path::filename);
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// What lies under one key now.
    pub async fn look(&self, key: &Path) -> Result<Option<Seen>, StorageError> {
        match self.store.head(key).await {
            Ok(object) => Ok(Some(Seen::from(&object))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes within a time, so that it comes to effect now or not at all, and never on a replica
    /// alone: what was decided by the primary's listings holds there.
    ///
    /// # Errors
    /// Also when it took too long: then nobody knows.
    pub async fn remove(&self, key: &Path) -> Result<(), StorageError> {
        let delete = async {
            match &self.standing {
                Some(standing) => standing.clone().delete_on_primary(key).await,
                None => self.store.delete(key).await,
            }
        };
        match tokio::time::timeout(DELETE_TIMEOUT, delete).await {
            Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StorageError::Contended),
        }
    }

    /// Writes an empty object: a tombstone.
    pub async fn mark(&self, key: &Path) -> Result<(), StorageError> {
        self.overwrite(key, bytes::Bytes::new()).await
    }

    /// Reads one of the collector's own records.
    pub async fn note<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StorageError> {
        self.read_record(&Path::from(key)).await
    }

    /// Writes one.
    pub async fn keep_note<T: Serialize>(&self, key: &str, note: &T) -> Result<(), StorageError> {
        self.overwrite(&Path::from(key), encode(note)).await
    }

    /// The pointer under a key; `None` when it went away.
    pub async fn pointer_at(&self, key: &Path) -> Result<Option<Pointer>, StorageError> {
        self.read_pointer(key).await
    }

    /// Lets the time pass.
    pub async fn wait(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// The directories and repositories whose names go on after `parent`.
    pub async fn branches(&self, parent: &str) -> Result<Vec<Branch>, StorageError> {
        let prefix = if parent.is_empty() { "repo".to_owned() } else { format!("repo/{parent}") };
        let mut branches: Vec<Branch> = Vec::new();
        let mut names: Vec<(String, bool)> = self
            .directories(&prefix)
            .await?
            .into_iter()
            .map(|name| match name.strip_suffix('!') {
                Some(repository) => (repository.to_owned(), true),
                None => (name, false),
            })
            .collect();
        names.sort();
        for (part, is_repository) in names {
            match branches.last_mut() {
                Some(last) if last.part == part => {
                    last.is_repository |= is_repository;
                    last.has_more |= !is_repository;
                }
                _ => branches.push(Branch { part, is_repository, has_more: !is_repository }),
            }
        }
        Ok(branches)
    }
}

/// Keys that the collector deletes.
#[derive(Clone, Copy, Debug)]
pub struct Keys;

impl Keys {
    /// What announces that the item is going.
    pub fn tombstone(repository: &RepositoryName, item: Item) -> Path {
        layout::item_tombstone(repository, item)
    }

    /// The item itself.
    pub fn item(repository: &RepositoryName, item: Item) -> Path {
        match item {
            Item::Blob(digest) => layout::membership(repository, &digest),
            Item::Manifest(digest) => layout::manifest(repository, &digest),
        }
    }

    /// "This repository holds the blob", found from the blob.
    pub fn reverse_reference(digest: &Digest, repository: &RepositoryName) -> Path {
        layout::reverse_reference(digest, repository)
    }

    /// A generation's tombstone.
    pub fn pointer_tombstone(digest: &Digest, generation: &str) -> Path {
        layout::pointer_tombstones(digest).join(generation)
    }

    /// A generation.
    pub fn pointer(digest: &Digest, generation: &str) -> Path {
        layout::pointer(digest, generation)
    }

    /// The repository's place in the catalog.
    pub fn catalog_entry(repository: &RepositoryName) -> Path {
        layout::catalog_entry(repository)
    }

    /// What of a repository lies under a key of `repo/<repository>!/`.
    pub fn in_repository(repository: &RepositoryName, key: &Path) -> Option<RepositoryKey> {
        let rest = key.as_ref().strip_prefix("repo/")?.strip_prefix(repository.as_str())?;
        let mut parts = rest.strip_prefix("!/")?.split('/');
        let kind = parts.next()?;
        let found = match kind {
            "blob" => RepositoryKey::Member(digest(&mut parts)?),
            "man" => RepositoryKey::Manifest(digest(&mut parts)?),
            "tomb" => RepositoryKey::Tombstone(match parts.next()? {
                "blob" => Item::Blob(digest(&mut parts)?),
                "man" => Item::Manifest(digest(&mut parts)?),
                _ => return None,
            }),
            "ref" => {
                let (subject, digest) = (digest(&mut parts)?, digest(&mut parts)?);
                RepositoryKey::Referrer { subject, digest }
            }
            "tag" => RepositoryKey::Tag(parts.next()?.to_owned()),
            "log" => RepositoryKey::History { tag: parts.next()?.strip_suffix('!')?.to_owned() },
            _ => return None,
        };
        parts.next().is_none_or(|_| kind == "log").then_some(found)
    }

    /// The repository and what it holds, of a membership's or a manifest's key.
    pub fn holding(key: &Path) -> Option<(RepositoryName, Item)> {
        let (repository, rest) = key.as_ref().strip_prefix("repo/")?.split_once("!/")?;
        let mut parts = rest.split('/');
        let item = match parts.next()? {
            "blob" => Item::Blob(digest(&mut parts)?),
            "man" => Item::Manifest(digest(&mut parts)?),
            _ => return None,
        };
        Some((repository.parse().ok()?, item))
    }

    /// The digest and the last part of `<root>/<alg>/<hh>/<hex>/<last>`.
    pub fn spread<'a>(root: &str, key: &'a Path) -> Option<(Digest, &'a str)> {
        let rest = key.as_ref().strip_prefix(root)?.strip_prefix('/')?;
        let mut parts = rest.splitn(4, '/');
        let (algorithm, _, hex) = (parts.next()?, parts.next()?, parts.next()?);
        let digest = format!("{algorithm}:{hex}").parse().ok()?;
        Some((digest, parts.next().unwrap_or_default()))
    }

    /// The repository that a reverse reference's last part names.
    pub fn referring(last: &str) -> Option<RepositoryName> {
        last.strip_suffix("!blob")?.parse().ok()
    }

    /// The project and its charge.
    pub fn charge(key: &Path) -> Option<(Project, Charge)> {
        let (project, rest) = key.as_ref().strip_prefix("proj/")?.split_once("!/blob/")?;
        let (digest, size) = rest.rsplit_once('-')?;
        let digest = digest.replacen('/', ":", 1).parse().ok()?;
        Some((project.parse().ok()?, Charge { digest, size: size.parse().ok()? }))
    }

    /// The name of a segment: the last part of its key, all of a UUID.
    pub fn segment(key: &str) -> Option<u128> {
        let name = key.strip_prefix("data/")?.split('/').nth(2)?;
        uuid::Uuid::try_parse(name).ok().map(|id| id.as_u128())
    }
}

fn digest<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Option<Digest> {
    let (algorithm, hex) = (parts.next()?, parts.next()?);
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use longshore_proto::Algorithm;

    use super::*;

    #[test]
    fn every_key_is_read_as_what_it_was_written_for() {
        let (a, b) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha512, b"b"));
        let repository: RepositoryName = "team/app".parse().unwrap();
        let read = |key: &Path| Keys::in_repository(&repository, key);
        let tag = "v1".parse().unwrap();
        for (key, meaning) in [
            (layout::membership(&repository, &a), RepositoryKey::Member(a)),
            (layout::manifest(&repository, &b), RepositoryKey::Manifest(b)),
            (
                layout::referrer(&repository, &a, &b),
                RepositoryKey::Referrer { subject: a, digest: b },
            ),
            (layout::tag(&repository, &tag), RepositoryKey::Tag("v1".into())),
            (
                layout::tag_log(&repository, &tag, 7, uuid::Uuid::nil()),
                RepositoryKey::History { tag: "v1".into() },
            ),
        ] {
            assert_eq!(read(&key), Some(meaning), "{key}");
        }
        for item in [Item::Blob(a), Item::Manifest(b)] {
            let key = Keys::tombstone(&repository, item);
            assert_eq!(read(&key), Some(RepositoryKey::Tombstone(item)));
            assert_eq!(Keys::holding(&key), None);
            let key = Keys::item(&repository, item);
            assert_eq!(Keys::holding(&key), Some((repository.clone(), item)));
        }
        assert_eq!(Keys::spread("blob", &Keys::pointer(&a, "g")), Some((a, "g")));
        assert_eq!(Keys::spread("states", &layout::states(&b)), Some((b, "")));
        let key = Keys::reverse_reference(&a, &repository);
        let (found, last) = Keys::spread("bref", &key).unwrap();
        assert_eq!((found, Keys::referring(last)), (a, Some(repository.clone())));
        let project = Project::of(&repository);
        let charge = Charge { digest: a, size: 7 };
        assert_eq!(Keys::charge(&layout::charge(&project, &a, 7)), Some((project, charge)));
        let id = uuid::Uuid::new_v4();
        let key = layout::data(id, "20260101");
        assert_eq!(Keys::segment(key.as_ref()), Some(id.as_u128()));
        assert_eq!(read(&layout::membership(&"other".parse().unwrap(), &a)), None);
    }
}
