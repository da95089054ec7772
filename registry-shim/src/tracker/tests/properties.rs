//! Any sequence of calls: a piece is never out twice, and nothing that is sent breaks the tracker.

use std::collections::BTreeMap;

use longshore_proto::rpc::origin as rpc;
use proptest::prelude::*;

use super::consistent;
use super::support::{MIB, TestBlob, blob, member, peer, request, strict, strict_config, with};
use crate::tracker::{Tracker, TrackerConfig};

const NODES: u64 = 5;
const BLOBS: u32 = 3;
const PIECES: u32 = 70;
const SILENCE_MS: u64 = 15_000;
const DEADLINE_MS: u64 = 15_000;

#[derive(Clone, Debug)]
enum Step {
    /// Ask, with as many new pieces as permits came true.
    Ask {
        node: u64,
        arrived: usize,
        urgent: Vec<u32>,
        pieces_max: u32,
    },
    Announce {
        node: u64,
        complete: bool,
    },
    Leave {
        node: u64,
    },
    /// A node loses a blob and says so.
    Drop {
        node: u64,
        blob: u32,
    },
    /// A piece passes between nodes.
    Pass {
        to: u64,
        blob: u32,
        piece: u32,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (node, number) = (0..NODES, 0..BLOBS);
    prop_oneof![
        6 => (node.clone(), 0_usize..5, prop::collection::vec(0..PIECES, 0..3), 0_u32..9).prop_map(
            |(node, arrived, urgent, pieces_max)| Step::Ask { node, arrived, urgent, pieces_max }
        ),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, complete)| Step::Announce { node, complete }),
        1 => node.clone().prop_map(|node| Step::Leave { node }),
        1 => (node.clone(), number.clone()).prop_map(|(node, blob)| Step::Drop { node, blob }),
        3 => (node, number, 0..PIECES).prop_map(|(to, blob, piece)| Step::Pass { to, blob, piece }),
        3 => prop_oneof![0_u64..300, 0_u64..9_000].prop_map(|ms| Step::Wait { ms }),
    ]
}

/// What the nodes themselves know.
#[derive(Default)]
struct World {
    now_ms: u64,
    /// By node: what it has told the tracker that it holds, and what it really holds by now.
    told: BTreeMap<u64, BTreeMap<u32, Vec<u32>>>,
    real: BTreeMap<u64, BTreeMap<u32, Vec<u32>>>,
    spoke: BTreeMap<u64, u64>,
    sequence: BTreeMap<u64, u64>,
    /// Blob, piece and node: until when.
    permits: BTreeMap<(u32, u32, u64), u64>,
}

impl World {
    fn speak(&mut self, node: u64) {
        let silent: Vec<u64> = self
            .spoke
            .iter()
            .filter(|(_, spoke)| **spoke + SILENCE_MS < self.now_ms)
            .map(|(node, _)| *node)
            .collect();
        silent.into_iter().for_each(|node| self.forget(node));
        self.spoke.insert(node, self.now_ms);
        let now_ms = self.now_ms;
        self.permits.retain(|_, deadline_ms| *deadline_ms > now_ms);
    }

    fn forget(&mut self, node: u64) {
        self.spoke.remove(&node);
        self.told.remove(&node);
        self.sequence.remove(&node);
        self.permits.retain(|(_, _, holder), _| *holder != node);
    }

    fn tell_all(&mut self, node: u64) {
        let real = self.real.entry(node).or_default().clone();
        self.permits.retain(|(blob, piece, holder), _| {
            *holder != node || !real.get(blob).is_some_and(|held| held.contains(piece))
        });
        self.told.insert(node, real);
    }

    fn is_out(&self, blob: u32, piece: u32) -> bool {
        let held =
            |held: &BTreeMap<u32, Vec<u32>>| held.get(&blob).is_some_and(|p| p.contains(&piece));
        self.told.values().any(held)
            || self.permits.range((blob, piece, 0)..=(blob, piece, u64::MAX)).next().is_some()
    }
}

fn layer(number: u32) -> TestBlob {
    blob(number, PIECES)
}

fn play(tracker: &Tracker, world: &mut World, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Wait { ms } => world.now_ms += ms,
        Step::Pass { to, blob, piece } => {
            let held = world.real.entry(to).or_default().entry(blob).or_default();
            if !held.contains(&piece) {
                held.push(piece);
            }
        }
        Step::Drop { node, blob } => {
            world.speak(node);
            world.real.entry(node).or_default().remove(&blob);
            world.told.entry(node).or_default().remove(&blob);
            announce(tracker, world, node, false, vec![], vec![layer(blob).digest.to_string()]);
        }
        Step::Leave { node } => {
            world.forget(node);
            let leaving = rpc::AnnounceRequest { leaving: true, ..Default::default() };
            tracker.announce(world.now_ms, &member(node), leaving).unwrap();
        }
        Step::Announce { node, complete } => {
            world.speak(node);
            world.tell_all(node);
            let holdings = (0..BLOBS)
                .map(|b| layer(b).holding(world.real[&node].get(&b).map_or(&[], Vec::as_slice)))
                .collect();
            announce(tracker, world, node, complete, holdings, vec![]);
        }
        Step::Ask { node, arrived, urgent, pieces_max } => {
            world.speak(node);
            let reads: Vec<(u32, u32)> = world
                .permits
                .keys()
                .filter(|(_, _, holder)| *holder == node)
                .map(|(blob, piece, _)| (*blob, *piece))
                .take(arrived)
                .collect();
            for (blob, piece) in reads {
                world.real.entry(node).or_default().entry(blob).or_default().push(piece);
            }
            world.tell_all(node);
            let want = |b: u32| {
                layer(b).urgent(world.real[&node].get(&b).map_or(&[], Vec::as_slice), &urgent)
            };
            let mut asked = request((0..BLOBS).map(want).collect());
            asked.pieces_max = pieces_max;
            let answer = tracker.permit(world.now_ms, &member(node), asked).unwrap();
            prop_assert!(answer.refusals.len() <= 16);
            take(world, node, pieces_max, &answer)?;
        }
    }
    Ok(())
}

fn announce(
    tracker: &Tracker,
    world: &mut World,
    node: u64,
    complete: bool,
    holdings: Vec<rpc::Holding>,
    dropped_digests: Vec<String>,
) {
    let sequence = world.sequence.entry(node).or_default();
    *sequence += 1;
    let request = rpc::AnnounceRequest {
        sequence: *sequence,
        complete,
        holdings,
        dropped_digests,
        ..Default::default()
    };
    tracker.announce(world.now_ms, &member(node), request).unwrap();
}

fn take(
    world: &mut World,
    node: u64,
    pieces_max: u32,
    answer: &crate::tracker::PermitAnswer,
) -> Result<(), TestCaseError> {
    let mut total = 0;
    for grant in &answer.grants {
        let number = (0..BLOBS).find(|b| layer(*b).digest == grant.digest).unwrap();
        total += grant.pieces;
        prop_assert_eq!(grant.range.offset(), u64::from(grant.first.0) * MIB);
        prop_assert_eq!(grant.range.length(), u64::from(grant.pieces) * MIB);
        for piece in grant.first.0..grant.first.0 + grant.pieces {
            if world.permits.contains_key(&(number, piece, node)) {
                continue; // told again
            }
            prop_assert!(!world.is_out(number, piece), "{} of {} is out twice", piece, number);
            world.permits.insert((number, piece, node), world.now_ms + DEADLINE_MS);
        }
    }
    prop_assert!(total <= pieces_max, "{} over {}", total, pieces_max);
    Ok(())
}

/// Anything at all, valid or not, from anyone.
fn garbage() -> impl Strategy<Value = (u64, rpc::PermitRequest, rpc::AnnounceRequest)> {
    let digest = prop_oneof![
        8 => (0..4_u32).prop_map(|n| layer(n).digest.to_string()),
        1 => "[a-z0-9:]{0,80}",
    ];
    let piece = prop_oneof![6 => 0..80_u32, 1 => any::<u32>()];
    let piece_length = prop_oneof![8 => Just(MIB), 2 => Just(64_u64), 1 => any::<u64>()];
    let size = prop_oneof![8 => Just(70 * MIB), 2 => 0..200_u64, 1 => any::<u64>()];
    let bitmap = prop::collection::vec(any::<u8>(), 0..9).prop_map(bytes::Bytes::from);
    let named = (digest.clone(), size, piece_length, bitmap);
    let want = (named.clone(), prop::collection::vec(0..70_u32, 0..4)).prop_map(
        |((digest, size, piece_length, have_bitmap), urgent)| rpc::PermitWant {
            repository: "apps/web".into(),
            digest,
            size,
            piece_length,
            have_bitmap,
            urgent,
        },
    );
    let holding =
        (named, any::<bool>()).prop_map(|((digest, size, piece_length, bitmap), whole)| {
            rpc::Holding { repository: String::new(), digest, size, piece_length, bitmap, whole }
        });
    let held = (digest.clone(), piece.clone(), any::<u64>())
        .prop_map(|(digest, piece, permit_id)| rpc::HeldPermit { digest, piece, permit_id });
    let unreachable = (0..NODES, digest.clone(), piece)
        .prop_map(|(node, digest, piece)| rpc::Unreachable { peer_id: peer(node), digest, piece });
    let many = |max| 0..max;
    let common =
        (prop::collection::vec(held, many(5)), prop::collection::vec(unreachable, many(8)));
    let told = (
        prop::collection::vec(holding, many(4)),
        prop::collection::vec(digest, many(4)),
        any::<[bool; 2]>(),
        0..6_u64,
    );
    (0..NODES, prop::collection::vec(want, many(5)), common, told, any::<u32>()).prop_map(
        |(
            node,
            wants,
            (held, unreachable),
            (holdings, digests, [complete, drops], sequence),
            n,
        )| {
            let ask = rpc::PermitRequest {
                wants,
                held: held.clone(),
                unreachable: unreachable.clone(),
                pieces_max: n,
            };
            let tell = rpc::AnnounceRequest {
                sequence,
                complete,
                holdings,
                dropped_digests: if drops { digests.clone() } else { vec![] },
                wanted_digests: digests,
                permits: held,
                unreachable,
                leaving: n % 16 == 0,
                ..Default::default()
            };
            (node, ask, tell)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_piece_is_out_twice_without_a_budget(steps in prop::collection::vec(step(), 1..80)) {
        // What follows a restart is not modelled here: no listening at the beginning.
        let tracker = with(TrackerConfig { recovery_ms: 0, ..strict_config() });
        let mut world = World::default();
        for step in steps {
            play(&tracker, &mut world, step)?;
            consistent::check(&tracker);
        }
    }

    #[test]
    fn nothing_that_is_sent_breaks_it(
        calls in prop::collection::vec((garbage(), 0_u64..6_000), 1..40),
        is_strict in any::<bool>(),
    ) {
        let tracker = if is_strict { strict() } else { with(TrackerConfig::default()) };
        let mut now_ms = 1_000_000;
        for ((node, ask, tell), passed_ms) in calls {
            now_ms += passed_ms;
            let _ = tracker.permit(now_ms, &member(node), ask);
            // Clocks of different calls may cross.
            let _ = tracker.announce(now_ms - 500, &member(node), tell);
            consistent::check(&tracker);
        }
        tracker.sweep(now_ms + SILENCE_MS + 1);
        prop_assert_eq!(tracker.metrics.members.get(), 0);
        prop_assert_eq!(tracker.read_cells().len(), 0);
    }
}
