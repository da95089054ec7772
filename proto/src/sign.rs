//! What the origin signs, as bytes that two implementations agree on.
//!
//! Ed25519 (RFC 8032) over a fixed layout: the statement's domain, then its fields in the order of
//! the struct, integers as 8 big-endian bytes, texts and byte strings behind their 8-byte length.
//! Never a protobuf encoding: that is not canonical. A statement of one kind can not pass for
//! another, because the domains differ.

mod key;
mod statement;

pub use key::{InvalidKey, KeyId, PublicKey, PublicKeys, SigningKey};
pub use statement::{
    BadSignature, GrantStatement, Layout, PieceListStatement, PlanStatement, Signature, Statement,
};
