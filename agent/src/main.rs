//! `longshore-agent`: containerd's mirror on this node.

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore_agent::main_from(std::env::args_os())
}
