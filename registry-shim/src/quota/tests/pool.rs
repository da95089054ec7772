//! One pool, step by step.

use crate::quota::bid::Tally;
use crate::quota::pool::{Decision, Outcome, Pool, Terms, Written};
use crate::storage::Slot;

const LIMIT: u64 = 1000;

fn pool() -> Pool {
    let terms = Terms {
        limit: LIMIT,
        lease_bytes_max: 100,
        use_ms: 1000,
        grace_ms: 500,
        tick_ms: 100,
        count_age_ms_max: 100_000,
    };
    Pool::new(terms, "me".into())
}

fn tally(used: u64, largest: u64) -> Tally {
    Tally { used, largest, charges: 1 }
}

fn other(number: u64, bytes: u64, expires_at_ms: u64) -> Slot {
    Slot { number, instance: "other".into(), bytes, granted_total: bytes, expires_at_ms }
}

/// A round that counts, whose bid is won.
fn lease(pool: &mut Pool, slots: &[Slot], used: u64, now_ms: u64) -> Option<Slot> {
    pool.begin_count(now_ms);
    let bid = pool.bid_by_count(slots, tally(used, used), now_ms)?;
    pool.settle(Outcome::Won, now_ms);
    pool.end_round(now_ms, now_ms, 0);
    Some(bid.slot)
}

#[test]
fn leases_what_is_asked_and_some_to_spare() {
    let mut pool = pool();
    assert!(!pool.reserve(300, 0));
    let ticket = pool.enqueue(300);
    assert!(pool.wants_round(0));
    let slot = lease(&mut pool, &[], 500, 0).unwrap();
    // A quarter of the 200 that are left after it.
    assert_eq!((slot.number, slot.bytes, slot.granted_total), (1, 350, 350));
    assert_eq!(pool.decided(), [(ticket, 300, Decision::Granted)]);
    assert!(pool.reserve(50, 0));
    assert!(!pool.reserve(1, 0));
}

#[test]
fn only_a_count_that_began_after_the_question_refuses() {
    let mut pool = pool();
    pool.begin_count(0);
    let ticket = pool.enqueue(300);
    assert!(pool.bid_by_count(&[], tally(800, 400), 0).is_none());
    assert_eq!(pool.decided(), []);
    pool.begin_count(0);
    assert!(pool.bid_by_count(&[], tally(800, 400), 0).is_none());
    let denied = Decision::Denied { used: 800, largest: 400 };
    assert_eq!(pool.decided(), [(ticket, 300, denied)]);
}

#[test]
fn what_others_have_leased_is_waited_for_and_not_refused() {
    let mut pool = pool();
    let ticket = pool.enqueue(300);
    assert!(lease(&mut pool, &[other(1, 300, 400)], 500, 400).is_none());
    assert_eq!(pool.decided(), []);
    // A lease that ends while charges are listed has charges that are in no list.
    pool.begin_count(400);
    assert!(pool.bid_by_count(&[other(1, 300, 400)], tally(500, 1), 401).is_none());
    assert!(lease(&mut pool, &[other(1, 300, 400)], 500, 401).is_some());
    assert_eq!(pool.decided(), [(ticket, 300, Decision::Granted)]);
}

#[test]
fn one_that_does_not_fit_holds_up_nobody() {
    let mut pool = pool();
    let _large = pool.enqueue(400);
    let small = pool.enqueue(100);
    lease(&mut pool, &[other(1, 300, 400)], 400, 0).unwrap();
    assert_eq!(pool.decided(), [(small, 100, Decision::Granted)]);
}

#[test]
fn a_charge_that_was_found_costs_nothing() {
    let mut pool = pool();
    pool.enqueue(1000);
    lease(&mut pool, &[], 0, 0).unwrap();
    pool.decided();
    assert_eq!(pool.begin_spend(1000, 600, 0), Some(1000));
    pool.end_spend(600, Written::Found, 0);
    assert!(pool.reserve(1000, 0));
}

#[test]
fn nothing_is_charged_without_a_lease_that_is_used() {
    let mut pool = pool();
    pool.enqueue(100);
    lease(&mut pool, &[], 0, 0).unwrap();
    assert_eq!(pool.begin_spend(100, 100, 1000), None);
    assert_eq!(pool.begin_spend(100, 101, 0), None);
    assert_eq!(pool.begin_spend(100, 100, 999), Some(1000));
}

#[test]
fn what_may_still_arrive_is_held_until_it_cannot() {
    let mut pool = pool();
    pool.enqueue(600);
    lease(&mut pool, &[], 0, 0).unwrap();
    pool.decided();
    pool.begin_spend(600, 600, 0).unwrap();
    pool.end_spend(600, Written::Unknown, 0);
    // Not in the count, and may be in the store all the same.
    let ticket = pool.enqueue(600);
    assert!(lease(&mut pool, &[], 0, 499).is_none());
    assert_eq!(pool.decided(), []);
    // It has not arrived, and never will.
    assert!(lease(&mut pool, &[], 0, 500).is_some());
    assert_eq!(pool.decided(), [(ticket, 600, Decision::Granted)]);
}

#[test]
fn a_count_serves_until_what_was_granted_since_uses_it_up() {
    let mut pool = pool();
    pool.enqueue(100);
    let mut slots = vec![lease(&mut pool, &[], 0, 0).unwrap()];
    pool.enqueue(300);
    let bid = pool.bid_by_earlier_count(&slots, 50).unwrap();
    assert_eq!(bid.slot.number, 2);
    pool.settle(Outcome::Won, 50);
    slots.push(bid.slot);
    // Somebody else was granted 500 meanwhile.
    let granted_total = slots[1].granted_total + 500;
    slots.push(Slot { granted_total, ..other(3, 500, 9999) });
    pool.enqueue(300);
    assert!(pool.bid_by_earlier_count(&slots, 60).is_none());
}

#[test]
fn idle_headroom_goes_back_and_what_pushes_hold_stays() {
    let mut pool = pool();
    pool.enqueue(100);
    let slot = lease(&mut pool, &[], 0, 0).unwrap();
    assert_eq!(slot.bytes, 200);
    assert_eq!(pool.shrink(99), None);
    assert_eq!(pool.shrink(100).unwrap().bytes, 100);
    assert!(!pool.reserve(1, 100));
    pool.release(100, 150);
    assert_eq!(pool.shrink(200).unwrap(), Slot { bytes: 0, ..slot });
    assert!(pool.is_idle());
}

#[test]
fn what_is_spent_is_no_longer_held_against_others() {
    let mut pool = pool();
    pool.enqueue(100);
    lease(&mut pool, &[], 900, 0).unwrap();
    pool.begin_spend(100, 100, 0).unwrap();
    pool.end_spend(100, Written::Created, 0);
    assert_eq!(pool.shrink(100).unwrap().bytes, 0);
    assert!(pool.is_idle());
}

#[test]
fn the_highest_slot_is_never_over() {
    let mut pool = pool();
    let slots = [other(1, 0, 9999), other(2, 5, 10), other(3, 5, 9999), other(4, 0, 0)];
    assert_eq!(pool.over(&slots, 100), [1, 2]);
    pool.enqueue(100);
    lease(&mut pool, &slots, 0, 100).unwrap();
    assert_eq!(pool.over(&slots, 100), [1, 2, 4]);
}

#[test]
fn a_lease_that_pushes_need_is_renewed_in_time() {
    let mut pool = pool();
    pool.enqueue(100);
    let first = lease(&mut pool, &[], 0, 0).unwrap();
    assert!(!pool.wants_round(499));
    assert!(pool.wants_round(500));
    let second = lease(&mut pool, &[first], 0, 500).unwrap();
    assert_eq!(second.number, 2);
    assert_eq!(pool.begin_spend(100, 100, 1400), Some(1500));
}

#[test]
fn what_was_leased_and_counted_before_a_failover_says_nothing_after_it() {
    let mut pool = pool();
    pool.enqueue(300);
    let slot = lease(&mut pool, &[], 0, 0).unwrap();
    assert!(pool.reserve(50, 0));
    // A count is under way, and a bid by it: neither knows what was charged elsewhere.
    pool.begin_count(10);
    pool.distrust();
    assert!(!pool.reserve(1, 10));
    assert!(pool.begin_spend(350, 350, 10).is_none());
    assert!(pool.bid_by_count(std::slice::from_ref(&slot), tally(0, 0), 10).is_none());
    assert!(pool.bid_by_earlier_count(std::slice::from_ref(&slot), 10).is_none());
    // What pushes hold asks again, and is leased by a new count alone.
    assert!(pool.wants_round(10_000));
    let slot = lease(&mut pool, &[slot], 600, 10_000).unwrap();
    assert_eq!(slot.bytes, 362);
    assert!(pool.begin_spend(350, 350, 10_000).is_some());
}
