//! The stories on memory and on a directory.

use object_store::memory::InMemory;

use super::stories::for_each_story;
use super::*;
use crate::config;
use crate::storage::StorageUrl;

macro_rules! holds {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test]
                async fn $name() {
                    let store = std::sync::Arc::new(super::InMemory::new());
                    let subject = super::subject(store, true);
                    super::stories::$name(subject).await;
                }
            )*
        }
        mod regions_in_health {
            $(
                #[tokio::test]
                async fn $name() {
                    let (storage, store) = crate::regions::tests::storage_for_contract(false).await;
                    super::stories::$name(super::Subject::new(storage, store)).await;
                }
            )*
        }
        mod regions_failed_over {
            $(
                #[tokio::test]
                async fn $name() {
                    let (storage, store) = crate::regions::tests::storage_for_contract(true).await;
                    super::stories::$name(super::Subject::new(storage, store)).await;
                }
            )*
        }
        mod directory {
            $(
                #[tokio::test]
                async fn $name() {
                    let directory = tempfile::tempdir().unwrap();
                    let url = super::StorageUrl::Directory(directory.path().join("store"));
                    let config = super::config::Storage { url, ..Default::default() };
                    let subject = super::subject(config.open().unwrap().store, false);
                    super::stories::$name(subject).await;
                }
            )*
        }
    };
}

for_each_story!(holds);

fn subject(store: Arc<dyn ObjectStore>, lists_in_order: bool) -> Subject {
    let key = Arc::new(SigningKey::generate().0);
    let storage = storage(store.clone(), &key).listing_in_order(lists_in_order);
    Subject::new(storage, store)
}
