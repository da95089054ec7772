//! How many labs run at one moment: the machine is small, and labs measure time.
//!
//! A slot is a file lock in the cache, so it also counts labs of other processes. A test takes
//! one slot; a measured run takes all of them and has the machine to itself.

use std::fs::File;
use std::time::Duration;

use super::cache::Cache;
use super::error::Result;
use super::wait::{Seen, until};

/// Labs that two cores carry without timing each other out.
const SLOTS: u32 = 2;
/// A whole run of the end-to-end tests waits for the demo, and the reverse.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Held while a lab runs.
#[derive(Debug)]
pub struct Slot {
    _held: Vec<File>,
}

impl Slot {
    /// Waits for one slot.
    pub async fn one(cache: &Cache) -> Result<Self> {
        until("a free slot for a lab", DEADLINE, async || {
            for number in 0..SLOTS {
                if let Some(held) = cache.try_lock(&format!("slot-{number}"))? {
                    return Ok(Seen::Yes(Self { _held: vec![held] }));
                }
            }
            Ok(Seen::NotYet("other labs run".to_owned()))
        })
        .await
    }

    /// Waits until no other lab runs, and keeps it so.
    pub async fn all(cache: &Cache) -> Result<Self> {
        let mut held = Vec::new();
        for number in 0..SLOTS {
            // In order: two that want all of them do not wait for each other.
            held.push(
                until("the machine for one lab", DEADLINE, async || {
                    Ok(match cache.try_lock(&format!("slot-{number}"))? {
                        Some(file) => Seen::Yes(file),
                        None => Seen::NotYet("other labs run".to_owned()),
                    })
                })
                .await?,
            );
        }
        Ok(Self { _held: held })
    }
}
