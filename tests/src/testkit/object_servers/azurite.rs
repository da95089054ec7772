//! azurite: Microsoft's emulator of Azure blobs, from npm.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use time::OffsetDateTime;
use time::macros::format_description;

use super::{BUCKET, INSTALL_DEADLINE, ObjectServer, Plan, Site, complete};
use crate::testkit::cache::Cache;
use crate::testkit::command::Run;
use crate::testkit::error::{LabError, Result};
use crate::testkit::lab::require_tool;

/// The last one that runs on Debian's node.
const VERSION: &str = "3.35.0";
/// The emulator's account and key, which are the same everywhere and documented.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const API_VERSION: &str = "2021-08-06";

pub(super) fn program(cache: &Cache) -> Result<PathBuf> {
    let entry = cache.entry("programs", &format!("azurite-{VERSION}"), |half| {
        let unavailable = |failed: LabError| LabError::Unavailable {
            what: format!("azurite {VERSION}"),
            why: failed.to_string(),
        };
        let npm = require_tool("npm", "deps").map_err(unavailable)?;
        require_tool("node", "deps").map_err(unavailable)?;
        let package = format!("azurite@{VERSION}");
        Run::new(npm)
            .args(["install", "--no-fund", "--no-audit", "--omit=dev", "--ignore-scripts"])
            .args(["--prefix".as_ref(), half.as_os_str()])
            .arg(package)
            .deadline(INSTALL_DEADLINE)
            .run()
            .map(|_| ())
    })?;
    complete(entry.join("node_modules/azurite/dist/src/blob/main.js"))
}

pub(super) fn plan(site: &Site, program: &Path) -> Result<Plan> {
    let (address, port) = (site.address(), site.port(10000)?);
    let data = site.directory().join("azurite");
    let line = [
        "node".to_owned(),
        program.display().to_string(),
        "--blobHost".to_owned(),
        address.clone(),
        "--blobPort".to_owned(),
        port.to_string(),
        "--location".to_owned(),
        data.display().to_string(),
        "--skipApiVersionCheck".to_owned(),
        "--disableTelemetry".to_owned(),
    ];
    let credentials = [("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT), ("AZURE_STORAGE_ACCOUNT_KEY", KEY)];
    Ok(Plan {
        line: line.to_vec(),
        envs: Vec::new(),
        ready: "/",
        endpoint: format!("http://{address}:{port}/{ACCOUNT}"),
        credentials: credentials.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    })
}

/// Source: "Authorize with Shared Key" of Azure's REST reference.
pub(super) async fn make_container(site: &Site, server: &ObjectServer) -> Result<()> {
    let wrong = |failed: &dyn std::fmt::Display| LabError::Unexpected(failed.to_string());
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = OffsetDateTime::now_utc().format(format).map_err(|failed| wrong(&failed))?;
    let signed = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{API_VERSION}\n\
         /{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    );
    let key = STANDARD.decode(KEY).map_err(|failed| wrong(&failed))?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
    let authorization = format!("SharedKey {ACCOUNT}:{}", STANDARD.encode(tag));
    let headers = [
        ("x-ms-date", date.as_str()),
        ("x-ms-version", API_VERSION),
        ("authorization", authorization.as_str()),
    ];
    let url = format!("{}/{BUCKET}?restype=container", server.endpoint);
    match site.request_with(reqwest::Method::PUT, &url, &headers, Vec::new()).await? {
        201 => Ok(()),
        status => Err(LabError::Unexpected(format!("azurite answers {status} to a container"))),
    }
}
