//! An image, a blob, fetched once however many ask.

pub mod ledger;
