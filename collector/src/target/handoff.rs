//! Where `block_in_place` is seen to hand a worker's core to another thread: from there on the rest of the
//! poll blocks nobody. What enters is the plan's poll sites and the functions found; what leaves is a place
//! and a condition for the kernel side.
//!
//! `block_in_place` does three different things. On a worker that has its core it puts the core aside and
//! spawns a new worker loop on the blocking pool, which picks it up; inside itself, and outside of workers,
//! it just calls the closure. It is generic and inlined into the user's futures, so there is no function to
//! probe for it. But the new worker loop is a blocking task, and every blocking task goes through one
//! function that is not generic:
//!
//! ```text
//!   block_in_place::<F, R>            inlined anywhere
//!     spawn_blocking(|| run(worker))  inlined or not
//!       Spawner::spawn_task(task)     < probe at its entry: on the polling thread, once for each handoff
//! ```
//!
//! What is spawned is told by the task itself: its header's vtable starts with the address of its
//! `raw::poll` instance, and the plan knows which of those run a worker loop.
//!
//! Errs when a task builds a whole multi-threaded runtime during a poll, in a binary where the worker loops
//! of `block_in_place` and of a new runtime share one poll instance or have no names: the rest of that poll
//! then counts as handed off.
#![forbid(unsafe_code)]

use super::ElfError;
use super::sites::{AttachPlan, Family, Found, Site, site};
use crate::capture::MissingProbe;
use crate::event::SiteClass;

/// Through which functions a new blocking task goes, `plain_path`s. The first one that is a function of its
/// own is enough; the others are what it calls since tokio 1.53, should it be inlined.
pub const SPAWN_FUNCTIONS: [&str; 4] = [
    "tokio::runtime::blocking::pool::Spawner::spawn_task",
    "tokio::runtime::blocking::pool::InnerImpl::spawn_task",
    "tokio::runtime::blocking::pool::LockedImpl::spawn_task",
    "tokio::runtime::blocking::sharded::ShardedImpl::spawn_task",
];
/// What `block_in_place` runs its closure in, `plain_path`. It comes after the handoff, and also when there
/// was none because the core was already gone; the poll counts as handed off then anyway.
pub const EXIT_RUNTIME: &str = "tokio::runtime::context::runtime_mt::exit_runtime";

/// Offset of the vtable's address in a task's header, which is `repr(C)`. At the start of the vtable is the
/// address of the poll instance.
pub const HEADER_VTABLE: u64 = 0x10;

/// One place where a handoff is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handoff {
    /// The function, for people.
    pub function: &'static str,
    /// Its entry.
    pub site: Site,
    /// When a hit there is a handoff.
    pub when: When,
}

/// When a hit is a handoff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Each one.
    Always,
    /// When one of the first four integer arguments (the compiler is free to drop or split those in front
    /// of the task) is the address `h` of a task header whose poll instance
    /// `*(*(h + HEADER_VTABLE))` is one of these runtime addresses.
    SpawnsTask {
        /// Entries of poll instances that run a worker loop.
        polls: Vec<u64>,
    },
}

impl AttachPlan {
    /// Adds the places, or why there are none.
    pub(super) fn add_handoffs(&mut self, found: &[Found]) -> Result<(), ElfError> {
        let polls = self.worker_loops();
        let places =
            |plan: &AttachPlan, path: &str, when: &When| -> Result<Vec<Handoff>, ElfError> {
                let code = plan.binary.code()?;
                let mut places: Vec<Handoff> = found
                    .iter()
                    .filter(|found| found.wanted.path == path)
                    .filter_map(|found| {
                        Some(Handoff {
                            function: found.wanted.short,
                            site: site(&code, &plan.binary, found.vaddr)?,
                            when: when.clone(),
                        })
                    })
                    .collect();
                places.dedup();
                Ok(places)
            };
        if !polls.is_empty() {
            let when = When::SpawnsTask { polls };
            for path in SPAWN_FUNCTIONS {
                self.handoffs = places(self, path, &when)?;
                if !self.handoffs.is_empty() {
                    return Ok(());
                }
            }
        }
        self.handoffs = places(self, EXIT_RUNTIME, &When::Always)?;
        let why = if !self.handoffs.is_empty() {
            "no symbol or debug information tells the worker loops from other blocking tasks: handoffs are \
             seen where block_in_place was not inlined only; elsewhere its time counts as blocking"
        } else if self.polls.is_empty() {
            return Ok(());
        } else {
            "neither the spawning of worker loops nor block_in_place is a function of its own in this \
             program: if it calls block_in_place, the time inside counts as blocking"
        };
        self.explain(
            Family::BlockInPlace,
            MissingProbe {
                what: "block_in_place".to_owned(),
                why: why.to_owned(),
            },
        );
        Ok(())
    }

    /// Addresses of the poll instances that `block_in_place` spawns. Where all instances that run a worker
    /// loop share one body, or nothing tells them apart, it is all of those.
    fn worker_loops(&self) -> Vec<u64> {
        let addresses = |wanted: &dyn Fn(&super::PollSite) -> bool| -> Vec<u64> {
            let polls = self.polls.iter().filter(|poll| wanted(poll));
            polls.map(|poll| poll.site.address).collect()
        };
        let of_block_in_place = addresses(&|poll| poll.takes_over_core);
        if of_block_in_place.is_empty() {
            addresses(&|poll| poll.class == SiteClass::Worker)
        } else {
            of_block_in_place
        }
    }
}
