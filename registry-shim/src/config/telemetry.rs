//! `[telemetry]`: where traces go.

use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "telemetry.otlp_endpoint",
        kind: Kind::Text,
        help: "http://HOST:PORT of a collector for traces, OTLP over gRPC [default: none]",
    },
    Setting {
        key: "telemetry.sampled_per_10000",
        kind: Kind::Number,
        help: "traces kept of 10,000, where the client does not say [default: 100]",
    },
    Setting {
        key: "telemetry.service_name",
        kind: Kind::Text,
        help: "service.name of the traces [default: longshore-registry]",
    },
];

/// `[telemetry]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// A collector; `None`: no traces, at no cost.
    #[serde(deserialize_with = "endpoint")]
    pub otlp_endpoint: Option<String>,
    /// Of the traces that begin here.
    #[serde(deserialize_with = "ratio")]
    pub sampled_per_10000: u32,
    /// `service.name`
    pub service_name: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sampled_per_10000: 100,
            service_name: "longshore-registry".to_owned(),
        }
    }
}

fn endpoint<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    let uri: http::Uri = text.parse().map_err(D::Error::custom)?;
    if uri.scheme_str() == Some("http") && uri.authority().is_some() {
        return Ok(Some(text));
    }
    Err(D::Error::custom("not http://HOST:PORT"))
}

fn ratio<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        ratio @ 0..=10_000 => Ok(ratio),
        _ => Err(D::Error::custom("more than 10000")),
    }
}
