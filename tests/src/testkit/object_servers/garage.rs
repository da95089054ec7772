//! Garage: a real S3 server, one node with sqlite, built from its crate once.
//!
//! It takes `If-None-Match: *` and overwrites all the same; presigned URLs, ranges and multipart
//! work.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BUCKET, INSTALL_DEADLINE, ObjectServer, Plan, READY_DEADLINE, Site, complete};
use crate::testkit::cache::Cache;
use crate::testkit::command::Run;
use crate::testkit::error::{Context, Result};
use crate::testkit::wait::{Seen, until};

const VERSION: &str = "2.5.0";
/// `GK` and 12 bytes; the secret has 32.
const KEY_ID: &str = "GK6c6f6e6773686f7265303031";
const SECRET: &str = "6c6f6e6773686f72652d746573742d7365637265742d6e6f742d612d7365630a";
const RPC_SECRET: &str = "6c6f6e6773686f72652d746573742d7270632d7365637265742d2d2d2d2d2d0a";

/// The binary: Debian has none, so cargo builds it into the cache.
pub(super) fn program(cache: &Cache) -> Result<PathBuf> {
    let entry = cache.entry("programs", &format!("garage-{VERSION}"), |half| {
        let target = half.join("target");
        Run::new("cargo")
            .args(["install", "garage", "--locked", "--version", VERSION, "--root"])
            .arg(half)
            .env("CARGO_TARGET_DIR", &target)
            .deadline(INSTALL_DEADLINE)
            .run()?;
        fs::remove_dir_all(&target).during(|| target.display().to_string())
    })?;
    complete(entry.join("bin/garage"))
}

pub(super) fn plan(site: &Site, program: &Path) -> Result<Plan> {
    let (s3, rpc) = (site.port(3900)?, site.port(3901)?);
    let (address, data) = (site.address(), site.directory().join("garage"));
    fs::create_dir_all(&data).during(|| data.display().to_string())?;
    let configuration = data.join("garage.toml");
    let text = format!(
        "metadata_dir = \"{data}/meta\"\ndata_dir = \"{data}/data\"\ndb_engine = \"sqlite\"\n\
         replication_factor = 1\nrpc_bind_addr = \"{address}:{rpc}\"\n\
         rpc_public_addr = \"{address}:{rpc}\"\nrpc_secret = \"{RPC_SECRET}\"\n\
         [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{address}:{s3}\"\n",
        data = data.display()
    );
    fs::write(&configuration, text).during(|| configuration.display().to_string())?;
    let [program, configuration] = [program, &configuration].map(|path| path.display().to_string());
    let line = [&program, "-c", &configuration, "server", "--single-node", "--default-bucket"];
    let own = [
        ("GARAGE_DEFAULT_ACCESS_KEY", KEY_ID),
        ("GARAGE_DEFAULT_SECRET_KEY", SECRET),
        ("GARAGE_DEFAULT_BUCKET", BUCKET),
        ("RUST_LOG", "garage=info"),
    ];
    Ok(Plan {
        line: line.map(str::to_owned).to_vec(),
        envs: own.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ready: "/",
        endpoint: format!("http://{address}:{s3}"),
        credentials: vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), SECRET.to_owned()),
            ("AWS_REGION".to_owned(), "garage".to_owned()),
        ],
    })
}

/// The ports open after the bucket was made; what is left is that it says so.
pub(super) async fn bucket_is_there(site: &Site, server: &ObjectServer) -> Result<()> {
    let url = format!("{}/{BUCKET}", server.endpoint);
    until("garage's bucket", READY_DEADLINE, async || {
        server.process.check_alive()?;
        let status = site.request(reqwest::Method::GET, &url, Vec::new()).await?;
        // Nobody may list it without a signature: that is an answer about a bucket that is there.
        Ok(if status == 403 { Seen::Yes(()) } else { Seen::NotYet(status.to_string()) })
    })
    .await
}
