//! The mirror, from its front door to a real registry: what containerd asks and what it gets.
//!
//! In place of the swarm stands a fetcher that reads the registry piece by piece, and can be told
//! to wait, to fail or to answer for a peer.

mod faults;
mod outage;
mod pulls;
mod support;
