//! The process's runtimes, numbered, and what each thread is to its own.

use std::collections::{BTreeMap, BTreeSet};

use super::words::count;
use super::{RuntimeEntry, RuntimeFlavor, WorkerEntry};
use crate::capture::{ProbeFamily, RuntimeThread};
use crate::event::{SiteClass, Tid};

/// What each thread is to its runtime.
pub struct Runtimes {
    threads: BTreeMap<Tid, RuntimeEntry>,
    has_handoffs: bool,
}

impl Runtimes {
    /// Numbers the runtimes by the lowest id of their threads. Where `block_in_place` handed workers over, threads can have been
    /// others between two looks.
    pub fn new(seen: &[RuntimeThread], has_handoffs: bool) -> Runtimes {
        let by_tid: BTreeMap<Tid, &RuntimeThread> =
            seen.iter().map(|thread| (thread.tid, thread)).collect();
        let mut numbers: BTreeMap<u64, u32> = BTreeMap::new();
        for thread in by_tid.values() {
            let next = numbers.len() as u32 + 1;
            numbers.entry(thread.runtime).or_insert(next);
        }
        let entry = |thread: &RuntimeThread| RuntimeEntry {
            runtime: numbers.get(&thread.runtime).copied().unwrap_or(0),
            flavor: match thread.worker {
                Some(_) => RuntimeFlavor::MultiThread,
                None => RuntimeFlavor::CurrentThread,
            },
            worker_index: thread.worker,
            has_changed: thread.has_changed,
        };
        Runtimes {
            threads: by_tid
                .into_iter()
                .map(|(tid, thread)| (tid, entry(thread)))
                .collect(),
            has_handoffs,
        }
    }

    /// What a thread was to its runtime in one poll of `class`, as far as that is certain: a worker can run another runtime
    /// inside of a poll.
    pub fn of_poll(&self, tid: Tid, class: Option<SiteClass>) -> Option<RuntimeEntry> {
        let flavor = match class? {
            SiteClass::MultiThread => RuntimeFlavor::MultiThread,
            SiteClass::CurrentThread | SiteClass::BlockOn => RuntimeFlavor::CurrentThread,
            // A `LocalSet` runs on any.
            SiteClass::LocalSet | SiteClass::Blocking | SiteClass::Worker | SiteClass::Unknown => {
                return None;
            }
        };
        let runtime = self.of(tid)?;
        (runtime.flavor == flavor && !runtime.has_changed).then_some(RuntimeEntry {
            worker_index: runtime.worker_index.filter(|_| !self.has_handoffs),
            ..runtime
        })
    }

    /// What a thread is to its runtime, if that was seen.
    pub fn of(&self, tid: Tid) -> Option<RuntimeEntry> {
        self.threads.get(&tid).copied()
    }
}

impl WorkerEntry {
    /// For people: `worker 0`, of which runtime where the process has several, and that it was another one before; None where it
    /// is not known, or a matter of course.
    pub fn part(&self, workers: &[WorkerEntry]) -> Option<String> {
        let runtimes: BTreeSet<u32> = workers
            .iter()
            .filter_map(|worker| Some(worker.runtime?.runtime))
            .collect();
        let RuntimeEntry {
            runtime,
            flavor: _,
            worker_index,
            has_changed,
        } = self.runtime?;
        let last = if has_changed { "last " } else { "" };
        match (worker_index, runtimes.len() > 1) {
            (Some(index), false) => Some(format!("{last}worker {index}")),
            (Some(index), true) => Some(format!("runtime {runtime} {last}worker {index}")),
            (None, true) => Some(format!("runtime {runtime}")),
            (None, false) => None,
        }
    }
}

/// Says how many threads it is not, or not for all the time, known of what they are to their runtime. Where it could not be
/// looked for, the missing probe says so.
pub fn notes(workers: &[WorkerEntry], probes: &[ProbeFamily]) -> Vec<String> {
    let is_it = |family: &&ProbeFamily| family.name == ProbeFamily::WORKER_INDEX;
    let was_looked_for = probes.iter().find(is_it).is_some_and(|it| it.attached > 0);
    if !was_looked_for {
        return Vec::new();
    }
    let polled = || workers.iter().filter(|worker| worker.polls > 0);
    let threads = count(polled().count() as u64, "thread");
    let unknown = polled().filter(|worker| worker.runtime.is_none()).count();
    let changed = polled()
        .filter_map(|worker| worker.runtime)
        .filter(|runtime| runtime.has_changed)
        .count();
    let mut notes = Vec::new();
    if unknown > 0 {
        notes.push(format!(
            "Of {unknown} of {threads} that polled it is not known which runtime they drive, and as which worker: their own \
             variables did not tell whenever they were looked at, once a second."
        ));
    }
    if changed > 0 {
        notes.push(format!(
            "{changed} of {threads} that polled were different workers one after the other, as `block_in_place` hands \
             workers over: the last one is told, and none of their long polls."
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timestamp;

    fn seen(tid: u32, runtime: u64, worker: Option<u32>) -> RuntimeThread {
        RuntimeThread {
            tid: Tid(tid),
            runtime,
            worker,
            last_seen: Timestamp(1),
            has_changed: false,
        }
    }

    /// By their first threads, wherever they are in memory and in whatever order they were seen.
    #[test]
    fn runtimes_are_numbered_by_their_first_threads() {
        let runtimes = Runtimes::new(
            &[
                seen(31, 0x1000, Some(0)),
                seen(12, 0x9000, Some(1)),
                seen(30, 0x9000, Some(0)),
                seen(20, 0x5000, None),
            ],
            false,
        );
        let of = |tid| {
            let entry = runtimes.of(Tid(tid))?;
            Some((entry.runtime, entry.flavor, entry.worker_index))
        };
        use RuntimeFlavor::{CurrentThread, MultiThread};
        assert_eq!(of(12), Some((1, MultiThread, Some(1))));
        assert_eq!(of(30), Some((1, MultiThread, Some(0))));
        assert_eq!(of(20), Some((2, CurrentThread, None)));
        assert_eq!(of(31), Some((3, MultiThread, Some(0))));
        assert_eq!(of(32), None);

        // A nested runtime's poll, and those of a recording with hand-offs, are not given what may not be theirs.
        let of_poll = |runtimes: &Runtimes, class| runtimes.of_poll(Tid(30), Some(class));
        let index = |entry: Option<RuntimeEntry>| entry.map(|entry| entry.worker_index);
        assert_eq!(
            index(of_poll(&runtimes, SiteClass::MultiThread)),
            Some(Some(0))
        );
        assert_eq!(of_poll(&runtimes, SiteClass::CurrentThread), None);
        assert_eq!(of_poll(&runtimes, SiteClass::LocalSet), None);
        let with_handoffs = Runtimes::new(&[seen(30, 0x9000, Some(0))], true);
        assert_eq!(
            index(of_poll(&with_handoffs, SiteClass::MultiThread)),
            Some(None)
        );
    }
}
