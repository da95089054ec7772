//! The swarm: where each piece comes from, and the peers it is exchanged with.

pub mod transport;
