//! `longshore status`: the first thing that is read at night, so faults stand first.

use std::fmt::Write as _;

use longshore_proto::rpc::control as rpc;
use serde::Serialize;

use super::table::{bytes, counted, percent, printed, seconds, table};

/// For machines: every field of the answer, bytes and seconds as numbers.
pub(super) fn json(status: &rpc::StatusResponse) -> String {
    let shown = serde_json::to_string_pretty(&Shown::from(status));
    shown.expect("strings and numbers are always JSON") + "\n"
}

/// For people.
pub(super) fn text(status: &rpc::StatusResponse) -> String {
    let mut text = String::new();
    let ready = match status.not_ready.as_str() {
        "" => "ready".to_owned(),
        why => format!("NOT READY: {why}"),
    };
    // Writing to a String can not fail.
    let _ = writeln!(
        text,
        "{}  {ready}  (longshore-agent {}, up {}, pool {}, zone {})",
        status.node_name,
        status.version,
        seconds(status.uptime_s),
        status.pool,
        status.zone
    );
    for (name, line) in [
        ("origin", origin(status)),
        ("mirror", mirror(status)),
        ("swarm", swarm(status)),
        ("store", store(status)),
        ("bytes", sources(status)),
    ] {
        let _ = writeln!(text, "{name:<8}{line}");
    }
    for path in status.mirror.iter().flat_map(|mirror| &mirror.foreign_hosts) {
        let _ = writeln!(
            text,
            "WARNING {path} is not ours: pulls of that registry do not use the mirror"
        );
    }
    let failed = status.workers.iter().filter(|worker| worker.status == "failed");
    for worker in failed {
        let _ = writeln!(text, "FAILED  worker {}: {}", worker.name, worker.step);
    }
    text + &pulls(status) + &workers(status)
}

fn origin(status: &rpc::StatusResponse) -> String {
    let origin = status.origin.clone().unwrap_or_default();
    let standing = if origin.joined {
        format!("joined, session for another {}", seconds(origin.session_expires_in_s))
    } else {
        format!("NOT JOINED: {}", origin.error)
    };
    format!("{}  {standing}", origin.url)
}

fn mirror(status: &rpc::StatusResponse) -> String {
    let mirror = status.mirror.clone().unwrap_or_default();
    let hosts = if mirror.hosts_written { "hosts.toml written" } else { "NO hosts.toml written" };
    let open = if mirror.open { ", open to every local user" } else { "" };
    format!(
        "{}  {hosts}{open}; {}, {} handed to the next host",
        mirror.address,
        counted(mirror.requests, "request"),
        mirror.handed_to_next_host
    )
}

fn swarm(status: &rpc::StatusResponse) -> String {
    let swarm = status.swarm.clone().unwrap_or_default();
    if !swarm.enabled {
        return "off: every byte comes from the origin".to_owned();
    }
    format!(
        "{}  {} ({} in this zone); {}, {}",
        swarm.address,
        counted(u64::from(swarm.peers), "peer"),
        swarm.same_zone_peers,
        counted(swarm.bad_pieces, "bad piece"),
        counted(swarm.stalled_requests, "stalled request")
    )
}

fn store(status: &rpc::StatusResponse) -> String {
    let store = status.store.clone().unwrap_or_default();
    format!(
        "{}  {}, {} of {} ({})",
        store.path,
        counted(store.blobs, "blob"),
        bytes(store.bytes),
        bytes(store.bytes_max),
        percent(store.bytes, store.bytes_max)
    )
}

fn sources(status: &rpc::StatusResponse) -> String {
    let sum = status.bytes.unwrap_or_default();
    format!(
        "{} from origin, {} from peers, {} local; {} sent to peers, {} wasted",
        bytes(sum.origin),
        bytes(sum.peers),
        bytes(sum.local),
        bytes(sum.sent_to_peers),
        bytes(sum.wasted)
    )
}

fn pulls(status: &rpc::StatusResponse) -> String {
    if status.pulls.is_empty() {
        return "\nno pulls since the agent started\n".to_owned();
    }
    let mut rows = table(&["PULL", "VERIFIED", "OF", "", "STATE"], 1..4);
    for pull in &status.pulls {
        rows.add_row([
            pull.image.clone(),
            bytes(pull.bytes_verified),
            bytes(pull.bytes_total),
            percent(pull.bytes_verified, pull.bytes_total),
            pull.state.clone(),
        ]);
    }
    format!("\n{}", printed(&rows))
}

fn workers(status: &rpc::StatusResponse) -> String {
    if status.workers.is_empty() {
        return String::new();
    }
    let mut rows = table(&["WORKER", "STATUS", "STEP"], 0..0);
    for worker in &status.workers {
        rows.add_row([&worker.name, &worker.status, &worker.step]);
    }
    format!("\n{}", printed(&rows))
}

#[derive(Serialize)]
struct Shown<'a> {
    node_name: &'a str,
    version: &'a str,
    peer_id: &'a str,
    pool: &'a str,
    zone: &'a str,
    uptime_s: u64,
    ready: bool,
    not_ready: &'a str,
    origin: serde_json::Value,
    mirror: serde_json::Value,
    swarm: serde_json::Value,
    store: serde_json::Value,
    bytes: serde_json::Value,
    workers: Vec<serde_json::Value>,
    pulls: Vec<serde_json::Value>,
}

impl<'a> From<&'a rpc::StatusResponse> for Shown<'a> {
    fn from(status: &'a rpc::StatusResponse) -> Self {
        use serde_json::json;
        let origin = status.origin.clone().unwrap_or_default();
        let mirror = status.mirror.clone().unwrap_or_default();
        let swarm = status.swarm.clone().unwrap_or_default();
        let store = status.store.clone().unwrap_or_default();
        let sum = status.bytes.unwrap_or_default();
        Self {
            node_name: &status.node_name,
            version: &status.version,
            peer_id: &status.peer_id,
            pool: &status.pool,
            zone: &status.zone,
            uptime_s: status.uptime_s,
            ready: status.not_ready.is_empty(),
            not_ready: &status.not_ready,
            origin: json!({
                "url": origin.url, "joined": origin.joined, "error": origin.error,
                "session_expires_in_s": origin.session_expires_in_s,
            }),
            mirror: json!({
                "address": mirror.address, "hosts_written": mirror.hosts_written,
                "foreign_hosts": mirror.foreign_hosts, "open": mirror.open,
                "requests": mirror.requests, "handed_to_next_host": mirror.handed_to_next_host,
            }),
            swarm: json!({
                "address": swarm.address, "enabled": swarm.enabled, "peers": swarm.peers,
                "same_zone_peers": swarm.same_zone_peers, "bad_pieces": swarm.bad_pieces,
                "stalled_requests": swarm.stalled_requests,
            }),
            store: json!({
                "path": store.path, "blobs": store.blobs, "bytes": store.bytes,
                "bytes_max": store.bytes_max,
            }),
            bytes: json!({
                "origin": sum.origin, "peers": sum.peers, "local": sum.local,
                "sent_to_peers": sum.sent_to_peers, "wasted": sum.wasted,
            }),
            workers: status
                .workers
                .iter()
                .map(|worker| {
                    json!({"name": worker.name, "status": worker.status, "step": worker.step})
                })
                .collect(),
            pulls: status
                .pulls
                .iter()
                .map(|pull| {
                    json!({
                        "image": pull.image, "state": pull.state,
                        "bytes_total": pull.bytes_total, "bytes_verified": pull.bytes_verified,
                    })
                })
                .collect(),
        }
    }
}
