//! The lab of Longshore: its testkit, the images it pulls, the demo and the benchmarks.
//!
//! Nothing in this crate is part of the product, and no product crate depends on it.

pub mod bench;
pub mod demo;
pub mod figures;
pub mod image;
pub mod load;
pub mod testkit;
