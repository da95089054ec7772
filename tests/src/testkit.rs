//! The lab: machines of a fleet as network namespaces, with real containerds, for tests and demo.
//!
//! ```text
//!            hub (bridge)            every link a veth pair, shaped on both ends
//!   ┌──────────┼──────────┐
//! registry   node1 …    proxy        a host = namespace + address + directory + programs
//! ```
//!
//! It owns everything it starts and removes it when it is dropped, on Ctrl-C, and, after a crash,
//! when the next lab starts. It must never touch the machine's own network, its containerd or
//! another lab. Needs root.

pub mod agent;
pub mod apt;
pub mod backend;
pub mod cache;
pub mod clock;
pub mod command;
pub mod containerd;
pub mod cri;
pub mod docker_registry;
pub mod error;
pub mod host;
mod interrupt;
pub mod lab;
pub mod link;
pub mod loopback;
pub mod metrics;
pub mod name;
pub mod netns;
pub mod node;
mod notify;
pub mod object_servers;
pub mod origin;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod registry;
pub mod settings;
pub mod slots;
pub mod sweep;
pub mod wait;

pub use agent::{Agent, AgentBuild, AgentOptions};
pub use backend::Backend;
pub use cache::Cache;
pub use clock::Clock;
pub use containerd::Containerd;
pub use docker_registry::{DockerRegistry, Guard, LocalDockerRegistry};
pub use error::{LabError, Result};
pub use host::Host;
pub use lab::Lab;
pub use link::{Counter, Rate};
pub use loopback::Loopback;
pub use node::{Node, NodeParts};
pub use object_servers::{ObjectServer, Site};
pub use origin::Origin;
pub use programs::{ContainerdVersion, Programs};
pub use registry::Registry;
pub use settings::Settings;
