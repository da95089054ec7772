//! A load generator for registries: node starts over keep-alive connections, on one thread.
//!
//! Owns raw HTTP/1.1 over `mio`, because it shares its machine with the registry that it measures:
//! a full client would take more of the two cores than the registry. Bodies are counted and never
//! kept. It ends by itself: after its time, and a bounded wait for the last answers.

mod connection;
mod run;
mod script;
#[cfg(test)]
mod tests;

pub use run::{Load, Outcome, Pace, run};
pub use script::{Kind, Script, Step};
