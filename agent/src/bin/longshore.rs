//! `longshore`: shows an operator what the agent of this node does.

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore_agent::cli::main_from(std::env::args_os())
}
