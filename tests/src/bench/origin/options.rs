//! The flags of `make bench-origin`.

use std::path::PathBuf;

use clap::Parser;

use crate::testkit::Backend;

/// Measures the origin beside docker-registry.
#[derive(Debug, Clone, Parser)]
#[command(name = "longshore-bench-origin")]
pub struct Options {
    /// Images of a node start.
    #[arg(long, default_value_t = 30)]
    pub images: usize,
    /// Layers of an image.
    #[arg(long, default_value_t = 10)]
    pub layers: usize,
    /// Keep-alive connections of the generator.
    #[arg(long, default_value_t = 256)]
    pub connections: usize,
    /// Seconds of each warm run.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Seconds of each cold run.
    #[arg(long, default_value_t = 2)]
    pub cold_seconds: u64,
    /// Seconds of load before the warm runs, which are not measured: everything gets read.
    #[arg(long, default_value_t = 8)]
    pub warm_up_seconds: u64,
    /// Images that the bucket holds when memory and start are measured.
    #[arg(long, default_value_t = 10_000)]
    pub known: usize,
    /// Where the images lie.
    #[arg(long, value_enum, default_value_t = StoreKind::Moto)]
    pub store: StoreKind,
    /// Writes the figures there, as JSON.
    #[arg(long)]
    pub figures: Option<PathBuf>,
}

/// An object server that presigned URLs name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// Python's S3 mock.
    Moto,
    /// The S3 server in Rust; its first use compiles it.
    Garage,
}

impl Options {
    /// The store to start.
    pub(super) const fn backend(&self) -> Backend {
        match self.store {
            StoreKind::Moto => Backend::Moto,
            StoreKind::Garage => Backend::Garage,
        }
    }
}
