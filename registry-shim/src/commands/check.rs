//! `longshore-registry check`: what an operator wants to know before `serve`, as a table or JSON.
//!
//! It opens what the configuration names and asks whom it names: a line for each. It leaves nothing
//! behind but the stores' own probes, never prints a secret, and makes no key.

mod local;
mod remote;

use clap::{Arg, ArgAction, ArgMatches, Command};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::Failure;
use crate::config::Config;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Row {
    check: String,
    state: State,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, and the operator should know.
    Warn,
    /// `serve` would not start, or not work.
    Fail,
}

/// `check`
pub fn command() -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    Command::new("check").about("Try out the configuration without serving").arg(json)
}

/// Looks at everything; fails when anything does.
#[allow(clippy::print_stdout, reason = "the table is this command's output")]
pub async fn run(matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let mut rows = vec![match config.check() {
        Ok(()) => Row::ok("configuration", "every key is known"),
        Err(error) => Row::fail("configuration", error),
    }];
    rows.extend(local::rows(config));
    rows.extend(remote::rows(config).await);
    if matches.get_flag("json") {
        let text = serde_json::to_string_pretty(&rows).expect("rows hold only texts");
        println!("{text}");
    } else {
        println!("{}", table(&rows));
    }
    match rows.iter().filter(|row| row.state == State::Fail).count() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of {} checks failed", rows.len()))),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["CHECK", "STATE", "DETAIL"]);
    for row in rows {
        let state = match row.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        table.add_row([&row.check, state, &row.detail]);
    }
    table
}

impl Row {
    fn new(check: impl Into<String>, state: State, detail: impl std::fmt::Display) -> Self {
        Self { check: check.into(), state, detail: detail.to_string() }
    }

    fn ok(check: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::new(check, State::Ok, detail)
    }

    fn warn(check: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::new(check, State::Warn, detail)
    }

    fn fail(check: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::new(check, State::Fail, detail)
    }
}
