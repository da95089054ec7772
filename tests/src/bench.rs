//! Benchmarks of the product beside its alternatives: figures for people and for `target/figures`.
//!
//! None of them fails on a slow machine; they fail when an answer is wrong.

pub mod origin;
pub mod process;
pub mod quota;
pub mod upstream;
