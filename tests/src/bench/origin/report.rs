//! The benchmark's words: what is measured, the table, the figures on disk.

#![allow(clippy::print_stdout, reason = "the benchmark speaks to a person")]

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::figures::Figures;
use super::options::Options;

/// One step of the run.
pub(super) fn say(what: &str) {
    println!("bench-origin: {what}");
}

pub(super) fn announce(options: &Options) {
    let (images, layers) = (options.images, options.layers);
    say(&format!(
        "a node start is a token, {images} manifests by tag, {images} by digest and {} layers; \
         {} connections; layers lie in {:?}",
        images * layers,
        options.connections,
        options.store
    ));
}

/// Prints both registries beside each other, and the rest below.
pub(super) fn print(figures: &Figures) {
    let docker = &figures.docker_registry;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "longshore", "docker-registry", "promised"]);
    let mut row = |what: &str, ours: String, theirs: String, promised: &str| {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row(vec![Cell::new(what), right(ours), right(theirs), Cell::new(promised)]);
    };
    let whole = |value: f64| format!("{value:.0}");
    let ms = |value: f64| format!("{value:.2}");
    row("requests/s, warm", whole(figures.requests_per_s), whole(docker.requests_per_s), "≥ 35000");
    row(
        "requests/s, cold",
        whole(figures.cold_requests_per_s),
        whole(docker.cold_requests_per_s),
        "",
    );
    row(
        "server CPU µs/request",
        ms(figures.server_cpu_us_per_request),
        ms(docker.server_cpu_us_per_request),
        "≤ 20",
    );
    row("p50 ms at 80 %", ms(figures.p50_ms), ms(docker.p50_ms), "");
    row("p99 ms at 80 %", ms(figures.p99_ms), ms(docker.p99_ms), "< 15");
    row("p99.9 ms at 80 %", ms(figures.p999_ms), ms(docker.p999_ms), "");
    row("errors", figures.errors.to_string(), docker.errors.to_string(), "0");
    println!("\n{table}\n");
    let line = |what: &str, value: String| println!("{what:<50} {value}");
    line(
        "requests/s over docker-registry's",
        format!("{:.1}   (at least 20)", figures.docker_registry_ratio),
    );
    line("layer requests a minute", whole(figures.layer_requests_per_minute));
    line("node starts a minute, request by request", whole(figures.node_starts_per_minute));
    line("node starts a minute, by plan", whole(figures.plan_node_starts_per_minute));
    let mebibytes = figures.rss_idle_bytes as f64 / 1024.0 / 1024.0;
    line(
        &format!("resident memory, {} images known", figures.known_images),
        format!("{mebibytes:.1} MiB   (less than 64)"),
    );
    line("from exec to ready", format!("{:.0} ms   (at most 300)", figures.ready_ms));
    if let Some(error) = &figures.first_error {
        line("first error", error.clone());
    }
    line("all promises kept", figures.promises_kept.to_string());
}
