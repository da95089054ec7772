//! Uploads that were never finished, charges of what projects do not hold, and leftover probes.

use futures::TryStreamExt as _;
use object_store::path::Path;

use super::run::Run;
use super::{GcError, Kind};
use crate::storage::{GRACE_MIN_MS, Keys, Project, Released, SESSION_MS, Seen, StorageError};

impl Run<'_> {
    /// Everything in `up/`. Only records go here: their segments go as those that no pointer names.
    pub(super) async fn uploads(&mut self) -> Result<(), GcError> {
        for upload in self.storage.directories("up").await? {
            self.alive().await?;
            self.upload(&upload).await?;
        }
        Ok(())
    }

    async fn upload(&mut self, upload: &str) -> Result<(), GcError> {
        let prefix = format!("up/{upload}");
        let mut keys: Vec<(Path, Seen)> = self.storage.sweep(&prefix).try_collect().await?;
        // The session first and the end last, so that no rest looks like an upload that goes on.
        let rank = |key: &Path| match key.as_ref().split('/').nth(2) {
            Some("session") => 0,
            Some("end") => 2,
            _ => 1,
        };
        keys.sort_by_key(|(key, _)| rank(key));
        let newest_ms = keys.iter().map(|(_, seen)| seen.at_ms).max().unwrap_or_default();
        let expires_ms = match self.storage.upload_expiry(&Path::from(prefix).join("session")).await
        {
            Ok(Some(expires_ms)) => expires_ms,
            Ok(None) => newest_ms.saturating_add(SESSION_MS),
            Err(StorageError::Corrupt { key, .. }) => {
                self.report().cannot_read(key);
                newest_ms.saturating_add(SESSION_MS)
            }
            Err(error) => return Err(error.into()),
        };
        let is_over = expires_ms.saturating_add(GRACE_MIN_MS) <= self.storage.now_ms();
        for (key, seen) in keys {
            if is_over {
                self.take(Kind::Upload, &key).await?;
            } else {
                self.report().waits(Kind::Upload, seen.bytes);
            }
        }
        Ok(())
    }

    /// Everything in `proj/`.
    pub(super) async fn charges(&mut self) -> Result<(), GcError> {
        let mut listing = self.storage.sweep("proj");
        while let Some((key, seen)) = listing.try_next().await? {
            let Some((project, charge)) = Keys::charge(&key) else { continue };
            if self.held().await?.may_contain(&(&project, charge.digest)) {
                continue;
            }
            if !self.policy().is_past_grace(&seen) {
                self.report().waits(Kind::Charge, seen.bytes);
                continue;
            }
            self.charge(&project, &charge, &seen).await?;
        }
        Ok(())
    }

    async fn charge(
        &mut self,
        project: &Project,
        charge: &crate::storage::Charge,
        seen: &Seen,
    ) -> Result<(), GcError> {
        let released = if self.options.dry_run {
            let held = |key: &Path| self.is_gone(key);
            match self.storage.is_held_but_by(project, &charge.digest, held).await? {
                true => Released::Held,
                false => Released::Gone,
            }
        } else {
            self.may_delete().await?;
            self.storage.release_charge(project, charge).await?
        };
        if released == Released::Gone {
            self.report().freed(Kind::Charge, seen.bytes);
        }
        Ok(())
    }

    /// Everything in `capabilities/`.
    pub(super) async fn probes(&mut self) -> Result<(), GcError> {
        let mut listing = self.storage.sweep("capabilities");
        while let Some((key, seen)) = listing.try_next().await? {
            if self.policy().is_settled(&seen) {
                self.take(Kind::Probe, &key).await?;
            }
        }
        Ok(())
    }
}
