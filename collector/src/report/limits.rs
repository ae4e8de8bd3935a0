//! How much a report lists, so that `report.json` of any recording can be opened. What is not listed is counted,
//! and part of all totals, groups and flamegraphs all the same.

use super::{LongPollEntry, NotListed, Report};

/// The most entries of each list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Long polls; the longest are kept.
    pub long_polls: usize,
    /// Locks; those most waited for are kept.
    pub locks: usize,
    /// Lock types; those most waited for are kept.
    pub lock_types: usize,
    /// Lock waits; the longest are kept.
    pub lock_waits: usize,
    /// Holds; those of parking_lot's and std's locks across an await are kept, and of the others the longest.
    pub holds: usize,
    /// Condvars; those most waited at are kept.
    pub condvars: usize,
    /// Findings; those of most harm are kept.
    pub findings: usize,
}

impl Default for Limits {
    /// Some tens of megabytes.
    fn default() -> Limits {
        Limits {
            long_polls: 20_000,
            locks: 5_000,
            lock_types: 1_000,
            lock_waits: 20_000,
            holds: 20_000,
            condvars: 5_000,
            findings: 1_000,
        }
    }
}

impl Limits {
    /// The indices of the longest polls, in order.
    pub(super) fn longest(&self, long_polls: &[LongPollEntry]) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..long_polls.len()).collect();
        if indices.len() > self.long_polls {
            // Stable: of equal ones the first.
            indices.sort_by_key(|&n| std::cmp::Reverse(long_polls[n].duration_ns));
            indices.truncate(self.long_polls);
            indices.sort_unstable();
        }
        indices
    }

    /// Leaves of the long polls those at these indices, of all others what comes first.
    pub(super) fn apply(&self, report: &mut Report, longest: &[usize]) {
        let all = report.long_polls.len();
        let mut places = vec![None; all];
        for (place, &n) in longest.iter().enumerate() {
            places[n] = Some(place);
        }
        let mut kept = places.iter().map(Option::is_some);
        report
            .long_polls
            .retain(|_| kept.next().unwrap_or_default());
        report.not_listed = NotListed {
            long_polls: (all - longest.len()) as u64,
            locks: shorten(&mut report.locks, self.locks),
            lock_types: shorten(&mut report.lock_types, self.lock_types),
            // Bounded where they are made.
            lock_waits: report.not_listed.lock_waits,
            holds: report.not_listed.holds,
            condvars: shorten(&mut report.condvars, self.condvars),
            findings: shorten(&mut report.findings, self.findings),
        };
        for finding in &mut report.findings {
            let listed = finding.long_polls.iter().filter_map(|&n| places[n]);
            finding.long_polls = listed.collect();
        }
        report.coverage.notes.extend(report.not_listed.note());
    }
}

/// Returns how many went.
fn shorten<T>(list: &mut Vec<T>, most: usize) -> u64 {
    let more = list.len().saturating_sub(most);
    list.truncate(most);
    more as u64
}

impl NotListed {
    fn note(&self) -> Option<String> {
        let NotListed {
            long_polls,
            locks,
            lock_types,
            lock_waits,
            holds,
            condvars,
            findings,
        } = *self;
        let lists = [
            (long_polls, "long poll"),
            (locks, "lock"),
            (lock_types, "lock type"),
            (lock_waits, "lock wait"),
            (holds, "hold"),
            (condvars, "condvar"),
            (findings, "finding"),
        ];
        let left_out: Vec<String> = lists
            .into_iter()
            .filter(|(times, _)| *times > 0)
            .map(|(times, what)| super::words::count(times, what))
            .collect();
        (!left_out.is_empty()).then(|| {
            format!(
                "Not listed in report.json, but in all totals and flamegraphs, because others weigh more: {}.",
                left_out.join(", ")
            )
        })
    }
}
