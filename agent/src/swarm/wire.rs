//! Frames between two agents: bytes in, messages and payloads out, and back.
//!
//! Pure: no I/O, no clock. A decoder names the bytes that it wants next, is told how many of them
//! came, and never wants more than the bounds below allow whatever the peer claims; any error means
//! that the peer does not speak our format and is to be dropped. Forms are those of
//! `longshore/swarm/v1/swarm.proto`.

use bytes::Bytes;
use longshore_proto::piece::PIECE_BYTES_MAX;
use longshore_proto::rpc::swarm::{BulkHeader, ControlMessage};
use prost::Message;

/// An encoded [`ControlMessage`].
pub(super) const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// An encoded [`BulkHeader`]: two varints and their tags take 18, the rest is for later fields.
pub(super) const HEADER_BYTES_MAX: usize = 256;
/// One payload: a piece, or a plan that is relayed while the origin is out of reach.
pub(super) const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;
const _: () = assert!(PAYLOAD_BYTES_MAX as u64 >= PIECE_BYTES_MAX);

/// The big-endian `u32` before a message.
const LENGTH_BYTES: usize = 4;

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("message of {bytes} bytes, {max} is the bound")]
    MessageTooLong { bytes: usize, max: usize },
    #[error("payload of {0} bytes, {PAYLOAD_BYTES_MAX} is the bound")]
    PayloadTooLong(usize),
    #[error("no message: {0}")]
    Undecodable(#[from] prost::DecodeError),
}

/// Appends a control frame; nothing is appended when the message is over the bound.
pub(super) fn put_control(message: &ControlMessage, out: &mut Vec<u8>) -> Result<(), FrameError> {
    put(message, CONTROL_BYTES_MAX, out)
}

/// The head of a bulk frame; the payload follows it as it is.
pub(super) fn bulk_head(id: u64, payload_bytes: usize) -> Result<Vec<u8>, FrameError> {
    let mut head = Vec::with_capacity(LENGTH_BYTES + 18);
    let too_long = FrameError::PayloadTooLong(payload_bytes);
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(too_long);
    }
    let payload_bytes = u32::try_from(payload_bytes).map_err(|_| too_long)?;
    put(&BulkHeader { id, payload_bytes }, HEADER_BYTES_MAX, &mut head)?;
    Ok(head)
}

fn put(message: &impl Message, max: usize, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let bytes = message.encoded_len();
    let too_long = FrameError::MessageTooLong { bytes, max };
    if bytes > max {
        return Err(too_long);
    }
    let length = u32::try_from(bytes).map_err(|_| too_long)?;
    out.extend_from_slice(&length.to_be_bytes());
    message.encode_raw(out);
    Ok(())
}

/// Reads control frames.
#[derive(Debug)]
pub(super) struct ControlDecoder(Delimited);

impl ControlDecoder {
    pub(super) fn new() -> Self {
        Self(Delimited::new(CONTROL_BYTES_MAX))
    }

    /// Where the next bytes of the stream go; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.0.space()
    }

    /// The first `bytes` bytes of [`Self::space`] are filled.
    pub(super) fn filled(&mut self, bytes: usize) -> Result<Option<ControlMessage>, FrameError> {
        match self.0.filled(bytes)? {
            Some(body) => Ok(Some(ControlMessage::decode(body.as_slice())?)),
            None => Ok(None),
        }
    }
}

/// Reads bulk frames; a payload is read into the one buffer in which it is handed on.
#[derive(Debug)]
pub(super) struct BulkDecoder {
    head: Delimited,
    payload: Option<Payload>,
}

#[derive(Debug)]
struct Payload {
    id: u64,
    bytes: Vec<u8>,
    filled: usize,
}

/// What some bytes of the bulk stream were.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BulkStep {
    /// How many of them belonged to a payload.
    pub(super) payload_bytes: usize,
    /// The payload that they completed, and the request it claims to answer.
    pub(super) complete: Option<(u64, Bytes)>,
}

impl BulkDecoder {
    pub(super) fn new() -> Self {
        Self { head: Delimited::new(HEADER_BYTES_MAX), payload: None }
    }

    /// Where the next bytes of the stream go; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        match &mut self.payload {
            Some(payload) => &mut payload.bytes[payload.filled..],
            None => self.head.space(),
        }
    }

    /// The first `bytes` bytes of [`Self::space`] are filled.
    pub(super) fn filled(&mut self, bytes: usize) -> Result<BulkStep, FrameError> {
        let mut payload_bytes = 0;
        match &mut self.payload {
            Some(payload) => {
                payload.filled += bytes;
                payload_bytes = bytes;
            }
            None => {
                let Some(head) = self.head.filled(bytes)? else {
                    return Ok(BulkStep { payload_bytes, complete: None });
                };
                self.payload = Some(Payload::expected(&BulkHeader::decode(head.as_slice())?)?);
            }
        }
        let complete = self
            .payload
            .take_if(|payload| payload.filled == payload.bytes.len())
            .map(|payload| (payload.id, Bytes::from(payload.bytes)));
        Ok(BulkStep { payload_bytes, complete })
    }
}

impl Payload {
    fn expected(header: &BulkHeader) -> Result<Self, FrameError> {
        let length = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        if length > PAYLOAD_BYTES_MAX {
            return Err(FrameError::PayloadTooLong(length));
        }
        // Zeroed pages cost nothing before they are written, so a mere claim takes no memory.
        Ok(Self { id: header.id, bytes: vec![0; length], filled: 0 })
    }
}

/// A length and so many bytes, over and over.
#[derive(Debug)]
struct Delimited {
    max: usize,
    buffer: Vec<u8>,
    filled: usize,
    in_body: bool,
}

impl Delimited {
    fn new(max: usize) -> Self {
        Self { max, buffer: vec![0; LENGTH_BYTES], filled: 0, in_body: false }
    }

    fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    fn filled(&mut self, bytes: usize) -> Result<Option<Vec<u8>>, FrameError> {
        self.filled += bytes;
        if self.filled < self.buffer.len() {
            return Ok(None);
        }
        if !self.in_body {
            let length = self.length();
            if length > self.max {
                return Err(FrameError::MessageTooLong { bytes: length, max: self.max });
            }
            self.expect(length, true);
            if length > 0 {
                return Ok(None);
            }
        }
        let body = std::mem::take(&mut self.buffer);
        self.expect(LENGTH_BYTES, false);
        Ok(Some(body))
    }

    fn length(&self) -> usize {
        self.buffer.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    }

    fn expect(&mut self, bytes: usize, in_body: bool) {
        self.buffer.clear();
        self.buffer.resize(bytes, 0);
        self.filled = 0;
        self.in_body = in_body;
    }
}

#[cfg(test)]
mod tests;
