//! One connection's life over its four streams: greeting, exchange, end.
//!
//! A session is one task. Its peer's slowness, silence or nonsense ends it and nothing else: reads
//! stop while the driver has no room for events, a write that makes no progress for the write
//! timeout ends the session. It tells `Up` before and `Down` after everything else of its peer.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::libp2p::PeerId;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use longshore_proto::SWARM_VERSION;
use longshore_proto::rpc::swarm::{ControlMessage, Hello, control_message::Message};
use tokio::sync::mpsc;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::link::{BulkQueue, Link, Stop};
use super::table::{Attempt, Table};
use super::{DownReason, TransportEvent};
use crate::swarm::wire::{self, BulkDecoder, CONTROL_BYTES_MAX, ControlDecoder, FrameError};

/// Payload bytes that are summed into one [`TransportEvent::Progress`].
const PROGRESS_BYTES: u64 = 64 * 1024;
/// For a refused peer to read why.
const REFUSAL_LINGER: Duration = Duration::from_secs(1);

/// The streams of a connection; each carries one direction.
#[derive(Debug)]
pub(super) struct Streams<S> {
    pub(super) control_out: S,
    pub(super) control_in: S,
    pub(super) bulk_out: S,
    pub(super) bulk_in: S,
}

/// Runs a connection to its end.
pub(super) async fn run<S>(table: Arc<Table>, attempt: Attempt, mut streams: Streams<S>, stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let peer = attempt.peer;
    let (link, queue) = Link::new(stop.clone());
    let greeting =
        timeout(table.config.handshake_timeout, greet(&table, peer, &link, &mut streams));
    let greeted = tokio::select! {
        biased;
        // First, as a peer that hangs up because we differ stops the session as well.
        greeted = greeting => greeted.unwrap_or_else(|_| Err(unreachable("no greeting in time"))),
        reason = stop.stopped() => Err(reason),
    };
    let zone = match greeted {
        Ok(zone) => zone,
        Err(reason) => {
            tracing::debug!(%peer, %reason, "connection not made");
            table.release(peer, &link);
            return attempt.failed(reason).await;
        }
    };
    tracing::debug!(%peer, zone, "peer up");
    table.up(&link, attempt);
    table.tell(TransportEvent::Up { peer, zone }).await;
    let exchange = Exchange { table: &table, peer, write_timeout: table.config.write_timeout };
    let reason = tokio::select! {
        biased;
        reason = stop.stopped() => reason,
        reason = exchange.run(streams, queue, link.bulk()) => reason,
    };
    tracing::debug!(%peer, %reason, "peer down");
    table.down(peer, &link, reason).await;
}

/// Both sides say who they are; the arbiter speaks last, and so chooses.
async fn greet<S>(
    table: &Table,
    peer: PeerId,
    link: &Arc<Link>,
    streams: &mut Streams<S>,
) -> Result<String, DownReason>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let config = &table.config;
    let hello = Hello {
        swarm_version: SWARM_VERSION,
        pool: config.pool.clone(),
        zone: config.zone.clone(),
    };
    let mut frame = Vec::new();
    wire::put_control(&ControlMessage { message: Some(Message::Hello(hello)) }, &mut frame)
        .map_err(malformed)?;
    let is_arbiter = table.is_arbiter(peer);
    if !is_arbiter {
        write(&mut streams.control_out, &frame, config.write_timeout).await?;
    }
    let mut decoder = ControlDecoder::new();
    let theirs = loop {
        if let Some(message) = read_control(&mut streams.control_in, &mut decoder).await? {
            break message;
        }
    };
    let Some(Message::Hello(theirs)) = theirs.message else {
        return Err(DownReason::Malformed("first message is no greeting".into()));
    };
    let refusal = refusal(&theirs, &config.pool);
    if refusal.is_none() {
        table.admit(peer, link).await?;
    }
    if is_arbiter {
        // Also a peer that is refused is greeted, so that it sees the same difference.
        write(&mut streams.control_out, &frame, config.write_timeout).await?;
    }
    let Some(why) = refusal else { return Ok(theirs.zone) };
    if is_arbiter {
        // It hangs up once it has read that; to hang up first might take the greeting back.
        let _ = timeout(REFUSAL_LINGER, streams.control_in.read(&mut [0])).await;
    }
    Err(DownReason::Refused(why))
}

fn refusal(theirs: &Hello, pool: &str) -> Option<String> {
    if theirs.swarm_version != SWARM_VERSION {
        return Some(format!("speaks version {}, we {SWARM_VERSION}", theirs.swarm_version));
    }
    (theirs.pool != pool).then(|| format!("is of pool {:?}, we of {pool:?}", theirs.pool))
}

/// What happens between `Up` and `Down`.
struct Exchange<'a> {
    table: &'a Table,
    peer: PeerId,
    write_timeout: Duration,
}

impl Exchange<'_> {
    async fn run<S>(
        &self,
        streams: Streams<S>,
        queue: mpsc::Receiver<ControlMessage>,
        bulk: &BulkQueue,
    ) -> DownReason
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Streams { control_out, control_in, bulk_out, bulk_in } = streams;
        let ended = tokio::select! {
            ended = self.read_control(control_in) => ended,
            ended = self.write_control(control_out, queue) => ended,
            ended = self.read_bulk(bulk_in) => ended,
            ended = self.write_bulk(bulk_out, bulk) => ended,
        };
        match ended {
            Err(reason) => reason,
        }
    }

    async fn read_control<S>(&self, mut stream: S) -> Result<Infallible, DownReason>
    where
        S: AsyncRead + Unpin,
    {
        let mut decoder = ControlDecoder::new();
        loop {
            consume_budget().await;
            match read_control(&mut stream, &mut decoder).await? {
                Some(ControlMessage { message: Some(Message::Hello(_)) }) => {
                    return Err(DownReason::Malformed("a second greeting".into()));
                }
                Some(message) if message.message.is_some() => {
                    self.table.tell(TransportEvent::Control { peer: self.peer, message }).await;
                }
                // Half a message, or one of a later version.
                _ => {}
            }
        }
    }

    async fn write_control<S>(
        &self,
        mut stream: S,
        mut queue: mpsc::Receiver<ControlMessage>,
    ) -> Result<Infallible, DownReason>
    where
        S: AsyncWrite + Unpin,
    {
        let mut frames = Vec::new();
        while let Some(message) = queue.recv().await {
            wire::put_control(&message, &mut frames).map_err(malformed)?;
            while frames.len() < CONTROL_BYTES_MAX
                && let Ok(message) = queue.try_recv()
            {
                wire::put_control(&message, &mut frames).map_err(malformed)?;
            }
            write(&mut stream, &frames, self.write_timeout).await?;
            frames.clear();
        }
        Err(DownReason::Disconnected)
    }

    async fn read_bulk<S>(&self, mut stream: S) -> Result<Infallible, DownReason>
    where
        S: AsyncRead + Unpin,
    {
        let peer = self.peer;
        let mut decoder = BulkDecoder::new();
        let mut progress = 0;
        loop {
            consume_budget().await;
            let read = some(stream.read(decoder.space()).await)?;
            let step = decoder.filled(read).map_err(malformed)?;
            progress += step.payload_bytes as u64;
            if progress >= PROGRESS_BYTES || (step.complete.is_some() && progress > 0) {
                self.table.tell(TransportEvent::Progress { peer, bytes: progress }).await;
                progress = 0;
            }
            if let Some((id, payload)) = step.complete {
                self.table.tell(TransportEvent::Piece { peer, id, payload }).await;
            }
        }
    }

    async fn write_bulk<S>(&self, mut stream: S, bulk: &BulkQueue) -> Result<Infallible, DownReason>
    where
        S: AsyncWrite + Unpin,
    {
        let peer = self.peer;
        loop {
            let (id, payload) = bulk.next().await;
            let head = wire::bulk_head(id, payload.len()).map_err(malformed)?;
            write_all(&mut stream, &head, self.write_timeout).await?;
            write(&mut stream, &payload, self.write_timeout).await?;
            let bytes = payload.len() as u64;
            self.table.tell(TransportEvent::Sent { peer, id, bytes }).await;
        }
    }
}

/// Reads once; none while the message is not whole.
async fn read_control<S>(
    stream: &mut S,
    decoder: &mut ControlDecoder,
) -> Result<Option<ControlMessage>, DownReason>
where
    S: AsyncRead + Unpin,
{
    let read = some(stream.read(decoder.space()).await)?;
    decoder.filled(read).map_err(malformed)
}

/// Writes all of it and flushes; each step of the way within `stall`.
async fn write<S>(stream: &mut S, bytes: &[u8], stall: Duration) -> Result<(), DownReason>
where
    S: AsyncWrite + Unpin,
{
    write_all(stream, bytes, stall).await?;
    let flushed = timeout(stall, stream.flush()).await.map_err(|_| DownReason::Stalled)?;
    flushed.map_err(closed)
}

async fn write_all<S>(stream: &mut S, mut bytes: &[u8], stall: Duration) -> Result<(), DownReason>
where
    S: AsyncWrite + Unpin,
{
    while !bytes.is_empty() {
        consume_budget().await;
        let written = timeout(stall, stream.write(bytes)).await;
        let written = some(written.map_err(|_| DownReason::Stalled)?)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn some(moved: io::Result<usize>) -> Result<usize, DownReason> {
    match moved {
        Ok(0) => Err(DownReason::Closed("end of stream".into())),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(closed(error)),
    }
}

fn closed(error: io::Error) -> DownReason {
    DownReason::Closed(error.to_string())
}

fn malformed(error: FrameError) -> DownReason {
    DownReason::Malformed(error.to_string())
}

fn unreachable(why: &str) -> DownReason {
    DownReason::Unreachable(why.into())
}
