//! A proxy that misbehaves on order, on a host of the lab.
//!
//! [`TcpProxy`] passes bytes of any protocol; [`HttpProxy`] knows requests and picks them by path.
//! What goes wrong is switched while connections are open. Both run on their host's namespace and
//! end when they are dropped.

mod fault;
mod http;
mod tcp;

pub use fault::Fault;
pub use http::{HttpProxy, Rule};
pub use tcp::TcpProxy;
