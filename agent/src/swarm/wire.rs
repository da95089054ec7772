//! Frames between two agents: a big-endian u32 length, a prost message, and on bulk streams the
//! payload that the message announces.
//!
//! Pure functions over bytes, and the few asynchronous reads and writes that use them. Nothing is
//! allocated for a length before it was compared with its bound; what is malformed ends the
//! connection.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use longshore_proto::piece::PIECE_BYTES_MAX;
use longshore_proto::rpc::swarm as rpc;
use prost::Message;

/// Longest control message: room for the runs of a large blob and for a grant.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Longest header of a payload.
pub const BULK_HEADER_BYTES_MAX: usize = 64;

/// Why a stream can not be read on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream broke or ended.
    #[error("stream: {0}")]
    Io(#[from] std::io::Error),
    /// A frame says that it is longer than any may be.
    #[error("frame of {found} bytes where {most} is the most")]
    TooLong {
        /// As the frame says.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// A frame is no message.
    #[error("frame is no message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// The length that a frame's first four bytes announce.
pub fn frame_length(prefix: [u8; 4], most: usize) -> Result<usize, WireError> {
    let found = u32::from_be_bytes(prefix) as usize;
    if found > most { Err(WireError::TooLong { found, most }) } else { Ok(found) }
}

/// A message as a frame. A message over the bound is a bug of the sender's.
pub fn encode<M: Message>(message: &M, most: usize) -> Result<Bytes, WireError> {
    let length = message.encoded_len();
    if length > most {
        return Err(WireError::TooLong { found: length, most });
    }
    let mut frame = BytesMut::with_capacity(4 + length);
    frame.put_u32(length as u32);
    message.encode(&mut frame).expect("a buffer of memory grows");
    Ok(frame.freeze())
}

/// A control message from a frame's body.
pub fn decode_control(body: &[u8]) -> Result<rpc::ControlMessage, WireError> {
    Ok(rpc::ControlMessage::decode(body)?)
}

/// A payload's header from a frame's body; its length is within the bound.
pub fn decode_bulk(body: &[u8]) -> Result<rpc::BulkHeader, WireError> {
    let header = rpc::BulkHeader::decode(body)?;
    let (found, most) = (header.payload_bytes as usize, PIECE_BYTES_MAX as usize);
    if found > most { Err(WireError::TooLong { found, most }) } else { Ok(header) }
}

/// Reads one frame's body.
pub async fn read_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
    most: usize,
) -> Result<Vec<u8>, WireError> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; frame_length(prefix, most)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Writes one frame and sends it off.
pub async fn write_frame<W: AsyncWrite + Unpin>(
    stream: &mut W,
    frame: &[u8],
) -> Result<(), WireError> {
    stream.write_all(frame).await?;
    Ok(stream.flush().await?)
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_control(&body);
            if let Ok(header) = decode_bulk(&body) {
                prop_assert!(u64::from(header.payload_bytes) <= PIECE_BYTES_MAX);
            }
        }

        #[test]
        fn a_length_over_the_bound_is_refused_before_it_is_allocated(prefix: [u8; 4]) {
            let length = u32::from_be_bytes(prefix) as usize;
            let read = frame_length(prefix, CONTROL_BYTES_MAX);
            prop_assert_eq!(read.is_ok(), length <= CONTROL_BYTES_MAX);
        }

        #[test]
        fn a_request_reads_back(id: u64, piece: u32, piece_length: u64, repository in "[a-z/]{0,80}") {
            let request = rpc::Request { id, piece, piece_length, repository, ..Default::default() };
            let message = rpc::control_message::Message::Request(request);
            let message = rpc::ControlMessage { message: Some(message) };
            let frame = encode(&message, CONTROL_BYTES_MAX).unwrap();
            let body = futures::executor::block_on(async {
                read_frame(&mut Cursor::new(&frame), CONTROL_BYTES_MAX).await
            });
            prop_assert_eq!(decode_control(&body.unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn a_payload_over_the_longest_piece_is_refused() {
        let header = rpc::BulkHeader { id: 1, payload_bytes: PIECE_BYTES_MAX as u32 + 1 };
        let refused = decode_bulk(&header.encode_to_vec());
        assert!(matches!(refused, Err(WireError::TooLong { .. })));
    }

    #[test]
    fn a_stream_that_ends_in_a_frame_is_an_error() {
        let read = async { read_frame(&mut Cursor::new(b"\0\0\0\x05abc"), 10).await };
        assert!(matches!(futures::executor::block_on(read), Err(WireError::Io(_))));
    }
}
