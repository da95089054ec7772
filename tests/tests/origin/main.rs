//! The registry's process over every store, real object servers included, on the machine's
//! loopback: no namespaces, no root, one file per theme.

mod client;
mod clients;
mod collect;
mod conformance;
mod contract;
mod crash;
mod gcs;
mod harness;
mod immutable;
mod layout;
mod quota;
mod redirect;
mod regions;
mod stores;
mod upstream;
