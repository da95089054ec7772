//! What carries the bytes of one connection in memory.
//!
//! A pipe holds so many bytes and no more, as a network does; it ends with its reader, its writer
//! or a cut.

use std::collections::VecDeque;

use ::libp2p::PeerId;
use futures::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::Faults;
use crate::swarm::transport::session::Streams;

/// Bytes that move at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way in one pipe: 256 KiB.
const CHUNKS_MAX: usize = 16;

/// One side of a connection.
pub(super) struct Pipes {
    pub(super) streams: Streams<Compat<DuplexStream>>,
    /// Carries what this side writes; ends when all is carried after the last writer has gone.
    pub(super) pump: BoxFuture<'static, ()>,
}

/// Both sides of a new connection; `link` names near and far.
pub(super) fn connection(
    (near, far): (PeerId, PeerId),
    faults: &watch::Sender<Faults>,
) -> (Pipes, Pipes) {
    let (mut ends, mut pumps) = (VecDeque::new(), VecDeque::new());
    for link in [(near, far), (near, far), (far, near), (far, near)] {
        let (writer, source) = duplex(CHUNK_BYTES);
        let (sink, reader) = duplex(CHUNK_BYTES);
        ends.push_back((writer.compat(), reader.compat()));
        pumps.push_back(carry(link, source, sink, faults.subscribe()));
    }
    let mut end = || ends.pop_front().expect("four were made");
    let (near_control, near_bulk, far_control, far_bulk) = (end(), end(), end(), end());
    let mut pump = || pumps.pop_front().expect("four were made");
    let (to_far, to_near) = ((pump(), pump()), (pump(), pump()));
    let near = Pipes {
        streams: Streams {
            control_out: near_control.0,
            bulk_out: near_bulk.0,
            control_in: far_control.1,
            bulk_in: far_bulk.1,
        },
        pump: futures::future::join(to_far.0, to_far.1).map(|_| ()).boxed(),
    };
    let far = Pipes {
        streams: Streams {
            control_out: far_control.0,
            bulk_out: far_bulk.0,
            control_in: near_control.1,
            bulk_in: near_bulk.1,
        },
        pump: futures::future::join(to_near.0, to_near.1).map(|_| ()).boxed(),
    };
    (near, far)
}

async fn carry(
    link: (PeerId, PeerId),
    mut source: DuplexStream,
    mut sink: DuplexStream,
    faults: watch::Receiver<Faults>,
) {
    let (sent, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let delay = faults.clone();
    let send = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(read @ 1..) = source.read(&mut chunk).await {
            let due = Instant::now() + delay.borrow().delay;
            if sent.send((due, chunk[..read].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let mut stalls = faults.clone();
    let arrive = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            sleep_until(due).await;
            let flows = stalls.wait_for(|faults| !faults.stalled.contains(&link)).await.is_ok();
            if !flows || sink.write_all(&chunk).await.is_err() {
                break;
            }
        }
    };
    let mut cuts = faults;
    tokio::select! {
        // Ends with its receiver, whether the writer or the reader has gone.
        _ = futures::future::join(send, arrive) => {}
        _ = cuts.wait_for(|faults| faults.cut.contains(&link)) => {}
    }
}
