//! The front door's metrics as `packaging/metrics.md` lists them.

use std::collections::BTreeMap;

use crate::common::TestRegistry;

const LISTED: &str = include_str!("../../../packaging/metrics.md");
/// How names of the front door begin.
const OURS: [&str; 9] = [
    "request",
    "reads_",
    "writes_",
    "calls_",
    "blob_streams",
    "buffered_",
    "compose_",
    "connections",
    "tls_",
];

/// Name, type, and whether it is there from the start.
fn listed() -> BTreeMap<&'static str, (&'static str, bool)> {
    let rows = LISTED.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, rest) = row.split_once('`').unwrap();
        let mut columns = rest.split(" | ");
        let always = columns.next() != Some("*");
        (name, (columns.next().unwrap(), always))
    })
    .collect()
}

#[tokio::test]
async fn the_list_and_what_is_served_are_the_same() {
    let registry = TestRegistry::start().await;
    registry.get("/v2/").await;
    let url = format!("http://{}/metrics", registry.admin);
    let text = registry.client.get(url).send().await.unwrap().text().await.unwrap();
    let served: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let listed = listed();
    assert!(listed.len() > 10, "the table is read");
    for (name, (kind, always)) in &listed {
        match served.get(name) {
            Some(is) => assert_eq!(is, kind, "{name}"),
            None => assert!(!always, "{name} is listed and not served"),
        }
    }
    for name in served.keys() {
        let short = name.strip_prefix("longshore_registry_").unwrap_or_default();
        if OURS.iter().any(|ours| short.starts_with(ours)) {
            assert!(listed.contains_key(name), "{name} is served and not listed");
        }
    }
}
