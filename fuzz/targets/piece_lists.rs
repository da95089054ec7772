//! Piece lists: as a peer sends them, where none may count, and as parts, where bytes that pass
//! piece by piece have to be the blob.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use longshore_proto::piece::{PieceIndex, PieceList};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{PublicKeys, SigningKey};
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Algorithm, Digest};
use prost::Message as _;

/// Of a key that has signed nothing.
static KEYS: LazyLock<PublicKeys> =
    LazyLock::new(|| PublicKeys::new([SigningKey::generate().0.public().clone()]));

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = rpc::PieceList::decode(data) {
        assert!(SignedPieceList::from_wire(&message, &KEYS).is_err(), "nobody signed this");
    }
    let Some((&[kind, blocks, split], rest)) = data.split_first_chunk() else { return };
    let algorithm = if kind % 2 == 0 { Algorithm::Sha256 } else { Algorithm::Sha512 };
    let piece_bytes = u64::from(blocks) * 64;
    let (content, other) = rest.split_at(usize::from(split).min(rest.len()));
    right(algorithm, content, piece_bytes);
    of_another(algorithm, content, other, piece_bytes);
    of_another(algorithm, rest, rest, piece_bytes);
});

/// A blob's own list takes the blob and nothing else of its length.
fn right(algorithm: Algorithm, content: &[u8], piece_bytes: u64) {
    let Ok(list) = PieceList::of(algorithm, content, piece_bytes) else { return };
    assert_eq!(list.digest(), Digest::of(algorithm, content));
    for (index, piece) in content.chunks(piece_bytes as usize).enumerate() {
        let index = PieceIndex(index as u32);
        assert_eq!(list.verify(index, piece), Ok(()));
        let mut other = piece.to_vec();
        other[piece.len() / 2] ^= 1;
        assert!(list.verify(index, &other).is_err());
        let range = list.range(index).expect("it is one of its pieces");
        assert_eq!(list.piece_at(range.offset()), Some(index));
        assert_eq!((range.length(), range.end() <= list.size()), (piece.len() as u64, true));
    }
    assert_eq!(list.piece_at(list.size()), None);
}

/// Bytes of which every piece passes are the blob that the digest names, whatever the states are.
fn of_another(algorithm: Algorithm, content: &[u8], other: &[u8], piece_bytes: u64) {
    let (digest, size) = (Digest::of(algorithm, content), other.len() as u64);
    let Ok(theirs) = PieceList::of(algorithm, other, piece_bytes) else { return };
    let states = theirs.states().to_vec();
    let Ok(list) = PieceList::new(digest, size, piece_bytes, states) else { return };
    let mut pieces = other.chunks(piece_bytes as usize).enumerate();
    let passes = pieces.all(|(index, piece)| list.verify(PieceIndex(index as u32), piece).is_ok());
    assert_eq!(passes, content == other);
}
