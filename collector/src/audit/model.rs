//! The measured audit: what `audit.json` holds and the tables are made from. Conventions as in the report's model.

use serde::{Deserialize, Serialize};

use crate::event::Nanos;
use crate::report::{CaptureInfo, Certainty, LockFamily, LockShape};

/// Version of the schema of `audit.json`.
pub const SCHEMA_VERSION: u32 = 1;

/// An inventory, measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The inventory's.
    pub title: String,
    /// What was recorded.
    pub capture: CaptureInfo,
    /// A hold that is longer is too long.
    pub too_long_ns: Nanos,
    /// The inventory's locks, in its order.
    pub locks: Vec<LockResult>,
    /// Locks that were seen and are in no row, most waited for first.
    pub locks_in_no_row: Vec<SeenLocks>,
    /// Of these, those inside of the runtime and the libraries it is made of.
    pub locks_of_the_runtime: Vec<SeenLocks>,
    /// The inventory's sites, in its order.
    pub sites: Vec<SiteResult>,
    /// What limits what the numbers mean, one sentence each.
    pub notes: Vec<String>,
}

/// One row of an inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockResult {
    /// As the inventory has it.
    pub name: String,
    /// The same.
    #[serde(rename = "crate")]
    pub krate: String,
    /// The same.
    pub file: String,
    /// The same.
    pub lock: String,
    /// What the inventory says.
    pub held_across_await: String,
    /// The same.
    pub held_too_long: String,
    /// What was seen.
    pub seen: Option<SeenLocks>,
    /// Why nothing was, where nothing was.
    pub unseen_because: Option<String>,
}

/// Locks of one row, or of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenLocks {
    /// What they are, for people.
    pub name: String,
    /// Whose.
    pub family: LockFamily,
    /// What sort.
    pub kind: LockShape,
    /// The types that they protect, whole, as far as they are known.
    pub protects: Vec<String>,
    /// Where one of them was taken.
    pub acquired_at: Option<String>,
    /// How many different ones.
    pub instances: u64,
    /// Acquisitions that had to wait.
    pub waits: u64,
    /// Their summed duration.
    pub wait_total_ns: Nanos,
    /// The longest.
    pub wait_max_ns: Nanos,
    /// How good these three are.
    pub wait_certainty: Certainty,
    /// Holds of which something is known.
    pub holds: u64,
    /// The longest.
    pub hold_longest_ns: Nanos,
    /// How good that is.
    pub hold_certainty: Certainty,
    /// Holds across an await.
    pub across_await: u64,
    /// The longest of these.
    pub across_await_longest_ns: Nanos,
    /// How good that is.
    pub across_await_certainty: Certainty,
    /// Holds that are known to have been too long. One that is known to have lasted for some shorter time at least
    /// is not among them.
    pub held_too_long: u64,
}

/// One site of an inventory. All of it comes from CPU samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteResult {
    /// As the inventory has it.
    pub name: String,
    /// The same.
    #[serde(rename = "crate")]
    pub krate: String,
    /// The same.
    pub file: String,
    /// In polls of tasks on a scheduler.
    pub on_worker: Ran,
    /// In jobs of the blocking pool.
    pub on_blocking_pool: Ran,
}

/// How often a function was met, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// Polls, or jobs, in which a sample found it: it ran in at least so many. What is shorter than the time between
    /// two samples can be missed.
    pub at_least: u64,
    /// CPU time in all of them: an estimate, samples times the time between two.
    pub estimated_total_ns: Nanos,
    /// In the one with most of it: an estimate.
    pub estimated_longest_ns: Nanos,
}
