//! Uploads that end, on a store that refuses a second Create and on one that overwrites.

use longshore_proto::piece::ChainHasher;
use object_store::memory::InMemory;

use super::spy::SpyStore;
use super::*;
use crate::storage::{Capabilities, Session, UploadError, layout};

const OVERWRITES: Capabilities = Capabilities { conditional_create: false };

/// Both kinds of store. Uploads do not create where they were told that it would overwrite, so that
/// memory serves for both.
fn both() -> [Storage; 2] {
    [Capabilities::FULL, OVERWRITES].map(|capabilities| {
        let key = Arc::new(SigningKey::generate().0);
        Storage { capabilities, ..storage(Arc::new(InMemory::new()), &key) }
    })
}

async fn begin(storage: &Storage) -> Session {
    let begun = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    begun.unwrap()
}

async fn send(storage: &Storage, session: &Session, bytes: &Bytes) -> Progress {
    let found = storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap();
    let mut appender = storage.append(found.unwrap().1);
    appender.write(bytes.clone()).await.unwrap();
    storage.save_upload(session, appender).await.unwrap()
}

/// One small segment less than are joined; the upload as it stands then.
async fn send_seven(storage: &Storage, session: &Session, content: &Bytes) -> Progress {
    for chunk in content[..700].chunks(100) {
        send(storage, session, &Bytes::copy_from_slice(chunk)).await;
    }
    let found = storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap();
    let (_, progress) = found.unwrap();
    assert_eq!(progress.segments().len(), 7);
    progress
}

async fn is_whole(storage: &Storage, content: &Bytes) {
    let pointer = storage.pointer(&sha256(content)).await.unwrap().unwrap();
    assert!(read(storage, &pointer, None).await == content);
}

#[tokio::test]
async fn a_thousand_tiny_chunks_cost_what_a_thousand_chunks_must() {
    const CHUNKS: u64 = 1000;
    const CHUNK: usize = 1024;
    let (store, key) = (Arc::new(SpyStore::default()), Arc::new(SigningKey::generate().0));
    let storage = storage(store.clone(), &key);
    let (session, content) = (begin(&storage).await, content(CHUNKS as usize * CHUNK));
    for chunk in content.chunks(CHUNK) {
        send(&storage, &session, &Bytes::copy_from_slice(chunk)).await;
    }
    let [puts, put_bytes, gets, got_bytes] = store.counts();
    // The session, and of each request a segment and its progress.
    assert_eq!(puts, 1 + 2 * CHUNKS);
    // Each byte four times (alone, of 8, of 64, of 512), and a progress that names a few segments.
    assert!(put_bytes < CHUNKS * (4 * CHUNK as u64 + 4096), "{put_bytes} bytes were written");
    // The session and the progress, and now and then what is joined.
    assert!(gets < 4 * CHUNKS, "{gets} objects were read");
    assert!(got_bytes < CHUNKS * (4 * CHUNK as u64 + 4096), "{got_bytes} bytes were read");

    let found = storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap();
    let (_, progress) = found.unwrap();
    assert!(progress.segments().len() < 30, "{} segments", progress.segments().len());
    let digest = sha256(&content);
    storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
    is_whole(&storage, &content).await;
}

#[tokio::test]
async fn the_hash_states_of_a_large_upload_are_not_repeated_in_every_progress() {
    const CHUNK: usize = 5 * 1024 * 1024;
    // States of more than 64 MiB.
    const CHUNKS: usize = 14;
    let [storage, _] = both();
    let (session, chunk) = (begin(&storage).await, content(CHUNK));
    let mut hasher = ChainHasher::new(Algorithm::Sha256);
    for _ in 0..CHUNKS {
        send(&storage, &session, &chunk).await;
        hasher.update(&chunk);
    }
    let hashed = hasher.finish();
    let records = storage.keys(&layout::upload_progresses(session.id)).await.unwrap();
    let last = storage.read(records.last().unwrap()).await.unwrap().unwrap();
    assert!(last.len() < 4096, "{} bytes where the states alone have {}", last.len(), 8960);

    let found = storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap();
    let (_, progress) = found.unwrap();
    let mut sha512 = ChainHasher::new(Algorithm::Sha512);
    (0..CHUNKS).for_each(|_| sha512.update(&chunk));
    for _ in 0..2 {
        // Read again, and then found as it was kept.
        let rehashed = storage.rehash(&session, progress.clone(), Algorithm::Sha512).await;
        assert_eq!(rehashed.unwrap().digest(), sha512.clone().finish().digest);
    }
    let digest = hashed.digest;
    let committed = storage.commit(&repository(), Some(&session), progress, &digest).await;
    let list = storage.piece_list(&digest, &committed.unwrap()).await.unwrap();
    assert!(list.states() == hashed.states, "the kept states are others");
}

#[tokio::test]
async fn who_comes_with_an_older_progress_finds_its_bytes() {
    for storage in both() {
        let (session, content) = (begin(&storage).await, content(1000));
        let older = send_seven(&storage, &session, &content).await;
        // Joined, and then two requests end the upload at once: whoever looked it up before wins.
        let newer = send(&storage, &session, &content.slice(700..800)).await;
        assert_eq!(newer.segments().len(), 1);
        let mut appender = storage.append(older);
        appender.write(content.slice(700..)).await.unwrap();
        let progress = appender.finish().await.unwrap();
        let digest = sha256(&content);
        storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
        is_whole(&storage, &content).await;
    }
}

#[tokio::test]
async fn of_two_who_join_the_same_segments_at_most_one_counts() {
    for storage in both() {
        let (session, content) = (begin(&storage).await, content(800));
        let seven = send_seven(&storage, &session, &content).await;
        let saves = [seven.clone(), seven].map(|progress| async {
            let mut appender = storage.append(progress);
            appender.write(content.slice(700..)).await.unwrap();
            storage.save_upload(&session, appender).await
        });
        let saved = futures::future::join_all(saves).await;
        let won = saved.iter().filter(|saved| saved.is_ok()).count();
        assert!(won <= 1);
        let found = storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap();
        let (_, mut progress) = found.unwrap();
        if won == 0 {
            // Both gave way, and one comes again.
            progress = send(&storage, &session, &content.slice(700..)).await;
        }
        let digest = sha256(&content);
        storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
        is_whole(&storage, &content).await;
    }
}

#[tokio::test]
async fn who_comes_after_the_end_takes_nothing_from_the_blob() {
    for storage in both() {
        let (session, content) = (begin(&storage).await, content(1000));
        let progress = send(&storage, &session, &content).await;
        let (late, later, digest) = (progress.clone(), progress.clone(), sha256(&content));
        storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
        for forgotten in [false, true] {
            if forgotten {
                storage.forget_upload(&session).await.unwrap();
            }
            let again = storage.commit(&repository(), Some(&session), late.clone(), &digest).await;
            assert!(matches!(again, Err(UploadError::Raced)), "{again:?}");
            let cancelled = storage.cancel_upload(&session, &later).await;
            assert!(matches!(cancelled, Err(UploadError::Raced)), "{cancelled:?}");
            is_whole(&storage, &content).await;
        }
        assert_eq!(storage.keys(&"up".into()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn of_many_who_end_an_upload_at_most_one_does() {
    for storage in both() {
        let (session, content) = (begin(&storage).await, content(1000));
        let progress = send(&storage, &session, &content).await;
        let digest = sha256(&content);
        let ends = (0..8).map(|number| {
            let (storage, session, progress) = (storage.clone(), session.clone(), progress.clone());
            async move {
                if number % 2 == 0 {
                    return storage.cancel_upload(&session, &progress).await.is_ok();
                }
                let committed =
                    storage.commit(&repository(), Some(&session), progress, &digest).await;
                committed.is_ok()
            }
        });
        let ended = futures::future::join_all(ends).await;
        assert!(ended.iter().filter(|&&ended| ended).count() <= 1, "{ended:?}");
        if storage.is_member(&repository(), &digest).await.unwrap() {
            is_whole(&storage, &content).await;
        }
        // Where all gave way the upload is still there, and the next one ends it.
        if !ended.contains(&true) {
            storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
            is_whole(&storage, &content).await;
        }
    }
}

#[tokio::test]
async fn of_two_chunks_at_one_offset_at_most_one_counts() {
    for storage in both() {
        let session = begin(&storage).await;
        let mut appenders = [Bytes::from_static(b"one"), Bytes::from_static(b"other")]
            .map(|text| (text, Some(storage.append(Progress::new(Algorithm::Sha256)))));
        for (text, appender) in &mut appenders {
            appender.as_mut().unwrap().write(text.clone()).await.unwrap();
        }
        let saves = appenders
            .each_mut()
            .map(|(_, appender)| storage.save_upload(&session, appender.take().unwrap()));
        let saved = futures::future::join_all(saves).await;
        let won: Vec<_> = saved.iter().filter_map(|saved| saved.as_ref().ok()).collect();
        assert!(won.len() <= 1);
        let found = storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap();
        let (_, progress) = found.unwrap();
        assert_eq!(progress.offset(), won.first().map_or(0, |won| won.offset()));
    }
}

#[tokio::test]
async fn bytes_are_read_again_once_for_another_algorithm() {
    for storage in both() {
        let (session, content) = (begin(&storage).await, content(600_000));
        send(&storage, &session, &content.slice(..300_001)).await;
        let progress = send(&storage, &session, &content.slice(300_001..)).await;
        let sha512 = Algorithm::Sha512;
        storage.rehash(&session, progress.clone(), sha512).await.unwrap();

        let key = layout::upload_rehashed(session.id, sha512);
        let kept = storage.read(&key).await.unwrap();
        let again = storage.rehash(&session, progress, sha512).await.unwrap();
        assert_eq!(storage.read(&key).await.unwrap(), kept);
        let digest = Digest::of(sha512, &content);
        let pointer = storage.commit(&repository(), Some(&session), again, &digest).await.unwrap();
        assert!(read(&storage, &pointer, None).await == content);
        storage.forget_upload(&session).await.unwrap();
        assert_eq!(storage.keys(&"up".into()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_kept_hash_of_fewer_bytes_does_not_count() {
    for storage in both() {
        let (session, content) = (begin(&storage).await, content(5000));
        let first = send(&storage, &session, &content.slice(..1000)).await;
        storage.rehash(&session, first, Algorithm::Sha512).await.unwrap();
        let all = send(&storage, &session, &content.slice(1000..)).await;
        let all = storage.rehash(&session, all, Algorithm::Sha512).await.unwrap();
        let digest = Digest::of(Algorithm::Sha512, &content);
        storage.commit(&repository(), Some(&session), all, &digest).await.unwrap();
    }
}
