//! `make bench-quota`: parses the flags, measures, and says by its status whether every push was
//! acknowledged. A slow machine is no error.

use std::process::ExitCode;

use clap::Parser as _;
use longshore_tests::bench::quota::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match quota::run(&Options::parse()).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(failed) => {
            tracing::error!("{failed}");
            ExitCode::FAILURE
        }
    }
}
