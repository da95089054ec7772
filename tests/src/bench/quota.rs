//! `make bench-quota`: pushers into one project with a quota beside as many into projects of their
//! own. No object is shared by all pushes, so both should take as long.

#![allow(clippy::print_stdout, reason = "the benchmark speaks to a person")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{Table, presets};
use futures::future::try_join_all;
use longshore_proto::{Algorithm, Digest};
use reqwest::{Client, StatusCode};
use serde::Serialize;

use crate::testkit::backend::Backend;
use crate::testkit::error::LabError;
use crate::testkit::object_servers::Site;
use crate::testkit::origin::Origin;
use crate::testkit::settings::Settings;
use crate::testkit::{Loopback, Result};

/// One push on a loaded machine.
const PUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// Measures pushes under a quota.
#[derive(Debug, Clone, Parser)]
#[command(name = "longshore-bench-quota")]
pub struct Options {
    /// Pushers at once.
    #[arg(long, default_value_t = 500)]
    pub pushers: usize,
    /// Blobs that each pushes, one after the other.
    #[arg(long, default_value_t = 10)]
    pub artifacts: usize,
    /// Bytes of a blob.
    #[arg(long, default_value_t = 1024)]
    pub bytes: usize,
    /// Rounds of four runs, one, many, many, one, behind a first one that warms up; the median
    /// counts.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Writes the figures there, as JSON.
    #[arg(long)]
    pub figures: Option<PathBuf>,
}

/// What `bench-quota.json` holds.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Pushers at once.
    pub pushers: usize,
    /// Blobs of each.
    pub artifacts: usize,
    /// All into one project: median of the rounds.
    pub one_project_pushes_per_s: f64,
    /// Each pusher into a project of its own: median of the rounds.
    pub many_projects_pushes_per_s: f64,
    /// The first over the second, median of the rounds' ratios.
    pub one_over_many_ratio: f64,
    /// Of each round.
    pub round_ratios: Vec<f64>,
}

/// Whose project a pusher pushes into.
#[derive(Debug, Clone, Copy)]
enum Projects {
    One,
    Many,
}

/// Runs the rounds and prints the table.
///
/// # Errors
/// When a push is not acknowledged.
pub async fn run(options: &Options) -> Result<Figures> {
    let loopback = Loopback::start()?;
    let store = Backend::Directory.start(&Site::Loopback(loopback.clone())).await?;
    let mut settings = Settings::default();
    settings.set("quota.default_bytes", "1TiB");
    let origin = Origin::start_with(&loopback, &store, "registry", &settings).await?;
    let (mut one, mut many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=options.rounds.max(1) {
        let (in_one, in_many) = measure(&origin, options, round).await?;
        let ratio = in_one / in_many;
        let counts = if round == 0 { ", which does not count" } else { "" };
        println!(
            "bench-quota: round {round}{counts}: one project {in_one:.0}/s, many {in_many:.0}/s, \
             ratio {ratio:.2}"
        );
        if round > 0 {
            one.push(in_one);
            many.push(in_many);
            ratios.push(ratio);
        }
    }
    origin.stop().await?;
    let figures = Figures {
        pushers: options.pushers,
        artifacts: options.artifacts,
        one_project_pushes_per_s: median(one),
        many_projects_pushes_per_s: median(many),
        round_ratios: ratios.iter().copied().map(rounded).collect(),
        one_over_many_ratio: median(ratios),
    };
    print(&figures);
    if let Some(path) = &options.figures {
        crate::figures::write(&figures, path)?;
    }
    Ok(figures)
}

/// Pushes a second into one project and into many. Each run finds a fuller store than the one
/// before: in this order both kinds find the same on average.
async fn measure(origin: &Origin, options: &Options, round: usize) -> Result<(f64, f64)> {
    let (mut in_one, mut in_many) = (Duration::ZERO, Duration::ZERO);
    let order = [Projects::One, Projects::Many, Projects::Many, Projects::One];
    for (run, projects) in order.into_iter().enumerate() {
        let took = push_round(origin, options, projects, round * order.len() + run).await?;
        match projects {
            Projects::One => in_one += took,
            Projects::Many => in_many += took,
        }
    }
    let pushes = (2 * options.pushers * options.artifacts) as f64;
    Ok((pushes / in_one.as_secs_f64(), pushes / in_many.as_secs_f64()))
}

/// All pushers at once; how long they took.
async fn push_round(
    origin: &Origin,
    options: &Options,
    projects: Projects,
    round: usize,
) -> Result<Duration> {
    let client = Client::builder().timeout(PUSH_TIMEOUT).build();
    let client = client.map_err(|error| LabError::Unexpected(error.to_string()))?;
    let start = Instant::now();
    let pushers = (0..options.pushers).map(|pusher| {
        let project = match projects {
            Projects::One => format!("one-{round}"),
            Projects::Many => format!("many-{round}-{pusher}"),
        };
        push_all(&client, origin, format!("{project}/app-{pusher}"), options, round)
    });
    try_join_all(pushers).await?;
    Ok(start.elapsed())
}

/// Blobs that nobody else pushes.
async fn push_all(
    client: &Client,
    origin: &Origin,
    repository: String,
    options: &Options,
    round: usize,
) -> Result<()> {
    for artifact in 0..options.artifacts {
        let mut content = format!("{repository} {round} {artifact} ").into_bytes();
        content.resize(options.bytes.max(content.len()), b'.');
        let digest = Digest::of(Algorithm::Sha256, &content);
        let url = format!("{}/v2/{repository}/blobs/uploads/?digest={digest}", origin.url());
        let failed = |source| LabError::Http { what: format!("POST {url}"), source };
        let answer = client.post(&url).body(content).send().await.map_err(failed)?;
        if answer.status() != StatusCode::CREATED {
            let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
            return Err(LabError::Unexpected(format!("{url}: {status}: {body}")));
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    rounded(values[values.len() / 2])
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn print(figures: &Figures) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", "pushes/s"]);
    let pushers = figures.pushers;
    let one = format!("{:.0}", figures.one_project_pushes_per_s);
    let many = format!("{:.0}", figures.many_projects_pushes_per_s);
    table.add_row([format!("{pushers} pushers into one project"), one]);
    table.add_row([format!("{pushers} pushers into {pushers} projects"), many]);
    println!("\n{table}\n");
    let ratio = figures.one_over_many_ratio;
    println!("one project over many: {ratio:.2}   (at least 0.9)");
}
