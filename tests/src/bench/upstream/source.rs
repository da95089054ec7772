//! An upstream that has one blob, made up as it leaves, at the pace of a network.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use longshore_proto::{Algorithm, Digest, DigestHasher};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::testkit::Result;
use crate::testkit::error::Context as _;

const BLOCK_BYTES: usize = 1024 * 1024;
/// A request's head; ours are short.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The blob's content: one block over and over, each with its number in front.
#[derive(Debug)]
pub(super) struct Content {
    block: Bytes,
    blocks: u64,
}

/// The server, and what it saw.
#[derive(Debug)]
pub(super) struct Source {
    content: Content,
    bytes_per_s: u64,
    latency: Duration,
    /// Bodies that were begun.
    pub(super) reads: AtomicU64,
    /// When the first byte of the first one left.
    pub(super) first_byte: OnceLock<Instant>,
}

impl Content {
    pub(super) fn new(mebibytes: u64) -> Self {
        let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        Self { block: block.into(), blocks: mebibytes }
    }

    pub(super) const fn size(&self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }

    fn block(&self, number: u64) -> BytesMut {
        let mut block = BytesMut::from(&self.block[..]);
        block[..8].copy_from_slice(&number.to_be_bytes());
        block
    }

    pub(super) fn digest(&self) -> Digest {
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        (0..self.blocks).for_each(|number| hasher.update(&self.block(number)));
        hasher.finish()
    }
}

impl Source {
    /// Serves on a free port until the runtime ends.
    pub(super) async fn start(
        content: Content,
        bytes_per_s: u64,
        latency: Duration,
    ) -> Result<(Arc<Self>, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.during(|| "the upstream's port".to_owned())?;
        let address = listener.local_addr().during(|| "the upstream's port".to_owned())?;
        let source = Self {
            content,
            bytes_per_s,
            latency,
            reads: AtomicU64::new(0),
            first_byte: OnceLock::new(),
        };
        let source = Arc::new(source);
        let serving = source.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let source = serving.clone();
                tokio::spawn(async move {
                    if let Err(error) = source.answer(stream).await {
                        tracing::warn!(%error, "a read of the upstream ended early");
                    }
                });
            }
        });
        Ok((source, address))
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.latency).await;
        let size = self.content.size();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let begun = Instant::now();
        for number in 0..self.content.blocks {
            let sent = number * BLOCK_BYTES as u64;
            let due = Duration::from_secs_f64(sent as f64 / self.bytes_per_s as f64);
            tokio::time::sleep_until(begun + due).await;
            let block = self.content.block(number);
            self.first_byte.get_or_init(Instant::now);
            stream.write_all(&block).await?;
        }
        stream.shutdown().await
    }
}
