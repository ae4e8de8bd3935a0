//! Threads that have been waiting for a lock for long, found while they wait. What enters: the target's threads
//! that are asleep in a futex call, their memory and the program's symbols. What leaves: [`StuckWait`]s.
//!
//! Such a thread passes no probe, and if it has been stuck since before holdup attached it never passed one. All
//! that is known of it is read from where it is:
//!
//! ```text
//!   asleep for long            the iterator over sleeping threads     probe/sleepers.rs
//!   in a lock's slow path      its stack                              slow_path.rs
//!   of which lock              the futex word, and what lies there    lock.rs
//!   which somebody else has    pointers on the others' stacks         holder.rs
//! ```
//!
//! A lock is named only if its own state agrees: locked, with somebody parked. Who holds it is told with the
//! evidence for it, or not at all.
#![forbid(unsafe_code)]

mod holder;
mod lock;
mod memory;
mod slow_path;
mod watch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use watch::{Target, Watch};

use crate::event::{LockAddr, LockOperation, Nanos, RawStack, StackId, Tid, Timestamp};
use crate::symbolize::SymbolTable;

/// How well is known for how long a thread has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waited {
    /// The scheduler's account of when it ran last, to within a tick or so.
    Estimate,
    /// Since holdup saw it first; it can have waited before that.
    LowerBound,
}

/// How is known who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderEvidence {
    /// It was seen to acquire it, and not to release it.
    SeenAcquiring,
    /// It is stuck itself, and the lock's address is on its stack or in its registers, outside of its own wait: a
    /// guard keeps such a pointer. So does a mere reference, which is why this is likely and not certain.
    AddressOnStack,
}

/// A thread that may hold a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckHolder {
    /// The thread.
    pub tid: Tid,
    /// How that is known.
    pub evidence: HolderEvidence,
}

/// A thread that was found waiting for a lock for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckWait {
    /// The thread.
    pub tid: Tid,
    /// Its name.
    pub thread: String,
    /// What it waits for.
    pub operation: LockOperation,
    /// The lock; None where the thread's memory did not tell.
    pub lock: Option<LockAddr>,
    /// It gives up by itself at some time.
    pub has_deadline: bool,
    /// Where.
    pub stack: StackId,
    /// For how long, at `last_seen`.
    pub waited: Nanos,
    /// How well that is known.
    pub waited_is: Waited,
    /// When it was told to be stuck.
    pub found: Timestamp,
    /// When it was seen in this wait last.
    pub last_seen: Timestamp,
    /// It was no more there at the next two looks, while the process was.
    pub has_ended: bool,
    /// Who may hold the lock. Several for a mutex: at most one of them does.
    pub holders: Vec<StuckHolder>,
}

/// Threads that are told of at most: of a thousand that wait for one lock all but some are noise.
pub const MOST_WAITS: usize = 256;

/// All that was found in one recording.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// In the order in which they were found.
    pub waits: Vec<StuckWait>,
    /// Their stacks.
    pub stacks: BTreeMap<StackId, RawStack>,
}

/// Threads that are stuck, for whoever waits for news.
pub struct StuckNews<'a> {
    /// All that were found so far, with their stacks.
    pub found: &'a Found,
    /// Which of them are news.
    pub news: std::ops::Range<usize>,
    /// Names for the stacks.
    pub symbols: &'a SymbolTable,
}

impl StuckNews<'_> {
    /// Those that are stuck now.
    pub fn now(&self) -> impl Iterator<Item = &StuckWait> {
        self.found.waits.iter().filter(|wait| !wait.has_ended)
    }
}

/// Who is known to hold which lock, because it was seen acquiring it.
pub type KnownHolders = BTreeMap<LockAddr, Tid>;
