//! One registry for all of the agent's metrics, under the prefix `longshore`.
//!
//! Each room registers its own below its name; here stand only those of the process as a whole.
//! Nothing is global: the registry is made at start and handed down.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// What every name begins with.
const PREFIX: &str = "longshore";

/// An empty registry.
pub fn registry() -> Registry {
    Registry::with_prefix(PREFIX)
}

/// The names of one room: `longshore_<room>_…`.
pub fn room<'a>(registry: &'a mut Registry, room: &str) -> &'a mut Registry {
    registry.sub_registry_with_prefix(room)
}

/// What is counted of the process as a whole.
#[derive(Clone, Debug, Default)]
pub struct AgentMetrics {
    /// 1 while /readyz says 200.
    pub ready: Gauge,
    /// Registries whose hosts.toml names this mirror now.
    pub hosts_written: Gauge,
    /// Registries that were left alone because of somebody else's hosts.toml.
    pub hosts_foreign: Gauge,
    /// Longest time between two beats of the runtime since start, in milliseconds; they come
    /// every 200 ms.
    pub runtime_silence_longest: Gauge,
}

impl AgentMetrics {
    /// Under the names `<prefix>_ready` and so on.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the agent", version);
        for (name, help, gauge) in [
            ("ready", "1 while the agent is ready", &metrics.ready),
            (
                "hosts_written",
                "Registries whose hosts.toml names the mirror",
                &metrics.hosts_written,
            ),
            ("hosts_foreign", "Registries left alone", &metrics.hosts_foreign),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "runtime_silence_longest_ms",
            "Longest time between two beats of the runtime",
            metrics.runtime_silence_longest.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_the_product_and_the_room() {
        let mut registry = registry();
        AgentMetrics::register(room(&mut registry, "agent")).ready.set(1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("\nlongshore_agent_ready 1\n"), "{text}");
        assert!(text.contains("longshore_agent_build_info{version="), "{text}");
    }
}
