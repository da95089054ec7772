//! `longshore-registry keys show|new`: what agents and peers take as the origin's keys, and new ones.
//!
//! It prints public halves and names, never a secret, and writes over no file.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::Failure;
use crate::auth;
use crate::config::Config;
use crate::keys;

/// `keys`
pub fn command() -> Command {
    let token =
        |help: &'static str| Arg::new("token").long("token").action(ArgAction::SetTrue).help(help);
    let file = Arg::new("file")
        .long("file")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help("the new file [default: identity.signing_key_file]");
    let show = Command::new("show")
        .about("Print KID:BASE64 of the keys that sign and of those accepted, a line each")
        .arg(token("KID and FILE of auth.token_keys instead"));
    let new = Command::new("new")
        .about("Make a signing key in a new file of mode 0600, and print its KID:BASE64")
        .arg(file)
        .arg(token("make a secret for auth.token_keys instead, and print its KID"));
    Command::new("keys")
        .about("The origin's keys")
        .subcommand_required(true)
        .subcommand(show)
        .subcommand(new)
}

/// Prints public halves, or makes a key.
#[allow(clippy::print_stdout, reason = "the keys are this command's output")]
#[allow(clippy::unused_async, reason = "every command is run in one way")]
pub async fn run(matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::new("keys: no such command"));
    };
    let printed = match (verb, matches.get_flag("token")) {
        ("new", token) => vec![new(matches.get_one::<PathBuf>("file"), token, config)?],
        (_, true) => token_keys(config)?,
        (_, false) => {
            crate::load_keys(config, false)?.public().iter().map(ToString::to_string).collect()
        }
    };
    for line in printed {
        println!("{line}");
    }
    Ok(())
}

fn new(file: Option<&PathBuf>, token: bool, config: &Config) -> Result<String, Failure> {
    let failure = |error: keys::KeyFileError| Failure::new(error.to_string());
    if token {
        let file = file.ok_or_else(|| Failure::config("--file", "is needed for a token's key"))?;
        return auth::make_token_key(file).map_err(failure);
    }
    let file: &Path = file.unwrap_or(&config.identity.signing_key_file);
    keys::make(file).map(|key| key.to_string()).map_err(failure)
}

fn token_keys(config: &Config) -> Result<Vec<String>, Failure> {
    let line = |file: &PathBuf| match auth::token_key_id(file) {
        Ok(kid) => Ok(format!("{kid} {}", file.display())),
        Err(error) => Err(Failure::config("auth.token_keys", error)),
    };
    config.auth.token_keys.iter().map(line).collect()
}
