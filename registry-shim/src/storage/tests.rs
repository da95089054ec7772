//! Contract tests of the store.
