//! An instance that knows ten thousand images: how soon it is ready, and what it takes to rest.

use std::time::{Duration, Instant};

use super::images::{SmallImage, Target};
use super::options::Options;
use crate::bench::process::resident_bytes;
use crate::testkit::backend::Store;
use crate::testkit::error::{LabError, Result};
use crate::testkit::loopback::{Loopback, free_port};
use crate::testkit::origin::Origin;
use crate::testkit::settings::Settings;

const READY_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);
/// Starts whose median counts.
const STARTS: usize = 5;

/// Pushes the images.
pub(super) async fn push(
    target: &Target,
    options: &Options,
    like: &SmallImage,
) -> Result<Vec<SmallImage>> {
    let images = super::images::known(options.known, like);
    target.push(&images).await?;
    Ok(images)
}

/// Median milliseconds from exec to the first ready answer.
pub(super) async fn ready_ms(
    loopback: &Loopback,
    store: &Store,
    settings: &Settings,
) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let admin = format!("127.0.0.1:{}", free_port()?);
        let mut settings = settings.clone();
        settings.set("admin.listen", &admin);
        let start = Instant::now();
        let process = Origin::spawn(loopback, store, "ready", &settings, "")?;
        let ready = format!("http://{admin}/readyz");
        let client = reqwest::Client::new();
        loop {
            process.check_alive()?;
            if let Ok(answer) = client.get(&ready).send().await
                && answer.status() == 200
            {
                break;
            }
            if start.elapsed() > READY_DEADLINE {
                return Err(LabError::Unexpected("the registry is not ready".to_owned()));
            }
            tokio::time::sleep(POLL).await;
        }
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        process.kill().await?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[STARTS / 2])
}

/// Resident bytes after one GET of every image.
pub(super) async fn rss_bytes(
    origin: &Origin,
    target: &Target,
    images: &[SmallImage],
) -> Result<u64> {
    target.get(images).await?;
    resident_bytes(origin.process().pid())
}
