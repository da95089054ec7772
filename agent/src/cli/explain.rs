//! `longshore explain`: each layer's bytes by source, its time, and why the origin was asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use longshore_proto::Digest;
use longshore_proto::rpc::control as rpc;
use longshore_proto::rpc::control::explain_response::{Layer, OriginReason};
use serde::Serialize;

use super::table::{bytes, printed, table};

/// For machines.
pub(super) fn json(explained: &rpc::ExplainResponse) -> String {
    let shown = serde_json::to_string_pretty(&Shown::from(explained));
    shown.expect("strings and numbers are always JSON") + "\n"
}

/// For people.
pub(super) fn text(explained: &rpc::ExplainResponse) -> String {
    let mut text = String::new();
    // Writing to a String can not fail.
    let _ = writeln!(text, "{}  {}", explained.image, explained.state);
    let _ = writeln!(text, "{}\n", explained.digest);
    let header = [
        "LAYER",
        "SIZE",
        "PIECES",
        "ORIGIN",
        "PEERS",
        "LOCAL",
        "WASTED",
        "SECONDS",
        "FROM",
        "ORIGIN ASKED",
        "STATE",
    ];
    let mut rows = table(&header, 1..9);
    for layer in &explained.layers {
        rows.add_row(row(layer));
    }
    let sum = Totals::of(explained);
    rows.add_row([
        "total".to_owned(),
        bytes(explained.layers.iter().map(|layer| layer.size).sum()),
        format!("{}/{}", sum.verified_pieces, sum.pieces),
        bytes(sum.origin_bytes),
        bytes(sum.peer_bytes),
        bytes(sum.local_bytes),
        bytes(sum.wasted_bytes),
    ]);
    text + &printed(&rows)
}

fn row(layer: &Layer) -> [String; 11] {
    let digest = layer.digest.parse::<Digest>();
    [
        digest.map_or_else(|_| layer.digest.clone(), |digest| digest.fmt_short()),
        bytes(layer.size),
        format!("{}/{}", layer.verified_pieces, layer.pieces),
        bytes(layer.origin_bytes),
        bytes(layer.peer_bytes),
        bytes(layer.local_bytes),
        bytes(layer.wasted_bytes),
        format!("{:.1}", seconds(layer)),
        match layer.peers {
            0 => "-".to_owned(),
            1 => "1 peer".to_owned(),
            peers => format!("{peers} peers"),
        },
        why(&layer.origin_reasons),
        layer.state.clone(),
    ]
}

/// `permit 12, stall 1`, in pieces.
fn why(reasons: &[OriginReason]) -> String {
    let asked = reasons.iter().filter(|reason| reason.pieces > 0);
    let said: Vec<_> = asked.map(|reason| format!("{} {}", reason.why, reason.pieces)).collect();
    if said.is_empty() { "never".to_owned() } else { said.join(", ") }
}

fn seconds(layer: &Layer) -> f64 {
    layer.elapsed_ms as f64 / 1000.0
}

#[derive(Serialize)]
struct Shown<'a> {
    image: &'a str,
    digest: &'a str,
    state: &'a str,
    layers: Vec<ShownLayer<'a>>,
    totals: Totals,
}

#[derive(Serialize)]
struct ShownLayer<'a> {
    digest: &'a str,
    size: u64,
    media_type: &'a str,
    origin_bytes: u64,
    peer_bytes: u64,
    local_bytes: u64,
    verified_pieces: u32,
    pieces: u32,
    wasted_bytes: u64,
    seconds: f64,
    peers: u32,
    state: &'a str,
    /// Pieces by reason; every reason that occurred.
    origin_reasons: BTreeMap<&'a str, u64>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Totals {
    origin_bytes: u64,
    peer_bytes: u64,
    local_bytes: u64,
    wasted_bytes: u64,
    verified_pieces: u64,
    pieces: u64,
}

impl Totals {
    fn of(explained: &rpc::ExplainResponse) -> Self {
        explained.layers.iter().fold(Self::default(), |sum, layer| Self {
            origin_bytes: sum.origin_bytes + layer.origin_bytes,
            peer_bytes: sum.peer_bytes + layer.peer_bytes,
            local_bytes: sum.local_bytes + layer.local_bytes,
            wasted_bytes: sum.wasted_bytes + layer.wasted_bytes,
            verified_pieces: sum.verified_pieces + u64::from(layer.verified_pieces),
            pieces: sum.pieces + u64::from(layer.pieces),
        })
    }
}

impl<'a> From<&'a rpc::ExplainResponse> for Shown<'a> {
    fn from(explained: &'a rpc::ExplainResponse) -> Self {
        let layers = explained.layers.iter().map(|layer| ShownLayer {
            digest: &layer.digest,
            size: layer.size,
            media_type: &layer.media_type,
            origin_bytes: layer.origin_bytes,
            peer_bytes: layer.peer_bytes,
            local_bytes: layer.local_bytes,
            verified_pieces: layer.verified_pieces,
            pieces: layer.pieces,
            wasted_bytes: layer.wasted_bytes,
            seconds: seconds(layer),
            peers: layer.peers,
            state: &layer.state,
            origin_reasons: layer
                .origin_reasons
                .iter()
                .map(|reason| (reason.why.as_str(), reason.pieces))
                .collect(),
        });
        Self {
            image: &explained.image,
            digest: &explained.digest,
            state: &explained.state,
            layers: layers.collect(),
            totals: Totals::of(explained),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained() -> rpc::ExplainResponse {
        let layer = Layer {
            digest: format!("sha256:{}", "ab".repeat(32)),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            size: 3 << 20,
            pieces: 3,
            verified_pieces: 3,
            origin_bytes: 1 << 20,
            peer_bytes: 2 << 20,
            elapsed_ms: 1_250,
            peers: 2,
            state: "whole".into(),
            origin_reasons: vec![
                OriginReason { why: "permit".into(), pieces: 1, bytes: 1 << 20 },
                OriginReason { why: "stall".into(), pieces: 0, bytes: 0 },
            ],
            ..Default::default()
        };
        rpc::ExplainResponse {
            image: "10.77.0.1:5000/web:v1".into(),
            digest: format!("sha256:{}", "cd".repeat(32)),
            state: "whole".into(),
            layers: vec![layer.clone(), layer],
        }
    }

    #[test]
    fn json_has_the_fields_that_machines_read() {
        let value: serde_json::Value = serde_json::from_str(&json(&explained())).unwrap();
        assert_eq!(value["layers"][0]["peer_bytes"], 2 << 20);
        assert_eq!(value["layers"][0]["origin_reasons"]["permit"], 1);
        assert_eq!(value["layers"][1]["seconds"], 1.25);
        assert_eq!(value["totals"]["origin_bytes"], 2 << 20);
        assert_eq!(value["totals"]["verified_pieces"], 6);
    }

    #[test]
    fn people_read_one_line_a_layer_and_a_total() {
        let text = text(&explained());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("10.77.0.1:5000/web:v1"), "{text}");
        assert!(lines[4].contains("3/3") && lines[4].contains("permit 1"), "{text}");
        assert!(!text.contains("stall"), "{text}");
        assert!(lines.last().unwrap().contains("4.0 MiB"), "{text}");
    }
}
