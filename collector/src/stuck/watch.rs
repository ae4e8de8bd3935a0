//! Looks at the threads that sleep, again and again. What enters: the target. What leaves: a [`StuckWait`] for each
//! thread that has waited for a lock for long, once, and what becomes of it.
//!
//! A thread is looked into once for each time that it falls asleep:
//!
//! ```text
//!   asleep > long asleep > (idle: not in a lock's slow path)
//!                        > waiting > stuck > ended, when it has run again or is gone
//! ```
//!
//! Memory is read while the target runs. What was read of a thread counts if it has not run until all was read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use holdup_probe_ebpf::wire::sleepers::{ASLEEP_UNKNOWN, Sleeper};

use super::memory::Memory;
use super::slow_path::SlowPaths;
use super::{
    Found, HolderEvidence, KnownHolders, MOST_WAITS, StuckHolder, StuckWait, Waited, holder, lock,
};
use crate::event::{LockAddr, LockOperation, Nanos, RawStack, StackId, Tid, Timestamp};
use crate::fnv;
use crate::probe::{self, Sleepers};
use crate::target::{Binary, Process};
use crate::unwind::{self, Architecture, Kept, Walked};

/// The process that is watched.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The process.
    pub process: &'a Process,
    /// The file that has the locks' slow paths.
    pub binary: &'a Binary,
    /// What its stacks are walked with.
    pub tables: &'a Kept,
}

/// What is known of the threads that sleep.
pub struct Watch {
    sleepers: Sleepers,
    after: Nanos,
    /// How far apart looks are: a thread that will be stuck at the next one is told of with the others.
    every: Nanos,
    asleep: BTreeMap<Tid, Asleep>,
    /// When was looked last.
    looked: Timestamp,
    /// Looked for when the first thread is asleep for long.
    slow_paths: Option<SlowPaths>,
    found: Found,
}

/// A thread, since it fell asleep.
struct Asleep {
    switches: u64,
    first_seen: Timestamp,
    state: State,
}

enum State {
    NotLookedInto,
    Idle,
    Waiting(Box<Waiting>),
    /// Which of the waits that were found it is.
    Stuck(Box<Waiting>, usize),
}

/// A thread in a lock's slow path.
struct Waiting {
    sleeper: Sleeper,
    walked: Walked,
    /// Which of its frames is the slow path.
    slow_path: usize,
    operation: LockOperation,
    lock: Option<LockAddr>,
}

impl Asleep {
    fn waiting(&self) -> Option<&Waiting> {
        match &self.state {
            State::Waiting(waiting) | State::Stuck(waiting, _) => Some(waiting),
            State::NotLookedInto | State::Idle => None,
        }
    }
}

impl Watch {
    /// Tells of threads that have waited for `after`, for looks `every` so often.
    pub fn new(sleepers: Sleepers, after: Nanos, every: Nanos) -> Watch {
        Watch {
            sleepers,
            after,
            every,
            asleep: BTreeMap::new(),
            looked: probe::now(),
            slow_paths: None,
            found: Found::default(),
        }
    }

    /// All that was found so far.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// The same, when no more looks follow.
    pub fn into_found(self) -> Found {
        self.found
    }

    /// Looks once. Returns the waits that are news, as indices in what was found.
    pub fn look(
        &mut self,
        target: Target<'_>,
        known: &KnownHolders,
    ) -> io::Result<std::ops::Range<usize>> {
        let before = self.found.waits.len();
        let sleepers = self.sleepers.look()?;
        let looked = std::mem::replace(&mut self.looked, probe::now());
        self.follow(&sleepers, self.looked);
        // Once may be the last moment of a process that is being killed: only a second time is it sure that they
        // went on.
        for wait in &mut self.found.waits {
            wait.has_ended = wait.last_seen < looked;
        }
        if !self.has_news(&sleepers) {
            return Ok(before..before);
        }
        let mut memory = Memory::of(target.process)?;
        let soon = Nanos(self.after.0.saturating_sub(self.every.0));
        for sleeper in &sleepers {
            let tid = Tid(sleeper.head.tid);
            let is_new = |asleep: &Asleep| matches!(asleep.state, State::NotLookedInto);
            if self.asleep.get(&tid).is_some_and(is_new) && self.waited(sleeper).0 >= soon {
                let state = self.look_into(sleeper, target, &mut memory);
                if let Some(asleep) = self.asleep.get_mut(&tid) {
                    asleep.state = state;
                }
            }
        }
        let keeps = self.kept_locks(&mut memory);
        // Who has run meanwhile is forgotten, and with it what was read of it.
        let sleepers = self.sleepers.look()?;
        let at = probe::now();
        self.follow(&sleepers, at);
        if self.is_anyone_stuck(&sleepers) {
            for sleeper in &sleepers {
                let (waited, waited_is) = self.waited(sleeper);
                if waited >= soon && self.found.waits.len() < MOST_WAITS {
                    self.tell(sleeper, waited, waited_is, at);
                }
            }
        }
        self.name_holders(&keeps, known);
        Ok(before..self.found.waits.len())
    }

    /// Who is asleep still, and who is no more.
    fn follow(&mut self, sleepers: &[Sleeper], at: Timestamp) {
        let mut before = std::mem::take(&mut self.asleep);
        for sleeper in sleepers {
            let tid = Tid(sleeper.head.tid);
            let same = before.remove(&tid);
            let same = same.filter(|asleep| asleep.switches == sleeper.head.switches);
            let asleep = same.unwrap_or(Asleep {
                switches: sleeper.head.switches,
                first_seen: at,
                state: State::NotLookedInto,
            });
            self.asleep.insert(tid, asleep);
        }
        for sleeper in sleepers {
            let (waited, waited_is) = self.waited(sleeper);
            if let Some(State::Stuck(_, n)) =
                self.asleep.get(&Tid(sleeper.head.tid)).map(|it| &it.state)
                && let Some(wait) = self.found.waits.get_mut(*n)
            {
                (wait.waited, wait.waited_is) = (waited, waited_is);
                wait.last_seen = at;
            }
        }
    }

    /// How long a thread has been asleep, and how well that is known.
    fn waited(&self, sleeper: &Sleeper) -> (Nanos, Waited) {
        let asleep = self.asleep.get(&Tid(sleeper.head.tid));
        let seen = asleep.map_or(Nanos::ZERO, |asleep| probe::now().since(asleep.first_seen));
        match sleeper.head.asleep_ns {
            ASLEEP_UNKNOWN => (seen, Waited::LowerBound),
            // The scheduler's account can be behind, by a tick.
            estimate if estimate < seen.0 => (seen, Waited::LowerBound),
            estimate => (Nanos(estimate), Waited::Estimate),
        }
    }

    /// Whether somebody is asleep for long of whom it is not known that it idles, or that it is stuck.
    fn has_news(&self, sleepers: &[Sleeper]) -> bool {
        self.found.waits.len() < MOST_WAITS
            && sleepers.iter().any(|sleeper| {
                let asleep = self.asleep.get(&Tid(sleeper.head.tid));
                let is_open = asleep
                    .is_some_and(|it| matches!(it.state, State::NotLookedInto | State::Waiting(_)));
                is_open && self.waited(sleeper).0 >= self.after
            })
    }

    fn is_anyone_stuck(&self, sleepers: &[Sleeper]) -> bool {
        sleepers.iter().any(|sleeper| {
            let asleep = self.asleep.get(&Tid(sleeper.head.tid));
            asleep.is_some_and(|it| matches!(it.state, State::Waiting(_)))
                && self.waited(sleeper).0 >= self.after
        })
    }

    fn look_into(&mut self, sleeper: &Sleeper, target: Target<'_>, memory: &mut Memory) -> State {
        if self.slow_paths.is_none() {
            self.slow_paths = Some(SlowPaths::of(target.binary));
        }
        let return_probes: Vec<(u64, u64)> = sleeper
            .return_probes
            .iter()
            .take_while(|probe| probe.stack_pointer != 0)
            .map(|probe| (probe.stack_pointer, probe.return_address))
            .collect();
        let walked = unwind::walk(
            target.tables,
            unwind::Thread {
                architecture: ARCHITECTURE,
                registers: &sleeper.registers,
                return_probes: &return_probes,
                word: &mut |addr| memory.word(addr),
            },
        );
        let Some(slow_paths) = &self.slow_paths else {
            return State::Idle;
        };
        let found = walked.frames.iter().enumerate().find_map(|(n, frame)| {
            let in_call = frame.address.wrapping_sub(u64::from(n > 0));
            Some((n, slow_paths.at(in_call)?))
        });
        let Some((slow_path, operation)) = found else {
            return State::Idle;
        };
        let lock = lock::find(operation, futex(sleeper), memory);
        State::Waiting(Box::new(Waiting {
            sleeper: *sleeper,
            walked,
            slow_path,
            operation,
            lock,
        }))
    }

    /// For each lock that is waited for, the waiting threads that keep its address.
    fn kept_locks(&self, memory: &mut Memory) -> BTreeMap<LockAddr, BTreeSet<Tid>> {
        let waiting = || {
            self.asleep
                .iter()
                .filter_map(|(tid, asleep)| Some((*tid, asleep.waiting()?)))
        };
        let locks: BTreeSet<LockAddr> = waiting().filter_map(|(_, it)| it.lock).collect();
        let mut keeps: BTreeMap<LockAddr, BTreeSet<Tid>> = BTreeMap::new();
        for (tid, it) in waiting() {
            let mut others = locks.clone();
            if let Some(own) = it.lock {
                others.remove(&own);
            }
            let kept = holder::kept(
                &others,
                &it.sleeper.registers,
                ARCHITECTURE,
                &it.walked.frames,
                it.slow_path,
                memory,
            );
            for lock in kept {
                keeps.entry(lock).or_default().insert(tid);
            }
        }
        keeps
    }

    /// Makes a wait of a waiting thread.
    fn tell(&mut self, sleeper: &Sleeper, waited: Nanos, waited_is: Waited, at: Timestamp) {
        let Some(asleep) = self.asleep.get_mut(&Tid(sleeper.head.tid)) else {
            return;
        };
        let waiting = match std::mem::replace(&mut asleep.state, State::Idle) {
            State::Waiting(waiting) => waiting,
            told_or_idle => {
                asleep.state = told_or_idle;
                return;
            }
        };
        let stack = keep_stack(&mut self.found.stacks, &waiting.walked);
        self.found.waits.push(StuckWait {
            tid: Tid(sleeper.head.tid),
            thread: name(&sleeper.head.comm),
            operation: waiting.operation,
            lock: waiting.lock,
            has_deadline: has_deadline(sleeper),
            stack,
            waited,
            waited_is,
            found: at,
            last_seen: at,
            has_ended: false,
            holders: Vec::new(),
        });
        asleep.state = State::Stuck(waiting, self.found.waits.len() - 1);
    }

    /// Says who may hold the locks that are waited for now. `keeps` was read of threads of which some may have run
    /// since.
    fn name_holders(&mut self, keeps: &BTreeMap<LockAddr, BTreeSet<Tid>>, known: &KnownHolders) {
        for wait in self.found.waits.iter_mut().filter(|wait| !wait.has_ended) {
            let Some(lock) = wait.lock else {
                continue;
            };
            let holder = |tid, evidence| StuckHolder { tid, evidence };
            wait.holders = match known.get(&lock) {
                Some(tid) => vec![holder(*tid, HolderEvidence::SeenAcquiring)],
                None => keeps
                    .get(&lock)
                    .into_iter()
                    .flatten()
                    .filter(|tid| {
                        self.asleep
                            .get(tid)
                            .is_some_and(|it| it.waiting().is_some())
                    })
                    .map(|tid| holder(*tid, HolderEvidence::AddressOnStack))
                    .collect(),
            };
        }
    }
}

/// holdup's own, which is the target's.
const ARCHITECTURE: Architecture = if cfg!(target_arch = "aarch64") {
    Architecture::Aarch64
} else {
    Architecture::X86_64
};

/// The words of the kernel's record in which a system call's arguments are.
const ARGUMENTS: [usize; 5] = match ARCHITECTURE {
    // rdi rsi rdx r10 r8
    Architecture::X86_64 => [14, 13, 12, 7, 9],
    Architecture::Aarch64 => [0, 1, 2, 3, 4],
};

/// The word that a thread sleeps on: the first argument of `futex` and of `futex_wait`.
fn futex(sleeper: &Sleeper) -> u64 {
    sleeper.registers[ARGUMENTS[0]]
}

/// Whether it has a deadline: `futex(word, operation, value, deadline)`. No version of std or parking_lot calls
/// `futex_wait`.
fn has_deadline(sleeper: &Sleeper) -> bool {
    sleeper.registers[ARGUMENTS[3]] != 0
}

/// As the kernel has it.
fn name(comm: &[u8]) -> String {
    let end = comm.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&comm[..end.unwrap_or(comm.len())]).into_owned()
}

/// Puts a stack with the others, under a number that is made from it.
fn keep_stack(stacks: &mut BTreeMap<StackId, RawStack>, walked: &Walked) -> StackId {
    let addresses: Vec<u64> = walked.frames.iter().map(|frame| frame.address).collect();
    let bytes = addresses.iter().flat_map(|address| address.to_le_bytes());
    // The kernel side's numbers are as large and made in another way.
    let id = StackId(fnv::hash(bytes).max(1));
    stacks.entry(id).or_insert(RawStack {
        outcome: walked.outcome,
        addresses,
    });
    id
}
