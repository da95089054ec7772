//! The swarm: where each piece of a blob comes from.
//!
//! Owns the decision ([`engine`]), the connections between nodes and the work that joins them to
//! the store and the origin.

pub mod engine;
pub mod transport;
mod wire;
