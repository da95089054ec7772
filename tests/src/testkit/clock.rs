//! A clock that is set forward, for all programs of a loopback: hours pass in a test's seconds.
//!
//! The programs are the shipped ones; a library that is loaded before them answers for the wall
//! clock. What they measure intervals with goes on as always, so that no timeout is shortened, and
//! the times of files are the kernel's: a store whose times are those of files is not told.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cache::Cache;
use super::error::{Context, LabError, Result};
use super::loopback::Loopback;
use super::programs::Programs;
use super::wait::{Seen, until};

const ADVANCE_DEADLINE: Duration = Duration::from_secs(30);

/// The clock of a loopback's programs.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    ahead_s: AtomicU64,
}

impl Clock {
    /// A loopback whose programs go by the clock that is returned with it; it begins an hour ahead.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] where the library cannot be had on this machine. Blocks.
    pub fn loopback() -> Result<(Loopback, Self)> {
        let library = Programs::new(Cache::open()?).faketime()?.display().to_string();
        let loopback = Loopback::start_with(|directory| {
            let variables = [
                ("LD_PRELOAD", library),
                ("FAKETIME_TIMESTAMP_FILE", file(directory).display().to_string()),
                ("FAKETIME_NO_CACHE", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
                // Else waits that go by that clock are too long: requests take seven times as long.
                ("FAKETIME_FORCE_MONOTONIC_FIX", "0".to_owned()),
            ];
            Ok(variables.map(|(name, value)| (name.to_owned(), value)).to_vec())
        })?;
        let clock = Self { file: file(loopback.directory()), ahead_s: AtomicU64::new(3600) };
        clock.write()?;
        Ok((loopback, clock))
    }

    /// Lets `time` pass. Returns when all of these servers, base URLs, go by it.
    pub async fn advance(&self, time: Duration, servers: &[String]) -> Result<()> {
        let before = self.ahead_s.fetch_add(time.as_secs(), Ordering::SeqCst);
        self.write()?;
        let least_s = now_s() + before + time.as_secs() / 2;
        for server in servers {
            until(&format!("the new time at {server}"), ADVANCE_DEADLINE, async || {
                let said = date_s(server).await?;
                Ok(if said >= least_s { Seen::Yes(()) } else { Seen::NotYet(said.to_string()) })
            })
            .await?;
        }
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let half = self.file.with_extension("half");
        let text = format!("+{}\n", self.ahead_s.load(Ordering::SeqCst));
        let written = fs::write(&half, text).and_then(|()| fs::rename(&half, &self.file));
        written.during(|| self.file.display().to_string())
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("clock")
}

fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// What the server says in `Date`.
async fn date_s(url: &str) -> Result<u64> {
    let failed = |source| LabError::Http { what: format!("GET {url}"), source };
    let answer = reqwest::get(url).await.map_err(failed)?;
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let parsed = date.and_then(|date| {
        let format = &time::format_description::well_known::Rfc2822;
        let date = date.replace("GMT", "+0000");
        time::OffsetDateTime::parse(&date, format).ok()
    });
    let parsed = parsed.and_then(|date| u64::try_from(date.unix_timestamp()).ok());
    parsed.ok_or_else(|| LabError::Unexpected(format!("{url} says no date: {date:?}")))
}
