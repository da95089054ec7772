//! The tracker through its public door, as the service calls it.

mod announcing;
mod bounds;
mod consistent;
mod extra;
mod permitting;
mod properties;
mod recovery;
mod reports;
mod simulation;
mod support;
