//! The registry from outside: in this process behind the same door as `main`'s, or the program
//! itself. One file per theme, one binary for all: linking each alone took longer than running it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod across;
mod anything;
mod auth;
mod bounds;
mod check;
mod clients;
mod common;
mod drain;
mod fleet;
mod gc;
mod identities;
mod limits;
mod metrics;
mod operation;
mod process;
mod program;
mod pull;
mod push;
mod quota;
mod telemetry;
mod tls;
mod upstream;
