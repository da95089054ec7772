//! What one node start asks, as bytes that only lack the token.

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bearer token that the other requests carry.
    Token,
    /// A manifest by its tag.
    Tag,
    /// A manifest by its digest.
    Manifest,
    /// A layer; its bytes are elsewhere.
    Layer,
}

impl Kind {
    /// All, in the order of [`Kind::index`].
    pub const ALL: [Self; 4] = [Self::Token, Self::Tag, Self::Manifest, Self::Layer];

    /// Its place in arrays of counts.
    pub const fn index(self) -> usize {
        match self {
            Self::Token => 0,
            Self::Tag => 1,
            Self::Manifest => 2,
            Self::Layer => 3,
        }
    }

    /// In tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Tag => "manifest by tag",
            Self::Manifest => "manifest by digest",
            Self::Layer => "layer",
        }
    }
}

/// One request and the status that it must get.
#[derive(Debug, Clone)]
pub struct Step {
    /// What for.
    pub kind: Kind,
    /// A HEAD's answer has a length and no body.
    pub is_head: bool,
    /// The only right one.
    pub status: u16,
    /// Everything before the credential: request line and headers.
    head: Vec<u8>,
}

impl Step {
    /// `method` is GET or HEAD; `headers` are whole lines without their ends.
    pub fn new(
        kind: Kind,
        method: &str,
        path: &str,
        host: &str,
        headers: &[&str],
        status: u16,
    ) -> Self {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for line in headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        Self { kind, is_head: method == "HEAD", status, head: head.into_bytes() }
    }

    /// Writes the whole request into `out`, which is emptied first.
    pub(super) fn write(&self, token: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.head);
        if self.kind != Kind::Token && !token.is_empty() {
            out.extend_from_slice(b"Authorization: Bearer ");
            out.extend_from_slice(token);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The requests of one node start, repeated by every connection.
#[derive(Debug, Clone)]
pub struct Script {
    /// In order; a token comes first where one is needed.
    pub steps: Vec<Step>,
}

impl Script {
    /// Whether the other steps need the first one's answer.
    pub(super) fn needs_token(&self) -> bool {
        self.steps.first().is_some_and(|step| step.kind == Kind::Token)
    }
}
