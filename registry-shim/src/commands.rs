//! The program's subcommands: a table, a file for each.
//!
//! Owns the way from the command line to a command: its flags, its configuration, its runtime, its
//! exit status. A command prints its result to stdout and returns what went wrong; it never ends
//! the process itself.

pub mod check;
pub mod gc;
pub mod keys;
pub mod quota;
pub mod serve;
mod stores;
pub mod users;

use std::path::Path;

use clap::{ArgMatches, Command};
use futures::future::LocalBoxFuture;
use longshore_settings::{EXIT_CONFIG, SettingsError};

use crate::config::{Config, DEFAULT_FILE, settings};
use crate::{StartError, telemetry};

/// `EX_UNAVAILABLE` of sysexits(3): a port can not be had.
pub const EXIT_PORT: u8 = 69;

/// Why a command ends without success: one line for stderr, and the exit status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// 64 wrong configuration, 69 no port, 1 everything else.
    pub code: u8,
    /// One line.
    pub message: String,
}

/// One line of the table.
struct Subcommand {
    /// Its flags; those of the settings are added to it or, where it has some, to its subcommands.
    command: fn() -> Command,
    run: for<'a> fn(&'a ArgMatches, &'a Config) -> LocalBoxFuture<'a, Result<(), Failure>>,
    /// Logs as the configuration says; the others log warnings alone.
    logs: bool,
}

/// The first one is meant when none is named.
const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        command: serve::command,
        run: |matches, config| Box::pin(serve::run(matches, config)),
        logs: true,
    },
    Subcommand {
        command: check::command,
        run: |matches, config| Box::pin(check::run(matches, config)),
        logs: false,
    },
    Subcommand {
        command: gc::command,
        run: |matches, config| Box::pin(gc::run(matches, config)),
        logs: false,
    },
    Subcommand {
        command: keys::command,
        run: |matches, config| Box::pin(keys::run(matches, config)),
        logs: false,
    },
    Subcommand {
        command: users::command,
        run: |matches, config| Box::pin(users::run(matches, config)),
        logs: false,
    },
    Subcommand {
        command: quota::command,
        run: |matches, config| Box::pin(quota::run(matches, config)),
        logs: false,
    },
];

/// The command line, as clap reads it.
pub fn command() -> Command {
    let whole = longshore_settings::with_flags(Command::new("longshore-registry"), settings())
        .version(env!("CARGO_PKG_VERSION"))
        .about("An OCI registry on object storage, and the origin of a Longshore fleet")
        .args_conflicts_with_subcommands(true);
    SUBCOMMANDS.iter().fold(whole, |whole, each| whole.subcommand(with_settings((each.command)())))
}

/// Runs what the command line names, to its end.
pub fn dispatch(matches: &ArgMatches) -> Result<(), Failure> {
    let named = matches.subcommand().and_then(|(name, matches)| {
        let found = SUBCOMMANDS.iter().find(|each| (each.command)().get_name() == name)?;
        Some((found, matches))
    });
    let (subcommand, matches) = named.unwrap_or((&SUBCOMMANDS[0], matches));
    let config = load(matches)?;
    // Refused only where a test of this process was first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let started = {
        let _inside = runtime.enter();
        let filter = if subcommand.logs { config.log.filter.as_str() } else { "warn" };
        let quiet = crate::config::telemetry::Telemetry::default();
        let traces = if subcommand.logs { &config.telemetry } else { &quiet };
        telemetry::start(&config.log, filter, traces)
    };
    let telemetry = started.map_err(|error| Failure::config("telemetry.otlp_endpoint", error))?;
    let outcome = runtime.block_on((subcommand.run)(matches, &config));
    telemetry.end();
    outcome
}

/// A command that only leads to others takes no setting itself.
fn with_settings(command: Command) -> Command {
    if command.has_subcommands() {
        command.mut_subcommands(with_settings)
    } else {
        longshore_settings::with_flags(command, settings())
    }
}

fn load(matches: &ArgMatches) -> Result<Config, Failure> {
    let leaf = std::iter::successors(Some(matches), |matches| Some(matches.subcommand()?.1)).last();
    let environment = |name: &str| std::env::var_os(name);
    let leaf = leaf.unwrap_or(matches);
    Ok(longshore_settings::load(leaf, settings(), Path::new(DEFAULT_FILE), environment)?)
}

impl Failure {
    /// Anything but wrong configuration: status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// `key` has a value that can not work: status 64.
    pub fn config(key: &str, message: impl std::fmt::Display) -> Self {
        Self { code: EXIT_CONFIG, message: format!("config: {key}: {message}") }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self { code: EXIT_CONFIG, message: error.to_string() }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Config { .. } => EXIT_CONFIG,
            StartError::Listen { .. } => EXIT_PORT,
            StartError::Storage(_) => 1,
        };
        Self { code, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_command_takes_every_setting() {
        for line in [
            &["longshore-registry", "--log-format", "json"][..],
            &["longshore-registry", "serve", "--log-format", "json"],
            &["longshore-registry", "keys", "show", "--log-format", "json"],
        ] {
            let matches = command().try_get_matches_from(line).unwrap();
            let matches = matches.subcommand().map_or(&matches, |(_, matches)| matches);
            assert_eq!(load(matches).unwrap().log.format, LogFormat::Json, "{line:?}");
        }
    }
}
