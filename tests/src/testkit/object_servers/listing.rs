//! What lies in a bucket, as somebody else's client sees it: Python's of AWS, from moto's
//! environment. It runs where the server's site says, so that both have one clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{BUCKET, ObjectServer, Site, moto};
use crate::testkit::cache::Cache;
use crate::testkit::error::{Context, LabError, Result};
use crate::testkit::wait::within;

const DEADLINE: Duration = Duration::from_secs(60);
const SCRIPT: &str = "import boto3, json, sys
from botocore.config import Config
s3 = boto3.client('s3', endpoint_url=sys.argv[1], config=Config(s3={'addressing_style': 'path'}))
pages = s3.get_paginator('list_objects_v2').paginate(Bucket=sys.argv[2])
print(json.dumps({each['Key']: each['Size'] for page in pages for each in page.get('Contents', [])}))
";

impl ObjectServer {
    /// Keys and sizes of all objects of an S3 server's bucket.
    pub async fn list(&self, site: &Site) -> Result<BTreeMap<String, u64>> {
        let python = tokio::task::spawn_blocking(|| moto::program(&Cache::open()?)).await;
        let python = python.map_err(|lost| LabError::Unexpected(lost.to_string()))??;
        let mut command = tokio::process::Command::new(python);
        command.args(["-c", SCRIPT, self.endpoint(), BUCKET]).kill_on_drop(true);
        for (name, value) in self.credentials() {
            command.env(if name == "AWS_REGION" { "AWS_DEFAULT_REGION" } else { name }, value);
        }
        if let Site::Loopback(loopback) = site {
            command.envs(loopback.environment().iter().cloned());
        }
        let what = || format!("the list of {}", self.endpoint());
        let output = within(&what(), DEADLINE, command.output()).await?.during(what)?;
        serde_json::from_slice(&output.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            LabError::Unexpected(format!("{}: {error}: {said}", what()))
        })
    }
}
