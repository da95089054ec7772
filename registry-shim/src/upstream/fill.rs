//! A blob on its way from an upstream: one read there, any number of readers here.
//!
//! A fill is a task of its own. Whoever came first may hang up; it goes on while anybody reads, and
//! without readers while little is left. A read that breaks off goes on from where it stood. What
//! arrives is spooled for readers and handed to the store at once, so that it is kept, with its
//! hash states, when the digest has matched. Another digest is an error for every reader before its
//! last bytes, and nothing is kept. A store that fails costs the keeping and not the readers.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use longshore_proto::{Digest, DigestHasher};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Fronted;
use super::charge::{Room, confirm};
use super::error::UpstreamError;
use super::pace::Pace;
use super::source::Source;
use super::spool::Spool;
use super::window::Window;
use crate::storage::{Appender, Charge, Pointer, Progress, StorageError};

/// Goes on after a break so often, without a byte between.
const RESUMES_MAX: usize = 5;
const RESUME_DELAY_MIN: Duration = Duration::from_millis(100);
const RESUME_DELAY_MAX: Duration = Duration::from_secs(3);
/// However long the upstream wants to be left alone: the readers wait.
const PAUSE_MAX_S: u64 = 10;
/// Read again at once when the store gave up.
const REHASH_BYTES: u64 = 1024 * 1024;

/// A store that takes nothing for so long is not waited for: the readers are.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// What readers see of a fill.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Once the upstream's head is there.
    pub(super) growing: Option<(Arc<Spool>, Window)>,
    /// Once it is over.
    pub(super) end: Option<Result<End, UpstreamError>>,
}

/// How a fill ends well.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The blob is in the store.
    Kept(Arc<Pointer>),
    /// It was verified and given to its readers; the store did not take it.
    Passed,
}

/// A fill as its readers hold it.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) state: watch::Sender<State>,
    /// Who reads or waits to.
    pub(super) readers: watch::Sender<usize>,
}

/// The task's side of it.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) fronted: Fronted,
    pub(super) digest: Digest,
    pub(super) fill: Arc<Fill>,
}

/// Where arrived bytes go beside the spool.
enum Sink {
    /// To the store, hashed on the way.
    Keeping(Box<Appender>),
    /// The store gave up: only hashed.
    Passing(Box<DigestHasher>),
}

impl Fill {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::default(), readers: watch::Sender::default() }
    }
}

impl Filling {
    /// Fetches the blob, tells its readers how that ended, and leaves the table.
    pub(super) async fn run(self) {
        let metrics = &self.fronted.upstream.metrics;
        metrics.all.filling.inc();
        let fetched = self.fetch().await;
        metrics.all.filling.dec();
        if let Err(error) = &fetched {
            let (upstream, digest) = (self.fronted.upstream.prefix(), self.digest.fmt_short());
            tracing::warn!(%upstream, %digest, %error, "blob does not come");
            metrics.filled(error.outcome());
            self.fronted.believe(&self.digest.to_string(), error).await;
        }
        self.fill.state.send_modify(|state| state.end = Some(fetched));
        self.fronted.upstream.fills.remove(&self.fronted.repository, &self.digest, &self.fill);
    }

    async fn fetch(&self) -> Result<End, UpstreamError> {
        let Fronted { upstream, remote, repository, storage } = &self.fronted;
        // The reader looked before it came here: another fill may have ended between.
        if let Some(pointer) = storage.member(repository, &self.digest).await.map_err(failed)? {
            return Ok(End::Kept(pointer));
        }
        if let Some(pointer) = storage.pointer(&self.digest).await.map_err(failed)? {
            // That others hold it proves nothing for this repository: its upstream is asked.
            upstream.client.blob_size(remote, &self.digest).await?;
            let Some(paid) = self.fronted.pay(self.digest, pointer.size).await else {
                upstream.metrics.filled("passed");
                return Ok(End::Kept(pointer));
            };
            let added = storage.storage().add_member(repository, &self.digest, &pointer).await;
            // One that is being collected is read anew.
            if added.map_err(|error| failed(Arc::new(error)))? {
                confirm(paid).await;
                upstream.metrics.filled("mounted");
                return Ok(End::Kept(pointer));
            }
        }
        let _place = upstream.client.place_for_bytes().await?;
        let source = upstream.client.read_blob(remote, &self.digest, 0).await?;
        upstream.metrics.blob_read();
        let directory = upstream.shared.spool_directory.clone();
        let (budget, metrics) = (&upstream.shared.spools, upstream.metrics.all.clone());
        let spool = Arc::new(Spool::create(directory, source.size(), budget, metrics).await?);
        let progress = Progress::new(self.digest.algorithm());
        let mut sink = Sink::Keeping(Box::new(storage.storage().append(progress)));
        let mut room = self.fronted.ask_for_room(self.digest, source.size().unwrap_or(0));
        match self.receive(source, &spool, &mut sink, &mut room).await {
            Ok(window) => self.finish(&spool, window, sink, room).await,
            Err(error) => {
                sink.abort().await;
                Err(error)
            }
        }
    }

    /// Takes all bytes, over as many reads as that needs.
    async fn receive(
        &self,
        mut source: Source,
        spool: &Arc<Spool>,
        sink: &mut Sink,
        room: &mut Room,
    ) -> Result<Window, UpstreamError> {
        let upstream = &self.fronted.upstream;
        let mut window = Window::new(source.size());
        self.publish(spool, window);
        let (mut delays, mut unread_since) = (resumes(), None);
        let mut pace = Pace::new(Instant::now());
        while !window.is_whole() {
            self.check_readers(window, &mut unread_since)?;
            let gathered = upstream.shared.ended.run_until_cancelled(source.gather()).await;
            match gathered.ok_or(UpstreamError::Ended)? {
                Ok(pieces) if !pieces.is_empty() => {
                    let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
                    let next = window.arrive(bytes);
                    let next = next.ok_or_else(|| wrong("it sends more than the blob has"))?;
                    upstream.metrics.received(bytes);
                    spool.write(window.arrived(), pieces.clone()).await?;
                    window = next;
                    self.publish(spool, window);
                    sink.write(pieces, spool, window.arrived()).await?;
                    if room.is_refused() {
                        sink.only_pass(spool, window.arrived()).await?;
                    }
                    if pace.has_led_on() {
                        delays = resumes();
                    }
                    if !pace.arrived(bytes, Instant::now()) {
                        let slow = UpstreamError::TimedOut;
                        (source, window) = self.resume(window, slow, &mut delays).await?;
                        pace = Pace::new(Instant::now());
                    }
                }
                // That is the end of a blob whose length nobody said.
                Ok(_) if window.size().is_none() => {
                    let whole = window.learn(window.arrived());
                    window = whole.ok_or_else(|| wrong("it has no end"))?;
                }
                broken => {
                    let error = broken.err().unwrap_or_else(|| {
                        UpstreamError::Unavailable("connection ended too early".to_owned())
                    });
                    (source, window) = self.resume(window, error, &mut delays).await?;
                    pace = Pace::new(Instant::now());
                }
            }
        }
        Ok(window)
    }

    /// The rest of a blob whose read broke off, and its size if that is told now.
    async fn resume(
        &self,
        window: Window,
        error: UpstreamError,
        delays: &mut impl Iterator<Item = Duration>,
    ) -> Result<(Source, Window), UpstreamError> {
        let (upstream, mut error) = (&self.fronted.upstream, error);
        loop {
            if !error.is_outage() {
                return Err(error);
            }
            let Some(delay) = delays.next() else { return Err(error) };
            let pause_s = match error {
                UpstreamError::Limited { retry_after_s } => retry_after_s.min(PAUSE_MAX_S),
                _ => 0,
            };
            tracing::debug!(digest = %self.digest.fmt_short(), %error, "resumes a blob");
            let wait = tokio::time::sleep(delay + Duration::from_secs(pause_s));
            upstream.shared.ended.run_until_cancelled(wait).await.ok_or(UpstreamError::Ended)?;
            let again =
                upstream.client.read_blob(&self.fronted.remote, &self.digest, window.arrived());
            match again.await {
                Ok(source) => {
                    let same = source.size().map_or(Some(window), |size| window.learn(size));
                    let other = || wrong("the blob has another size than before");
                    upstream.metrics.resumed();
                    return Ok((source, same.ok_or_else(other)?));
                }
                Err(failed) => error = failed,
            }
        }
    }

    /// An error when nobody has read for a while and too much is left.
    fn check_readers(
        &self,
        window: Window,
        unread_since: &mut Option<Instant>,
    ) -> Result<(), UpstreamError> {
        let shared = &self.fronted.upstream.shared;
        if *self.fill.readers.borrow() > 0 || window.goes_on_alone(shared.abandoned_bytes_max) {
            *unread_since = None;
            return Ok(());
        }
        let since = *unread_since.get_or_insert_with(Instant::now);
        let fills = &self.fronted.upstream.fills;
        if since.elapsed() >= shared.abandoned
            && fills.remove_unread(&self.fronted.repository, &self.digest)
        {
            return Err(UpstreamError::Abandoned);
        }
        Ok(())
    }

    /// All bytes are there: the digest decides.
    async fn finish(
        &self,
        spool: &Arc<Spool>,
        window: Window,
        sink: Sink,
        room: Room,
    ) -> Result<End, UpstreamError> {
        let Fronted { upstream, repository, storage, .. } = &self.fronted;
        let (found, appender) = match sink {
            Sink::Keeping(appender) => (appender.digest(), Some(appender)),
            Sink::Passing(hasher) => (hasher.finish(), None),
        };
        if found != self.digest {
            if let Some(appender) = appender {
                appender.abort().await;
            }
            return Err(UpstreamError::WrongDigest(self.digest));
        }
        // Readers have waited for this; the store may take its time.
        self.publish(spool, window.verify());
        let keep = async {
            let progress = appender?.finish().await.map_err(not_kept).ok()?;
            let storage = storage.storage();
            let verified = storage.verify(progress, &self.digest).await.map_err(not_kept).ok()?;
            let charge = Charge { digest: self.digest, size: verified.size() };
            let Some(paid) = room.pay(charge).await else {
                storage.discard_verified(verified).await;
                return None;
            };
            let kept = storage.commit_verified(repository, None, verified).await;
            let kept = kept.map_err(not_kept).ok()?;
            confirm(paid).await;
            Some(kept)
        };
        let kept = keep.await;
        upstream.metrics.filled(if kept.is_some() { "kept" } else { "passed" });
        Ok(kept.map_or(End::Passed, |pointer| End::Kept(Arc::new(pointer))))
    }

    fn publish(&self, spool: &Arc<Spool>, window: Window) {
        self.fill.state.send_modify(|state| state.growing = Some((spool.clone(), window)));
    }
}

impl Sink {
    /// `arrived` bytes are in the spool, these included.
    async fn write(
        &mut self,
        pieces: Vec<Bytes>,
        spool: &Spool,
        arrived: u64,
    ) -> Result<(), UpstreamError> {
        match self {
            Self::Passing(hasher) => {
                pieces.iter().for_each(|piece| hasher.update(piece));
                Ok(())
            }
            Self::Keeping(appender) => {
                for piece in pieces {
                    match tokio::time::timeout(STORE_TIMEOUT, appender.write(piece)).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => not_kept(error),
                        Err(_) => not_kept("the store stands still"),
                    }
                    return self.only_pass(spool, arrived).await;
                }
                Ok(())
            }
        }
    }

    /// Keeps nothing from here on, and hashes on.
    async fn only_pass(&mut self, spool: &Spool, arrived: u64) -> Result<(), UpstreamError> {
        let Self::Keeping(appender) = self else { return Ok(()) };
        let hasher = DigestHasher::new(appender.algorithm());
        let hasher = rehash(hasher, spool, arrived).await?;
        let dead = std::mem::replace(self, Self::Passing(Box::new(hasher)));
        // What is not taken back is the collector's.
        let _ = tokio::time::timeout(ABORT_TIMEOUT, dead.abort()).await;
        Ok(())
    }

    async fn abort(self) {
        if let Self::Keeping(appender) = self {
            appender.abort().await;
        }
    }
}

async fn rehash(
    mut hasher: DigestHasher,
    spool: &Spool,
    arrived: u64,
) -> Result<DigestHasher, UpstreamError> {
    let mut at = 0;
    while at < arrived {
        let end = arrived.min(at + REHASH_BYTES);
        hasher.update(&spool.read(at, end).await?);
        at = end;
    }
    Ok(hasher)
}

fn resumes() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(RESUME_DELAY_MIN)
        .with_max_delay(RESUME_DELAY_MAX)
        .with_max_times(RESUMES_MAX)
        .with_jitter()
        .build()
}

fn wrong(what: &str) -> UpstreamError {
    UpstreamError::BadAnswer(what.to_owned())
}

fn failed(error: Arc<StorageError>) -> UpstreamError {
    tracing::error!(%error, "storage");
    UpstreamError::Storage
}

fn not_kept(error: impl std::fmt::Display) {
    tracing::warn!(%error, "blob of an upstream is not kept");
}
