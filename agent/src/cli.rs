//! The operators' command line: asks the agent over its unix socket, prints a table or JSON.
//!
//! Owns the words that an operator reads. It changes nothing. Every failure is one line on
//! standard error and an exit code of its own:
//!
//! | code | meaning |
//! |---|---|
//! | 1 | the agent does not know the image |
//! | 64 | the command line is wrong |
//! | 69 | no agent answers at the socket |
//! | 70 | the agent answered with a fault |
//! | 77 | this user may not use the socket |

mod client;
mod explain;
mod status;
mod table;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use longshore_proto::ImageName;

use client::{Client, ClientError};

/// Shows what the longshore-agent of this node does.
#[derive(Debug, Parser)]
#[command(name = "longshore", version)]
struct Arguments {
    /// The agent's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "LONGSHORE_CONTROL_SOCKET",
        default_value = crate::control::DEFAULT_SOCKET
    )]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How the agent stands: origin, mirror, swarm, store, pulls
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Where each layer of an image came from, and why the origin was asked
    Explain {
        /// As containerd names it: registry/repository:tag or @digest
        image: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What a right command line prints, or the exit code and the line of a failure.
#[cfg(test)]
pub(crate) fn output_of(arguments: Vec<OsString>) -> Result<String, (u8, String)> {
    let arguments = Arguments::try_parse_from(arguments).expect("tests write right command lines");
    run(arguments).map_err(|error| (error.exit_code(), error.to_string()))
}

/// The whole program.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match crate::arguments::parse(Arguments::try_parse_from(arguments)) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match run(arguments) {
        Ok(text) => {
            // Whoever reads may stop reading.
            let _closed = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "longshore: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: Arguments) -> Result<String, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Fault(error.to_string()))?;
    runtime.block_on(async {
        match arguments.command {
            Command::Status { json } => {
                let status = Client::connect(&arguments.socket).await?.status().await?;
                Ok(if json { status::json(&status) } else { status::text(&status) })
            }
            Command::Explain { image, json } => {
                let image: ImageName = image
                    .parse()
                    .map_err(|error| ClientError::Usage(format!("{image}: {error}")))?;
                let explained = Client::connect(&arguments.socket).await?.explain(&image).await?;
                Ok(if json { explain::json(&explained) } else { explain::text(&explained) })
            }
        }
    })
}
