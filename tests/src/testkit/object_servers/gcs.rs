//! gcp-storage-emulator: Google's JSON API in Python.
//!
//! Of the XML API it has PUT, without an ETag in its answer, and GET of one object: no list, no
//! delete, no conditions. It shows what a client sends for these two and nothing more.

use std::path::{Path, PathBuf};

use super::{BUCKET, Plan, Site, complete, python};
use crate::testkit::cache::Cache;
use crate::testkit::error::Result;

const REQUIREMENT: &str = "gcp-storage-emulator==2026.7.19";

pub(super) fn program(cache: &Cache) -> Result<PathBuf> {
    let entry = python(cache, "gcp-storage-emulator-2026.7.19", REQUIREMENT)?;
    complete(entry.join("venv/bin/python"))
}

pub(super) fn plan(site: &Site, program: &Path) -> Result<Plan> {
    let (address, port) = (site.address(), site.port(9023)?);
    let line = [
        program.display().to_string(),
        "-c".to_owned(),
        "import sys; from gcp_storage_emulator.__main__ import main; sys.exit(main())".to_owned(),
        "start".to_owned(),
        format!("--host={address}"),
        format!("--port={port}"),
        "--in-memory".to_owned(),
        format!("--default-bucket={BUCKET}"),
    ];
    Ok(Plan {
        line: line.to_vec(),
        envs: Vec::new(),
        ready: "/",
        endpoint: format!("http://{address}:{port}"),
        credentials: Vec::new(),
    })
}
