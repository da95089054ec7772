//! The lab of Longshore: its testkit, the images it pulls and the demo that measures it.
//!
//! Nothing in this crate is part of the product, and no product crate depends on it.

pub mod demo;
pub mod image;
pub mod testkit;
