//! moto: a mock of AWS that honours `If-None-Match: *` with 412, as S3 does.
//!
//! It keeps everything in memory, checks no signature, and has no durability to test.

use std::path::{Path, PathBuf};

use super::{BUCKET, ObjectServer, Plan, Site, complete, python};
use crate::testkit::cache::Cache;
use crate::testkit::error::{LabError, Result};

const REQUIREMENT: &str = "moto[server]==5.2.5";

pub(super) fn program(cache: &Cache) -> Result<PathBuf> {
    let entry = python(cache, "moto-5.2.5", REQUIREMENT)?;
    complete(entry.join("venv/bin/python"))
}

pub(super) fn plan(site: &Site, program: &Path) -> Result<Plan> {
    let (address, port) = (site.address(), site.port(5555)?);
    let line = [
        program.display().to_string(),
        "-c".to_owned(),
        // Its script would name the directory that it was installed in, before the rename.
        "from moto.server import main; main()".to_owned(),
        "-H".to_owned(),
        address.clone(),
        "-p".to_owned(),
        port.to_string(),
    ];
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "longshore"),
        ("AWS_SECRET_ACCESS_KEY", "longshore-test"),
        ("AWS_REGION", "us-east-1"),
    ];
    Ok(Plan {
        line: line.to_vec(),
        envs: Vec::new(),
        ready: "/moto-api/",
        endpoint: format!("http://{address}:{port}"),
        credentials: credentials.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    })
}

pub(super) async fn make_bucket(site: &Site, server: &ObjectServer) -> Result<()> {
    let url = format!("{}/{BUCKET}", server.endpoint);
    match site.request(reqwest::Method::PUT, &url, Vec::new()).await? {
        200 => Ok(()),
        status => Err(LabError::Unexpected(format!("moto answers {status} to a new bucket"))),
    }
}
