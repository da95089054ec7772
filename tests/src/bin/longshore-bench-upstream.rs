//! `make bench-upstream`: parses the flags, measures, and says by its status whether every answer
//! was right. A slow machine is no error.

use std::process::ExitCode;

use clap::Parser as _;
use longshore_tests::bench::upstream::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match upstream::run(&Options::parse()).await {
        Ok(figures) if figures.is_right() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failed) => {
            tracing::error!("{failed}");
            ExitCode::FAILURE
        }
    }
}
