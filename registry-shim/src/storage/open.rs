//! `storage.url`: which store, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::{Presigner, cloud};
use crate::config;

/// A store that the configuration names. It prints as it was written, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageUrl {
    /// `file:///dir`
    Directory(PathBuf),
    /// `memory:`
    Memory,
    /// `s3://bucket/prefix`
    S3(Bucket),
    /// `gs://bucket/prefix`
    Google(Bucket),
    /// `az://container/prefix`
    Azure(Bucket),
}

/// A bucket, and where in it the layout begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Azure says container.
    pub name: String,
    /// Empty: the whole bucket.
    pub prefix: Path,
}

/// Not the URL of a store that is built in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not file:///DIRECTORY, memory:, s3://BUCKET, gs://BUCKET or az://CONTAINER")]
pub struct InvalidStorageUrl;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What is configured can not work.
    #[error("{key}: {message}")]
    Config {
        /// `storage.endpoint`
        key: &'static str,
        /// One line, without secrets.
        message: String,
    },
    /// The directory cannot be made or read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A store, opened and not yet asked for anything.
#[derive(Debug)]
pub struct OpenedStore {
    /// Its objects.
    pub store: Arc<dyn ObjectStore>,
    /// Makes URLs that let clients read from it, where it can and may.
    pub presigner: Option<Presigner>,
    /// As the configuration names it.
    pub name: String,
}

impl FromStr for StorageUrl {
    type Err = InvalidStorageUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStorageUrl> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        let (scheme, rest) = text.split_once("://").ok_or(InvalidStorageUrl)?;
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self::Directory(PathBuf::from(rest))),
            "s3" => Ok(Self::S3(rest.parse()?)),
            "gs" => Ok(Self::Google(rest.parse()?)),
            "az" => Ok(Self::Azure(rest.parse()?)),
            _ => Err(InvalidStorageUrl),
        }
    }
}

impl FromStr for Bucket {
    type Err = InvalidStorageUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStorageUrl> {
        let (name, prefix) = text.split_once('/').unwrap_or((text, ""));
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(3..=222).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(InvalidStorageUrl);
        }
        let prefix = Path::parse(prefix).map_err(|_| InvalidStorageUrl)?;
        Ok(Self { name: name.to_owned(), prefix })
    }
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket) = match self {
            Self::Memory => return f.write_str("memory:"),
            Self::Directory(path) => return write!(f, "file://{}", path.display()),
            Self::S3(bucket) => ("s3", bucket),
            Self::Google(bucket) => ("gs", bucket),
            Self::Azure(bucket) => ("az", bucket),
        };
        write!(f, "{scheme}://{}", bucket.name)?;
        if bucket.prefix == Path::default() { Ok(()) } else { write!(f, "/{}", bucket.prefix) }
    }
}

impl StorageUrl {
    /// Whether it lists keys in the order of their bytes: then a page of a list costs a page. A
    /// directory lists as it likes, and so do S3's directory buckets and Azure's hierarchical
    /// accounts.
    pub fn lists_in_order(&self) -> bool {
        match self {
            Self::Memory | Self::Google(_) => true,
            Self::S3(bucket) => !bucket.name.ends_with("--x-s3"),
            Self::Directory(_) | Self::Azure(_) => false,
        }
    }

    /// Whether only this machine can read the store, so that keys may be made at first start.
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::Directory(_) | Self::Memory)
    }
}

impl config::Storage {
    /// Opens the store; a directory is made when it is missing, a bucket is not.
    ///
    /// # Errors
    /// When a setting can not work, or the directory cannot be made or read.
    pub fn open(&self) -> Result<OpenedStore, OpenError> {
        self.check()?;
        let name = self.url.to_string();
        let expiry = Duration::from_secs(u64::from(self.redirect_expiry_s));
        let (store, signer, bucket) = match &self.url {
            StorageUrl::Memory => return Ok(local(Arc::new(InMemory::new()), name)),
            StorageUrl::Directory(path) => {
                std::fs::create_dir_all(path)?;
                let store =
                    LocalFileSystem::new_with_prefix(path).map_err(std::io::Error::other)?;
                // An acknowledged push survives a power cut: the default would not sync.
                return Ok(local(Arc::new(store.with_fsync(true)), name));
            }
            StorageUrl::S3(bucket) => with_bucket(cloud::s3(self, bucket)?, bucket),
            StorageUrl::Google(bucket) => with_bucket(cloud::google(self, bucket)?, bucket),
            StorageUrl::Azure(bucket) => with_bucket(cloud::azure(self, bucket)?, bucket),
        };
        let presigner =
            self.redirect.then(|| Presigner::new(signer, bucket.prefix.clone(), expiry));
        Ok(OpenedStore { store, presigner, name })
    }

    fn check(&self) -> Result<(), OpenError> {
        let endpoints = [
            ("storage.endpoint", &self.endpoint),
            ("storage.redirect_endpoint", &self.redirect_endpoint),
        ];
        for (key, endpoint) in endpoints {
            let Some(endpoint) = endpoint else { continue };
            let refused = |message: &str| Err(OpenError::Config { key, message: message.into() });
            if self.url.is_local() {
                return refused("a local store has none");
            }
            if endpoint.starts_with("http://") && !self.allow_http {
                return refused("is http:// and storage.allow_http is not true");
            }
        }
        Ok(())
    }
}

type Signer = Arc<dyn object_store::signer::Signer>;

fn with_bucket(
    (store, signer): (Arc<dyn ObjectStore>, Signer),
    bucket: &Bucket,
) -> (Arc<dyn ObjectStore>, Signer, &Bucket) {
    (store, signer, bucket)
}

fn local(store: Arc<dyn ObjectStore>, name: String) -> OpenedStore {
    OpenedStore { store, presigner: None, name }
}

impl From<Arc<dyn ObjectStore>> for OpenedStore {
    fn from(store: Arc<dyn ObjectStore>) -> Self {
        let name = store.to_string();
        local(store, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_stores_that_are_built_in() {
        assert_eq!("memory:".parse(), Ok(StorageUrl::Memory));
        assert_eq!("file:///a/b".parse(), Ok(StorageUrl::Directory("/a/b".into())));
        let bucket = Bucket { name: "a-bucket".into(), prefix: Path::from("some/where") };
        assert_eq!("s3://a-bucket/some/where".parse(), Ok(StorageUrl::S3(bucket.clone())));
        assert_eq!("gs://a-bucket/some/where/".parse(), Ok(StorageUrl::Google(bucket)));
        let whole = Bucket { name: "a-bucket".into(), prefix: Path::default() };
        assert_eq!("az://a-bucket".parse(), Ok(StorageUrl::Azure(whole)));
        let wrong =
            ["", "a", "file://a", "memory", "s3:", "s3://", "s3://ab", "s3://a b c", "ftp://a"];
        for bad in wrong.into_iter().chain(["s3://user:secret@bucket", "s3://bucket/a//b"]) {
            assert_eq!(bad.parse::<StorageUrl>(), Err(InvalidStorageUrl), "{bad}");
        }
    }

    #[test]
    fn prints_what_it_was_read_from() {
        for text in ["memory:", "file:///a", "s3://bucket", "gs://bucket/a/b", "az://bucket/a"] {
            assert_eq!(text.parse::<StorageUrl>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_can_not_work_by_name() {
        let with = |change: fn(&mut config::Storage)| {
            let mut config =
                config::Storage { url: "s3://bucket".parse().unwrap(), ..Default::default() };
            change(&mut config);
            config.open().map(|_| ()).unwrap_err().to_string()
        };
        let error = with(|config| config.endpoint = Some("http://a:1".into()));
        assert!(error.starts_with("storage.endpoint: "), "{error}");
        let error = with(|config| config.redirect_endpoint = Some("http://a:1".into()));
        assert!(error.starts_with("storage.redirect_endpoint: "), "{error}");
        let error = with(|config| config.credentials_file = Some("/does/not/exist".into()));
        assert!(error.starts_with("storage.credentials_file: "), "{error}");
        let error = with(|config| {
            config.url = StorageUrl::Memory;
            config.endpoint = Some("https://a".into());
        });
        assert!(error.starts_with("storage.endpoint: "), "{error}");
    }
}
