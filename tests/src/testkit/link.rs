//! The lab's wire: one veth pair from each host to the hub's bridge, shaped on both ends.
//!
//! Both ends lie in namespaces of the lab, nothing in the machine's own. The counters read here
//! are those of the hub's end: what the hub sends on it, the host receives, after shaping.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use super::command::Run;
use super::error::{Context, LabError, Result};
use super::netns::Namespace;

/// The hub's bridge.
const BRIDGE: &str = "br0";
/// A host's end of its link.
const HOST_END: &str = "eth0";
/// tbf drops what would wait longer; it adds no delay of its own.
const QUEUE_MS: u32 = 100;
/// tbf's bucket: five milliseconds of the rate, and at least one maximal GSO packet.
const BURST_BYTES_MIN: u64 = 64 * 1024;

/// What a link carries in each direction; none is as fast as the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate(Option<u32>);

impl Rate {
    /// No shaping.
    pub const UNSHAPED: Self = Self(None);

    /// Megabits (10^6) per second, headers included.
    pub const fn mbit(megabits: u32) -> Self {
        Self(Some(megabits))
    }

    /// Bytes per second, none when unshaped.
    pub fn bytes_per_second(self) -> Option<u64> {
        self.0.map(|megabits| u64::from(megabits) * 1_000_000 / 8)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(megabits) => write!(f, "{megabits} Mbit/s"),
            None => f.write_str("unshaped"),
        }
    }
}

/// What passed the hub's end of a link since it was made, in bytes, headers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Received by the host.
    pub to_host: u64,
    /// Sent by the host.
    pub from_host: u64,
}

impl Counter {
    /// What passed between `earlier` and this reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            to_host: self.to_host.saturating_sub(earlier.to_host),
            from_host: self.from_host.saturating_sub(earlier.from_host),
        }
    }
}

/// Makes the bridge in the hub's namespace.
pub(crate) fn make_hub(hub: &Namespace) -> Result<()> {
    let script = format!("link add {BRIDGE} type bridge forward_delay 0\nlink set {BRIDGE} up\n");
    Run::new("ip").args(["-n", hub.name(), "-batch", "-"]).stdin(script).run()?;
    Ok(())
}

/// Joins a host to the hub. `port` names the hub's end, at most 15 characters.
pub(crate) fn join(
    hub: &Namespace,
    host: &Namespace,
    port: &str,
    address: Ipv4Addr,
    rate: Rate,
) -> Result<()> {
    let script = format!(
        "link add {port} type veth peer name {HOST_END} netns {}\n\
         link set {port} master {BRIDGE}\n\
         link set {port} up\n",
        host.name()
    );
    Run::new("ip").args(["-n", hub.name(), "-batch", "-"]).stdin(script).run()?;
    let script = format!("addr add {address}/24 dev {HOST_END}\nlink set {HOST_END} up\n");
    Run::new("ip").args(["-n", host.name(), "-batch", "-"]).stdin(script).run()?;
    shape(hub.name(), port, rate)?;
    shape(host.name(), HOST_END, rate)
}

/// Limits what leaves an interface.
fn shape(namespace: &str, interface: &str, rate: Rate) -> Result<()> {
    let Some(bytes_per_second) = rate.bytes_per_second() else {
        return Ok(());
    };
    let burst = (bytes_per_second / 200).max(BURST_BYTES_MIN);
    Run::new("tc")
        .args(["-n", namespace, "qdisc", "replace", "dev", interface, "root", "tbf"])
        .args(["rate".to_owned(), format!("{bytes_per_second}bps")])
        .args(["burst".to_owned(), format!("{burst}b")])
        .args(["latency".to_owned(), format!("{QUEUE_MS}ms")])
        .run()?;
    Ok(())
}

/// Changes a link's rate while it is in use; back to unshaped removes the limit.
pub(crate) fn reshape(hub: &Namespace, host: &Namespace, port: &str, rate: Rate) -> Result<()> {
    for (namespace, interface) in [(hub.name(), port), (host.name(), HOST_END)] {
        if rate.bytes_per_second().is_some() {
            shape(namespace, interface, rate)?;
        } else {
            // An interface without a limit has nothing to delete: that is the state wanted.
            Run::new("tc")
                .args(["-n", namespace, "qdisc", "del", "dev", interface, "root"])
                .finish()?;
        }
    }
    Ok(())
}

/// Takes a host off the wire, or puts it back, without a word to either side.
pub(crate) fn set_carrier(hub: &Namespace, port: &str, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    Run::new("ip").args(["-n", hub.name(), "link", "set", port, state]).run()?;
    Ok(())
}

/// The counters of the namespace that the calling thread is in, by the hub's end of each link.
pub(crate) fn read_counters() -> Result<BTreeMap<String, Counter>> {
    // Not /proc/net: that is the namespace of the process's first thread.
    const PATH: &str = "/proc/thread-self/net/dev";
    let table = std::fs::read_to_string(PATH).during(|| PATH.to_owned())?;
    parse_counters(&table)
        .ok_or_else(|| LabError::Unexpected(format!("{PATH} has an unknown form: {table}")))
}

fn parse_counters(table: &str) -> Option<BTreeMap<String, Counter>> {
    let mut counters = BTreeMap::new();
    for line in table.lines().skip(2) {
        let (interface, values) = line.split_once(':')?;
        let values: Vec<&str> = values.split_whitespace().collect();
        let counter = Counter {
            from_host: values.first()?.parse().ok()?,
            to_host: values.get(8)?.parse().ok()?,
        };
        counters.insert(interface.trim().to_owned(), counter);
    }
    Some(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_sends_what_the_host_receives() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n\
             \u{20}   lo:       0       0    0    0    0     0          0         0        0  0 0\n\
             \u{20} port1: 1000      10    0    0    0     0          0         0     2000 20 0 0\n";
        let counters = parse_counters(table).expect("the kernel's form");
        assert_eq!(counters["port1"], Counter { to_host: 2000, from_host: 1000 });
    }

    #[test]
    fn a_broken_table_is_none() {
        assert_eq!(parse_counters("a\nb\nnonsense\n"), None);
        assert_eq!(parse_counters("a\nb\neth0: 1 2\n"), None);
    }
}
