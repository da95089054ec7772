//! What a store can do beyond Create, Overwrite, Get, List and Delete: found out, never believed.

use bytes::Bytes;
use uuid::Uuid;

use super::{Storage, StorageError, layout};

/// What the features that need more than the layout does may build on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Of two Creates of one key the second is refused. Some S3 servers take
    /// `If-None-Match: *` and overwrite all the same.
    pub conditional_create: bool,
}

impl Capabilities {
    /// Of a store that does all that is asked of it.
    pub const FULL: Self = Self { conditional_create: true };
}

impl Storage {
    /// Writes one key twice and reads it back.
    ///
    /// # Errors
    /// When the store cannot be written or read.
    pub async fn find_capabilities(&self) -> Result<Capabilities, StorageError> {
        let key = layout::capabilities(Uuid::new_v4());
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        self.create_blindly(&key, first.clone()).await?;
        let refused = !self.create_blindly(&key, second).await?;
        let kept = self.read(&key).await? == Some(first);
        self.delete(&key).await?;
        Ok(Capabilities { conditional_create: refused && kept })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longshore_proto::sign::SigningKey;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn memory_refuses_a_second_create() {
        let key = Arc::new(SigningKey::generate().0);
        let storage = Storage::open(Arc::new(InMemory::new()), key).await.unwrap();
        assert_eq!(storage.capabilities(), Capabilities::FULL);
    }
}
