//! Images for the lab: a real one from Debian's packages, small ones of seeded random bytes.
//!
//! All are OCI layouts in the lab's cache, with gzip layers and the same bytes whenever they are
//! built from the same parts. They are pushed with skopeo, as a user would.

pub mod debian;
pub mod layout;
pub mod pause;
pub mod push;
pub mod synthetic;

pub use layout::Image;
pub use push::push;
