//! End-to-end tests: real containerds in a lab, one file per theme.
//!
//! They need root and say so in one line; none is skipped. Each test has its own lab; `harness`
//! bounds how many run at once and prints the logs of a lab whose test failed.

mod auth;
mod bad_start;
mod crash;
mod fronted;
mod harness;
mod install;
mod lab;
mod mirror;
mod origin_faults;
mod peers;
mod proxy;
mod pull;
mod redirect;
mod registry;
mod registry_bad_input;
