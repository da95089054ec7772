//! What must be true of a cell after every call, computed the slow way.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use longshore_proto::piece::PieceIndex;

use crate::tracker::Tracker;
use crate::tracker::cell::Cell;
use crate::tracker::request::Held;

pub(super) fn check(tracker: &Tracker) {
    for cell in tracker.read_cells().values() {
        check_cell(&cell.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn check_cell(cell: &Cell) {
    let mut in_flight = 0;
    let mut permits = BTreeSet::new();
    for (id, blob) in &cell.blobs {
        assert_eq!(cell.by_key.get(&blob.key), Some(id));
        for holder in blob.holder_ids() {
            assert!(cell.members[&holder].blobs.contains(id), "a holder knows that it holds");
        }
        for (piece, permit) in blob.permit_holders() {
            in_flight += blob.key.piece_length(piece);
            assert!(permit.deadline_ms > cell.now_ms, "overdue permits are gone");
            assert!(permits.insert((*id, piece, permit.member)), "one permit a member and piece");
            assert!(cell.deadlines.contains(&(permit.deadline_ms, *id, piece, permit.member)));
            assert!(cell.members[&permit.member].permits.contains(&(*id, piece)));
            assert!(!blob.holds(permit.member, piece), "a permit ends when its piece is there");
        }
        for piece in 0..blob.pieces() {
            let held = blob.holder_ids().iter().filter(|m| blob.holds(**m, piece)).count();
            let read = blob.permits_of(piece).len();
            assert_eq!(blob.served(piece), held + read, "piece {piece}");
            assert_eq!(blob.is_open(piece), held + read == 0, "piece {piece}");
        }
    }
    assert_eq!(cell.by_key.len(), cell.blobs.len());
    assert_eq!(cell.deadlines.len(), permits.len());
    assert_eq!(cell.window.in_flight(), in_flight);
    assert_eq!(cell.pieces, cell.blobs.values().map(|b| u64::from(b.pieces())).sum::<u64>());
    assert_eq!(cell.members.len(), cell.by_peer.len());
    for (id, member) in &cell.members {
        let pieces = member.blobs.iter().map(|b| u64::from(cell.blobs[b].pieces())).sum::<u64>();
        assert_eq!(member.pieces, pieces);
        let own = permits.iter().filter(|(_, _, m)| m == id).count();
        assert_eq!(member.permits.len(), own);
        for blob in &member.blobs {
            match cell.blobs[blob].held(*id) {
                Some(Held::Whole) => {}
                Some(Held::Pieces(set)) => {
                    assert!(!set.is_empty() && set.words().iter().any(|w| *w != 0));
                    assert!(!set.contains(PieceIndex(set.pieces())));
                }
                None => panic!("a member knows of a blob that does not know of it"),
            }
        }
        for digest in &member.wanted {
            assert!(cell.wanters[digest].contains(id));
        }
    }
    let wanted: usize = cell.wanters.values().map(BTreeSet::len).sum();
    assert_eq!(wanted, cell.members.values().map(|m| m.wanted.len()).sum::<usize>());
}
