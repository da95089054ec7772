//! Composing a blob: what readers see before and after it, what it does not touch, and how it ends
//! where it should not go on. Crashes and collections beside it are `gc::tests::compose`.

use object_store::memory::InMemory;

use super::*;
use crate::storage::Capabilities;

fn go() -> CancellationToken {
    CancellationToken::new()
}

/// On a store that refuses a second Create, and on one that overwrites.
fn both() -> [Subject; 2] {
    [true, false].map(|conditional_create| {
        let (store, key) = (Arc::new(InMemory::new()), Arc::new(SigningKey::generate().0));
        let capabilities = Capabilities { conditional_create };
        Subject::new(Storage { capabilities, ..storage(store.clone(), &key) }, store)
    })
}

#[tokio::test]
async fn a_blob_of_several_segments_becomes_one_that_reads_the_same() {
    for subject in both() {
        // More than two parts of the store.
        let content = content(11_000_003);
        let digest = push_in_requests(&subject, &content, &[5_500_000, 5_500_001]).await;
        let before = subject.pointer(&digest).await.unwrap().unwrap();
        assert_eq!(before.segments.len(), 3);

        let composed = subject.compose(&digest, &go()).await.unwrap();
        assert_eq!(composed, Composed::Done(content.len() as u64));
        let after = subject.pointer(&digest).await.unwrap().unwrap();
        assert_eq!((after.segments.len(), after.size), (1, before.size));
        for pointer in [&after, &before] {
            assert!(read(&subject, pointer, None).await == content);
            let middle = read(&subject, pointer, Some((5_499_999, 4))).await;
            assert!(middle == content.slice(5_499_999..5_500_003));
        }
        let list = subject.piece_list(&digest, &after).await.unwrap();
        assert_eq!(list.size(), before.size);
        assert_eq!(subject.stored("up").await, [], "the claim is taken back");
        let again = subject.compose(&digest, &go()).await.unwrap();
        assert_eq!(again, Composed::Needless);
        assert_eq!(subject.stored("data").await.len(), 4);

        // Whoever pushes the blob again relies on a generation that is there.
        push(&subject, &content).await;
        assert_eq!(subject.stored("data").await.len(), 4);
        assert_eq!(subject.pointer(&digest).await.unwrap(), Some(after));
    }
}

#[tokio::test]
async fn segments_that_do_not_hash_to_the_digest_are_left_as_they_are() {
    for subject in both() {
        let digest = push_in_requests(&subject, &content(1000), &[400]).await;
        let pointer = subject.pointer(&digest).await.unwrap().unwrap();
        let key = Path::from(pointer.segments[1].key.as_str());
        let mut other = subject.object(&key).await.to_vec();
        other[599] ^= 1;
        subject.put_object(&key, other.into()).await;
        let before = subject.stored("").await;
        let refused = subject.compose(&digest, &go()).await;
        assert!(matches!(refused, Err(StorageError::Corrupt { .. })), "{refused:?}");
        assert_eq!(subject.stored("").await, before);

        subject.delete_object(&key).await;
        let lost = subject.compose(&digest, &go()).await;
        assert!(matches!(lost, Err(StorageError::Corrupt { .. })), "{lost:?}");
        assert_eq!(subject.stored("").await.len(), before.len() - 1);
    }
}

#[tokio::test]
async fn a_blob_that_nobody_holds_is_not_composed() {
    for subject in both() {
        let unknown = subject.compose(&sha256(b"unknown"), &go()).await.unwrap();
        assert_eq!(unknown, Composed::Gone);
        let digest = push_in_requests(&subject, &content(1000), &[400]).await;
        subject.remove_member(&repository(), &digest).await.unwrap();
        let before = subject.stored("").await;
        assert_eq!(subject.compose(&digest, &go()).await.unwrap(), Composed::Gone);
        assert_eq!(subject.stored("").await, before);
    }
}

#[tokio::test]
async fn composing_that_is_told_to_end_takes_back_what_it_wrote() {
    for subject in both() {
        let digest = push_in_requests(&subject, &content(1000), &[400]).await;
        let (before, stop) = (subject.stored("").await, go());
        stop.cancel();
        assert_eq!(subject.compose(&digest, &stop).await.unwrap(), Composed::Stopped);
        assert_eq!(subject.stored("").await, before);
        // Nobody has to wait for its claim.
        assert_eq!(subject.compose(&digest, &go()).await.unwrap(), Composed::Done(1000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stands_still_is_given_up() {
    let key = Arc::new(SigningKey::generate().0);
    let store = Arc::new(InMemory::new());
    let digest = push_in_requests(&storage(store.clone(), &key), &content(1000), &[400]).await;
    let standing_still = Arc::new(super::spy::SpyStore::stalling(store.clone()));
    let subject = Subject::new(storage(standing_still, &key), store);
    let before = subject.stored("").await;
    assert_eq!(subject.compose(&digest, &go()).await.unwrap(), Composed::Stopped);
    assert_eq!(subject.stored("").await, before);
}
