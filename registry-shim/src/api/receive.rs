//! A request's body on its way into an upload, and what becomes of it when the request breaks off.
//!
//! A client that goes away takes the handler's future with it, so what has to be done then is done
//! by a task of the instance, which the drain waits for.

use hyper::body::Incoming;
use longshore_proto::ErrorCode;
use tokio_util::task::TaskTracker;

use super::body::next_bytes_at;
use super::{ApiError, Call, chunk, upstream};
use crate::quota::{Intake, QuotaError};
use crate::storage::{Appender, Progress, Session, Storage};
use crate::upstream::{Relay, Relaying, UpstreamError};

/// What becomes of the bytes of a request that broke off.
#[derive(Clone, Debug)]
pub(super) enum Broken {
    /// They are part of the upload, which goes on behind them.
    Kept(Session),
    /// The upload stays where it was.
    Dropped,
}

/// Takes one request's bytes.
pub(super) struct Receiving {
    storage: Storage,
    tasks: TaskTracker,
    broken: Broken,
    before: u64,
    /// `None` while bytes are being written: a write that was given up leaves nothing to go on with.
    appender: Option<Appender>,
    /// To an upstream, as it comes.
    relaying: Option<Relaying>,
}

impl Receiving {
    /// Behind what has arrived.
    pub(super) fn new(
        call: &Call<'_>,
        storage: &Storage,
        progress: Progress,
        broken: Broken,
    ) -> Self {
        let (storage, tasks) = (storage.clone(), call.registry.tasks.clone());
        let before = progress.offset();
        let appender = Some(storage.append(progress));
        Self { storage, tasks, broken, before, appender, relaying: None }
    }

    /// What comes goes to an upstream too.
    pub(super) fn passing_on(mut self, relaying: Option<Relaying>) -> Self {
        self.relaying = relaying;
        self
    }

    /// Reads the whole body; where an upstream then stands, if it took part.
    pub(super) async fn all(
        mut self,
        call: &Call<'_>,
        body: &mut Incoming,
        intake: &mut Intake,
    ) -> Result<(Appender, Option<Relay>), ApiError> {
        let expected = chunk::announced_length(call.headers)?;
        if let Some(length) = expected.or_else(|| chunk::content_length(call.headers)) {
            let total = self.before.saturating_add(length);
            self.unless_refused(intake.announced(total).await)?;
        }
        let (mut total, pace) = (self.before, call.pace());
        while let Some(bytes) = next_bytes_at(pace.as_ref(), body).await? {
            call.registry.metrics.received_bytes.inc_by(bytes.len() as u64);
            total += bytes.len() as u64;
            self.unless_refused(intake.arrived(total).await)?;
            if let Some(relaying) = &mut self.relaying {
                relaying.send(bytes.clone()).await;
            }
            let Some(mut appender) = self.appender.take() else { break };
            if let Err(error) = appender.write(bytes).await {
                appender.abort().await;
                return Err(error.into());
            }
            self.appender = Some(appender);
        }
        let relay = match self.relaying.take() {
            Some(relaying) => self.unless_denied(relaying.finish().await)?,
            None => None,
        };
        let appender = self.appender.take().expect("every write gave it back");
        match expected {
            Some(length) if self.before + length != appender.offset() => {
                appender.abort().await;
                let message = "body does not have the length that Content-Range says";
                Err(ApiError::new(ErrorCode::SizeInvalid, message))
            }
            _ => Ok((appender, relay)),
        }
    }
}

impl Receiving {
    /// What a quota refuses leaves nothing behind.
    fn unless_refused(&mut self, asked: Result<(), QuotaError>) -> Result<(), ApiError> {
        if asked.is_err() {
            self.broken = Broken::Dropped;
        }
        Ok(asked?)
    }

    /// Nor does what an upstream will never take.
    fn unless_denied<T>(&mut self, relayed: Result<T, UpstreamError>) -> Result<T, ApiError> {
        relayed.map_err(|error| {
            self.broken = Broken::Dropped;
            upstream::push_refused(error)
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let Some(appender) = self.appender.take() else { return };
        let (storage, broken) = (self.storage.clone(), self.broken.clone());
        self.tasks.spawn(async move {
            match broken {
                Broken::Kept(session) => {
                    if let Err(error) = storage.save_upload(&session, appender).await {
                        tracing::debug!(%error, "what came of a broken request is not kept");
                    }
                }
                Broken::Dropped => appender.abort().await,
            }
        });
    }
}
