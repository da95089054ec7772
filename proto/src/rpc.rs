//! Generated messages; with feature `rpc` also the gRPC clients and servers.
//!
//! Nothing here is trusted before it is parsed into the crate's own types.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, reason = "generated")]

/// Between an agent and the origin.
pub mod origin {
    include!(concat!(env!("OUT_DIR"), "/longshore.origin.v1.rs"));
}

/// Between an operator and an agent.
pub mod control {
    include!(concat!(env!("OUT_DIR"), "/longshore.control.v1.rs"));
}

/// Between two agents.
pub mod swarm {
    include!(concat!(env!("OUT_DIR"), "/longshore.swarm.v1.rs"));
}
