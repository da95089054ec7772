//! The store's contract: restart, another boot, damage, a full disk, many writers at once.

use std::os::unix::fs::symlink;
use std::time::Duration;

use bytes::Bytes;
use longshore_proto::piece::{PieceIndex, PieceList};
use longshore_proto::sign::{PieceListStatement, SigningKey};
use longshore_proto::{Algorithm, Tag};

use super::*;

const PIECE_BYTES: u64 = 4096;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self, boot: &str, bytes_max: u64) -> PieceStore {
        let config = StoreConfig { path: self.0.path().join("store"), bytes_max };
        PieceStore::open_in_boot(&config, StoreMetrics::default(), boot).unwrap()
    }

    fn data(&self, list: &SignedPieceList) -> PathBuf {
        let name = file_name(&list.list.digest());
        self.0.path().join("store").join(LAYOUT).join("blobs").join(name).join("data")
    }
}

fn content(seed: u8, pieces: usize) -> Vec<u8> {
    let bytes = pieces * PIECE_BYTES as usize - 100;
    (0..bytes).map(|at| (at / 7) as u8 ^ (at as u8).wrapping_mul(seed)).collect()
}

fn signed(content: &[u8]) -> SignedPieceList {
    let (key, _) = SigningKey::generate();
    let list = PieceList::of(Algorithm::Sha256, content, PIECE_BYTES).unwrap();
    let signature = key.sign(&PieceListStatement { list: &list, provisional: false });
    SignedPieceList { list, provisional: false, signature }
}

fn piece(content: &[u8], list: &SignedPieceList, piece: u32) -> Bytes {
    let range = list.list.range(PieceIndex(piece)).unwrap();
    Bytes::copy_from_slice(&content[range.offset() as usize..range.end() as usize])
}

fn repository(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

async fn fill(blob: &Arc<StoredBlob>, content: &[u8], pieces: impl IntoIterator<Item = u32>) {
    for index in pieces {
        let bytes = piece(content, blob.list(), index);
        assert_eq!(blob.write(PieceIndex(index), bytes).await.unwrap(), Written::Fresh);
    }
}

#[tokio::test]
async fn a_piece_is_held_once_verified_and_reads_back() {
    let (place, content) = (Place::new(), content(3, 4));
    let list = signed(&content);
    let store = place.open("boot", 1 << 20);
    let blob = store.open_blob(&list, &repository("a")).unwrap();
    let mut changes = blob.changes();
    changes.mark_unchanged();

    let mut wrong = content[..PIECE_BYTES as usize].to_vec();
    wrong[77] ^= 1;
    let refused = blob.write(PieceIndex(0), wrong.into()).await;
    assert!(matches!(refused, Err(WriteError::Bad(_))), "{refused:?}");
    assert!(!blob.holds(PieceIndex(0)) && !changes.has_changed().unwrap());

    fill(&blob, &content, [3, 0]).await;
    assert!(changes.has_changed().unwrap());
    assert_eq!(blob.read(PieceIndex(3)).await.unwrap(), piece(&content, &list, 3));
    assert!(matches!(blob.read(PieceIndex(1)).await, Err(ReadError::NotHeld(_))));
    assert!(matches!(blob.read(PieceIndex(9)).await, Err(ReadError::NotHeld(_))));
    let again = blob.write(PieceIndex(0), piece(&content, &list, 0)).await.unwrap();
    assert_eq!(again, Written::AlreadyHeld);
    fill(&blob, &content, [1, 2]).await;
    assert!(blob.is_whole());
    assert_eq!((store.bytes(), blob.held_bytes()), (list.list.size(), list.list.size()));
}

#[tokio::test]
async fn a_restart_in_the_same_boot_resumes() {
    let (place, content) = (Place::new(), content(5, 10));
    let list = signed(&content);
    {
        let store = place.open("boot", 1 << 20);
        let blob = store.open_blob(&list, &repository("a")).unwrap();
        store.open_blob(&list, &repository("b")).unwrap();
        fill(&blob, &content, [0, 8, 9]).await;
    }
    let store = place.open("boot", 1 << 20);
    let blob = store.blob(&list.list.digest()).unwrap();
    assert_eq!(blob.held().iter().map(|p| p.0).collect::<Vec<_>>(), [0, 8, 9]);
    assert_eq!(blob.repositories(), [repository("a"), repository("b")]);
    assert_eq!(blob.list(), &list);
    assert_eq!(blob.read(PieceIndex(9)).await.unwrap(), piece(&content, &list, 9));
    assert_eq!(store.0.metrics.resumed_pieces.get(), 3);
    assert_eq!(store.bytes(), blob.held_bytes());
}

#[tokio::test]
async fn pieces_of_another_boot_are_held_only_once_verified_again() {
    let (place, content) = (Place::new(), content(7, 10));
    let list = signed(&content);
    {
        let store = place.open("boot-1", 1 << 20);
        let blob = store.open_blob(&list, &repository("a")).unwrap();
        fill(&blob, &content, 0..6).await;
    }
    flip(&place.data(&list), 2 * PIECE_BYTES);
    let store = place.open("boot-2", 1 << 20);
    let blob = store.open_blob(&list, &repository("a")).unwrap();
    assert!(blob.held().is_empty());
    assert!(matches!(blob.read(PieceIndex(0)).await, Err(ReadError::NotHeld(_))));
    // A peer is quicker than the disk for one of them.
    fill(&blob, &content, [5]).await;

    blob.recover().await;
    assert_eq!(blob.held().iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1, 3, 4, 5]);
    assert_eq!(store.bytes(), blob.held_bytes());
    drop((blob, store));
    let store = place.open("boot-2", 1 << 20);
    assert_eq!(store.blob(&list.list.digest()).unwrap().held().len(), 5);
}

#[tokio::test]
async fn a_bit_flipped_on_disk_is_dropped_and_never_served() {
    let (place, content) = (Place::new(), content(9, 4));
    let list = signed(&content);
    {
        let store = place.open("boot", 1 << 20);
        let blob = store.open_blob(&list, &repository("a")).unwrap();
        fill(&blob, &content, 0..4).await;
    }
    flip(&place.data(&list), PIECE_BYTES + 5);
    let store = place.open("boot", 1 << 20);
    let blob = store.blob(&list.list.digest()).unwrap();
    assert!(blob.is_whole());
    assert!(matches!(blob.read(PieceIndex(1)).await, Err(ReadError::Damaged(_))));
    assert!(!blob.holds(PieceIndex(1)) && !blob.is_whole());
    assert_eq!(blob.read(PieceIndex(0)).await.unwrap(), piece(&content, &list, 0));
    fill(&blob, &content, [1]).await;
    assert_eq!(blob.read(PieceIndex(1)).await.unwrap(), piece(&content, &list, 1));
}

#[tokio::test]
async fn a_damaged_directory_is_dropped() {
    let place = Place::new();
    let lists: Vec<_> = (1..=4).map(|seed| signed(&content(seed, 2))).collect();
    {
        let store = place.open("boot", 1 << 20);
        for list in &lists {
            store.open_blob(list, &repository("a")).unwrap();
        }
    }
    flip(&place.data(&lists[0]).with_file_name("list"), 50);
    fs::write(place.data(&lists[1]).with_file_name("held"), b"short").unwrap();
    fs::write(place.data(&lists[2]), b"short").unwrap();
    let store = place.open("boot", 1 << 20);
    assert_eq!(store.blobs().len(), 1);
    assert!(!place.data(&lists[0]).exists() && !place.data(&lists[2]).exists());
    assert_eq!(fs::read_dir(store.root().join("trash")).unwrap().count(), 0);
}

#[tokio::test]
async fn evicts_what_nobody_holds_oldest_first_and_is_full_after_that() {
    let place = Place::new();
    let contents: Vec<_> = (1..=3).map(|seed| content(seed, 2)).collect();
    let lists: Vec<_> = contents.iter().map(|content| signed(content)).collect();
    let store = place.open("boot", 4 * PIECE_BYTES);
    let open = |at: usize| store.open_blob(&lists[at], &repository("a")).unwrap();
    fill(&open(0), &contents[0], 0..2).await;
    let second = open(1);
    fill(&second, &contents[1], 0..2).await;

    let third = open(2);
    fill(&third, &contents[2], 0..2).await;
    assert!(store.blob(&lists[0].list.digest()).is_none(), "the first was idle");
    assert!(!place.data(&lists[0]).exists());

    let first = open(0);
    let refused = first.write(PieceIndex(0), piece(&contents[0], &lists[0], 0)).await;
    assert!(matches!(refused, Err(WriteError::Full)), "{refused:?}");
    drop(second);
    fill(&first, &contents[0], 0..2).await;
    assert!(store.bytes() <= store.bytes_max());
}

#[tokio::test]
async fn a_full_disk_is_told_as_such_and_loses_nothing() {
    let (place, content) = (Place::new(), content(11, 4));
    let list = signed(&content);
    let store = place.open("boot", 1 << 20);
    let blob = store.open_blob(&list, &repository("a")).unwrap();
    fill(&blob, &content, [0]).await;
    let (data, aside) = (place.data(&list), place.data(&list).with_file_name("aside"));
    fs::rename(&data, &aside).unwrap();
    symlink("/dev/full", &data).unwrap();
    let refused = blob.write(PieceIndex(1), piece(&content, &list, 1)).await;
    assert!(matches!(refused, Err(WriteError::Full)), "{refused:?}");
    assert_eq!((blob.held().len(), store.bytes()), (1, PIECE_BYTES));

    fs::rename(&aside, &data).unwrap();
    fill(&blob, &content, [1]).await;
    assert_eq!(blob.read(PieceIndex(0)).await.unwrap(), piece(&content, &list, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_one_piece_store_it_once() {
    let (place, content) = (Place::new(), content(13, 8));
    let list = signed(&content);
    let store = place.open("boot", 1 << 20);
    let blob = store.open_blob(&list, &repository("a")).unwrap();
    let writers = (0..64_u32).map(|writer| {
        let (blob, bytes) = (Arc::clone(&blob), piece(&content, &list, writer % 8));
        tokio::spawn(async move { blob.write(PieceIndex(writer % 8), bytes).await.unwrap() })
    });
    let written = futures::future::join_all(writers.collect::<Vec<_>>()).await;
    let fresh = written.into_iter().filter(|w| *w.as_ref().unwrap() == Written::Fresh).count();
    assert_eq!((fresh, blob.is_whole(), store.bytes()), (8, true, list.list.size()));
    assert_eq!(store.0.metrics.pieces_verified.get(), 8);
}

#[tokio::test]
async fn a_failure_wakes_those_who_wait_and_the_next_want_clears_it() {
    let place = Place::new();
    let store = place.open("boot", 1 << 20);
    let blob = store.open_blob(&signed(&content(1, 2)), &repository("a")).unwrap();
    let mut changes = blob.changes();
    changes.mark_unchanged();
    blob.fail(BlobFailure::NotFound);
    changes.changed().await.unwrap();
    assert_eq!(blob.failure(), Some(BlobFailure::NotFound));
    blob.clear_failure();
    assert_eq!(blob.failure(), None);
}

#[test]
fn refuses_a_provisional_list_and_a_second_agent() {
    let place = Place::new();
    let store = place.open("boot", 1 << 20);
    let provisional = SignedPieceList { provisional: true, ..signed(&content(1, 2)) };
    let refused = store.open_blob(&provisional, &repository("a"));
    assert!(matches!(refused, Err(StoreError::Provisional(_))));
    let config = StoreConfig { path: place.0.path().join("store"), bytes_max: 1 };
    let second = PieceStore::open(&config, StoreMetrics::default());
    assert!(matches!(second, Err(StoreError::Locked(_))));
}

#[test]
fn an_empty_blob_is_whole_at_once() {
    let place = Place::new();
    let store = place.open("boot", 1 << 20);
    assert!(store.open_blob(&signed(b""), &repository("a")).unwrap().is_whole());
}

#[test]
fn content_is_given_to_its_repositories_only_and_never_damaged() {
    let place = Place::new();
    let bytes = Bytes::from_static(b"{\"a\": 1}\nmore");
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let content = Content { media_type: "application/x".into(), bytes };
    {
        let store = place.open("boot", 1 << 20);
        assert!(store.put_content(&repository("a"), &digest, &content).unwrap());
        let other = Digest::of(Algorithm::Sha256, b"other");
        assert!(!store.put_content(&repository("a"), &other, &content).unwrap());
    }
    let store = place.open("boot", 1 << 20);
    assert_eq!(store.content(&repository("a"), &digest), Some(content.clone()));
    assert_eq!(store.content(&repository("b"), &digest), None);
    store.put_content(&repository("b"), &digest, &content).unwrap();
    assert_eq!(store.content(&repository("b"), &digest), Some(content));
    flip(&store.root().join("content").join(file_name(&digest)), 70);
    assert_eq!(store.content(&repository("a"), &digest), None);
}

#[test]
fn a_tag_keeps_its_age_and_freshness() {
    let place = Place::new();
    let store = place.open("boot", 1 << 20);
    let (tag, digest) = ("v1".parse::<Tag>().unwrap(), Digest::of(Algorithm::Sha256, b"m"));
    store.put_tag(&repository("a"), &tag, &digest, Duration::from_secs(7)).unwrap();
    let found = store.tag(&repository("a"), &tag).unwrap();
    assert_eq!((found.digest, found.fresh), (digest, Duration::from_secs(7)));
    assert!(found.age < Duration::from_secs(60));
    assert_eq!(store.tag(&repository("b"), &tag), None);
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 4;
    fs::write(path, bytes).unwrap();
}
