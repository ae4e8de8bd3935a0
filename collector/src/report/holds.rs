//! Single waits and single holds, for those who want to see each one.

use std::collections::{BTreeMap, BTreeSet};

use super::locks::site_of_lock;
use super::stacks::{SiteKey, Stacks, call_site, hex, stack_id};
use super::{CallSite, Certainty, HoldEntry, LockFamily, LockWaitEntry, WaitHolderEntry};
use crate::capture::Capture;
use crate::event::{
    CpuSample, Event, Hold, LockOperation, LockOutcome, LockWait, StackId, Tid, Timestamp,
};

/// A list of bounded length.
pub struct Listed<T> {
    /// In the order of their ends.
    pub entries: Vec<T>,
    /// The stacks that they name.
    pub stacks: BTreeSet<StackId>,
    /// Shorter ones that are not listed.
    pub more: u64,
}

/// What weighs most of what there is, in the order in which it is.
fn heaviest<T, W: Ord>(all: Vec<&T>, most: usize, weight: impl Fn(&T) -> W) -> (Vec<&T>, u64) {
    let more = all.len().saturating_sub(most);
    let mut places: Vec<usize> = (0..all.len()).collect();
    // Stable: of equal ones the first.
    places.sort_by_key(|&place| std::cmp::Reverse(weight(all[place])));
    places.truncate(most);
    places.sort_unstable();
    let kept = places.into_iter().map(|place| all[place]).collect();
    (kept, more as u64)
}

/// Waits of at least the threshold.
pub fn waits(
    capture: &Capture,
    threads: &BTreeMap<Tid, &str>,
    most: usize,
) -> Listed<LockWaitEntry> {
    let long = capture.events.iter().filter_map(|event| match event {
        Event::LockWait(wait) if wait.operation != LockOperation::Condvar => Some(wait),
        _ => None,
    });
    let long = long.filter(|wait| wait.end.since(wait.start) >= capture.meta.threshold);
    let (kept, more) = heaviest(long.collect(), most, |wait| wait.end.since(wait.start));
    let stacks = kept.iter().flat_map(|wait| {
        let holders = wait.holders.iter().flatten();
        holders
            .filter_map(|holder| holder.stack)
            .chain(wait.waiter_stack)
    });
    Listed {
        stacks: stacks.collect(),
        entries: kept
            .iter()
            .map(|wait| wait_entry(wait, capture, threads))
            .collect(),
        more,
    }
}

fn wait_entry(wait: &LockWait, capture: &Capture, threads: &BTreeMap<Tid, &str>) -> LockWaitEntry {
    LockWaitEntry {
        start_ns: wait.start.since(capture.meta.start),
        duration_ns: wait.end.since(wait.start),
        certainty: match wait.outcome {
            LockOutcome::StillWaiting => Certainty::LowerBound,
            LockOutcome::Acquired | LockOutcome::TimedOut => Certainty::Exact,
        },
        tid: wait.tid.0,
        thread: threads.get(&wait.tid).map(|name| (*name).to_owned()),
        task: wait.task.map(|task| hex(task.0)),
        lock: hex(wait.lock.0),
        operation: wait.operation,
        outcome: wait.outcome,
        waiter_stack: wait.waiter_stack.map(|id| hex(id.0)),
        releases: wait.releases,
        holders: wait
            .holders
            .iter()
            .flatten()
            .map(|holder| WaitHolderEntry {
                tid: holder.tid.0,
                held_ns: holder.held,
                stack: holder.stack.map(|id| hex(id.0)),
            })
            .collect(),
        others_ns: wait.others,
        handover_ns: wait.handover,
    }
}

/// All long holds, and those across an await of locks that block threads, in the order of their ends.
pub fn all_holds(capture: &Capture, stacks: &Stacks) -> Vec<HoldEntry> {
    let samples = Samples::new(&capture.events);
    let holds = capture.events.iter().filter_map(|event| match event {
        Event::Hold(hold) => Some(hold),
        _ => None,
    });
    let entry = |hold: &Hold| HoldEntry {
        lock: hex(hold.lock.0),
        operation: hold.operation,
        tid: hold.tid.0,
        task: hold.task.map(|task| hex(task.0)),
        end_ns: hold.end.since(capture.meta.start),
        at_least_ns: hold.at_least,
        at_most_ns: hold.at_most,
        certainty: if hold.exact {
            Certainty::Exact
        } else {
            Certainty::LowerBound
        },
        across_await: hold.across_await,
        acquire_stack: hold.acquire_stack.map(|id| hex(id.0)),
        release_stack: hold.release_stack.map(|id| hex(id.0)),
        call_site: stacks.get(hold.release_stack).and_then(site_of_lock),
        during: samples.during(hold, stacks),
    };
    holds.map(entry).collect()
}

/// The longest of them, behind all those across an await that block threads: a limit can forbid every single one, and
/// those of Tokio's locks are many.
pub fn listed_holds(all: &[HoldEntry], most: usize) -> Listed<HoldEntry> {
    let (kept, more) = heaviest(all.iter().collect(), most, |hold| {
        let blocks_threads = LockFamily::of(hold.operation).blocks_threads();
        (hold.across_await && blocks_threads, hold.at_least_ns)
    });
    let ids = kept.iter().flat_map(|hold| {
        let stacks = hold.acquire_stack.iter().chain(&hold.release_stack);
        stacks.filter_map(|id| stack_id(id))
    });
    Listed {
        stacks: ids.collect(),
        entries: kept.into_iter().cloned().collect(),
        more,
    }
}

/// CPU samples by thread, in the order of their times.
struct Samples<'a>(BTreeMap<Tid, Vec<&'a CpuSample>>);

impl<'a> Samples<'a> {
    fn new(events: &'a [Event]) -> Samples<'a> {
        let mut by_thread: BTreeMap<Tid, Vec<&CpuSample>> = BTreeMap::new();
        for event in events {
            if let Event::CpuSample(sample) = event {
                by_thread.entry(sample.tid).or_default().push(sample);
            }
        }
        for samples in by_thread.values_mut() {
            samples.sort_by_key(|sample| sample.at);
        }
        Samples(by_thread)
    }

    /// What a holder computed. A guard that was held across an await says nothing about what its thread did meanwhile.
    fn during(&self, hold: &Hold, stacks: &Stacks) -> Option<CallSite> {
        if hold.across_await {
            return None;
        }
        let samples = self.0.get(&hold.tid)?;
        let since = Timestamp(hold.end.0.saturating_sub(hold.at_least.0));
        let first = samples.partition_point(|sample| sample.at < since);
        let mut sites: BTreeMap<SiteKey, (CallSite, u64)> = BTreeMap::new();
        let meanwhile = samples[first..].iter().take_while(|it| it.at <= hold.end);
        for site in meanwhile.filter_map(|it| call_site(stacks.get(it.stack)?.of_poll(None))) {
            sites.entry(SiteKey::new(&site)).or_insert((site, 0)).1 += 1;
        }
        let most = sites
            .into_values()
            .reduce(|most, one| if one.1 > most.1 { one } else { most });
        most.map(|(site, _)| site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Nanos;

    /// The longest are kept, in their order, and of equal ones the first.
    #[test]
    fn a_list_of_bounded_length() {
        let all = [5, 1, 7, 5, 9, 5].map(Nanos);
        let kept = |most| {
            let (kept, more) = heaviest(all.iter().collect(), most, |one| *one);
            (kept.iter().map(|one| one.0).collect::<Vec<_>>(), more)
        };
        assert_eq!(kept(6), (vec![5, 1, 7, 5, 9, 5], 0));
        assert_eq!(kept(5), (vec![5, 7, 5, 9, 5], 1));
        assert_eq!(kept(4), (vec![5, 7, 5, 9], 2));
        assert_eq!(kept(3), (vec![5, 7, 9], 3));
        assert_eq!(kept(1), (vec![9], 5));
    }

    /// A short hold across an await of a lock that blocks threads is listed before longer ones of Tokio's.
    #[test]
    fn holds_that_a_limit_forbids() {
        let hold = |operation, across_await, at_least| HoldEntry {
            lock: hex(0x10),
            operation,
            tid: 1,
            task: None,
            end_ns: Nanos(0),
            at_least_ns: Nanos(at_least),
            at_most_ns: None,
            certainty: Certainty::Exact,
            across_await,
            acquire_stack: None,
            release_stack: None,
            call_site: None,
            during: None,
        };
        let all = [
            hold(LockOperation::TokioAcquire, true, 9),
            hold(LockOperation::StdMutex, true, 1),
            hold(LockOperation::Mutex, false, 7),
        ];
        let kept = |most| {
            let listed = listed_holds(&all, most);
            let lengths = listed.entries.iter().map(|hold| hold.at_least_ns.0);
            (lengths.collect::<Vec<_>>(), listed.more)
        };
        assert_eq!(kept(3), (vec![9, 1, 7], 0));
        assert_eq!(kept(2), (vec![9, 1], 1));
        assert_eq!(kept(1), (vec![1], 2));
    }
}
