//! What announces do, and whom their answers name.

use std::collections::BTreeSet;

use longshore_proto::rpc::origin as rpc;

use super::support::{NOTHING, ask, blob, given, member, peer, refused, strict, tell};
use crate::tracker::Tracker;

fn announce(tracker: &Tracker, now_ms: u64, node: u64, request: rpc::AnnounceRequest) -> bool {
    tracker.announce(now_ms, &member(node), request).unwrap().resync
}

fn delta(sequence: u64, holdings: Vec<rpc::Holding>) -> rpc::AnnounceRequest {
    rpc::AnnounceRequest { sequence, holdings, ..Default::default() }
}

#[test]
fn a_gap_or_an_unknown_member_is_told_to_resync() {
    let tracker = strict();
    assert!(announce(&tracker, 0, 1, delta(7, vec![])), "unknown");
    assert!(!announce(&tracker, 1, 1, rpc::AnnounceRequest { complete: true, ..delta(8, vec![]) }));
    assert!(!announce(&tracker, 2, 1, delta(9, vec![])), "follows");
    assert!(!announce(&tracker, 3, 1, delta(9, vec![])), "the same again");
    assert!(announce(&tracker, 4, 1, delta(11, vec![])), "a gap");
    assert!(announce(&tracker, 5, 1, delta(12, vec![])), "not healed by going on");
    assert!(announce(&tracker, 6, 1, delta(3, vec![])), "an old one");
    assert_eq!(tracker.metrics.announces.get(), 7);
}

#[test]
fn a_change_adds_and_a_complete_announce_replaces() {
    let (tracker, layer, other) = (strict(), blob(1, 4), blob(2, 4));
    tell(&tracker, 0, 1, vec![layer.holding(&[0]), other.whole()]);
    announce(&tracker, 0, 1, delta(2, vec![layer.holding(&[1])]));
    assert_eq!(given(&ask(&tracker, 0, 2, layer.want(&[]))), [2, 3]);
    tell(&tracker, 0, 1, vec![layer.holding(&[1])]);
    assert_eq!(given(&ask(&tracker, 0, 3, layer.want(&[]))), [0]);
    assert_eq!(given(&ask(&tracker, 0, 4, other.want(&[]))), [0, 1, 2, 3]);
}

#[test]
fn dropped_blobs_are_held_no_more() {
    let (tracker, layer) = (strict(), blob(1, 2));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    let dropped_digests = vec![layer.digest.to_string()];
    announce(&tracker, 0, 1, rpc::AnnounceRequest { dropped_digests, ..delta(2, vec![]) });
    assert_eq!(given(&ask(&tracker, 0, 2, layer.want(&[]))), [0, 1]);
}

#[test]
fn a_member_that_leaves_holds_and_reads_nothing() {
    let (tracker, layer) = (strict(), blob(1, 4));
    tell(&tracker, 0, 1, vec![layer.holding(&[0, 1])]);
    ask(&tracker, 0, 1, layer.want(&[0, 1]));
    assert_eq!(given(&ask(&tracker, 0, 2, layer.want(&[]))), NOTHING);
    announce(&tracker, 0, 1, rpc::AnnounceRequest { leaving: true, ..delta(2, vec![]) });
    assert_eq!(given(&ask(&tracker, 0, 2, layer.want(&[]))), [0, 1, 2, 3]);
    assert_eq!(tracker.metrics.members.get(), 1);
}

#[test]
fn three_periods_of_silence_are_death_and_any_call_is_speech() {
    let (tracker, layer) = (strict(), blob(1, 4));
    tell(&tracker, 0, 1, vec![layer.holding(&[0])]);
    tell(&tracker, 0, 2, vec![layer.holding(&[1])]);
    ask(&tracker, 10_000, 2, blob(2, 1).want(&[]));
    assert_eq!(given(&ask(&tracker, 15_000, 3, layer.want(&[]))), [2, 3]);
    assert_eq!(given(&ask(&tracker, 15_001, 3, layer.want(&[]))), [0]);
    assert_eq!(given(&ask(&tracker, 25_001, 3, layer.want(&[0, 2, 3]))), [1]);
}

#[test]
fn the_sweep_forgets_members_and_cells_in_which_nobody_speaks() {
    let (tracker, layer) = (strict(), blob(1, 4));
    tracker.join(0, member(1));
    ask(&tracker, 0, 2, layer.want(&[]));
    assert_eq!((tracker.metrics.members.get(), tracker.read_cells().len()), (2, 1));
    tracker.sweep(15_000);
    assert_eq!((tracker.metrics.members.get(), tracker.read_cells().len()), (2, 1));
    tracker.sweep(15_001);
    assert_eq!((tracker.metrics.members.get(), tracker.read_cells().len()), (0, 0));
}

#[test]
fn names_those_who_hold_or_want_the_same_but_never_the_asker_itself() {
    let (tracker, layer, other) = (strict(), blob(1, 4), blob(2, 4));
    tell(&tracker, 0, 1, vec![layer.whole()]);
    tell(&tracker, 0, 2, vec![other.whole()]);
    ask(&tracker, 0, 3, layer.want(&[]));
    let wanted_digests = vec![layer.digest.to_string()];
    let wants = rpc::AnnounceRequest { complete: true, wanted_digests, ..delta(1, vec![]) };
    let answer = tracker.announce(0, &member(4), wants).unwrap();
    let peers: BTreeSet<_> = answer.peers.iter().map(|peer| peer.peer_id.clone()).collect();
    assert_eq!(peers, BTreeSet::from([peer(1), peer(3)]));
    let named = tracker.peers_for(0, &member(3), &[layer.digest], 40);
    let named: BTreeSet<_> = named.iter().map(|peer| peer.peer_id.clone()).collect();
    assert_eq!(named, BTreeSet::from([peer(1), peer(4)]), "4 said that it wants it");
}

#[test]
fn a_node_that_begins_to_pull_is_named_to_others_until_it_says_otherwise() {
    let (tracker, layer) = (strict(), blob(1, 4));
    let named = |node| -> Vec<String> {
        let peers = tracker.peers_for(0, &member(node), &[layer.digest], 40);
        peers.into_iter().map(|peer| peer.peer_id).collect()
    };
    tracker.begin(0, &member(1), &[layer.digest]).unwrap();
    assert_eq!((named(1), named(2)), (vec![], vec![peer(1)]));
    tell(&tracker, 0, 1, vec![]);
    assert_eq!(named(2), Vec::<String>::new());
}

#[test]
fn tells_each_of_many_nodes_of_forty_others_same_zone_first() {
    let (tracker, layer) = (strict(), blob(1, 100));
    for node in 0..1000 {
        let mut far = member(node);
        far.zone = if node % 4 == 0 { "a" } else { "b" }.into();
        tracker.join(0, far.clone());
        let holdings = vec![if node % 2 == 0 { layer.whole() } else { layer.holding(&[5]) }];
        let all = rpc::AnnounceRequest { complete: true, ..delta(1, holdings) };
        tracker.announce(0, &far, all).unwrap();
    }
    let mut named = BTreeSet::new();
    for asker in 2000..2050 {
        let peers = tracker.peers_for(0, &member(asker), &[layer.digest], 1000);
        assert_eq!(peers.len(), 40);
        let near = peers.iter().take_while(|peer| peer.zone == "a").count();
        assert!(near >= 10, "{near}");
        assert!(peers[near..].iter().all(|peer| peer.zone == "b"));
        named.extend(peers.into_iter().map(|peer| peer.peer_id));
    }
    assert!(named.len() > 300, "50 askers hear of {} of 1000", named.len());
}

#[test]
fn a_silent_holder_is_named_after_fresh_ones() {
    let (tracker, layer) = (strict(), blob(1, 4));
    for node in 0..10 {
        tell(&tracker, 0, node, vec![layer.whole()]);
    }
    for node in 10..20 {
        tell(&tracker, 9_000, node, vec![layer.whole()]);
    }
    let peers = tracker.peers_for(9_000, &member(99), &[layer.digest], 10);
    let fresh: BTreeSet<_> = (10..20).map(peer).collect();
    assert_eq!(peers.into_iter().map(|peer| peer.peer_id).collect::<BTreeSet<_>>(), fresh);
}

#[test]
fn gives_a_sample_of_members_that_changes_and_is_never_all_of_them() {
    let tracker = strict();
    (0..200).for_each(|node| tracker.join(0, member(node)));
    let sample = |sequence| -> BTreeSet<String> {
        let request = rpc::AnnounceRequest { complete: true, ..delta(sequence, vec![]) };
        let answer = tracker.announce(0, &member(7), request).unwrap();
        answer.members.into_iter().map(|peer| peer.peer_id).collect()
    };
    let (first, second) = (sample(1), sample(2));
    assert_eq!((first.len(), second.len()), (16, 16));
    assert_ne!(first, second);
    assert!(!first.contains(&peer(7)));
}

#[test]
fn announces_are_spread_around_the_period() {
    let tracker = strict();
    let next: BTreeSet<u32> =
        (0..100).map(|node| tell(&tracker, 0, node, vec![]).next_announce_ms).collect();
    assert!(next.len() > 50 && next.iter().all(|ms| (4_500..=5_500).contains(ms)), "{next:?}");
    let lost = tracker.announce(0, &member(500), delta(9, vec![])).unwrap();
    assert!(lost.resync && lost.next_announce_ms <= 1_000);
}

#[test]
fn addresses_that_nobody_could_dial_are_not_passed_on() {
    let (tracker, layer) = (strict(), blob(1, 1));
    let announced = |addresses: &[&str]| {
        let addresses = addresses.iter().map(ToString::to_string).collect();
        let holdings = vec![layer.whole()];
        let all = rpc::AnnounceRequest { complete: true, addresses, ..delta(1, holdings) };
        tracker.announce(0, &member(1), all).unwrap();
        refused_addresses(&tracker, layer.want(&[]))
    };
    assert_eq!(announced(&["/ip4/0.0.0.0/tcp/1", "nonsense"]), ["/ip4/10.0.0.1/tcp/7770"]);
    assert_eq!(announced(&["/ip4/0.0.0.0/tcp/1", "/ip4/9.9.9.9/tcp/1"]), ["/ip4/9.9.9.9/tcp/1"]);
    let answer = ask(&tracker, 0, 2, layer.want(&[]));
    assert_eq!(refused(&answer), [(0, vec![peer(1)])]);
}

fn refused_addresses(tracker: &Tracker, want: rpc::PermitWant) -> Vec<String> {
    ask(tracker, 0, 2, want).refusals.remove(0).holders.remove(0).addresses
}
