//! `longshore-registry [serve]` and its other subcommands: parse, dispatch, exit status.

use std::process::ExitCode;

use clap::error::ErrorKind;
use longshore_registry::commands;
use longshore_settings::EXIT_CONFIG;

fn main() -> ExitCode {
    let matches = match commands::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    match commands::dispatch(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Help goes to stdout; a wrong flag is wrong configuration, in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _nobody_reads = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    complain(&format!("config: {}", line.strip_prefix("error: ").unwrap_or(line)));
    ExitCode::from(EXIT_CONFIG)
}

#[allow(clippy::print_stderr, reason = "the one line that says why nothing runs")]
fn complain(message: &str) {
    eprintln!("longshore-registry: {message}");
}
