//! `longshore-registry quota list|show|recompute`: what projects use, straight from the stores.

use clap::{Arg, ArgAction, ArgMatches, Command};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Failure;
use super::stores::{Access, with_storages};
use crate::config::Config;
use crate::quota::{self, ProjectUsage, Recomputed};
use crate::storage::{Project, StorageError};

/// `quota`
pub fn command() -> Command {
    let json = || {
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON, for machines")
    };
    let project = || {
        Arg::new("project")
            .value_name("PROJECT")
            .required(true)
            .value_parser(|text: &str| text.parse::<Project>())
            .help("first segment of the repositories' names")
    };
    Command::new("quota")
        .about("What projects use of their quotas")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("Print the usage of every project").arg(json()))
        .subcommand(
            Command::new("show").about("Print one project's usage").arg(project()).arg(json()),
        )
        .subcommand(
            Command::new("recompute")
                .about("Charge what a project holds and does not pay for")
                .arg(project())
                .arg(json()),
        )
}

/// Runs what the command line names, on the one store or on those of all regions.
pub async fn run(matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let (name, matches) = matches.subcommand().expect("clap asks for a subcommand");
    let json = matches.get_flag("json");
    match name {
        "list" => {
            let usages = with_storages(config, Access::Reads, async |storages| {
                quota::usages(&storages, &config.quota).await.map_err(failed)
            });
            let usages = usages.await?;
            print(json, &usages, || table_of(&usages));
        }
        "show" => {
            let usage = with_storages(config, Access::Reads, async |storages| {
                let project = named(matches);
                quota::usage_in_all(&storages, &config.quota, project).await.map_err(failed)
            });
            let usage = usage.await?;
            print(json, &usage, || details_of(&usage));
        }
        _ => recompute(config, named(matches), json).await?,
    }
    Ok(())
}

async fn recompute(config: &Config, project: &Project, json: bool) -> Result<(), Failure> {
    let found = with_storages(config, Access::Writes, async |storages| {
        let mut found = Recomputed::of(project);
        for storage in storages {
            found.add(&quota::recompute(&storage, project).await.map_err(failed)?);
        }
        Ok(found)
    });
    let found = found.await?;
    print(json, &found, || {
        pairs([
            ("project", found.project.clone()),
            ("used", bytes(found.used_bytes)),
            ("charges", found.charges.to_string()),
            ("added", format!("{} ({})", found.added, bytes(found.added_bytes))),
            ("held by nothing", format!("{} ({})", found.unheld, bytes(found.unheld_bytes))),
        ])
    });
    Ok(())
}

fn named(matches: &ArgMatches) -> &Project {
    matches.get_one("project").expect("clap asks for a project")
}

fn failed(error: StorageError) -> Failure {
    Failure::new(error.to_string())
}

#[allow(clippy::print_stdout, reason = "the table is this command's output")]
fn print(json: bool, value: &impl Serialize, table: impl FnOnce() -> Table) {
    if json {
        let text = serde_json::to_string_pretty(value);
        println!("{}", text.expect("reports hold only texts and numbers"));
    } else {
        println!("{}", table());
    }
}

fn table_of(usages: &[ProjectUsage]) -> Table {
    let mut table = new_table();
    table.set_header(["project", "used", "limit", "free", "charges", "leased"]);
    for usage in usages {
        table.add_row([
            usage.project.clone(),
            bytes(usage.used_bytes),
            limit(usage),
            free(usage),
            usage.charges.to_string(),
            bytes(usage.leased_bytes),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn details_of(usage: &ProjectUsage) -> Table {
    pairs([
        ("project", usage.project.clone()),
        ("used", bytes(usage.used_bytes)),
        ("limit", limit(usage)),
        ("free", free(usage)),
        ("charges", usage.charges.to_string()),
        ("largest", bytes(usage.largest_bytes)),
        ("leased", format!("{} in {} leases", bytes(usage.leased_bytes), usage.leases)),
    ])
}

fn pairs<const N: usize>(rows: [(&str, String); N]) -> Table {
    let mut table = new_table();
    for (name, value) in rows {
        table.add_row([name, &value]);
    }
    table
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

fn limit(usage: &ProjectUsage) -> String {
    usage.limit_bytes.map_or_else(|| "none".to_owned(), bytes)
}

fn free(usage: &ProjectUsage) -> String {
    let free = usage.limit_bytes.map(|limit| limit.saturating_sub(usage.used_bytes));
    free.map_or_else(|| "-".to_owned(), bytes)
}
