//! `longshore-agent`: containerd's mirror on a node.
//!
//! Front doors (`mirror`, `control`) lead to `pull`, which fetches an image or a blob once however
//! many ask; `pull` leads to `swarm`, which decides where each piece comes from, and that to
//! `origin` and `store`. Nothing points back.

pub mod admin;
pub mod agent;
mod arguments;
pub mod cli;
pub mod config;
pub mod containerd;
pub mod control;
mod daemon;
#[cfg(feature = "test-hooks")]
mod hooks;
pub mod identity;
pub mod metrics;
pub mod mirror;
pub mod notify;
pub mod origin;
pub mod pull;
pub mod shutdown;
pub mod store;
pub mod swarm;
pub mod watchdog;
pub mod worker;

pub use daemon::main_from;
