//! `longshore-registry gc`: collects once, and says what was freed and what waits.

use clap::{Arg, ArgAction, ArgMatches, Command};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Failure;
use super::stores::{Access, with_storages};
use crate::config::Config;
use crate::gc::{Collector, GcError, Options, Report, Tally};
use crate::storage::GRACE_MIN_MS;

/// `EX_TEMPFAIL` of sysexits(3): another run is at work.
const EXIT_BUSY: u8 = 75;

/// `gc`
pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("gc")
        .about("Free what nothing refers to; goes on where a run was cut off")
        .arg(flag("dry-run", "Change nothing, and say what would be freed now"))
        .arg(flag("json", "Print the report for machines"))
        .arg(flag("take-over", "Begin although another run is at work: it is known to be dead"))
        .arg(
            Arg::new("grace")
                .long("grace")
                .value_name("TIME")
                .value_parser(humantime::parse_duration)
                .help("From finding garbage to deleting it, as 26h; outranks gc.grace_s"),
        )
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a Report,
    total: Tally,
}

/// Collects in the configured store.
#[allow(clippy::print_stdout, reason = "the report is this command's output")]
pub async fn run(matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let mut options = Options::from(&config.gc);
    options.dry_run = matches.get_flag("dry-run");
    options.take_over = matches.get_flag("take-over");
    if let Some(grace) = matches.get_one::<std::time::Duration>("grace") {
        options.grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        if options.grace_ms < GRACE_MIN_MS {
            return Err(Failure::config("gc.grace_s", "--grace is less than an hour"));
        }
    }
    let report = collect(config, &options).await?;
    if matches.get_flag("json") {
        let output = Output { report: &report, total: report.total() };
        let text = serde_json::to_string(&output).map_err(|e| Failure::new(e.to_string()))?;
        println!("{text}");
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

/// In the one store, or in that of each region; the first that fails ends it.
async fn collect(config: &Config, options: &Options) -> Result<Report, Failure> {
    // A dry run does not even write what finds out what the store can do.
    let access = if options.dry_run { Access::Reads } else { Access::Writes };
    with_storages(config, access, async |storages| {
        let mut report = Report::default();
        for storage in storages {
            let collected = Collector::new(storage, options.clone()).run().await;
            report.add(collected.map_err(failure)?);
        }
        Ok(report)
    })
    .await
}

fn failure(error: GcError) -> Failure {
    let code = if matches!(error, GcError::Busy { .. }) { EXIT_BUSY } else { 1 };
    // One line: what happened, and what to do.
    let hint = if code == EXIT_BUSY { "; --take-over where that is known to be dead" } else { "" };
    Failure { code, message: format!("{error}{hint}") }
}

fn table(report: &Report) -> String {
    let freed = if report.dry_run { "would free" } else { "freed" };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["kind", freed, "bytes", "waiting", "bytes"]);
    let row = |name: &str, tally: &Tally| {
        let Tally { freed_objects, freed_bytes, waiting_objects, waiting_bytes } = tally;
        let numbers = [freed_objects, freed_bytes, waiting_objects, waiting_bytes];
        std::iter::once(name.to_owned()).chain(numbers.map(ToString::to_string)).collect::<Vec<_>>()
    };
    for (kind, tally) in &report.kinds {
        table.add_row(row(kind.name(), tally));
    }
    table.add_row(row("total", &report.total()));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\n");
    if report.resumed {
        text.push_str("went on where a run was cut off; what that freed is included\n");
    }
    if report.repaired > 0 {
        text.push_str(&format!("put back: {}\n", report.repaired));
    }
    for key in &report.unreadable {
        text.push_str(&format!("cannot be read, so nothing it may name was freed: {key}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::Kind;

    #[test]
    fn the_table_names_each_kind_and_the_sum() {
        let mut report = Report::default();
        report.freed(Kind::Segment, 1000);
        report.freed(Kind::Segment, 1);
        report.waits(Kind::Membership, 20);
        let text = table(&report);
        let row = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row("segment"), ["segment", "2", "1001", "0", "0"]);
        assert_eq!(row("membership"), ["membership", "0", "0", "1", "20"]);
        assert_eq!(row("total"), ["total", "2", "1001", "1", "20"]);
    }
}
