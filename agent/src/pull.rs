//! An image, a blob, fetched once however many ask.
//!
//! A request leads to a plan ([`plan`]), the plan to an image ([`image`]) and its blobs
//! ([`download`]), and a client reads a blob in order as it becomes verified ([`tail`]). Where
//! each piece comes from is decided behind [`fetcher`].

mod download;
mod error;
mod explain;
pub mod fetcher;
pub mod image;
pub mod ledger;
mod metrics;
mod place;
pub mod plan;
mod puller;
mod tail;

pub use download::FAILURE_MEMORY;
pub use error::PullError;
pub use explain::{Explanation, LayerExplanation, PullState, PullStatus};
pub use metrics::PullMetrics;
pub use place::{Place, Registries};
pub use puller::{PullConfig, Puller, ServedBlob, ServedManifest, own_platform};
pub use tail::{Tail, TailError};
