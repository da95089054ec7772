//! A tracker that has just started.

use longshore_proto::rpc::origin as rpc;

use super::support::{NOTHING, ask, blob, given, member, peer, refused, request, strict, tell};

#[test]
fn learns_from_bitmaps_before_it_gives_anything() {
    let (tracker, layer) = (strict(), blob(1, 10));
    assert_eq!(given(&ask(&tracker, 100, 1, layer.want(&[0, 1, 2, 3, 4]))), NOTHING);
    assert_eq!(given(&ask(&tracker, 600, 2, layer.want(&[5, 6]))), NOTHING);
    assert_eq!(given(&ask(&tracker, 1_100, 3, layer.want(&[]))), [7, 8, 9]);
}

#[test]
fn a_fleet_that_begins_is_not_made_to_wait() {
    let (tracker, layer) = (strict(), blob(1, 10));
    assert_eq!(given(&ask(&tracker, 0, 1, layer.want(&[]))), [0, 1, 2, 3]);
    assert_eq!(given(&ask(&tracker, 50, 1, layer.want(&[0]))), [4]);
    tell(&tracker, 60, 2, vec![]);
    assert_eq!(given(&ask(&tracker, 60, 2, layer.want(&[]))), [5, 6, 7, 8]);
}

#[test]
fn permits_of_an_earlier_instance_stand_until_their_deadline() {
    let (tracker, layer) = (strict(), blob(1, 4));
    let mut mid_pull = request(vec![layer.want(&[])]);
    mid_pull.held = [1, 2]
        .map(|piece| rpc::HeldPermit { digest: layer.digest.to_string(), piece, permit_id: 7 })
        .into();
    assert_eq!(tracker.permit(0, &member(1), mid_pull.clone()).unwrap().grants, []);
    let answer = ask(&tracker, 1_000, 2, layer.want(&[]));
    assert_eq!(given(&answer), [0, 3]);
    assert_eq!(refused(&answer), [(1, vec![peer(1)]), (2, vec![peer(1)])]);
    // Claiming them for ever does not keep them for ever.
    tracker.permit(14_000, &member(1), mid_pull.clone()).unwrap();
    assert_eq!(given(&tracker.permit(15_000, &member(1), mid_pull).unwrap()), [1]);
    assert_eq!(given(&ask(&tracker, 15_000, 3, layer.want(&[]))), [2]);
}

#[test]
fn nobody_claims_more_permits_than_it_could_have() {
    let (tracker, layer) = (strict(), blob(1, 100));
    let mut liar = request(vec![layer.want(&[])]);
    liar.held = (0..100)
        .map(|piece| rpc::HeldPermit { digest: layer.digest.to_string(), piece, permit_id: 1 })
        .collect();
    tracker.permit(0, &member(1), liar).unwrap();
    assert_eq!(given(&ask(&tracker, 1_000, 2, layer.want(&[]))), [4, 5, 6, 7]);
}

#[test]
fn a_cell_that_a_bug_left_half_changed_begins_anew() {
    let (tracker, layer) = (strict(), blob(1, 4));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    let cell = tracker.cell(0, "default/a").unwrap();
    let poisoned = std::thread::scope(|scope| {
        let lock = || {
            let _guard = cell.lock().unwrap();
            panic!("a bug");
        };
        scope.spawn(lock).join().is_err()
    });
    assert!(poisoned && cell.is_poisoned());
    assert_eq!(given(&ask(&tracker, 1, 2, layer.want(&[]))), [0, 1, 2, 3]);
    assert_eq!(tracker.metrics.members.get(), 1);
}
