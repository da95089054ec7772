//! Quotas over real stores: several processes on one store, processes that die, a store that goes
//! away, and one that is failed over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod crowd;
mod outage;
mod start;

use longshore_proto::{Algorithm, Digest};
use longshore_tests::testkit::{Origin, Result, Settings};
use reqwest::Response;
use serde_json::Value;

use crate::client::{Client, lost};
use crate::harness::Stage;

const PROJECT: &str = "team";

/// A limit for the project; pushes wait as long as they may for headroom that others hold.
fn limit(bytes: u64) -> Settings {
    let mut settings = Settings::default();
    settings.set("quota.projects", format!("{PROJECT}={bytes}"));
    settings.set("quota.wait_ms", 25_000);
    settings
}

/// Bytes that nobody else has.
fn content(bytes: usize, seed: usize) -> Vec<u8> {
    let mut content = format!("{seed} ").into_bytes();
    content.resize(bytes.max(content.len()), b'.');
    content
}

async fn push(client: &Client, repository: &str, content: &[u8]) -> Result<Response> {
    let digest = Digest::of(Algorithm::Sha256, content);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let post = client.request(reqwest::Method::POST, &path).body(content.to_vec());
    post.send().await.map_err(|error| lost(&error))
}

/// `quota show`, by the program itself.
async fn show(stage: &Stage, settings: &Settings, file: &str) -> Result<Value> {
    let arguments = ["quota", "show", PROJECT, "--json"];
    Origin::ask(&stage.loopback, &stage.store, settings, file, &arguments).await
}

fn number(usage: &Value, field: &str) -> u64 {
    usage[field].as_u64().unwrap_or_else(|| panic!("no {field} in {usage}"))
}

/// The bytes that a refusal says are used and needed; it is 403 `DENIED` and nothing else.
async fn denied(answer: Response, limit: u64) -> Result<(u64, u64)> {
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(|error| lost(&error))?;
    assert_eq!(status, 403, "{text}");
    let body: Value = serde_json::from_str(&text).expect("a refusal is JSON");
    assert_eq!(body["errors"][0]["code"], "DENIED");
    let message = body["errors"][0]["message"].as_str().expect("a refusal has a message");
    let named: Vec<u64> =
        message.split('(').filter_map(|part| part.split_once(" bytes)")?.0.parse().ok()).collect();
    let [used, said, needed] = named[..] else { panic!("three numbers are missing: {message}") };
    assert_eq!(said, limit, "{message}");
    assert!(used + needed > limit, "{message}");
    Ok((used, needed))
}
