//! `longshore-registry keys show`: what agents and peers take as the origin's keys.

use clap::{ArgMatches, Command};

use super::Failure;
use crate::config::Config;

/// `keys`
pub fn command() -> Command {
    let show = Command::new("show").about("Print KID:BASE64 of the public keys that sign");
    Command::new("keys").about("The origin's keys").subcommand_required(true).subcommand(show)
}

/// Prints the public half of the signing key.
#[allow(clippy::print_stdout, reason = "the keys are this command's output")]
#[allow(clippy::unused_async, reason = "every command is run in one way")]
pub async fn run(_matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let key = crate::load_key(config, false)?;
    println!("{}", key.public());
    Ok(())
}
