//! One keep-alive connection: a request out, its answer in, nothing overlapping.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;

use mio::net::TcpStream;

/// Room for an answer's head and a manifest.
const BUFFER_BYTES: usize = 64 * 1024;
/// More headers than any registry sends.
const HEADERS_MAX: usize = 48;

/// A connection and the answer that it is reading.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
}

/// An answer that has come whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Of the body, when it was asked for.
    pub(super) body: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER_BYTES], filled: 0, unsent: Vec::new() })
    }

    /// Sends a request; what the socket does not take now goes with [`Connection::flush`].
    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.filled = 0;
        self.unsent.clear();
        match self.stream.write(request) {
            Ok(sent) => self.unsent.extend_from_slice(&request[sent..]),
            Err(error) if is_not_yet(&error) => self.unsent.extend_from_slice(request),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Sends what is left of the request.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => {
                    self.unsent.drain(..sent);
                }
                Err(error) if is_not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come; `Some` once the answer is whole.
    pub(super) fn receive(&mut self, is_head: bool, keep: bool) -> io::Result<Option<Answer>> {
        loop {
            if self.filled == self.buffer.len() {
                return Err(invalid("answer is longer than the buffer"));
            }
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.filled += read,
                Err(error) if is_not_yet(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
            // Nothing follows a whole answer before the next request: no read for nothing.
            if let Some(answer) = self.parse(is_head, keep)? {
                return Ok(Some(answer));
            }
        }
    }

    fn parse(&self, is_head: bool, keep: bool) -> io::Result<Option<Answer>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let bytes = &self.buffer[..self.filled];
        let head = match response.parse(bytes).map_err(|error| invalid(&error.to_string()))? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return Ok(None),
        };
        let status = response.code.unwrap_or_default();
        let mut length = 0;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).unwrap_or_default();
                length = text.parse().map_err(|_| invalid("content-length is no number"))?;
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(invalid("answer is chunked"));
            }
        }
        let end = head + if is_head { 0 } else { length };
        if self.filled < end {
            return Ok(None);
        }
        let body = if keep { bytes[head..end].to_vec() } else { Vec::new() };
        Ok(Some(Answer { status, body }))
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
