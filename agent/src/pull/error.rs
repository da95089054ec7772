//! Why a pull gives nothing, by what the mirror should say.

use longshore_proto::wire::InvalidMessage;

use crate::origin::OriginError;
use crate::store::{BlobFailure, StoreError};

/// Why there is no answer. Cheap to clone: many wait for one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// It does not exist there, as far as the origin knows.
    #[error("{code}: {message}")]
    NotFound {
        /// An OCI code.
        code: String,
        /// The origin's words.
        message: String,
    },
    /// The origin refuses this node.
    #[error("denied: {0}")]
    Denied(String),
    /// Nobody who could be asked answered in time.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// What the origin said can not be believed.
    #[error("invalid plan: {0}")]
    Invalid(String),
    /// The blob failed a moment ago: let containerd ask the next host.
    #[error("gave up: {0}")]
    GaveUp(BlobFailure),
    /// The store can not take it.
    #[error("store: {0}")]
    Store(String),
}

impl PullError {
    /// Whether asking someone else may help: the origin could not be asked.
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<OriginError> for PullError {
    fn from(error: OriginError) -> Self {
        match error {
            OriginError::NotFound { code, message } => Self::NotFound { code, message },
            OriginError::Denied(message) => Self::Denied(message),
            OriginError::Busy { .. } => Self::Unavailable("the origin is busy".into()),
            OriginError::Unavailable(message) => Self::Unavailable(message),
            OriginError::Invalid(message) => Self::Invalid(message),
        }
    }
}

impl From<InvalidMessage> for PullError {
    fn from(error: InvalidMessage) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
