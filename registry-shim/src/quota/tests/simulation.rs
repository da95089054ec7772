//! Many instances over one store, each step of each of them in any order: writes that are lost,
//! late, or done without anybody being told; instances that die; leases that run out.
//!
//! At every step the charges in the store are at most the limit. In the end, when all is quiet,
//! everything that fits gets in.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::quota::bid::{Bid, Tally};
use crate::quota::pool::{Decision, Outcome, Pool, Terms, Ticket, Written};
use crate::storage::Slot;

const USE_MS: u64 = 1000;
const GRACE_MS: u64 = 500;
/// Artifacts that pushes choose among: several push the same.
const ARTIFACTS: u64 = 40;

#[derive(Default)]
struct Store {
    charges: BTreeMap<u64, u64>,
    slots: BTreeMap<u64, Slot>,
    /// Charges that were given up and arrive later, if at all.
    late: Vec<(u64, u64, u64)>,
}

impl Store {
    fn used(&self) -> u64 {
        self.charges.values().sum()
    }

    fn charge(&mut self, artifact: u64, size: u64) -> bool {
        self.charges.insert(artifact, size).is_none()
    }

    fn arrive(&mut self, now_ms: u64) {
        let arrived: Vec<_> = self.late.extract_if(.., |(at, ..)| *at <= now_ms).collect();
        for (_, artifact, size) in arrived {
            self.charges.entry(artifact).or_insert(size);
        }
    }
}

/// Where an instance's keeper stands.
enum Step {
    Rest,
    Looked(Vec<Slot>, u64),
    /// The charges that were listed so far, and the rest of the listing.
    Counting(Vec<Slot>, Tally, u64),
    Bidding(Vec<Slot>, Bid, u64),
}

struct Push {
    artifact: u64,
    size: u64,
    ticket: Option<Ticket>,
    held: u64,
    /// The charge is being written, until then.
    spending: Option<u64>,
}

struct Instance {
    pool: Pool,
    step: Step,
    pushes: Vec<Push>,
    began_ms: u64,
}

struct World {
    rng: StdRng,
    store: Store,
    instances: Vec<Instance>,
    born: u64,
    now_ms: u64,
    limit: u64,
    denied: BTreeSet<u64>,
    trace: Vec<String>,
}

fn size_of(artifact: u64) -> u64 {
    1 + artifact * 37 % 90
}

impl World {
    fn new(seed: u64, instances: usize, limit: u64) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            store: Store::default(),
            instances: Vec::new(),
            born: 0,
            now_ms: 0,
            limit,
            denied: BTreeSet::new(),
            trace: Vec::new(),
        };
        for _ in 0..instances {
            let born = world.instance();
            world.instances.push(born);
        }
        world
    }

    fn instance(&mut self) -> Instance {
        self.born += 1;
        let terms = Terms {
            limit: self.limit,
            lease_bytes_max: 100,
            use_ms: USE_MS,
            grace_ms: GRACE_MS,
            tick_ms: 100,
            count_age_ms_max: 5000,
        };
        let pool = Pool::new(terms, format!("i{}", self.born));
        Instance { pool, step: Step::Rest, pushes: Vec::new(), began_ms: 0 }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// One thing happens.
    fn happen(&mut self, chaos: bool) {
        if self.chance(30) {
            self.now_ms += self.rng.random_range(1..if chaos { 60 } else { 20 });
            self.store.arrive(self.now_ms);
        }
        let at = self.rng.random_range(0..self.instances.len());
        if chaos && self.chance(1) && self.chance(20) {
            self.trace.push(format!("{} {at} dies", self.now_ms));
            self.instances[at] = self.instance();
        }
        match self.rng.random_range(0..4) {
            0 if chaos => self.push(at),
            1 => self.spend(at, chaos),
            2 => self.shrink(at, chaos),
            _ => self.keep(at, chaos),
        }
        self.hear(at);
        let used = self.store.used();
        assert!(used <= self.limit, "{used} of {}: {:#?}", self.limit, self.trace);
    }

    fn push(&mut self, at: usize) {
        let artifact = self.rng.random_range(0..ARTIFACTS);
        self.push_of(at, artifact);
    }

    fn push_of(&mut self, at: usize, artifact: u64) {
        let (now_ms, size) = (self.now_ms, size_of(artifact));
        let instance = &mut self.instances[at];
        let mut push = Push { artifact, size, ticket: None, held: 0, spending: None };
        if instance.pool.reserve(size, now_ms) {
            push.held = size;
        } else {
            push.ticket = Some(instance.pool.enqueue(size));
        }
        instance.pushes.push(push);
    }

    /// A push goes on, gives up, or ends.
    fn spend(&mut self, at: usize, chaos: bool) {
        let count = self.instances[at].pushes.len();
        if count == 0 {
            return;
        }
        let which = self.rng.random_range(0..count);
        let (gives_up, lost) = (chaos && self.chance(10), chaos && self.chance(10));
        let now_ms = self.now_ms;
        let arrives_ms = now_ms + self.rng.random_range(0..GRACE_MS);
        let never = self.chance(30);
        let Instance { pool, pushes, .. } = &mut self.instances[at];
        let push = &mut pushes[which];
        if let Some(until_ms) = push.spending {
            let written = if now_ms >= until_ms || lost {
                // Given up at the lease's end at the latest; late by less than the grace.
                let at_ms = arrives_ms.min(until_ms.max(now_ms.min(until_ms)) + GRACE_MS - 1);
                if !never && at_ms >= now_ms {
                    self.store.late.push((at_ms, push.artifact, push.size));
                }
                Written::Unknown
            } else if self.store.charge(push.artifact, push.size) {
                Written::Created
            } else {
                Written::Found
            };
            self.trace.push(format!("{now_ms} {at} {} {written:?}", push.artifact));
            pool.end_spend(push.size, written, now_ms);
            pushes.swap_remove(which);
            return;
        }
        if push.ticket.is_some() {
            if gives_up && push.ticket.is_some_and(|ticket| pool.withdraw(ticket)) {
                pushes.swap_remove(which);
            }
            return;
        }
        if gives_up {
            pool.release(push.held, now_ms);
            pushes.swap_remove(which);
            return;
        }
        push.spending = pool.begin_spend(push.held, push.size, now_ms);
        if push.spending.is_none() {
            pool.release(push.held, now_ms);
            push.held = 0;
            push.ticket = Some(pool.enqueue(push.size));
        }
    }

    fn shrink(&mut self, at: usize, chaos: bool) {
        if !matches!(self.instances[at].step, Step::Rest) {
            return;
        }
        let lost = chaos && self.chance(10);
        if let Some(slot) = self.instances[at].pool.shrink(self.now_ms)
            && !lost
        {
            self.trace.push(format!("{} {at} shrinks to {slot:?}", self.now_ms));
            self.store.slots.insert(slot.number, slot);
        }
    }

    /// The keeper does one step of a round.
    fn keep(&mut self, at: usize, chaos: bool) {
        let now_ms = self.now_ms;
        let fails = chaos && self.chance(5);
        let untold = self.chance(50);
        let Instance { pool, step, began_ms, .. } = &mut self.instances[at];
        *step = match std::mem::replace(step, Step::Rest) {
            Step::Rest if pool.wants_round(now_ms) => {
                *began_ms = now_ms;
                let slots = self.store.slots.values().cloned().collect();
                Step::Looked(slots, now_ms)
            }
            Step::Rest => Step::Rest,
            Step::Looked(slots, looked_ms) => match pool.bid_by_earlier_count(&slots, now_ms) {
                Some(bid) => Step::Bidding(slots, bid, looked_ms),
                None => {
                    pool.begin_count(now_ms);
                    // What is charged from now on may be missing from the listing.
                    let mut tally = Tally::default();
                    self.store.charges.values().for_each(|size| tally.add(*size));
                    Step::Counting(slots, tally, looked_ms)
                }
            },
            Step::Counting(slots, tally, looked_ms) => {
                match pool.bid_by_count(&slots, tally, now_ms) {
                    Some(bid) => Step::Bidding(slots, bid, looked_ms),
                    None => {
                        pool.end_round(*began_ms, now_ms, at as u64);
                        Step::Rest
                    }
                }
            }
            Step::Bidding(slots, bid, looked_ms) => {
                let taken = self.store.slots.contains_key(&bid.slot.number);
                let outcome = match (fails, taken) {
                    (true, _) => Outcome::Unknown,
                    (false, true) => Outcome::Lost,
                    (false, false) => Outcome::Won,
                };
                if outcome == Outcome::Won || (fails && untold && !taken) {
                    self.store.slots.insert(bid.slot.number, bid.slot.clone());
                }
                self.trace.push(format!("{now_ms} {at} {outcome:?} {:?}", bid.slot));
                pool.settle(outcome, now_ms);
                if outcome == Outcome::Won {
                    for number in pool.over(&slots, looked_ms) {
                        self.store.slots.remove(&number);
                    }
                }
                pool.end_round(*began_ms, now_ms, at as u64);
                Step::Rest
            }
        };
    }

    fn hear(&mut self, at: usize) {
        let Instance { pool, pushes, .. } = &mut self.instances[at];
        for (ticket, bytes, decision) in pool.decided() {
            let which = pushes.iter().position(|push| push.ticket == Some(ticket)).unwrap();
            match decision {
                Decision::Granted => {
                    pushes[which].ticket = None;
                    pushes[which].held = bytes;
                }
                Decision::Denied { used, .. } => {
                    assert!(used + bytes > self.limit);
                    self.denied.insert(pushes[which].artifact);
                    pushes.swap_remove(which);
                }
                Decision::Unavailable => unreachable!("this store is never asked in vain"),
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.instances.iter().all(|instance| instance.pushes.is_empty())
    }

    /// Without chaos, until nobody pushes.
    fn settle(&mut self) {
        for _ in 0..2_000_000 {
            if self.is_quiet() {
                return;
            }
            self.happen(false);
        }
        panic!("somebody waits for ever: {:#?}", self.trace);
    }
}

fn run(seed: u64, instances: usize, limit: u64, steps: usize) -> World {
    let mut world = World::new(seed, instances, limit);
    for _ in 0..steps {
        world.happen(true);
    }
    world.settle();
    // Everything once more, in an order of its own: now only what does not fit is refused.
    for artifact in 0..ARTIFACTS {
        if world.store.charges.contains_key(&artifact) {
            continue;
        }
        world.denied.clear();
        let used = world.store.used();
        let at = artifact as usize % instances;
        world.push_of(at, artifact);
        world.settle();
        // Late charges may still have come.
        let fits = world.store.used().max(used) + size_of(artifact) <= limit;
        let is_in = world.store.charges.contains_key(&artifact);
        assert!(is_in || !fits || world.store.used() > used, "{artifact} fits and is not in");
        assert_eq!(is_in, !world.denied.contains(&artifact));
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn charges_never_pass_the_limit_and_what_fits_gets_in(
        seed in any::<u64>(),
        instances in 1..6_usize,
        limit in 50..2500_u64,
    ) {
        run(seed, instances, limit, 2000);
    }
}

#[test]
fn one_seed_gives_one_story() {
    let (one, two) = (run(7, 4, 700, 3000), run(7, 4, 700, 3000));
    assert_eq!(one.trace, two.trace);
    assert!(one.trace.len() > 500, "something happened");
}

#[test]
fn the_limit_is_reached_where_there_is_more_than_enough_to_push() {
    let total: u64 = (0..ARTIFACTS).map(size_of).sum();
    let world = run(11, 5, total, 2000);
    assert_eq!(world.store.used(), total);
}
