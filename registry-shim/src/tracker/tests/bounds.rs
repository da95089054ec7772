//! What is refused, and what is forgotten so that memory stays bounded.

use longshore_proto::rpc::origin as rpc;

use super::support::{MIB, NOTHING, ask, blob, given, member, refused, request, strict, tell};
use crate::tracker::limits::{
    BLOBS_PER_MEMBER_MAX, CELLS_MAX, PIECES_PER_CELL_MAX, PIECES_PER_MEMBER_MAX, URGENT_MAX,
    WANTS_MAX,
};
use crate::tracker::{Tracker, TrackerError};

fn refused_field(tracker: &Tracker, want: rpc::PermitWant) -> &'static str {
    match tracker.permit(0, &member(1), request(vec![want])) {
        Err(TrackerError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wants_that_make_no_sense_are_refused_by_field() {
    let (tracker, layer) = (strict(), blob(1, 9));
    let want = || layer.want(&[]);
    for (field, want) in [
        ("repository", rpc::PermitWant { repository: "../etc".into(), ..want() }),
        ("digest", rpc::PermitWant { digest: "latest".into(), ..want() }),
        ("piece_length", rpc::PermitWant { piece_length: 0, ..want() }),
        ("piece_length", rpc::PermitWant { piece_length: 65, ..want() }),
        ("piece_length", rpc::PermitWant { piece_length: 64 * MIB, ..want() }),
        ("size", rpc::PermitWant { size: u64::MAX, ..want() }),
        ("bitmap", rpc::PermitWant { have_bitmap: vec![0; 3].into(), ..want() }),
        ("bitmap", rpc::PermitWant { have_bitmap: vec![0, 2].into(), ..want() }),
        ("urgent", rpc::PermitWant { urgent: vec![9], ..want() }),
        ("urgent", rpc::PermitWant { urgent: vec![1; URGENT_MAX + 1], ..want() }),
    ] {
        assert_eq!(refused_field(&tracker, want), field);
    }
    let many = request(vec![want(); WANTS_MAX + 1]);
    assert!(matches!(
        tracker.permit(0, &member(1), many),
        Err(TrackerError::Invalid { field: "wants", .. })
    ));
    assert_eq!(tracker.metrics.members.get(), 0, "nothing of them is kept");
}

#[test]
fn the_error_says_what_is_wrong() {
    let wrong = rpc::PermitWant { piece_length: 65, ..blob(1, 1).want(&[]) };
    let error = strict().permit(0, &member(1), request(vec![wrong])).unwrap_err().to_string();
    assert!(error.starts_with("piece_length: 65 is no piece length of sha256:"), "{error}");
}

#[test]
fn an_empty_blob_and_an_empty_request_are_fine() {
    let tracker = strict();
    let answer = ask(&tracker, 0, 1, blob(1, 0).want(&[]));
    assert_eq!((answer.grants.len(), answer.refusals.len()), (0, 0));
    let answer = tracker.permit(0, &member(1), rpc::PermitRequest::default()).unwrap();
    assert_eq!((answer.grants.len(), answer.retry_after_ms >= 1_000), (0, true));
    tell(&tracker, 0, 1, vec![blob(1, 0).whole()]);
}

#[test]
fn an_answer_has_sixteen_refusals_with_eight_holders_each() {
    let (tracker, layer) = (strict(), blob(1, 100));
    let all: Vec<u32> = (0..100).collect();
    for node in 0..50 {
        let holding = if node % 2 == 0 { layer.whole() } else { layer.holding(&all[..99]) };
        tell(&tracker, 0, node, vec![holding]);
    }
    let answer = ask(&tracker, 0, 99, layer.urgent(&[0], &[70]));
    let refused = refused(&answer);
    let pieces: Vec<u32> = refused.iter().map(|(piece, _)| *piece).collect();
    assert_eq!(pieces, [&[70], &(1..16).collect::<Vec<_>>()[..]].concat());
    assert!(refused.iter().all(|(_, holders)| holders.len() == 8));
}

#[test]
fn a_rare_piece_is_refused_with_its_holder_among_thousands() {
    let (tracker, layer) = (strict(), blob(1, 100));
    for node in 0..2_000 {
        let held = if node == 1_234 { [42] } else { [7] };
        tell(&tracker, 0, node, vec![layer.holding(&held)]);
    }
    let refused = refused(&ask(&tracker, 0, 9_999, layer.urgent(&[], &[42])));
    assert_eq!(refused[0], (42, vec!["peer-1234".into()]));
}

#[test]
fn a_member_that_holds_too_much_is_forgotten_to_hold_its_oldest() {
    let tracker = strict();
    let pieces = 65_536;
    let fits = (PIECES_PER_MEMBER_MAX / u64::from(pieces)) as u32;
    let holdings = (0..=fits).map(|number| blob(number, pieces).whole()).collect();
    tell(&tracker, 0, 1, holdings);
    assert_eq!(given(&ask(&tracker, 0, 2, blob(0, pieces).want(&[]))), [0, 1, 2, 3]);
    assert_eq!(given(&ask(&tracker, 0, 2, blob(1, pieces).want(&[]))), NOTHING);
    let many = (0..=BLOBS_PER_MEMBER_MAX as u32).map(|number| blob(number, 1).whole());
    let (first, rest): (Vec<_>, Vec<_>) = many.enumerate().partition(|(at, _)| *at == 0);
    tell(&tracker, 0, 3, first.into_iter().map(|(_, holding)| holding).collect());
    let rest = rest.into_iter().map(|(_, holding)| holding).collect();
    let more = rpc::AnnounceRequest { sequence: 2, holdings: rest, ..Default::default() };
    tracker.announce(0, &member(3), more).unwrap();
    assert_eq!(given(&ask(&tracker, 0, 4, blob(0, 1).want(&[]))), [0]);
    assert_eq!(given(&ask(&tracker, 0, 4, blob(1, 1).want(&[]))), NOTHING);
}

#[test]
fn blobs_not_used_for_longest_are_forgotten_first() {
    let tracker = strict();
    let pieces = 131_072;
    let fits = (PIECES_PER_CELL_MAX / u64::from(pieces)) as u32;
    for number in 0..fits {
        tell(
            &tracker,
            u64::from(number),
            u64::from(number) + 1,
            vec![blob(number, pieces).whole()],
        );
    }
    ask(&tracker, 100, 900, blob(0, pieces).want(&[]));
    tell(&tracker, 101, 901, vec![blob(fits, pieces).whole()]);
    super::consistent::check(&tracker);
    assert_eq!(given(&ask(&tracker, 102, 902, blob(0, pieces).want(&[]))), NOTHING);
    assert_eq!(given(&ask(&tracker, 102, 902, blob(fits, pieces).want(&[]))), NOTHING);
    assert_eq!(given(&ask(&tracker, 102, 902, blob(1, pieces).want(&[]))), [0, 1, 2, 3]);
}

#[test]
fn a_tracker_full_of_cells_says_so() {
    let tracker = strict();
    let in_cell = |number: usize| {
        let mut member = member(1);
        member.cell = format!("pool-{number}/a");
        tracker.permit(0, &member, rpc::PermitRequest::default())
    };
    (0..CELLS_MAX).for_each(|number| {
        in_cell(number).unwrap();
    });
    assert_eq!(in_cell(CELLS_MAX), Err(TrackerError::Full("cell")));
    assert!(in_cell(0).is_ok());
    let mut odd = member(1);
    odd.cell = "x".repeat(10_000);
    assert!(tracker.permit(0, &odd, rpc::PermitRequest::default()).is_err());
    let mut odd = member(1);
    (odd.cell, odd.peer_id) = ("pool-0/a".into(), "x".repeat(10_000));
    assert!(tracker.permit(0, &odd, rpc::PermitRequest::default()).is_err());
}
