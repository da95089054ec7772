//! URLs with which a client reads a blob's bytes from the store itself.
//!
//! Only a blob of one segment has one: several cannot be one answer. Pure of caching; nothing is
//! asked of the store, but where credentials come from a service they may have to be renewed. A
//! URL opens what it names for whoever has it: it is never logged.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use object_store::path::Path;
use object_store::signer::Signer;

use super::{Pointer, Storage};

/// No request waits longer for a signature: the registry sends the bytes itself then.
const SIGN_TIMEOUT: Duration = Duration::from_secs(5);

/// Signs URLs of one store.
#[derive(Clone)]
pub struct Presigner {
    signer: Arc<dyn Signer>,
    prefix: Path,
    expiry: Duration,
}

/// Where a blob can be read, and for how long.
#[derive(Clone, PartialEq, Eq)]
pub struct Presigned {
    /// Its `GET`, with any `Range`.
    pub url: String,
    /// From the moment of signing.
    pub expiry: Duration,
}

impl Presigner {
    /// For the store in which the layout begins at `prefix`.
    pub const fn new(signer: Arc<dyn Signer>, prefix: Path, expiry: Duration) -> Self {
        Self { signer, prefix, expiry }
    }

    /// For a layout that begins at `directory` below this one.
    pub fn within(&self, directory: &Path) -> Self {
        let prefix = Path::from_iter(self.prefix.parts().chain(directory.parts()));
        Self { signer: self.signer.clone(), prefix, expiry: self.expiry }
    }

    /// A URL of the blob's bytes; `None` where the registry has to send them.
    pub async fn presign(&self, pointer: &Pointer) -> Option<Presigned> {
        let [segment] = pointer.segments.as_slice() else { return None };
        let key =
            Path::from_iter(self.prefix.parts().chain(Path::from(segment.key.as_str()).parts()));
        let signed = self.signer.signed_url(Method::GET, &key, self.expiry);
        match tokio::time::timeout(SIGN_TIMEOUT, signed).await {
            Ok(Ok(url)) => Some(Presigned { url: url.into(), expiry: self.expiry }),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot sign a redirect");
                None
            }
            Err(_) => {
                tracing::warn!("signing a redirect takes too long");
                None
            }
        }
    }
}

impl Storage {
    /// A URL of the blob's bytes at the store; `None` where the registry has to send them.
    pub async fn presign(&self, pointer: &Pointer) -> Option<Presigned> {
        match &self.standing {
            Some(standing) => standing.presign(pointer).await,
            None => self.presigner.as_ref()?.presign(pointer).await,
        }
    }

    /// Whether any blob may be answered with a redirect.
    pub fn redirects(&self) -> bool {
        let standing = self.standing.as_ref();
        standing.map_or(self.presigner.is_some(), |standing| standing.redirects())
    }

    /// Changes when URLs that were signed before are not to be handed out any more: another store
    /// is to be used from now on.
    pub fn redirect_epoch(&self) -> u64 {
        self.standing.as_ref().map_or(0, |standing| standing.redirect_epoch())
    }
}

impl fmt::Debug for Presigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presigner({:?})", self.expiry)
    }
}

impl fmt::Debug for Presigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.split('?').next().unwrap_or_default();
        write!(f, "Presigned({host}?…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::storage::Segment;

    fn pointer(segments: usize) -> Pointer {
        let segment = |i| Segment { key: format!("data/ab/20260101/{i}"), len: 1 };
        let segments: Vec<Segment> = (0..segments).map(segment).collect();
        Pointer { generation: String::new(), size: segments.len() as u64, segments }
    }

    fn presigner(change: impl FnOnce(&mut config::Storage)) -> Option<Presigner> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("credentials");
        std::fs::write(&file, "aws_access_key_id=id\naws_secret_access_key=secret\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).unwrap();
        let mut config = config::Storage {
            url: "s3://bucket/some/where".parse().unwrap(),
            endpoint: Some("http://10.0.0.1:3900".into()),
            region: Some("here".into()),
            allow_http: true,
            credentials_file: Some(file),
            ..Default::default()
        };
        change(&mut config);
        config.open().unwrap().presigner
    }

    #[tokio::test]
    async fn only_a_blob_of_one_segment_has_a_url() {
        let presigner = presigner(|_| {}).unwrap();
        for several in [0, 2, 3] {
            assert_eq!(presigner.presign(&pointer(several)).await, None);
        }
        let signed = presigner.presign(&pointer(1)).await.unwrap();
        let expected = "http://10.0.0.1:3900/bucket/some/where/data/ab/20260101/0?";
        assert!(signed.url.starts_with(expected), "{}", signed.url);
        assert!(signed.url.contains("X-Amz-Expires=900"), "{}", signed.url);
        assert_eq!(signed.expiry, Duration::from_secs(900));
        assert!(!format!("{signed:?} {presigner:?}").contains("X-Amz"));
    }

    #[tokio::test]
    async fn clients_may_reach_the_store_at_another_address() {
        let presigner = presigner(|config| {
            config.redirect_endpoint = Some("https://layers.example".into());
            config.redirect_expiry_s = 60;
        });
        let signed = presigner.unwrap().presign(&pointer(1)).await.unwrap();
        assert!(signed.url.starts_with("https://layers.example/bucket/some/"), "{}", signed.url);
        assert!(signed.url.contains("X-Amz-Expires=60"), "{}", signed.url);
    }

    #[test]
    fn there_is_none_where_redirects_are_off() {
        assert!(presigner(|config| config.redirect = false).is_none());
    }
}
