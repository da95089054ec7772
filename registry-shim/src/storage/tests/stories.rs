//! What every store must keep, whatever it is made of: one story each, on an empty store.
//!
//! Compiled here and, over the wire, by the origin's tests: it uses nothing that is not public.

use super::support::*;
use super::*;

/// Gives the names of all stories to another macro.
macro_rules! for_each_story {
    ($run:ident) => {
        $run! {
            a_pushed_blob_reads_back_from_any_offset,
            a_blob_of_several_requests_is_never_copied,
            a_blob_pushed_twice_is_kept_once,
            wrong_bytes_are_never_a_blob,
            a_sha512_digest_may_come_at_the_end,
            a_blob_of_several_segments_can_be_made_one,
            an_upload_goes_on_where_another_instance_stopped,
            an_upload_is_bound_to_repository_actor_and_time,
            of_two_requests_at_one_offset_one_wins,
            an_upload_ends_once,
            a_cancelled_upload_leaves_nothing,
            a_blob_is_visible_only_where_it_is_a_member,
            states_that_someone_changed_do_not_count,
            manifests_keep_their_bytes,
            tags_move_and_go,
            lists_are_sorted_by_bytes_and_paged,
            referrers_are_found_from_their_subject,
            an_immutable_tag_is_created_once,
        }
    };
}
pub(super) use for_each_story;

pub(super) async fn a_pushed_blob_reads_back_from_any_offset(storage: Subject) {
    // More than two parts of the store, and no multiple of anything.
    for bytes in [0, 1, 1000, 11_000_003] {
        let content = content(bytes);
        let digest = push(&storage, &content).await;
        let pointer = storage.pointer(&digest).await.unwrap().unwrap();
        assert_eq!(pointer.size, bytes as u64);
        assert!(read(&storage, &pointer, None).await == content);
        if bytes > 600_000 {
            for (offset, length) in [(0, 1), (bytes as u64 - 1, 1), (300_000, 300_000)] {
                let expected = content.slice(offset as usize..(offset + length) as usize);
                assert!(read(&storage, &pointer, Some((offset, length))).await == expected);
            }
        }
        let list = storage.piece_list(&digest, &pointer).await.unwrap();
        assert_eq!((list.digest(), list.size()), (digest, bytes as u64));
    }
}

pub(super) async fn a_blob_of_several_requests_is_never_copied(storage: Subject) {
    let content = content(700_001);
    let session = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    let session = session.unwrap();
    let mut progress = Progress::new(Algorithm::Sha256);
    for part in [0..300_000, 300_000..300_001, 300_001..700_001] {
        let mut appender = storage.append(progress);
        appender.write(content.slice(part)).await.unwrap();
        progress = storage.save_upload(&session, appender).await.unwrap();
    }
    let digest = sha256(&content);
    let pointer = storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
    assert_eq!(pointer.segments.len(), 3);
    assert!(read(&storage, &pointer, None).await == content);
    assert!(read(&storage, &pointer, Some((299_999, 3))).await == content.slice(299_999..300_002));
}

pub(super) async fn a_blob_pushed_twice_is_kept_once(storage: Subject) {
    let content = content(1000);
    let digest = push(&storage, &content).await;
    let first = storage.pointer(&digest).await.unwrap();
    push(&storage, &content).await;
    assert_eq!(storage.pointer(&digest).await.unwrap(), first);
    let data = storage.stored("data").await;
    assert_eq!(data.len(), 1, "the second upload's bytes are taken back: {data:?}");
}

pub(super) async fn wrong_bytes_are_never_a_blob(storage: Subject) {
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(content(10)).await.unwrap();
    let progress = appender.finish().await.unwrap();
    let claimed = sha256(b"something else");
    let refused = storage.commit(&repository(), None, progress, &claimed).await;
    assert!(matches!(refused, Err(UploadError::WrongDigest { .. })));
    assert!(!storage.is_member(&repository(), &claimed).await.unwrap());
    assert_eq!(storage.pointer(&claimed).await.unwrap(), None);
    assert_eq!(storage.stored("data").await, []);
}

pub(super) async fn a_sha512_digest_may_come_at_the_end(storage: Subject) {
    let content = content(600_000);
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(content.clone()).await.unwrap();
    let progress = appender.finish().await.unwrap();
    let digest = Digest::of(Algorithm::Sha512, &content);
    let pointer = storage.commit(&repository(), None, progress, &digest).await.unwrap();
    let list = storage.piece_list(&digest, &pointer).await.unwrap();
    let piece = longshore_proto::piece::PieceIndex(1);
    let range = list.range(piece).unwrap();
    let bytes = content.slice(range.offset() as usize..range.end() as usize);
    assert_eq!(list.verify(piece, &bytes), Ok(()));
}

pub(super) async fn a_blob_of_several_segments_can_be_made_one(storage: Subject) {
    // More than two parts of the store.
    let content = content(11_000_003);
    let digest = push_in_requests(&storage, &content, &[4_000_000, 1]).await;
    let composed = storage.compose(&digest, &CancellationToken::new()).await.unwrap();
    if composed == Composed::NotNow {
        // While failed over.
        assert!(!storage.state().is_primary());
        return;
    }
    assert_eq!(composed, Composed::Done(content.len() as u64));
    let pointer = storage.pointer(&digest).await.unwrap().unwrap();
    assert_eq!(pointer.segments.len(), 1);
    assert!(read(&storage, &pointer, None).await == content);
    assert_eq!(storage.stored("up").await, []);
}

pub(super) async fn an_upload_goes_on_where_another_instance_stopped(storage: Subject) {
    let content = content(300_010);
    let begun = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    let id = begun.unwrap().id;
    for part in content.chunks(100_004) {
        // Every request finds the session in the store, as if each met another instance.
        let found = storage.upload(id, &repository(), ACTOR, NOW_MS).await.unwrap();
        let (session, progress) = found.unwrap();
        let mut appender = storage.append(progress);
        appender.write(Bytes::copy_from_slice(part)).await.unwrap();
        storage.save_upload(&session, appender).await.unwrap();
    }
    let found = storage.upload(id, &repository(), ACTOR, NOW_MS).await.unwrap();
    let (session, progress) = found.unwrap();
    assert_eq!(progress.offset(), content.len() as u64);
    let digest = sha256(&content);
    let pointer = storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
    assert!(read(&storage, &pointer, None).await == content);
    storage.forget_upload(&session).await.unwrap();
    assert_eq!(storage.stored("up").await, []);
}

pub(super) async fn an_upload_is_bound_to_repository_actor_and_time(storage: Subject) {
    let begun = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    let id = begun.unwrap().id;
    let other = "team/other".parse().unwrap();
    let day = 24 * 60 * 60 * 1000;
    assert!(storage.upload(id, &repository(), ACTOR, NOW_MS + day - 1).await.unwrap().is_some());
    assert!(storage.upload(id, &repository(), ACTOR, NOW_MS + day).await.unwrap().is_none());
    assert!(storage.upload(id, &other, ACTOR, NOW_MS).await.unwrap().is_none());
    assert!(storage.upload(id, &repository(), "another", NOW_MS).await.unwrap().is_none());
    let unknown = uuid::Uuid::new_v4();
    assert!(storage.upload(unknown, &repository(), ACTOR, NOW_MS).await.unwrap().is_none());
}

pub(super) async fn of_two_requests_at_one_offset_one_wins(storage: Subject) {
    let begun = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    let session = begun.unwrap();
    let mut first = storage.append(Progress::new(Algorithm::Sha256));
    let mut second = storage.append(Progress::new(Algorithm::Sha256));
    first.write(Bytes::from_static(b"first")).await.unwrap();
    second.write(Bytes::from_static(b"second")).await.unwrap();
    storage.save_upload(&session, first).await.unwrap();
    let raced = storage.save_upload(&session, second).await;
    assert!(matches!(raced, Err(UploadError::Raced)));
    let found = storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap();
    let (_, progress) = found.unwrap();
    let digest = sha256(b"first");
    let pointer = storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
    assert_eq!(read(&storage, &pointer, None).await, "first");
}

pub(super) async fn an_upload_ends_once(storage: Subject) {
    let content = content(1000);
    let begun = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    let session = begun.unwrap();
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(content.clone()).await.unwrap();
    let progress = storage.save_upload(&session, appender).await.unwrap();
    let digest = sha256(&content);
    let (again, cancel) = (progress.clone(), progress.clone());
    let pointer = storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();

    // Whoever comes later, on whatever instance, must not touch the bytes that are a blob now.
    let sha512 = Digest::of(Algorithm::Sha512, &content);
    let second = storage.commit(&repository(), Some(&session), again, &sha512).await;
    assert!(matches!(second, Err(UploadError::Raced)));
    let cancelled = storage.cancel_upload(&session, &cancel).await;
    assert!(matches!(cancelled, Err(UploadError::Raced)));
    assert!(storage.upload(session.id, &repository(), ACTOR, NOW_MS).await.unwrap().is_none());
    assert!(read(&storage, &pointer, None).await == content);
}

pub(super) async fn a_cancelled_upload_leaves_nothing(storage: Subject) {
    let begun = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    let session = begun.unwrap();
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(content(1000)).await.unwrap();
    let progress = storage.save_upload(&session, appender).await.unwrap();
    storage.cancel_upload(&session, &progress).await.unwrap();
    for prefix in ["up", "data"] {
        assert_eq!(storage.stored(prefix).await, []);
    }
}

pub(super) async fn a_blob_is_visible_only_where_it_is_a_member(storage: Subject) {
    let digest = push(&storage, &content(10)).await;
    let other: RepositoryName = "team/app-2".parse().unwrap();
    assert!(storage.is_member(&repository(), &digest).await.unwrap());
    assert!(!storage.is_member(&other, &digest).await.unwrap());
    let pointer = storage.pointer(&digest).await.unwrap().unwrap();
    storage.add_member(&other, &digest, &pointer).await.unwrap();
    assert!(storage.remove_member(&repository(), &digest).await.unwrap());
    assert!(!storage.remove_member(&repository(), &digest).await.unwrap());
    assert!(!storage.is_member(&repository(), &digest).await.unwrap());
    assert!(storage.is_member(&other, &digest).await.unwrap());
}

pub(super) async fn states_that_someone_changed_do_not_count(storage: Subject) {
    let digest = push(&storage, &content(600_000)).await;
    let pointer = storage.pointer(&digest).await.unwrap().unwrap();
    let right = storage.piece_list(&digest, &pointer).await.unwrap();
    let [key] = storage.stored("states").await.try_into().unwrap();
    let mut kept = storage.object(&key).await.to_vec();
    *kept.last_mut().unwrap() ^= 1;
    storage.put_object(&key, kept.into()).await;
    assert_eq!(storage.piece_list(&digest, &pointer).await.unwrap(), right);
    // What was computed is kept in place of it.
    let kept = storage.object(&key).await;
    assert!(kept.ends_with(right.states()));
    storage.delete_object(&key).await;
    assert_eq!(storage.piece_list(&digest, &pointer).await.unwrap(), right);
}

pub(super) async fn manifests_keep_their_bytes(storage: Subject) {
    let (digest, manifest) = manifest("{\n \"a\": 1 }\n\n");
    assert_eq!(storage.manifest(&repository(), &digest).await.unwrap(), None);
    storage.put_manifest(&repository(), &digest, &manifest).await.unwrap();
    assert_eq!(storage.manifest(&repository(), &digest).await.unwrap(), Some(manifest));
    assert!(storage.delete_manifest(&repository(), &digest).await.unwrap());
    assert!(!storage.delete_manifest(&repository(), &digest).await.unwrap());
    assert_eq!(storage.manifest(&repository(), &digest).await.unwrap(), None);
}

pub(super) async fn tags_move_and_go(storage: Subject) {
    let tag = "v1".parse().unwrap();
    for text in [b"one", b"two"] {
        let record = tag_record(sha256(text));
        storage.put_tag(&repository(), &tag, &record).await.unwrap();
        assert_eq!(storage.tag(&repository(), &tag).await.unwrap(), Some(record));
    }
    assert!(storage.delete_tag(&repository(), &tag).await.unwrap());
    assert!(!storage.delete_tag(&repository(), &tag).await.unwrap());
    assert_eq!(storage.tag(&repository(), &tag).await.unwrap(), None);
    assert_eq!(storage.stored("repo/team/app!/log").await.len(), 2);
}

pub(super) async fn lists_are_sorted_by_bytes_and_paged(storage: Subject) {
    let names = ["a", "a-b", "a.b", "a/b", "a/b-c", "ab", "b"];
    for name in names.iter().rev() {
        storage.add_repository(&name.parse().unwrap()).await.unwrap();
    }
    let all = storage.repositories(None, 100).await.unwrap();
    assert_eq!((all.items.as_slice(), all.more), (names.map(String::from).as_slice(), false));
    let mut paged = Vec::new();
    let mut last: Option<String> = None;
    loop {
        let page = storage.repositories(last.as_deref(), 2).await.unwrap();
        last = page.items.last().cloned();
        paged.extend(page.items);
        if !page.more {
            break;
        }
    }
    assert_eq!(paged, names);

    for tag in ["B", "a", "1", "A"] {
        let record = tag_record(sha256(b"x"));
        storage.put_tag(&repository(), &tag.parse().unwrap(), &record).await.unwrap();
    }
    for (after, expected) in [("1z", "A"), ("!", "1"), ("A/", "B"), ("Z", "a")] {
        let tags = storage.tags(&repository(), Some(after), 1).await.unwrap();
        assert_eq!(tags.items, [expected], "after {after}");
    }
    let tags = storage.tags(&repository(), Some("1"), 2).await.unwrap();
    assert_eq!((tags.items, tags.more), (vec!["A".to_owned(), "B".to_owned()], true));
    assert_eq!(storage.tags(&repository(), None, 0).await.unwrap().items, Vec::<String>::new());
    // A repository whose name begins with this one's has tags of its own.
    assert_eq!(storage.tags(&"team".parse().unwrap(), None, 9).await.unwrap().items.len(), 0);
}

pub(super) async fn referrers_are_found_from_their_subject(storage: Subject) {
    let (subject, other) = (sha256(b"subject"), sha256(b"other"));
    let referrer = |text: &[u8]| Referrer {
        media_type: "m".into(),
        digest: sha256(text),
        size: 1,
        artifact_type: "a".into(),
        annotations: std::collections::BTreeMap::new(),
    };
    for text in [b"1", b"2"] {
        storage.put_referrer(&repository(), &subject, &referrer(text)).await.unwrap();
    }
    let listed = async |subject: &Digest, after: Option<&Digest>, limit| {
        let page = storage.referrers(&repository(), subject, after, limit).await.unwrap();
        (page.items, page.more)
    };
    let mut digests = vec![sha256(b"1"), sha256(b"2"), Digest::of(Algorithm::Sha512, b"3")];
    let long = Referrer { digest: digests[2], ..referrer(b"3") };
    storage.put_referrer(&repository(), &subject, &long).await.unwrap();
    digests.sort();
    assert_eq!(listed(&subject, None, 9).await, (digests.clone(), false));
    assert_eq!(listed(&subject, None, 2).await, (digests[..2].to_vec(), true));
    assert_eq!(listed(&subject, Some(&digests[0]), 1).await, (digests[1..2].to_vec(), true));
    assert_eq!(listed(&subject, Some(&digests[1]), 9).await, (digests[2..].to_vec(), false));
    assert_eq!(listed(&subject, Some(&digests[2]), 9).await, (vec![], false));
    assert_eq!(listed(&other, None, 9).await, (vec![], false));
    let found = storage.referrer(&repository(), &subject, &sha256(b"1")).await.unwrap();
    assert_eq!(found, Some(referrer(b"1")));
    storage.delete_referrer(&repository(), &subject, &sha256(b"1")).await.unwrap();
    assert_eq!(storage.referrer(&repository(), &subject, &sha256(b"1")).await.unwrap(), None);
    assert_eq!(listed(&subject, None, 9).await.0.len(), 2);
}

pub(super) async fn an_immutable_tag_is_created_once(storage: Subject) {
    if !storage.capabilities().conditional_create {
        // Such a store is refused for this at start.
        return;
    }
    let (frozen, free) = ("v1".parse().unwrap(), "latest".parse().unwrap());
    let storage = storage.clone().with_immutable_tags(&["team/*:v*".parse().unwrap()]);
    let [one, two] = [b"one", b"two"].map(|text| tag_record(sha256(text)));
    for record in [&one, &two] {
        storage.put_tag(&repository(), &free, record).await.unwrap();
    }
    for _ in 0..2 {
        storage.put_tag(&repository(), &frozen, &one).await.unwrap();
        let moved = storage.put_tag(&repository(), &frozen, &two).await;
        assert!(
            matches!(moved, Err(StorageError::TagImmutable { digest }) if digest == one.digest)
        );
        let deleted = storage.delete_tag(&repository(), &frozen).await;
        assert!(matches!(deleted, Err(StorageError::TagImmutable { .. })), "{deleted:?}");
    }
    // What it names stays with it; what only other tags name goes.
    for (record, stays) in [(&one, true), (&two, false)] {
        let (_, manifest) = manifest("{}");
        storage.put_manifest(&repository(), &record.digest, &manifest).await.unwrap();
        let deleted = storage.delete_manifest(&repository(), &record.digest).await;
        assert_eq!(deleted.is_err(), stays, "{deleted:?}");
    }
    assert_eq!(storage.tag(&repository(), &frozen).await.unwrap(), Some(one));
    assert!(storage.delete_tag(&repository(), &free).await.unwrap());
}
