//! Short ways to say what nodes send. Nodes are numbered; so are blobs.

use longshore_proto::piece::{PieceIndex, PieceSet};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Algorithm, Digest};

use crate::tracker::{Member, PermitAnswer, Tracker, TrackerConfig, TrackerMetrics};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const NOTHING: [u32; 0] = [];

/// A tracker without a budget of extra copies: each piece exactly once.
pub(super) fn strict_config() -> TrackerConfig {
    TrackerConfig { extra_percent: 0, small_pool_pieces: 0, ..TrackerConfig::default() }
}

pub(super) fn strict() -> Tracker {
    with(strict_config())
}

pub(super) fn with(config: TrackerConfig) -> Tracker {
    Tracker::new(config, TrackerMetrics::default())
}

pub(super) fn member(node: u64) -> Member {
    Member {
        peer_id: peer(node),
        pool: "default".into(),
        zone: "a".into(),
        cell: "default/a".into(),
        addresses: vec![format!("/ip4/10.0.{}.{}/tcp/7770", node / 256, node % 256)],
    }
}

pub(super) fn peer(node: u64) -> String {
    format!("peer-{node}")
}

/// A blob in pieces of 1 MiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct TestBlob {
    pub(super) digest: Digest,
    pub(super) pieces: u32,
}

pub(super) fn blob(number: u32, pieces: u32) -> TestBlob {
    TestBlob { digest: Digest::of(Algorithm::Sha256, &number.to_le_bytes()), pieces }
}

impl TestBlob {
    pub(super) fn size(self) -> u64 {
        u64::from(self.pieces) * MIB
    }

    pub(super) fn want(self, have: &[u32]) -> rpc::PermitWant {
        rpc::PermitWant {
            repository: "apps/web".into(),
            digest: self.digest.to_string(),
            size: self.size(),
            piece_length: MIB,
            have_bitmap: self.bitmap(have).into(),
            urgent: vec![],
        }
    }

    pub(super) fn urgent(self, have: &[u32], urgent: &[u32]) -> rpc::PermitWant {
        rpc::PermitWant { urgent: urgent.to_vec(), ..self.want(have) }
    }

    pub(super) fn holding(self, have: &[u32]) -> rpc::Holding {
        rpc::Holding {
            repository: "apps/web".into(),
            digest: self.digest.to_string(),
            size: self.size(),
            piece_length: MIB,
            bitmap: self.bitmap(have).into(),
            whole: false,
        }
    }

    pub(super) fn whole(self) -> rpc::Holding {
        rpc::Holding { whole: true, ..self.holding(&[]) }
    }

    fn bitmap(self, have: &[u32]) -> Vec<u8> {
        let mut set = PieceSet::empty(self.pieces);
        have.iter().for_each(|piece| {
            set.insert(PieceIndex(*piece));
        });
        set.to_bitmap()
    }

    pub(super) fn unreachable(self, node: u64, piece: u32) -> rpc::Unreachable {
        rpc::Unreachable { peer_id: peer(node), digest: self.digest.to_string(), piece }
    }
}

pub(super) fn request(wants: Vec<rpc::PermitWant>) -> rpc::PermitRequest {
    rpc::PermitRequest { wants, pieces_max: 8, ..Default::default() }
}

/// The node asks for one blob.
pub(super) fn ask(
    tracker: &Tracker,
    now_ms: u64,
    node: u64,
    want: rpc::PermitWant,
) -> PermitAnswer {
    tracker.permit(now_ms, &member(node), request(vec![want])).unwrap()
}

/// The node tells all that it holds.
pub(super) fn tell(
    tracker: &Tracker,
    now_ms: u64,
    node: u64,
    holdings: Vec<rpc::Holding>,
) -> rpc::AnnounceResponse {
    let request =
        rpc::AnnounceRequest { sequence: 1, complete: true, holdings, ..Default::default() };
    tracker.announce(now_ms, &member(node), request).unwrap()
}

/// The pieces given, in order.
pub(super) fn given(answer: &PermitAnswer) -> Vec<u32> {
    let run = |g: &crate::tracker::PermitGrant| g.first.0..g.first.0 + g.pieces;
    answer.grants.iter().flat_map(run).collect()
}

/// The pieces refused, with those who have them.
pub(super) fn refused(answer: &PermitAnswer) -> Vec<(u32, Vec<String>)> {
    let holders = |r: &rpc::Refusal| r.holders.iter().map(|peer| peer.peer_id.clone()).collect();
    answer.refusals.iter().map(|refusal| (refusal.piece, holders(refusal))).collect()
}
