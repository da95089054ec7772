//! The budget of extra copies.

use super::support::{NOTHING, ask, blob, given, with};
use crate::tracker::{Tracker, TrackerConfig};

fn tracker() -> Tracker {
    with(TrackerConfig { outstanding_cell_bytes: 0, ..TrackerConfig::default() })
}

#[test]
fn in_a_small_pool_a_waiting_client_gets_a_second_copy_and_never_a_third() {
    let (tracker, layer) = (tracker(), blob(1, 1));
    let urgent = |now_ms, node| given(&ask(&tracker, now_ms, node, layer.urgent(&[], &[0])));
    assert_eq!(urgent(0, 1), [0]);
    assert_eq!(urgent(0, 2), NOTHING);
    assert_eq!(urgent(0, 3), NOTHING);
    assert_eq!(urgent(499, 2), NOTHING);
    assert_eq!(urgent(500, 2), [0]);
    assert_eq!(urgent(5_000, 3), NOTHING);
    assert_eq!(tracker.metrics.permits_extra.get(), 1);
}

#[test]
fn in_a_small_pool_a_node_that_gets_nothing_makes_a_second_copy() {
    let (tracker, layer) = (tracker(), blob(1, 4));
    assert_eq!(given(&ask(&tracker, 0, 1, layer.want(&[]))), [0, 1, 2, 3]);
    let hungry = |now_ms, have: &[u32]| given(&ask(&tracker, now_ms, 2, layer.want(have)));
    assert_eq!(hungry(0, &[]), NOTHING);
    assert_eq!(hungry(400, &[1]), NOTHING, "something came from a peer");
    assert_eq!(hungry(500, &[1]), NOTHING);
    assert_eq!(hungry(900, &[1]), [0], "piece 1 has two copies by now");
    assert_eq!(hungry(1_000, &[1]), NOTHING, "one at a time");
}

#[test]
fn in_a_large_pool_only_a_client_that_waits_long_gets_one_and_few_in_all() {
    let (tracker, layer) = (tracker(), blob(1, 400));
    for node in 0..5 {
        ask(&tracker, 0, node, layer.want(&[]));
    }
    let all: Vec<u32> = (0..20).collect();
    let urgent = |now_ms| ask(&tracker, now_ms, 9, layer.urgent(&[], &all[..8]));
    tracker.permit(0, &super::support::member(9), Default::default()).unwrap();
    let fetching = |answer| given(&answer).into_iter().filter(|piece| *piece < 20).count();
    assert_eq!(fetching(urgent(0)), 0);
    assert_eq!(fetching(urgent(1_999)), 0);
    assert_eq!(given(&urgent(2_000)), NOTHING, "its own four permits are out");
    let have: Vec<u32> = (20..24).collect();
    let answer = ask(&tracker, 2_100, 9, layer.urgent(&have, &all[..8]));
    assert_eq!(given(&answer)[..3], [0, 1, 2], "two at the start, one for 24 permits");
    assert_eq!(tracker.metrics.permits_extra.get(), 3);
}

#[test]
fn the_tail_of_a_large_pool_is_no_small_pool() {
    let (tracker, big, small) = (tracker(), blob(1, 100), blob(2, 4));
    let both =
        |have: &[u32]| super::support::request(vec![big.want(have), small.urgent(&[], &[0])]);
    let node = super::support::member(2);
    ask(&tracker, 0, 1, small.want(&[]));
    tracker.permit(0, &node, both(&[])).unwrap();
    let have: Vec<u32> = (0..100).collect();
    let answer = tracker.permit(600, &node, both(&have)).unwrap();
    assert_eq!(given(&answer), NOTHING);
    let answer = ask(&tracker, 1_200, 2, small.urgent(&[], &[0]));
    assert_eq!(given(&answer), NOTHING);
}
