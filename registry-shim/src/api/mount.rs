//! Mounts: a blob of another repository becomes this one's, and no byte moves.
//!
//! Source: distribution-spec 1.1.1, "Mounting a blob from another repository". Never shows that a
//! repository holds a blob to who may not read it there: what cannot be mounted is uploaded.

use std::sync::Arc;

use longshore_proto::{Digest, RepositoryName};

use super::route::repository as repository_name;
use super::{ApiError, Call};
use crate::auth::{Action, AuthError, Wanted};
use crate::storage::Pointer;

/// Repositories that are looked into for a blob when the client names none.
const SOURCES_MAX: usize = 32;

/// What the query of an upload's beginning asks for.
#[derive(Debug)]
pub(super) struct Mount {
    digest: Digest,
    /// `None`: from wherever it is.
    from: Option<RepositoryName>,
}

impl Mount {
    /// `None` where nothing is to be mounted.
    pub(super) fn read(call: &Call<'_>) -> Result<Option<Self>, ApiError> {
        let Some(digest) = call.query.get("mount") else { return Ok(None) };
        let from = call.query.get("from").map(|from| repository_name(&from)).transpose()?;
        Ok(Some(Self { digest: digest.parse()?, from }))
    }

    pub(super) const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether the caller may write where the blob shall be; a refusal asks for the source as well.
    pub(super) fn authorize(&self, call: &Call<'_>, to: &RepositoryName) -> Result<(), ApiError> {
        let wanted = match &self.from {
            Some(from) => Wanted::Mount { from, to },
            None => Wanted::Repository(Action::Push, to),
        };
        call.authorize_for(wanted, Action::Push, to)
    }

    /// Makes the blob a member of `to`. A miss is no error: the client then uploads.
    pub(super) async fn carry_out(
        &self,
        call: &Call<'_>,
        to: &RepositoryName,
    ) -> Result<bool, ApiError> {
        let found = match &self.from {
            Some(from) => self.in_one(call, from, to).await?,
            None => self.anywhere(call, to).await?,
        };
        let Some(pointer) = found else { return Ok(false) };
        let storage = call.storage(to).storage();
        let paid = call.registry.quota.pay(storage, to, self.digest, pointer.size).await?;
        if !storage.add_member(to, &self.digest, &pointer).await? {
            return Ok(false);
        }
        paid.confirm().await?;
        call.registry.metrics.upload_ended("mounted");
        Ok(true)
    }

    async fn in_one(
        &self,
        call: &Call<'_>,
        from: &RepositoryName,
        to: &RepositoryName,
    ) -> Result<Option<Arc<Pointer>>, ApiError> {
        // Another region's bytes lie in another store.
        if !call.registry.same_home(from, to) {
            return Ok(None);
        }
        match call.registry.auth.authorize(&call.actor, Action::Pull, from) {
            Ok(()) => Ok(call.storage(from).member(from, &self.digest).await?),
            // Who may read it has only to ask for a token that says so.
            Err(AuthError::Scope) => Err(call.refuse(AuthError::Scope, Wanted::Mount { from, to })),
            Err(_) => Ok(None),
        }
    }

    /// In any repository that the caller may read, and whose token says so where it has one.
    async fn anywhere(
        &self,
        call: &Call<'_>,
        to: &RepositoryName,
    ) -> Result<Option<Arc<Pointer>>, ApiError> {
        let storage = call.storage(to).storage();
        for from in storage.holders(&self.digest, SOURCES_MAX).await? {
            let may = call.registry.auth.authorize(&call.actor, Action::Pull, &from).is_ok();
            if may
                && call.registry.same_home(&from, to)
                && let Some(pointer) = call.storage(&from).member(&from, &self.digest).await?
            {
                return Ok(Some(pointer));
            }
        }
        Ok(None)
    }
}
