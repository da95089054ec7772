//! The metrics of every room as `packaging/metrics.md` lists them.

use std::collections::{BTreeMap, BTreeSet};

use longshore_registry::metrics::Metrics;
use prometheus_client::registry::Registry;

use crate::common::TestRegistry;

const LISTED: &str = include_str!("../../../packaging/metrics.md");

/// Name, type, and whether it is there from the start.
fn listed() -> BTreeMap<&'static str, (&'static str, bool)> {
    let rows = LISTED.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: Vec<_> = rows
        .map(|row| {
            let (name, rest) = row.split_once('`').unwrap();
            let mut columns = rest.split(" | ");
            let always = columns.next() != Some("*");
            let kind = columns.next().unwrap();
            let says = columns.next().and_then(|says| says.strip_suffix(" |"));
            assert!(says.is_some_and(|says| says.len() > 10), "{name} says nothing");
            (name, (kind, always))
        })
        .collect();
    let table: BTreeMap<_, _> = rows.iter().copied().collect();
    assert_eq!(table.len(), rows.len(), "a name stands twice");
    table
}

/// The full names of all that rooms enter, whether or not they have counted anything. Only the
/// registry's own rendering for debugging shows those without a value.
fn entered() -> BTreeSet<String> {
    let mut registry = Registry::default();
    Metrics::new().register(registry.sub_registry_with_prefix("longshore"));
    let text = format!("{registry:#?}");
    let mut lines = text.lines().map(str::trim);
    let (mut prefix, mut names) = (String::new(), BTreeSet::new());
    let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
    while let Some(line) = lines.next() {
        if line == "Prefix(" {
            prefix = quoted(lines.next().unwrap()).unwrap();
        } else if line == "Descriptor {" {
            let name = quoted(lines.next().unwrap()).unwrap();
            names.insert(format!("{prefix}_{name}"));
        }
    }
    names
}

#[test]
fn the_list_names_what_every_room_enters_and_nothing_else() {
    let (listed, entered) = (listed(), entered());
    assert!(entered.len() > 60, "only {} are found", entered.len());
    let listed: BTreeSet<String> = listed.keys().map(|&name| name.to_owned()).collect();
    let missing: Vec<_> = entered.difference(&listed).collect();
    assert!(missing.is_empty(), "not listed: {missing:#?}");
    let gone: Vec<_> = listed.difference(&entered).collect();
    assert!(gone.is_empty(), "listed, and entered by nobody: {gone:#?}");
}

#[tokio::test]
async fn what_is_served_is_of_the_type_and_there_when_the_list_says() {
    let registry = TestRegistry::start().await;
    registry.get("/v2/").await;
    let url = format!("http://{}/metrics", registry.admin);
    let text = registry.client.get(url).send().await.unwrap().text().await.unwrap();
    let served: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for (name, (kind, always)) in &listed() {
        match served.get(name) {
            Some(is) => assert_eq!(is, kind, "{name}"),
            None => assert!(!always, "{name} is listed without * and not served"),
        }
    }
}
