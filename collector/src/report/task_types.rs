//! All polls by the type of future that they polled.

use std::collections::BTreeMap;

use holdup_probe_ebpf::wire;

use super::{Certainty, DelayTotals, DurationBucket, LongPollEntry, TaskTypeEntry, task_name};
use crate::capture::{Capture, Delays};
use crate::event::{Nanos, SiteClass, SiteId};
use crate::histogram::Histogram;

/// Class, future, and where that is not known the poll instance.
type Key<'a> = (SiteClass, Option<&'a str>, Option<u32>);

impl DelayTotals {
    fn add(&mut self, delays: &Delays) {
        self.count = self.count.saturating_add(delays.count);
        self.total_ns += delays.total;
        self.max_ns = self.max_ns.max(delays.max);
        if self.log2_histogram.len() < delays.log2_histogram.len() {
            self.log2_histogram.resize(delays.log2_histogram.len(), 0);
        }
        for (sum, count) in self.log2_histogram.iter_mut().zip(&delays.log2_histogram) {
            *sum = sum.saturating_add(*count);
        }
    }
}

/// Types, most time first. A future without a name is a type of its own at each poll instance.
pub fn group(capture: &Capture, long_polls: &[LongPollEntry]) -> Vec<TaskTypeEntry> {
    let mut blocking: BTreeMap<u32, (u64, Nanos)> = BTreeMap::new();
    for poll in long_polls {
        let (count, total) = blocking.entry(poll.poll_site).or_default();
        *count += 1;
        *total += poll.duration_ns;
    }
    let tasks = capture.poll_sites.iter().map(|site| site.tasks);
    let all_tasks = tasks.fold(0, u64::saturating_add);
    let tasks_certainty = if !capture.meta.has_task_ids {
        Certainty::LowerBound
    } else if all_tasks > u64::from(wire::TASKS) {
        Certainty::UpperBound
    } else {
        Certainty::Exact
    };
    let mut types: BTreeMap<Key<'_>, (TaskTypeEntry, Histogram)> = BTreeMap::new();
    for (id, site) in (0..).zip(&capture.poll_sites) {
        let (long_polls, blocking_ns) = blocking.get(&id).copied().unwrap_or_default();
        if site.polls == 0 && long_polls == 0 {
            continue;
        }
        let future = site.future.as_deref();
        let key = (site.class, future, future.is_none().then_some(id));
        let (entry, durations) = types.entry(key).or_insert_with(|| {
            let entry = TaskTypeEntry {
                task_name: task_name(capture, SiteId(id)),
                future: site.future.clone(),
                class: site.class,
                tasks: 0,
                tasks_certainty,
                polls: 0,
                total_ns: Nanos::ZERO,
                p50_ns: Nanos::ZERO,
                p90_ns: Nanos::ZERO,
                p99_ns: Nanos::ZERO,
                max_ns: Nanos::ZERO,
                durations: Vec::new(),
                delays: DelayTotals::default(),
                long_polls: 0,
                blocking_ns: Nanos::ZERO,
            };
            (entry, Histogram::default())
        });
        entry.tasks = entry.tasks.saturating_add(site.tasks);
        entry.polls = entry.polls.saturating_add(site.polls);
        entry.total_ns += site.total;
        entry.max_ns = entry.max_ns.max(site.max);
        entry.long_polls += long_polls;
        entry.blocking_ns += blocking_ns;
        durations.add(&site.durations);
        entry.delays.add(&site.delays);
    }
    let types = types.into_values();
    let mut entries: Vec<TaskTypeEntry> = types
        .map(|(mut entry, durations)| {
            // A bucket's middle can lie above the longest, which is known exactly.
            let quantile = |share| {
                durations
                    .quantile(share)
                    .map_or(Nanos::ZERO, |ns| ns.min(entry.max_ns))
            };
            (entry.p50_ns, entry.p90_ns, entry.p99_ns) =
                (quantile(0.5), quantile(0.9), quantile(0.99));
            let buckets = durations.buckets();
            entry.durations = buckets
                .map(|(from_ns, count)| DurationBucket { from_ns, count })
                .collect();
            entry
        })
        .collect();
    entries.sort_by(|a, b| {
        b.total_ns
            .cmp(&a.total_ns)
            .then_with(|| a.task_name.cmp(&b.task_name))
    });
    entries
}
