//! `make demo`: parses the flags, runs the demo, and says by its exit status whether all was right.
//!
//! Exit 0 when every pull, digest and container was right, 1 otherwise, 130 after Ctrl-C; nothing
//! that it started is left in any case.

use std::process::ExitCode;

use clap::Parser;
use longshore_tests::demo::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match demo::run(&Options::parse()).await {
        Ok(figures) if figures.ok => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failed) => {
            tracing::error!("{failed}");
            ExitCode::FAILURE
        }
    }
}
