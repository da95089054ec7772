//! `longshore-registry users add|remove|list|verify`: the file that `auth.users_file` names.
//!
//! A password comes from standard input or a file, never from the command line, where others see
//! it. A running registry reads the file again within a second of the next login.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use comfy_table::Table;

use super::Failure;
use crate::auth::users;
use crate::config::Config;

/// More than any password has.
const PASSWORD_FILE_BYTES_MAX: u64 = 64 * 1024;

/// `users`
pub fn command() -> Command {
    let file = Arg::new("file")
        .long("file")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help("users' file [default: auth.users_file]");
    let name = Arg::new("name").value_name("NAME").required(true);
    let password = Arg::new("password-file")
        .long("password-file")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help("its first line is the password [default: standard input]");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("for machines");
    let with =
        |name: &'static str, about: &'static str| Command::new(name).about(about).arg(file.clone());
    let add = with("add", "Add a user, or give it another password");
    let verify = with("verify", "Say by the exit status whether a password is the user's");
    Command::new("users")
        .about("Users of this registry")
        .subcommand_required(true)
        .subcommand(add.arg(name.clone()).arg(password.clone()))
        .subcommand(with("remove", "Take a user out").arg(name.clone()))
        .subcommand(with("list", "List the users").arg(json))
        .subcommand(verify.arg(name).arg(password))
}

/// Reads or rewrites the file.
#[allow(clippy::unused_async, reason = "every command is run in one way")]
pub async fn run(matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Failure::new("users: no such command"));
    };
    let named = matches.get_one::<PathBuf>("file").or(config.auth.users_file.as_ref());
    let file = named
        .ok_or_else(|| Failure::config("auth.users_file", "is not set, and no --file is given"))?;
    let name = || matches.get_one::<String>("name").map(String::as_str).unwrap_or_default();
    let failure = |error: users::UsersFileError| Failure::new(error.to_string());
    let unknown = || Failure::new(format!("{} has no such user", file.display()));
    match verb {
        "add" => {
            users::put(file, name(), &password(matches)?).map_err(failure)?;
            Ok(())
        }
        "remove" => match users::remove(file, name()).map_err(failure)? {
            true => Ok(()),
            false => Err(unknown()),
        },
        "verify" => match users::verify(file, name(), &password(matches)?).map_err(failure)? {
            true => Ok(()),
            false => Err(Failure::new("that is not the user's password")),
        },
        _ => list(file, matches.get_flag("json")),
    }
}

#[allow(clippy::print_stdout, reason = "the list is this command's output")]
fn list(file: &Path, json: bool) -> Result<(), Failure> {
    let names = users::list(file).map_err(|error| Failure::new(error.to_string()))?;
    if json {
        println!("{}", serde_json::json!({ "users": names }));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["USER"]);
    for name in names {
        table.add_row([name]);
    }
    println!("{table}");
    Ok(())
}

/// The first line, without its end.
fn password(matches: &ArgMatches) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match matches.get_one::<PathBuf>("password-file") {
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(PASSWORD_FILE_BYTES_MAX).read_to_string(&mut text)),
        None if std::io::stdin().is_terminal() => {
            let message = "password is read from standard input, which is a terminal";
            return Err(Failure::new(message));
        }
        None => std::io::stdin().take(PASSWORD_FILE_BYTES_MAX).read_to_string(&mut text),
    };
    read.map_err(|error| Failure::new(format!("cannot read the password: {error}")))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
