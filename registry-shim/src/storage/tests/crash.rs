//! The machine dies at every single write of a push, of a delete and of a cancel. Afterwards, what
//! was acknowledged reads back, what was not is invisible or whole, and the push can be done again.

use std::sync::LazyLock;

use object_store::memory::InMemory;

use super::faulty::{FaultyStore, Last};
use super::*;
use crate::storage::{Referrer, UploadError};

/// More writes than any of the stories has.
const WRITES_MAX: usize = 100;

/// What the client was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Acknowledged {
    offset: u64,
    id: Option<uuid::Uuid>,
    blob: bool,
    manifest: bool,
    tag: bool,
}

/// The first request is longer than a part, so that the store's multipart is in the story.
fn layer() -> Bytes {
    static LAYER: LazyLock<Bytes> = LazyLock::new(|| content(5_300_000));
    LAYER.clone()
}

fn layer_digest() -> Digest {
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| sha256(&layer()));
    *DIGEST
}

fn referrer(digest: Digest) -> Referrer {
    let annotations = std::collections::BTreeMap::new();
    let (media_type, artifact_type) = ("m".to_owned(), "a".to_owned());
    Referrer { media_type, digest, size: 2, artifact_type, annotations }
}

/// A push in two chunks, then manifest, referrer, catalog, tag: the order of the API.
async fn push_image(storage: &Storage, told: &mut Acknowledged) -> Result<(), UploadError> {
    let (repository, layer) = (repository(), layer());
    let session = storage.begin_upload(&repository, ACTOR, Algorithm::Sha256, NOW_MS).await?;
    told.id = Some(session.id);
    let mut progress = Progress::new(Algorithm::Sha256);
    for part in [0..5_250_000, 5_250_000..layer.len()] {
        let mut appender = storage.append(progress);
        appender.write(layer.slice(part)).await?;
        progress = storage.save_upload(&session, appender).await?;
        told.offset = progress.offset();
    }
    storage.commit(&repository, Some(&session), progress, &layer_digest()).await?;
    told.blob = true;
    storage.forget_upload(&session).await?;
    let (digest, manifest) = manifest("{}");
    storage.put_manifest(&repository, &digest, &manifest).await?;
    told.manifest = true;
    storage.put_referrer(&repository, &sha256(b"subject"), &referrer(digest)).await?;
    storage.add_repository(&repository).await?;
    storage.put_tag(&repository, &"v1".parse().unwrap(), &tag_record(digest)).await?;
    told.tag = true;
    Ok(())
}

/// Runs `story` once for each of its writes, on a store that dies there; then `check` on what is
/// left.
async fn at_every_write<S, C>(story: S, check: C) -> usize
where
    S: AsyncFn(&Storage, &mut Acknowledged) -> Result<(), UploadError>,
    C: AsyncFn(&Storage, Acknowledged, Last),
{
    let key = Arc::new(SigningKey::generate().0);
    for last in [Last::Lost, Last::Done] {
        for dies_at in 0..WRITES_MAX {
            let survivor: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faulty = Arc::new(FaultyStore::new(survivor.clone(), dies_at, last));
            let mut told = Acknowledged::default();
            let ended = story(&storage(faulty.clone(), &key), &mut told).await;
            check(&storage(survivor, &key), told, last).await;
            if !faulty.died() {
                ended.unwrap();
                if last == Last::Done {
                    return dies_at;
                }
                break;
            }
        }
    }
    panic!("the story has more than {WRITES_MAX} writes");
}

/// A visible blob is whole: pointer, bytes, states.
async fn blob_is_visible(storage: &Storage) -> bool {
    let digest = layer_digest();
    if !storage.is_member(&repository(), &digest).await.unwrap() {
        return false;
    }
    let pointer = storage.pointer(&digest).await.unwrap().expect("a member has a pointer");
    assert!(read(storage, &pointer, None).await == layer());
    let list = storage.piece_list(&digest, &pointer).await.unwrap();
    assert_eq!(list.size(), pointer.size);
    true
}

#[tokio::test]
async fn a_push_that_dies_anywhere_loses_nothing_and_shows_nothing_half() {
    let writes = at_every_write(push_image, async |storage, told, last| {
        let (digest, _) = manifest("{}");
        let blob = blob_is_visible(storage).await;
        let manifest = storage.manifest(&repository(), &digest).await.unwrap().is_some();
        let tag = storage.tag(&repository(), &"v1".parse().unwrap()).await.unwrap();
        let seen = [blob, manifest, tag.is_some()];
        let acknowledged = [told.blob, told.manifest, told.tag];
        for (seen, acknowledged) in seen.into_iter().zip(acknowledged) {
            assert!(seen || !acknowledged, "{told:?} was acknowledged and is gone");
            // A write that was done although nobody was told may be seen.
            assert!(!seen || acknowledged || last == Last::Done, "{told:?} shows more");
        }
        assert!(!seen[1] || seen[0], "a manifest without its blob");
        assert!(!seen[2] || seen[1], "a tag without its manifest");
    })
    .await;
    assert!(writes > 15, "the story has {writes} writes");
}

#[tokio::test]
async fn after_a_crash_the_client_goes_on_or_begins_again() {
    at_every_write(push_image, async |storage, told, _| {
        let repository = repository();
        let found = match told.id {
            Some(id) => storage.upload(id, &repository, ACTOR, NOW_MS).await.unwrap(),
            None => None,
        };
        if let Some((session, progress)) = found {
            assert!(progress.offset() >= told.offset, "acknowledged bytes are gone");
            let layer = layer();
            let mut appender = storage.append(progress);
            let rest = layer.slice(appender.offset() as usize..);
            appender.write(rest).await.unwrap();
            let progress = appender.finish().await.unwrap();
            let digest = layer_digest();
            storage.commit(&repository, Some(&session), progress, &digest).await.unwrap();
            storage.forget_upload(&session).await.unwrap();
            assert!(blob_is_visible(storage).await);
        }
        push_image(storage, &mut Acknowledged::default()).await.unwrap();
        assert!(blob_is_visible(storage).await);
    })
    .await;
}

#[tokio::test]
async fn a_push_in_tiny_chunks_that_dies_anywhere_goes_on() {
    const CHUNK: usize = 100;
    let content = content(20 * CHUNK);
    let digest = sha256(&content);
    let story = async |storage: &Storage, told: &mut Acknowledged| {
        let repository = repository();
        let session = storage.begin_upload(&repository, ACTOR, Algorithm::Sha256, NOW_MS).await?;
        told.id = Some(session.id);
        let mut progress = Progress::new(Algorithm::Sha256);
        for chunk in content.chunks(CHUNK) {
            let mut appender = storage.append(progress);
            appender.write(Bytes::copy_from_slice(chunk)).await?;
            progress = storage.save_upload(&session, appender).await?;
            told.offset = progress.offset();
        }
        Ok(())
    };
    at_every_write(story, async |storage, told, _| {
        let Some(id) = told.id else { return };
        let found = storage.upload(id, &repository(), ACTOR, NOW_MS).await.unwrap();
        let (session, progress) = found.expect("it was acknowledged");
        assert!(progress.offset() >= told.offset, "acknowledged bytes are gone");
        let mut appender = storage.append(progress);
        appender.write(content.slice(appender.offset() as usize..)).await.unwrap();
        let progress = appender.finish().await.unwrap();
        let repository = repository();
        let committed = storage.commit(&repository, Some(&session), progress, &digest).await;
        assert!(read(storage, &committed.unwrap(), None).await == content);
    })
    .await;
}

#[tokio::test]
async fn composing_that_dies_anywhere_leaves_the_blob_whole() {
    let story = async |storage: &Storage, told: &mut Acknowledged| {
        push_image(storage, told).await?;
        let composed = storage.compose(&layer_digest(), &CancellationToken::new()).await?;
        assert_eq!(composed, Composed::Done(layer().len() as u64));
        Ok(())
    };
    let writes = at_every_write(story, async |storage, told, _| {
        assert!(!told.blob || blob_is_visible(storage).await);
    })
    .await;
    assert!(writes > 22, "the story has {writes} writes");
}

#[tokio::test]
async fn a_cancel_that_dies_anywhere_harms_no_blob() {
    // Another upload of the same bytes is a blob before and must stay one.
    let story = async |storage: &Storage, told: &mut Acknowledged| {
        push_image(storage, told).await?;
        let repository = repository();
        let session = storage.begin_upload(&repository, ACTOR, Algorithm::Sha256, NOW_MS).await?;
        told.id = Some(session.id);
        let mut appender = storage.append(Progress::new(Algorithm::Sha256));
        appender.write(layer()).await?;
        let progress = storage.save_upload(&session, appender).await?;
        storage.cancel_upload(&session, &progress).await
    };
    at_every_write(story, async |storage, told, _| {
        assert!(!told.blob || blob_is_visible(storage).await);
        let Some(id) = told.id else { return };
        let found = storage.upload(id, &repository(), ACTOR, NOW_MS).await.unwrap();
        if let Some((session, progress)) = found {
            // An upload that can be seen has all its bytes.
            let digest = layer_digest();
            if progress.offset() == layer().len() as u64 {
                storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
                assert!(blob_is_visible(storage).await);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_delete_that_dies_anywhere_takes_no_more_than_was_asked() {
    let story = async |storage: &Storage, told: &mut Acknowledged| {
        push_image(storage, told).await?;
        let (digest, _) = manifest("{}");
        storage.delete_manifest(&repository(), &digest).await?;
        told.manifest = false;
        storage.delete_referrer(&repository(), &sha256(b"subject"), &digest).await?;
        Ok(())
    };
    at_every_write(story, async |storage, told, _| {
        assert!(!told.blob || blob_is_visible(storage).await);
        let tag = storage.tag(&repository(), &"v1".parse().unwrap()).await.unwrap();
        assert!(!told.tag || tag.is_some(), "a tag went with its manifest");
    })
    .await;
}

#[tokio::test]
async fn an_immutable_tag_that_dies_anywhere_names_one_manifest() {
    let frozen =
        |storage: &Storage| storage.clone().with_immutable_tags(&["team/*:v*".parse().unwrap()]);
    let tag = || "v1".parse().unwrap();
    let (one, two) = (tag_record(sha256(b"one")), tag_record(sha256(b"two")));
    let story = async |storage: &Storage, told: &mut Acknowledged| {
        frozen(storage).put_tag(&repository(), &tag(), &one).await?;
        told.tag = true;
        Ok(())
    };
    let writes = at_every_write(story, async |storage, told, last| {
        let storage = frozen(storage);
        let seen = storage.tag(&repository(), &tag()).await.unwrap();
        assert!(seen.is_some() || !told.tag, "an acknowledged tag is gone");
        assert!(seen.is_none() || told.tag || last == Last::Done, "a tag that nobody wrote");
        // Another manifest gets the tag where nothing is there, and only there.
        let moved = storage.put_tag(&repository(), &tag(), &two).await;
        assert_eq!(moved.is_ok(), seen.is_none(), "{moved:?}");
        let now = storage.tag(&repository(), &tag()).await.unwrap().unwrap();
        assert_eq!(now, if seen.is_some() { one.clone() } else { two.clone() });
    })
    .await;
    assert!(writes >= 2, "the story has {writes} writes");
}
