//! End-to-end tests: real containerds in a lab, one file per theme.
//!
//! They need root and say so in one line; none is skipped. Each test has its own lab; `harness`
//! bounds how many run at once and prints the logs of a lab whose test failed.

mod harness;
mod lab;
