//! A lease: one instance at a time does the work of a home that all could do.
//!
//! From Overwrite and Get alone, as some stores have no conditional create: whoever finds no valid
//! lease writes its own, waits longer than a small write lasts, and reads it back; the last writer
//! holds it. That two hold it for a moment is possible where a write is slower than the wait; all
//! that is done under a lease may therefore be done twice, and the lease only saves the work.

use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload, Result};
use serde::{Deserialize, Serialize};

use super::home::Home;
use super::side::present;
use crate::registry::now_ms;

#[derive(Serialize, Deserialize)]
struct Lease {
    instance: String,
    until_ms: u64,
}

impl Home {
    /// Whether this instance holds the lease `name` for at least half its time from now.
    pub(super) async fn hold(&self, name: &str) -> Result<bool> {
        let (key, side) = (Path::from(format!("lease/{name}")), &self.replica);
        let (lease_ms, now) =
            (u64::try_from(self.timing.lease.as_millis()).unwrap_or(u64::MAX), now_ms());
        let found = self.lease(&key).await?;
        let valid = found.filter(|lease| lease.until_ms > now);
        match &valid {
            Some(lease) if lease.instance != self.instance => return Ok(false),
            Some(lease) if lease.until_ms - now > lease_ms / 2 => return Ok(true),
            _ => {}
        }
        let lease = Lease { instance: self.instance.clone(), until_ms: now + lease_ms };
        let content = serde_json::to_vec(&lease).expect("a text and a number");
        let put = side.control.put(&key, PutPayload::from(content));
        side.call(self.timing.record, put).await?;
        if valid.is_some() {
            return Ok(true);
        }
        tokio::time::sleep(self.timing.lease_settle).await;
        Ok(self.lease(&key).await?.is_some_and(|lease| lease.instance == self.instance))
    }

    /// Gives it up early.
    pub(super) async fn release(&self, name: &str) {
        let (key, side) = (Path::from(format!("lease/{name}")), &self.replica);
        if let Ok(Some(lease)) = self.lease(&key).await
            && lease.instance == self.instance
        {
            // One that stays ends by itself.
            let _ = side.call(self.timing.record, side.control.delete(&key)).await;
        }
    }

    async fn lease(&self, key: &Path) -> Result<Option<Lease>> {
        let side = &self.replica;
        let read = async {
            let Some(found) = present(side.control.get(key).await)? else { return Ok(None) };
            Ok(serde_json::from_slice(&found.bytes().await?).ok())
        };
        side.call(self.timing.record, read).await
    }
}
