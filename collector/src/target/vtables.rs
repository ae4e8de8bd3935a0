//! A binary without debug information goes in; the class of each poll instance comes out all the same.
//!
//! Tokio makes one static vtable for each (future, scheduler), and its first two words are the addresses of
//! `raw::poll<F, S>` and of `raw::schedule<S>`:
//!
//! ```text
//!   vtable<F, S>:  poll<F, S> | schedule<S> | dealloc<F, S> | …
//! ```
//!
//! There is one `schedule` for each kind of scheduler, and what it calls has telling names. A worker's loop
//! is a blocking task whose poll calls `worker::run`.
//!
//! Errs to "unknown": where the words aren't there, or the calls lead nowhere that has a name. The return
//! address decides then.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::elf::{Elf, demangle};
use super::insn;
use super::names::class_of_caller;
use crate::event::SiteClass;

/// How deep calls are followed: `raw::poll` > `Harness::poll` > `Core::poll` > `BlockingTask::poll` >
/// `worker::run`.
const DEPTH: usize = 4;
/// Functions that are looked into for one question.
const FUNCTIONS: usize = 200;
/// Bytes of one function that are looked at.
const CODE_LIMIT: usize = 16 << 10;
/// Functions that are looked into for all questions together: a Citadel server takes some 3,000.
const FUNCTIONS_IN_ALL: usize = 100_000;
/// Pointers and symbols that are kept: a Citadel server has some 100,000 of each.
const TABLE_LIMIT: usize = 2 << 20;

const SCHEDULE: &str = "tokio::runtime::task::raw::schedule";
const WORKER_RUN: [&str; 2] = [
    "tokio::runtime::scheduler::multi_thread::worker::run",
    "tokio::runtime::thread_pool::worker::run",
];

/// A binary's functions and the pointers in its data.
struct Code<'a, 'data> {
    code: &'a Elf<'data>,
    /// Name and size by address.
    functions: HashMap<u64, (&'data str, u64)>,
    /// Where the loader writes a pointer, and to what.
    pointers: HashMap<u64, u64>,
    /// Functions that may still be looked into.
    budget: Cell<usize>,
}

/// The classes of those `polls` (virtual addresses) that the code gives away. `named` is the file that has
/// the symbols of `code`.
pub fn poll_classes<'data>(
    code: &Elf<'data>,
    named: &Elf<'data>,
    polls: &HashSet<u64>,
) -> BTreeMap<u64, SiteClass> {
    let mut functions: HashMap<u64, (&str, u64)> = HashMap::new();
    for symbol in named.symbols().take(TABLE_LIMIT) {
        functions.insert(symbol.vaddr, (symbol.mangled, symbol.size));
    }
    let pointers: HashMap<u64, u64> = code.pointers().take(TABLE_LIMIT).collect();
    let code = Code {
        code,
        functions,
        pointers,
        budget: Cell::new(FUNCTIONS_IN_ALL),
    };
    let mut schedulers: HashMap<u64, SiteClass> = HashMap::new();
    let mut classes = BTreeMap::new();
    for (slot, poll) in &code.pointers {
        let schedule = slot
            .checked_add(8)
            .and_then(|next| code.pointers.get(&next))
            .filter(|_| polls.contains(poll));
        let Some(&schedule) = schedule.filter(|schedule| code.name(**schedule) == SCHEDULE) else {
            continue;
        };
        let scheduler = *schedulers
            .entry(schedule)
            .or_insert_with(|| code.class_of_schedule(schedule));
        let class = match scheduler {
            SiteClass::Blocking if code.reaches(*poll, |name| WORKER_RUN.contains(&name)) => {
                SiteClass::Worker
            }
            class => class,
        };
        // A poll that sits in two vtables of different schedulers is nobody's.
        let known = classes.entry(*poll).or_insert(class);
        if *known != class {
            *known = SiteClass::Unknown;
        }
    }
    classes
}

impl Code<'_, '_> {
    fn name(&self, vaddr: u64) -> String {
        self.functions
            .get(&vaddr)
            .map_or_else(String::new, |(mangled, _)| {
                super::names::plain_path(&demangle(mangled))
            })
    }

    /// Of a `schedule<S>` instance, by the first function it leads to whose name tells. The blocking pool's
    /// is never called and does nothing but panic.
    fn class_of_schedule(&self, schedule: u64) -> SiteClass {
        let mut class = SiteClass::Unknown;
        let mut panics = false;
        let mut others = false;
        self.reaches(schedule, |name| {
            class = class_of_caller(name);
            let of_panic = name.contains("panicking::");
            panics |= of_panic;
            others |= !of_panic && name.starts_with("tokio::") && name != SCHEDULE;
            class != SiteClass::Unknown
        });
        if class == SiteClass::Unknown && panics && !others {
            return SiteClass::Blocking;
        }
        class
    }

    /// Whether `wanted` says yes to the name of a function that calls from `start` lead to, nearest first.
    fn reaches(&self, start: u64, mut wanted: impl FnMut(&str) -> bool) -> bool {
        let mut seen = HashSet::from([start]);
        let mut queue = VecDeque::from([(start, 0)]);
        while let Some((vaddr, depth)) = queue.pop_front() {
            if vaddr != start && wanted(&self.name(vaddr)) {
                return true;
            }
            if depth == DEPTH {
                continue;
            }
            let Some((_, size)) = self.functions.get(&vaddr) else {
                continue;
            };
            let Some(rest) = self.budget.get().checked_sub(1) else {
                return false;
            };
            self.budget.set(rest);
            let size = usize::try_from(*size).unwrap_or(CODE_LIMIT).min(CODE_LIMIT);
            for target in insn::calls(self.code.bytes_at(vaddr, size), vaddr) {
                let target = match target {
                    insn::Call::To(target) => Some(target),
                    insn::Call::Through(slot) => self.pointers.get(&slot).copied(),
                };
                if let Some(target) = target
                    && seen.len() < FUNCTIONS
                    && seen.insert(target)
                {
                    queue.push_back((target, depth + 1));
                }
            }
        }
        false
    }
}
