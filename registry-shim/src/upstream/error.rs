//! What can go wrong with an upstream, by what the caller should do.

use longshore_proto::{Digest, ErrorCode};

/// An upstream that did not give what it was asked for. Messages name no URL: one may bear a
/// signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// It does not have it: the answer is no.
    #[error("upstream does not have it")]
    NotFound,
    /// It does not let this registry in: an operator has to look at the credentials.
    #[error("upstream refuses this registry's credentials")]
    Denied,
    /// It limits how often it is asked, or this registry itself does.
    #[error("upstream is asked too often")]
    Limited {
        /// When it may be asked again.
        retry_after_s: u64,
    },
    /// It fails or cannot be reached: ask again later.
    #[error("upstream fails: {0}")]
    Unavailable(String),
    /// It is silent: ask again later.
    #[error("upstream does not answer in time")]
    TimedOut,
    /// It answers what no registry would.
    #[error("upstream answers wrongly: {0}")]
    BadAnswer(String),
    /// Its bytes are others than the digest says.
    #[error("upstream's content is not {0}")]
    WrongDigest(Digest),
    /// It does not take what is pushed; the pusher is told its reason.
    #[error("upstream refuses the push: {message}")]
    Refused {
        /// The specification's.
        code: ErrorCode,
        /// The upstream's words, shortened.
        message: String,
    },
    /// Bytes on their way have no room on this machine.
    #[error("spool has no room")]
    SpoolFull,
    /// They cannot be written or read for another reason.
    #[error("spool fails: {0}")]
    Spool(String),
    /// The own store failed; the log says why.
    #[error("storage fails")]
    Storage,
    /// Nobody reads it any more.
    #[error("nobody reads it any more")]
    Abandoned,
    /// This instance ends.
    #[error("registry is shutting down")]
    Ended,
}

/// Said where nobody knows better.
const RETRY_AFTER_S: u64 = 2;

impl UpstreamError {
    /// Whether what is kept may stand in for the answer: the upstream said nothing about it.
    pub(crate) const fn is_outage(&self) -> bool {
        matches!(self, Self::Limited { .. } | Self::Unavailable(_) | Self::TimedOut)
    }

    /// Whether the same question will be answered so for some seconds.
    pub(crate) const fn is_answer(&self) -> bool {
        matches!(self, Self::NotFound | Self::Denied | Self::BadAnswer(_) | Self::WrongDigest(_))
    }

    /// When a client should ask again.
    pub(crate) const fn retry_after_s(&self) -> u64 {
        match self {
            Self::Limited { retry_after_s } if *retry_after_s > 0 => *retry_after_s,
            _ => RETRY_AFTER_S,
        }
    }

    /// Its name in metrics.
    pub(crate) const fn outcome(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Limited { .. } => "limited",
            Self::TimedOut => "timed_out",
            Self::BadAnswer(_) => "bad_answer",
            Self::WrongDigest(_) => "mismatch",
            Self::Refused { .. } => "refused",
            Self::Abandoned => "abandoned",
            Self::Unavailable(_) | Self::Ended => "failed",
            Self::SpoolFull | Self::Spool(_) | Self::Storage => "local",
        }
    }
}

impl From<reqwest::Error> for UpstreamError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        // A URL may bear a signature.
        Self::Unavailable(crate::causes(&error.without_url()))
    }
}

impl From<std::io::Error> for UpstreamError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => Self::SpoolFull,
            _ => Self::Spool(error.to_string()),
        }
    }
}
