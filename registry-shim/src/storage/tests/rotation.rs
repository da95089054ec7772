//! Another key signs from now on: what the one before signed counts for as long as it is accepted.

use longshore_proto::sign::PublicKeys;
use object_store::memory::InMemory;

use super::*;

#[tokio::test]
async fn states_of_an_accepted_key_are_signed_anew_and_no_blob_is_read_again() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let keys = [(); 3].map(|()| Arc::new(SigningKey::generate().0));
    let [old, new, other] = keys.each_ref().map(|key| Storage::new(store.clone(), key.clone()));
    let digest = push(&old, &content(700_000)).await;
    let pointer = old.pointer(&digest).await.unwrap().unwrap();
    let list = old.piece_list(&digest, &pointer).await.unwrap();
    // Whoever needs the bytes from now on fails.
    let data: Vec<_> = store.list(Some(&"data".into())).try_collect().await.unwrap();
    for object in data {
        store.delete(&object.location).await.unwrap();
    }
    assert!(new.piece_list(&digest, &pointer).await.is_err(), "a key that is not accepted");

    let both = PublicKeys::new([&keys[0], &keys[1]].map(|key| key.public().clone()));
    let during = new.clone().accepting(both);
    assert_eq!(during.piece_list(&digest, &pointer).await.unwrap(), list);
    assert_eq!(new.piece_list(&digest, &pointer).await.unwrap(), list, "signed anew");
    assert!(other.piece_list(&digest, &pointer).await.is_err());
}
