//! The threads of runtimes and of their blocking pools: what they did all the while.

use std::collections::BTreeMap;

use super::runtimes::Runtimes;
use super::{SliceEntry, WorkerEntry, WorkerRole};
use crate::capture::Capture;
use crate::event::{Event, Nanos, Tid, Timestamp, WorkerSlice};

/// Slices that a report lists, of all threads together: of more, neighbours are put together.
const MOST_SLICES: usize = 20_000;

fn entry(slice: &WorkerSlice, recording: Timestamp) -> SliceEntry {
    SliceEntry {
        start_ns: slice.start.since(recording),
        duration_ns: slice.end.since(slice.start),
        polls: slice.polls,
        busy_ns: slice.busy,
        parked_ns: slice.parked,
        blocking_ns: slice.blocking,
    }
}

/// At most so many (one at least), each of as few neighbours as that takes.
fn coarse(slices: impl ExactSizeIterator<Item = SliceEntry>, most: usize) -> Vec<SliceEntry> {
    let each = slices.len().div_ceil(most.max(1)).max(1);
    let mut coarse: Vec<SliceEntry> = Vec::new();
    for (n, slice) in slices.enumerate() {
        match coarse.last_mut() {
            Some(last) if n % each != 0 => {
                let end = slice.start_ns + slice.duration_ns;
                last.duration_ns = end.saturating_sub(last.start_ns);
                last.polls = last.polls.saturating_add(slice.polls);
                last.busy_ns += slice.busy_ns;
                last.parked_ns += slice.parked_ns;
                last.blocking_ns += slice.blocking_ns;
            }
            _ => coarse.push(slice),
        }
    }
    coarse
}

/// Busiest first. Where no wakes were seen, nobody knows who stole a task.
pub fn workers(
    capture: &Capture,
    threads: &BTreeMap<Tid, &str>,
    runtimes: &Runtimes,
    sees_wakes: bool,
) -> Vec<WorkerEntry> {
    let mut by_thread: BTreeMap<Tid, Vec<&WorkerSlice>> = BTreeMap::new();
    for event in &capture.events {
        if let Event::WorkerSlice(slice) = event {
            by_thread.entry(slice.tid).or_default().push(slice);
        }
    }
    let most = MOST_SLICES / by_thread.len().max(1);
    let mut entries: Vec<WorkerEntry> = by_thread
        .into_iter()
        .map(|(tid, mut slices)| {
            slices.sort_by_key(|slice| slice.start);
            let sum = |of: fn(&WorkerSlice) -> u64| {
                slices
                    .iter()
                    .fold(0_u64, |sum, slice| sum.saturating_add(of(slice)))
            };
            let polls = sum(|slice| slice.polls);
            let runtime = runtimes.of(tid);
            let has_index = runtime.is_some_and(|runtime| runtime.worker_index.is_some());
            WorkerEntry {
                tid: tid.0,
                thread: threads.get(&tid).map(|name| (*name).to_owned()),
                // The loop of a worker is seen only if it began after holdup did.
                role: if has_index || slices.iter().any(|slice| slice.is_worker) {
                    WorkerRole::Worker
                } else if polls > 0 {
                    WorkerRole::Scheduler
                } else {
                    WorkerRole::BlockingPool
                },
                runtime,
                observed_ns: Nanos(sum(|slice| slice.end.since(slice.start).0)),
                polls,
                busy_ns: Nanos(sum(|slice| slice.busy.0)),
                longest_ns: slices
                    .iter()
                    .map(|slice| slice.longest)
                    .max()
                    .unwrap_or_default(),
                parked_ns: Nanos(sum(|slice| slice.parked.0)),
                stolen: sees_wakes.then(|| sum(|slice| slice.stolen)),
                blocking_tasks: sum(|slice| slice.blocking_polls),
                blocking_ns: Nanos(sum(|slice| slice.blocking.0)),
                slices: coarse(
                    slices.iter().map(|slice| entry(slice, capture.meta.start)),
                    most,
                ),
            }
        })
        .collect();
    entries.sort_by_key(|entry| {
        let busy = entry.busy_ns + entry.blocking_ns;
        (entry.role, std::cmp::Reverse(busy), entry.tid)
    });
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is lost of the sums, and there are no more than asked for.
    #[test]
    fn many_slices_become_few() {
        let slice = |n: u64| SliceEntry {
            start_ns: Nanos(n * 100),
            duration_ns: Nanos(90),
            polls: 2,
            busy_ns: Nanos(30),
            parked_ns: Nanos(50),
            blocking_ns: Nanos(5),
        };
        let all: Vec<SliceEntry> = (0..7).map(slice).collect();
        assert_eq!(coarse(all.iter().copied(), 7), all);
        let few = coarse(all.iter().copied(), 3);
        let spans: Vec<(u64, u64, u64)> = few
            .iter()
            .map(|slice| (slice.start_ns.0, slice.duration_ns.0, slice.polls))
            .collect();
        assert_eq!(spans, [(0, 290, 6), (300, 290, 6), (600, 90, 2)]);
        assert_eq!(
            few.iter().map(|slice| slice.busy_ns).sum::<Nanos>(),
            Nanos(210)
        );
        assert_eq!(coarse(all.iter().copied(), 0).len(), 1);
    }
}
