//! Holders that others do not reach.

use super::support::{NOTHING, TestBlob, ask, blob, given, member, refused, request, strict, tell};
use crate::tracker::{PermitAnswer, Tracker};

fn report(
    tracker: &Tracker,
    now_ms: u64,
    reporter: u64,
    layer: TestBlob,
    holder: u64,
    piece: u32,
) -> PermitAnswer {
    let mut request = request(vec![layer.want(&[])]);
    request.unreachable = vec![layer.unreachable(holder, piece)];
    tracker.permit(now_ms, &member(reporter), request).unwrap()
}

#[test]
fn two_distinct_reports_open_the_piece_at_once() {
    let (tracker, layer) = (strict(), blob(1, 2));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    tracker.join(0, member(4));
    assert_eq!(given(&report(&tracker, 0, 2, layer, 1, 0)), NOTHING);
    assert_eq!(given(&report(&tracker, 0, 2, layer, 1, 0)), NOTHING, "the same node twice");
    let answer = report(&tracker, 0, 3, layer, 1, 0);
    assert_eq!(given(&answer), [0], "and piece 1 is held as before");
    assert_eq!(tracker.metrics.pieces_reopened.get(), 1);
}

#[test]
fn two_distinct_reports_take_a_permit_back() {
    let (tracker, layer) = (strict(), blob(1, 1));
    ask(&tracker, 0, 1, layer.want(&[]));
    tracker.join(0, member(4));
    assert_eq!(given(&report(&tracker, 0, 2, layer, 1, 0)), NOTHING);
    assert_eq!(given(&report(&tracker, 0, 3, layer, 1, 0)), [0]);
}

#[test]
fn a_reported_holder_does_not_count_for_the_piece_though_it_says_so_again() {
    let (tracker, layer) = (strict(), blob(1, 1));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    tracker.join(0, member(4));
    report(&tracker, 0, 2, layer, 1, 0);
    report(&tracker, 0, 3, layer, 1, 0);
    ask(&tracker, 1, 1, layer.want(&[0]));
    assert_eq!(refused(&ask(&tracker, 1, 2, layer.want(&[])))[0].1, ["peer-3"]);
    let later = 15_001;
    tell(&tracker, later, 1, vec![layer.whole()]);
    assert_eq!(refused(&ask(&tracker, later, 2, layer.want(&[])))[0].1, ["peer-1"]);
}

#[test]
fn between_two_members_one_report_is_enough() {
    let (tracker, layer) = (strict(), blob(1, 1));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    assert_eq!(given(&report(&tracker, 0, 2, layer, 1, 0)), [0]);
}

#[test]
fn reports_that_make_no_sense_change_nothing() {
    let (tracker, layer) = (strict(), blob(1, 2));
    tell(&tracker, 0, 1, vec![layer.holding(&[0])]);
    tell(&tracker, 0, 2, vec![layer.holding(&[0])]);
    tracker.join(0, member(3));
    for reporter in [1, 3] {
        report(&tracker, 0, reporter, layer, 77, 0);
        report(&tracker, 0, reporter, layer, 1, 99);
    }
    // Node 2 holds piece 0 itself, so it can not have missed it.
    let mut own = request(vec![layer.want(&[0])]);
    own.unreachable = vec![layer.unreachable(1, 0)];
    tracker.permit(0, &member(2), own).unwrap();
    assert_eq!(given(&report(&tracker, 0, 4, layer, 1, 0)), NOTHING);
    assert_eq!(tracker.metrics.pieces_reopened.get(), 0);
}

#[test]
fn two_liars_can_not_open_everything_at_once() {
    let (tracker, layer) = (strict(), blob(1, 4000));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    for round in 0..60 {
        for liar in [2, 3] {
            let mut lies = request(vec![]);
            lies.unreachable = (0..64).map(|at| layer.unreachable(1, round * 64 + at)).collect();
            tracker.permit(1, &member(liar), lies).unwrap();
        }
    }
    assert_eq!(tracker.metrics.pieces_reopened.get(), 256);
}
