//! What is containerd's on a node: today its hosts.toml files.
//!
//! Owns the files that this agent wrote, told by their first line, and no other. It never asks
//! containerd for anything and starts no task.

mod hosts;
mod mirrored;
mod namespace;
mod secret;

pub(crate) use hosts::reachable;
pub use hosts::{Hosts, HostsError, MirrorHost, WrittenHosts, remove_ours};
pub use mirrored::{InvalidMirrored, Mirrored};
pub use namespace::{InvalidNamespace, Namespace};
pub use secret::MirrorSecret;
