//! Signed URLs: made once and used again while at least half of their time is left.
//!
//! Bounded in bytes. A URL counts only for the generation of the blob and the standing of the
//! store for which it was signed: after a failover another store signs.

use std::fmt;

use http::HeaderValue;
use longshore_proto::Digest;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::storage::{Pointer, Storage, StoreState};

/// What an entry costs beside its URL.
const ENTRY_BYTES: usize = 384;

/// The cache; clones share it.
#[derive(Clone)]
pub(super) struct Redirects(Cache<Digest, Redirect>);

#[derive(Clone)]
struct Redirect {
    location: HeaderValue,
    generation: String,
    /// Of the storage, when it was signed.
    standing: (StoreState, u64),
    until: Instant,
}

impl Redirects {
    pub(super) fn new(bytes_max: u64) -> Self {
        let weigh = |_: &Digest, redirect: &Redirect| {
            u32::try_from(redirect.location.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(bytes_max).weigher(weigh).build())
    }

    /// Where the store serves the blob; `None` where the registry has to send it.
    pub(super) async fn get(
        &self,
        storage: &Storage,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Option<HeaderValue> {
        let now = Instant::now();
        let standing = (storage.state(), storage.redirect_epoch());
        if let Some(kept) = self.0.get(digest)
            && now < kept.until
            && kept.standing == standing
            && kept.generation == pointer.generation
        {
            return Some(kept.location);
        }
        let presigned = storage.presign(pointer).await?;
        let mut location = HeaderValue::try_from(presigned.url).ok()?;
        // Whoever has it reads the blob: it stands in no log.
        location.set_sensitive(true);
        let (generation, until) = (pointer.generation.clone(), now + presigned.expiry / 2);
        let kept = Redirect { location: location.clone(), generation, standing, until };
        self.0.insert(*digest, kept);
        Some(location)
    }
}

impl fmt::Debug for Redirects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redirects({})", self.0.entry_count())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use http::Method;
    use longshore_proto::Algorithm;
    use longshore_proto::sign::SigningKey;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::signer::Signer;

    use super::*;
    use crate::storage::{Presigner, Segment};

    const EXPIRY: Duration = Duration::from_secs(600);

    /// Signs with the number of its signature.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl Signer for Counting {
        async fn signed_url(
            &self,
            _: Method,
            path: &Path,
            _: Duration,
        ) -> object_store::Result<reqwest::Url> {
            let number = self.0.fetch_add(1, Ordering::SeqCst);
            Ok(format!("http://store/{path}?signature={number}").parse().unwrap())
        }
    }

    fn pointer(generation: &str) -> Pointer {
        let segments = vec![Segment { key: "data/ab/x".into(), len: 1 }];
        Pointer { generation: generation.into(), size: 1, segments }
    }

    #[tokio::test(start_paused = true)]
    async fn a_url_is_used_for_half_of_its_time_and_for_one_generation() {
        let key = Arc::new(SigningKey::generate().0);
        let presigner = Presigner::new(Arc::new(Counting::default()), Path::default(), EXPIRY);
        let storage = Storage::new(Arc::new(InMemory::new()), key).with_presigner(Some(presigner));
        let (redirects, digest) = (Redirects::new(1_000_000), Digest::of(Algorithm::Sha256, b"x"));
        let get = async |pointer: &Pointer| {
            let location = redirects.get(&storage, &digest, pointer).await.unwrap();
            assert!(location.is_sensitive());
            location.to_str().unwrap().rsplit('=').next().unwrap().to_owned()
        };
        let (first, second) = (pointer("1"), pointer("2"));
        assert_eq!([get(&first).await, get(&first).await], ["0", "0"]);
        assert_eq!(get(&second).await, "1", "its bytes lie elsewhere");
        tokio::time::advance(EXPIRY / 2).await;
        assert_eq!(get(&second).await, "2");
    }

    #[tokio::test]
    async fn a_store_that_cannot_sign_has_none() {
        let key = Arc::new(SigningKey::generate().0);
        let storage = Storage::new(Arc::new(InMemory::new()), key);
        let (redirects, digest) = (Redirects::new(1_000_000), Digest::of(Algorithm::Sha256, b"x"));
        assert_eq!(redirects.get(&storage, &digest, &pointer("1")).await, None);
    }
}
