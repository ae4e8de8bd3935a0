//! Where `block_in_place` is seen to hand a worker's core to another thread. Not looked for yet.
#![forbid(unsafe_code)]

use super::ElfError;
use super::sites::{AttachPlan, Found, Site};

/// The function that gets a new blocking task, a worker's loop included, onto the pool.
pub const FUNCTION: &str = "tokio::runtime::blocking::pool::Spawner::spawn_task";

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handoff {
    /// Where.
    pub site: Site,
}

impl AttachPlan {
    pub(super) fn add_handoffs(&mut self, _found: &[Found]) -> Result<(), ElfError> {
        Ok(())
    }
}
