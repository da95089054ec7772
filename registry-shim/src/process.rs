//! What the process itself costs: metrics that are read from /proc when they are asked for.
//!
//! It keeps nothing and starts nothing; a file of /proc that can not be read is left out.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// Clock ticks per second in /proc/PID/stat: `USER_HZ`, part of Linux's ABI.
const USER_HZ: f64 = 100.0;

/// Enters the process's metrics, under the names that every program uses.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

/// `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, read from
/// /proc when asked.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let encoder = encoder.encode_descriptor(
                "process_cpu",
                "CPU time, user and system",
                Some(&Unit::Seconds),
                counter.metric_type(),
            )?;
            counter.encode(encoder)?;
        }
        let gauges = [
            ("process_resident_memory", "Resident memory", Some(&Unit::Bytes), resident_bytes()),
            ("process_open_fds", "Open file descriptors", None, open_files()),
        ];
        for (name, help, unit, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        Ok(())
    }
}

/// proc(5): fields 14 and 15, counted behind the command's closing parenthesis.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
    Some((ticks.next()? + ticks.next()?) / USER_HZ)
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn open_files() -> Option<i64> {
    i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_the_process_costs() {
        let mut text = String::new();
        let mut registry = Registry::default();
        register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name} in {text}")).parse::<f64>().unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 1_000_000.0);
        assert!(value("process_open_fds") >= 3.0);
    }
}
