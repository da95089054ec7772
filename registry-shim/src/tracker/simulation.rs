//! The tracker alone, with many nodes.
