//! All polls by the type of future that they polled.

use std::collections::BTreeMap;

use holdup_probe_ebpf::wire;

use super::{Certainty, DelayTotals, DurationBucket, PollSiteEntry, TaskTypeEntry, spawns};
use crate::capture::{Capture, Delays};
use crate::classify::Rules;
use crate::event::{Nanos, SiteClass};
use crate::histogram::{Histogram, add_log2};

/// Class, future, and where that is not known the poll instance.
type Key<'a> = (SiteClass, Option<&'a str>, Option<u32>);

impl DelayTotals {
    fn add(&mut self, delays: &Delays) {
        self.count = self.count.saturating_add(delays.count);
        self.total_ns += delays.total;
        self.max_ns = self.max_ns.max(delays.max);
        add_log2(&mut self.log2_histogram, &delays.log2_histogram);
    }
}

/// Types, most time first; `poll_sites` are the instances that polled. A future without a name is a type of its own at each
/// instance.
pub fn group(capture: &Capture, poll_sites: &[PollSiteEntry], rules: &Rules) -> Vec<TaskTypeEntry> {
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
    for site in poll_sites {
        let Some(recorded) = capture.poll_sites.get(site.id as usize) else {
            continue;
        };
        let future = site.future.as_deref();
        let key = (site.class, future, future.is_none().then_some(site.id));
        let (entry, durations) = types.entry(key).or_insert_with(|| {
            let entry = TaskTypeEntry {
                task_name: site.task_name.clone(),
                future: site.future.clone(),
                class: site.class,
                spawned_in: Vec::new(),
                spawned_elsewhere: false,
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
        let places = spawns::places(capture, recorded, rules);
        spawns::add(&mut entry.spawned_in, places.known);
        entry.spawned_elsewhere |= places.has_others;
        entry.tasks = entry.tasks.saturating_add(site.tasks);
        entry.polls = entry.polls.saturating_add(site.polls);
        entry.total_ns += site.total_ns;
        entry.max_ns = entry.max_ns.max(site.max_ns);
        entry.long_polls += site.long_polls;
        entry.blocking_ns += site.blocking_ns;
        durations.add(&recorded.durations);
        entry.delays.add(&recorded.delays);
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
