//! Who is given which piece.

use super::support::{
    MIB, NOTHING, ask, blob, given, member, peer, refused, request, strict, strict_config, tell,
    with,
};
use crate::tracker::TrackerConfig;

#[test]
fn different_nodes_get_different_pieces_in_the_order_of_want() {
    let (tracker, layer) = (strict(), blob(1, 100));
    assert_eq!(given(&ask(&tracker, 0, 1, layer.want(&[]))), [0, 1, 2, 3]);
    assert_eq!(given(&ask(&tracker, 0, 2, layer.want(&[]))), [4, 5, 6, 7]);
    assert_eq!(given(&ask(&tracker, 1_000, 3, layer.want(&[9]))), [8, 10, 11, 12]);
}

#[test]
fn the_first_blob_wanted_is_given_before_the_second() {
    let (tracker, first, second) = (strict(), blob(1, 3), blob(2, 100));
    let wants = request(vec![first.want(&[]), second.want(&[])]);
    let answer = tracker.permit(0, &member(1), wants).unwrap();
    let runs: Vec<_> =
        answer.grants.iter().map(|g| (g.digest, g.first.0, g.pieces, g.range.length())).collect();
    assert_eq!(runs, [(first.digest, 0, 3, 3 * MIB), (second.digest, 0, 1, MIB)]);
}

#[test]
fn a_run_ends_with_the_blob() {
    let (tracker, layer) = (strict(), blob(1, 3));
    let want = longshore_proto::rpc::origin::PermitWant { size: 2 * MIB + 5, ..layer.want(&[]) };
    let answer = ask(&tracker, 0, 1, want);
    assert_eq!(answer.grants[0].range.end(), 2 * MIB + 5);
    assert_ne!(answer.grants[0].permit_id, 0);
}

#[test]
fn a_piece_that_a_member_holds_is_refused_with_its_holder() {
    let (tracker, layer) = (strict(), blob(1, 2));
    tell(&tracker, 0, 1, vec![layer.holding(&[1])]);
    let answer = ask(&tracker, 0, 2, layer.want(&[]));
    assert_eq!(given(&answer), [0]);
    assert_eq!(refused(&answer), [(1, vec![peer(1)])]);
    tell(&tracker, 0, 3, vec![layer.whole()]);
    let answer = ask(&tracker, 0, 4, layer.want(&[]));
    assert_eq!(given(&answer), NOTHING);
    let mut holders = refused(&answer)[1].1.clone();
    holders.sort();
    assert_eq!(holders, [peer(1), peer(3)]);
    assert!((100..=150).contains(&answer.retry_after_ms), "{}", answer.retry_after_ms);
}

#[test]
fn a_piece_that_a_member_fetches_is_refused_with_that_member() {
    let (tracker, layer) = (strict(), blob(1, 1));
    ask(&tracker, 0, 1, layer.want(&[]));
    let answer = ask(&tracker, 0, 2, layer.want(&[]));
    assert_eq!((given(&answer), refused(&answer)), (vec![], vec![(0, vec![peer(1)])]));
    let again = ask(&tracker, 1, 1, layer.want(&[]));
    assert_eq!((given(&again), refused(&again)), (vec![], vec![]), "its own permit is no refusal");
}

#[test]
fn no_node_has_more_outstanding_than_its_share_or_than_it_has_room_for() {
    let (tracker, layer) = (strict(), blob(1, 100));
    let mut small = request(vec![layer.want(&[])]);
    small.pieces_max = 1;
    assert_eq!(given(&tracker.permit(0, &member(1), small).unwrap()), [0]);
    assert_eq!(given(&ask(&tracker, 0, 1, layer.want(&[]))), [1, 2, 3]);
    assert_eq!(given(&ask(&tracker, 0, 1, layer.want(&[]))), NOTHING);
    assert_eq!(given(&ask(&tracker, 50, 1, layer.want(&[0, 2]))), [4, 5]);
}

#[test]
fn urgent_pieces_come_first_and_alone() {
    let (tracker, layer) = (strict(), blob(1, 100));
    let answer = ask(&tracker, 0, 1, layer.urgent(&[], &[50, 51]));
    let runs: Vec<_> = answer.grants.iter().map(|g| (g.first.0, g.pieces)).collect();
    assert_eq!(runs, [(50, 1), (51, 1), (0, 2)]);
}

#[test]
fn an_urgent_piece_is_still_given_once() {
    let (tracker, layer) = (strict(), blob(1, 100));
    ask(&tracker, 0, 1, layer.urgent(&[], &[50]));
    for now_ms in [0, 5_000, 10_000] {
        let answer = ask(&tracker, now_ms, 2, layer.urgent(&[], &[50]));
        assert!(!given(&answer).contains(&50));
        assert_eq!(refused(&answer)[0], (50, vec![peer(1)]), "urgent refusals come first");
    }
}

#[test]
fn a_node_that_asks_alone_for_a_while_reads_as_fast_as_without_a_swarm() {
    let (tracker, layer) = (strict(), blob(1, 1000));
    assert_eq!(given(&ask(&tracker, 0, 1, layer.want(&[]))).len(), 4);
    let mut wide = request(vec![layer.want(&[])]);
    wide.pieces_max = 1000;
    let answer = tracker.permit(500, &member(1), wide).unwrap();
    assert_eq!(given(&answer).len(), 28, "32 MiB outstanding");
    let answer = ask(&tracker, 1_000, 2, layer.want(&[]));
    assert_eq!(given(&answer), NOTHING, "32 MiB in flight are enough for the cell, too");
}

#[test]
fn a_permit_past_its_deadline_goes_to_another_node_and_is_counted() {
    let (tracker, layer) = (strict(), blob(1, 2));
    ask(&tracker, 0, 1, layer.want(&[]));
    ask(&tracker, 14_000, 1, layer.want(&[1]));
    assert_eq!(given(&ask(&tracker, 14_999, 2, layer.want(&[]))), NOTHING);
    assert_eq!(given(&ask(&tracker, 15_000, 2, layer.want(&[]))), [0]);
    assert_eq!(tracker.metrics.permits_expired.get(), 1);
    assert_eq!(tracker.metrics.pieces_reopened.get(), 1);
    assert_eq!(tracker.metrics.permits_given.get(), 3);
    assert_eq!(tracker.metrics.permits_extra.get(), 0);
}

#[test]
fn a_node_that_lets_permits_lapse_is_given_one_piece_at_a_time() {
    let (tracker, layer) = (strict(), blob(1, 100));
    ask(&tracker, 0, 1, layer.want(&[]));
    ask(&tracker, 14_000, 1, layer.want(&[]));
    assert_eq!(given(&ask(&tracker, 15_000, 1, layer.want(&[]))), [0]);
    assert_eq!(given(&ask(&tracker, 15_100, 1, layer.want(&[0]))), [1, 2, 3, 4]);
}

#[test]
fn a_permit_whose_answer_was_lost_is_told_again_as_it_was() {
    let (tracker, layer) = (strict(), blob(1, 1));
    let first = ask(&tracker, 0, 1, layer.want(&[])).grants.remove(0);
    assert_eq!(given(&ask(&tracker, 4_999, 1, layer.want(&[]))), NOTHING);
    let again = ask(&tracker, 5_000, 1, layer.want(&[])).grants.remove(0);
    assert_eq!((again.permit_id, again.deadline_ms), (first.permit_id, 10_000));
    assert_eq!(tracker.metrics.permits_given.get(), 1);
    let mut knows = request(vec![layer.want(&[])]);
    knows.held = vec![longshore_proto::rpc::origin::HeldPermit {
        digest: layer.digest.to_string(),
        piece: 0,
        permit_id: first.permit_id,
    }];
    assert_eq!(tracker.permit(6_000, &member(1), knows).unwrap().grants, []);
}

#[test]
fn permits_of_a_blob_that_is_asked_for_no_more_keep_nobody_waiting() {
    let tracker = with(TrackerConfig { outstanding_cell_bytes: 0, ..strict_config() });
    let (first, second) = (blob(1, 100), blob(2, 100));
    assert_eq!(given(&ask(&tracker, 0, 1, first.want(&[]))), [0, 1, 2, 3]);
    assert_eq!(given(&ask(&tracker, 999, 1, second.want(&[]))), NOTHING);
    assert_eq!(given(&ask(&tracker, 1_000, 1, second.want(&[]))), [0, 1, 2, 3]);
    // They are out all the same, and a node that never shows what came is stopped.
    assert_eq!(refused(&ask(&tracker, 1_000, 2, first.want(&[])))[0], (0, vec![peer(1)]));
    let later = |n: u32| given(&ask(&tracker, u64::from(n) * 1_000, 1, blob(n, 100).want(&[])));
    assert_eq!(
        (3..10).map(|number| later(number).len()).collect::<Vec<_>>(),
        [4, 4, 0, 0, 0, 0, 0]
    );
}

#[test]
fn cells_know_nothing_of_each_other() {
    let (tracker, layer) = (strict(), blob(1, 4));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    let mut elsewhere = member(2);
    elsewhere.cell = "default/b".into();
    let answer = tracker.permit(0, &elsewhere, request(vec![layer.want(&[])])).unwrap();
    assert_eq!(given(&answer), [0, 1, 2, 3]);
    assert_eq!(tracker.peers_for(0, &elsewhere, &[layer.digest], 40), []);
}

#[test]
fn a_blob_cut_otherwise_is_another_blob() {
    let (tracker, layer) = (strict(), blob(1, 8));
    let lie = longshore_proto::rpc::origin::Holding { piece_length: MIB / 4, ..layer.whole() };
    tell(&tracker, 0, 1, vec![lie]);
    assert_eq!(given(&ask(&tracker, 0, 2, layer.want(&[]))), [0, 1, 2, 3]);
}
