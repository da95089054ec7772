//! The demo's words: what is about to be measured, the table, the figures on disk.

#![allow(clippy::print_stdout, reason = "the demo speaks to a person")]

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::figures::{Figures, NodeFigures};
use super::options::Options;
use super::progress::say;
use crate::image::Image;

/// Says what will be pulled, by whom, over which links.
pub(super) fn announce(options: &Options, image: &Image) {
    say(&format!(
        "the image has {} layers, {:.1} MB compressed, {}",
        image.layers.len(),
        megabytes(image.bytes()),
        image.digest
    ));
    say(&format!(
        "{} nodes, links of {} both ways, the registry's {}; bound for the last node {:.1} s",
        options.nodes,
        options.node_rate(),
        options.registry_rate(),
        options.bound_seconds(image.bytes())
    ));
}

/// Prints the table and the ratios below it.
pub(super) fn print(figures: &Figures) {
    println!("\n{}\n", table(&figures.per_node));
    let line = |what: &str, value: String| println!("{what:<50} {value}");
    line(
        "origin's egress over the image's size",
        format!(
            "{:.2}   (at most 1.3; without Longshore {:.2})",
            figures.origin_egress_ratio, figures.without_egress_ratio
        ),
    );
    line(
        "last node's wire time over the bound",
        format!(
            "{:.2}   (at most 1.5; {:.1} s over {:.1} s)",
            figures.last_node_bound_ratio, figures.last_wire_seconds, figures.bound_seconds
        ),
    );
    line(
        "last node ready, over the same without Longshore",
        format!(
            "{:.2}   (at most 0.5; {:.1} s over {:.1} s)",
            figures.without_longshore_ratio,
            figures.last_ready_seconds,
            figures.without_last_ready_seconds
        ),
    );
    line(
        "from peers, by agents / between nodes, by links",
        format!(
            "{:.1} MB / {:.1} MB",
            megabytes(figures.bytes_from_peers),
            megabytes(figures.bytes_between_nodes_on_links)
        ),
    );
    for wrong in &figures.wrong {
        println!("WRONG: {wrong}");
    }
    if !figures.promises_kept {
        println!("a ratio is beyond what the project promises");
    }
}

fn table(nodes: &[NodeFigures]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "node",
        "wire s",
        "unpack s",
        "MB from origin",
        "MB from peers",
        "verified pieces",
        "container",
        "without: wire s",
        "unpack s",
    ]);
    for node in nodes {
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(&node.node),
            number(format!("{:.1}", node.wire_seconds)),
            number(format!("{:.1}", node.unpack_seconds)),
            number(format!("{:.1}", megabytes(node.bytes_from_origin))),
            number(format!("{:.1}", megabytes(node.bytes_from_peers))),
            number(node.verified_pieces.to_string()),
            Cell::new(if node.container_ok { "ran" } else { "WRONG" }),
            number(format!("{:.1}", node.without_wire_seconds)),
            number(format!("{:.1}", node.without_unpack_seconds)),
        ]);
    }
    table
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
