//! `[limits]`: what the registry takes on at once, and what one client may ask for.

use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

use crate::limits::Prefix;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "limits.reads_in_flight_max",
        kind: Kind::Number,
        help: "GET and HEAD under way at once; more get 503 [default: 16384]",
    },
    Setting {
        key: "limits.writes_in_flight_max",
        kind: Kind::Number,
        help: "pushes and deletes under way at once; more get 503 [default: 4096]",
    },
    Setting {
        key: "limits.blob_streams_max",
        kind: Kind::Number,
        help: "blobs passing through at once; more get 503 [default: 8192]",
    },
    Setting {
        key: "limits.calls_in_flight_max",
        kind: Kind::Number,
        help: "gRPC calls under way at once; more get UNAVAILABLE [default: 16384]",
    },
    Setting {
        key: "limits.buffered_bytes_max",
        kind: Kind::Number,
        help: "bytes that pushes may hold in memory; more get 503 [default: 2147483648]",
    },
    Setting {
        key: "limits.client_requests_per_s",
        kind: Kind::Number,
        help: "requests per second of one client; more get 429 [default: 0, no limit]",
    },
    Setting {
        key: "limits.client_burst",
        kind: Kind::Number,
        help: "requests of one client at once [default: 0, those of ten seconds]",
    },
    Setting {
        key: "limits.client_bytes_per_s",
        kind: Kind::Number,
        help: "bytes of layers per second of one client; the rest waits [default: 0, no limit]",
    },
    Setting {
        key: "limits.throttle_nodes",
        kind: Kind::Switch,
        help: "whether nodes that joined count as clients [default: false]",
    },
    Setting {
        key: "limits.trusted_proxies",
        kind: Kind::List,
        help: "prefixes whose X-Forwarded-For names the client [default: none]",
    },
];

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// GET and HEAD at once.
    #[serde(deserialize_with = "positive")]
    pub reads_in_flight_max: u32,
    /// Everything else of the API at once.
    #[serde(deserialize_with = "positive")]
    pub writes_in_flight_max: u32,
    /// Answers that stream a blob at once.
    #[serde(deserialize_with = "positive")]
    pub blob_streams_max: u32,
    /// gRPC calls at once.
    #[serde(deserialize_with = "positive")]
    pub calls_in_flight_max: u32,
    /// What bodies of pushes may hold in memory.
    #[serde(deserialize_with = "buffered")]
    pub buffered_bytes_max: u64,
    /// Of one client; 0: no limit.
    pub client_requests_per_s: u32,
    /// Of one client; 0: those of ten seconds.
    pub client_burst: u32,
    /// Of layers through this process, of one client; 0: no limit.
    #[serde(deserialize_with = "client_bytes")]
    pub client_bytes_per_s: u64,
    /// Whether nodes count as clients.
    pub throttle_nodes: bool,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Prefix>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads_in_flight_max: 16_384,
            writes_in_flight_max: 4096,
            blob_streams_max: 8192,
            calls_in_flight_max: 16_384,
            buffered_bytes_max: 2 << 30,
            client_requests_per_s: 0,
            client_burst: 0,
            client_bytes_per_s: 0,
            throttle_nodes: false,
            trusted_proxies: Vec::new(),
        }
    }
}

fn positive<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        0 => Err(D::Error::custom("0 would let nobody in")),
        count => Ok(count),
    }
}

fn buffered<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    /// One push of a large blob has to fit.
    const MIN: u64 = crate::limits::PUSH_BYTES_MAX;
    let bytes = u64::deserialize(from)?;
    if (MIN..=i64::MAX as u64).contains(&bytes) {
        return Ok(bytes);
    }
    Err(D::Error::custom(format!("less than the {MIN} that one push may hold, or too much")))
}

fn client_bytes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    /// A piece a second.
    const MIN: u64 = crate::limits::PIECE_BYTES as u64;
    match u64::deserialize(from)? {
        1..MIN => Err(D::Error::custom(format!("less than {MIN}: clients would give up"))),
        bytes => Ok(bytes),
    }
}
