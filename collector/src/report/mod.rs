//! Findings and the report model: what a person is told, before anything is drawn.
//!
//! A [`Capture`] and [`Rules`] go in, a [`Report`] comes out. Pure: the same capture and rules give the same
//! report, byte for byte, on any machine.
#![forbid(unsafe_code)]

mod asleep;
mod checks;
mod coverage;
mod flame;
mod flames;
mod groups;
mod holders;
mod holds;
pub mod label;
mod limits;
mod lock_types;
mod locks;
mod model;
mod protected;
mod runtimes;
mod spawns;
mod stacks;
mod stuck;
mod task_types;
pub(crate) mod words;
mod workers;

use std::collections::BTreeMap;

use holdup_probe_ebpf::wire;

pub use flame::{Flame, FlameFrame, FlameStack, FrameKind};
pub use holders::Told;
pub use limits::Limits;
pub use model::*;
pub use stuck::{StuckEntry, StuckGroup, StuckHolderEntry, StuckMember, stuck_now};

pub use crate::correlate::{Activity, Evidence};

use crate::capture::Capture;
use crate::classify::{Asleep, Rules};
use crate::correlate::{self, HeldBy, LockSums, PollAnatomy, Share, Victims};
use crate::event::{Event, Nanos, SiteClass, SiteId, StackId, TaskId, Tid};
use locks::Locks;
use runtimes::Runtimes;
use stacks::{Stacks, hex};

/// Makes the report of a capture.
pub fn build(capture: &Capture, rules: &Rules) -> Report {
    build_within(capture, rules, &Limits::default())
}

/// Makes a report that lists no more than this.
pub fn build_within(capture: &Capture, rules: &Rules, limits: &Limits) -> Report {
    let stacks = Stacks::new(capture, rules);
    let polls = correlate::join(&capture.events).polls;
    let sums = LockSums {
        waits: &capture.lock_waits,
        pairs: &capture.pairs,
        holds: &capture.holds,
    };
    let waits = correlate::by_lock(sums, &capture.events);
    let locks = Locks::new(&waits, &stacks);
    let threads = thread_names(capture);
    let is_on_pool = |site: SiteId| {
        let site = capture.poll_sites.get(site.0 as usize);
        // A capture that was cut off does not tell.
        site.is_none_or(|site| matches!(site.class, SiteClass::Blocking | SiteClass::Worker))
    };
    let victims = correlate::victims(&polls, &capture.events, is_on_pool);
    let wakes = capture.probes.iter().find(|family| family.name == "wakes");
    let sees_wakes = wakes.is_some_and(|family| family.attached > 0);
    let has_handoffs = capture.counters.get(wire::COUNTER_HANDOFFS) > 0;
    let runtimes = Runtimes::new(&capture.runtime_threads, has_handoffs);
    let mut long_polls = long_polls(capture, &polls, &victims, &stacks, &threads, sees_wakes);
    for poll in &mut long_polls {
        let site = capture.poll_sites.get(poll.poll_site as usize);
        poll.runtime = runtimes.of_poll(Tid(poll.tid), site.map(|site| site.class));
    }
    let poll_sites = poll_sites(capture, &long_polls);
    let workers = workers::workers(capture, &threads, &runtimes, sees_wakes);
    let groups = groups::group(&polls, &long_polls, &stacks);
    let blocking = flames::blocking(
        capture,
        &polls,
        &stacks,
        |anatomy| task_name(capture, anatomy.poll.site),
        &locks.names,
    );
    let lock_flames = flames::lock_waits(&waits, &stacks, &locks.names);
    let lock_waits = holds::waits(capture, &threads, limits.lock_waits);
    let all_holds = holds::all_holds(capture, &stacks);
    let recorded = capture.end.at.since(capture.meta.start);
    let mut coverage = Coverage::new(capture, &polls, &stacks);
    coverage
        .notes
        .extend(runtimes::notes(&workers, &capture.probes));
    let stuck = stuck::entries(capture, &stacks);
    // Who never goes on comes first, however short the recording was.
    let mut findings = stuck::findings(&stuck);
    let told = |lock: &&LockEntry| !stuck::say_all_of(lock, &stuck);
    let other_locks: Vec<LockEntry> = locks.entries.iter().filter(told).cloned().collect();
    findings.extend(checks::findings(&checks::Facts {
        groups: &groups,
        locks: &other_locks,
        lock_names: &locks.names,
        holds: &all_holds,
        lock_wait_certainty: coverage.of_lock_wait(),
        is_uncontended: coverage
            .probes
            .iter()
            .any(|family| family.name == "uncontended" && family.attached > 0),
        recorded,
        threshold: capture.meta.threshold,
    }));
    let longest = limits.longest(&long_polls);
    let holds = holds::listed_holds(&all_holds, limits.holds);
    let mut listed = locks.stacks.clone();
    listed.extend(stuck::stack_ids(capture));
    listed.extend(lock_waits.stacks.iter().chain(&holds.stacks));
    listed.extend(
        longest
            .iter()
            .flat_map(|&n| &polls[n].shares)
            .flat_map(|share| share.stack.into_iter().chain(share.held_by.stack())),
    );
    let (stack_table, frames) = stacks.listed(&listed);
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        capture: capture_info(capture, recorded),
        summary: summary(
            capture,
            &coverage,
            &long_polls,
            &locks,
            &blocking,
            &lock_flames.by_waiter,
        ),
        findings,
        call_sites: groups::call_sites(&polls, &stacks),
        task_types: task_types::group(capture, &poll_sites, rules),
        poll_sites,
        long_polls,
        lock_types: lock_types::group(&locks.entries),
        locks: locks.entries,
        stuck,
        lock_waits: lock_waits.entries,
        holds: holds.entries,
        condvars: locks.condvars,
        cut_stacks: stacks.cut(&listed),
        stacks: stack_table,
        frames,
        not_listed: NotListed {
            lock_waits: lock_waits.more,
            holds: holds.more,
            ..NotListed::default()
        },
        coverage,
        counters: capture
            .counters
            .iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        blocking,
        lock_wait: lock_flames.by_waiter,
        on_cpu: flames::on_cpu(
            capture,
            &stacks,
            |site| task_name(capture, site),
            &threads,
            &workers,
        ),
        workers,
        lock_holder: lock_flames.by_holder,
        lock_pairs: lock_flames.pairs,
    };
    limits.apply(&mut report, &longest);
    report
}

fn capture_info(capture: &Capture, recorded: Nanos) -> CaptureInfo {
    let meta = capture.meta.clone();
    CaptureInfo {
        holdup_version: meta.holdup_version,
        pid: meta.pid.0,
        process_name: meta.process_name,
        executable: meta.executable,
        build_id: meta.build_id,
        host: meta.host,
        kernel: meta.kernel,
        architecture: meta.architecture,
        started_unix_ns: meta.started_unix_ns,
        started_monotonic_ns: meta.start.0,
        duration_ns: recorded,
        attach_ns: meta.attach,
        detach_ns: capture.end.detach,
        end: capture.end.reason,
        threshold_ns: meta.threshold,
        sample_after_ns: meta.sample_after,
        frequency_hz: meta.frequency_hz,
        one_task_of: meta.one_task_of,
    }
}

fn summary(
    capture: &Capture,
    coverage: &Coverage,
    long_polls: &[LongPollEntry],
    locks: &Locks,
    blocking: &Flame,
    lock_wait: &Flame,
) -> Summary {
    let mut anatomy = Anatomy::default();
    for poll in long_polls {
        anatomy.add(&poll.anatomy);
    }
    let is_tasks = |lock: &&LockEntry| !lock.family.blocks_threads();
    let of_threads = || locks.entries.iter().filter(|lock| !is_tasks(lock));
    let of_tasks = || {
        let of_tokio = locks.entries.iter().filter(is_tasks);
        of_tokio.filter(|lock| lock.kind != LockShape::Channel)
    };
    Summary {
        polls: capture.counters.get(wire::COUNTER_POLLS),
        long_polls: long_polls.len() as u64,
        blocking_ns: long_polls.iter().map(|poll| poll.duration_ns).sum(),
        blocking_certainty: Certainty::of_all(long_polls.iter().map(|poll| poll.certainty))
            .and(coverage.of_blocking()),
        longest_ns: long_polls
            .iter()
            .map(|poll| poll.duration_ns)
            .max()
            .unwrap_or_default(),
        anatomy,
        blocking_flame_ns: blocking.stacks.iter().map(|stack| stack.value).sum(),
        lock_waits: of_threads().map(|lock| lock.totals.waits).sum(),
        lock_wait_ns: of_threads().map(|lock| lock.totals.total_ns).sum(),
        task_waits: of_tasks().map(|lock| lock.totals.waits).sum(),
        task_wait_ns: of_tasks().map(|lock| lock.totals.total_ns).sum(),
        lock_wait_certainty: coverage.of_lock_wait(),
        lock_wait_flame_ns: lock_wait.stacks.iter().map(|stack| stack.value).sum(),
    }
}

/// A poll instance's future, for people.
fn task_name(capture: &Capture, site: SiteId) -> String {
    match capture.poll_sites.get(site.0 as usize) {
        Some(poll_site) => match &poll_site.future {
            Some(future) => label::future(future),
            None if poll_site.class == SiteClass::BlockOn => "the future of `block_on`".to_owned(),
            None => format!("task at poll site {}", hex(poll_site.address.0)),
        },
        None => format!("task at poll site {}", site.0),
    }
}

fn thread_names(capture: &Capture) -> BTreeMap<Tid, &str> {
    let named = capture.events.iter().filter_map(|event| match event {
        Event::ThreadSeen { tid, name } => Some((*tid, name.as_str())),
        _ => None,
    });
    named.collect()
}

fn long_polls(
    capture: &Capture,
    polls: &[PollAnatomy],
    victims: &[Victims],
    stacks: &Stacks,
    threads: &BTreeMap<Tid, &str>,
    sees_wakes: bool,
) -> Vec<LongPollEntry> {
    let architecture = capture.meta.architecture.as_str();
    // What was seen stands for so many times as much.
    let times = u64::from(capture.meta.one_task_of.max(1));
    let entry = |(anatomy, victims): (&PollAnatomy, &Victims)| {
        let poll = &anatomy.poll;
        LongPollEntry {
            start_ns: poll.start.since(capture.meta.start),
            duration_ns: poll.end.since(poll.start),
            certainty: poll.exactness.into(),
            tid: poll.tid.0,
            thread: threads.get(&poll.tid).map(|name| (*name).to_owned()),
            runtime: None,
            task: hex(poll.task.0),
            task_id: poll.task_id.map(|TaskId(id)| id),
            task_name: task_name(capture, poll.site),
            future: capture
                .poll_sites
                .get(poll.site.0 as usize)
                .and_then(|site| site.future.clone()),
            poll_site: poll.site.0,
            handed_off: poll.handed_off,
            unclassified: poll.unclassified,
            anatomy: Anatomy {
                on_cpu_ns: anatomy.on_cpu,
                stolen_ns: anatomy.stolen,
                lock_wait_ns: anatomy.lock_wait,
                run_queue_ns: anatomy.run_queue,
                sleep_ns: anatomy.sleep,
            },
            asleep: asleep::of_shares(&anatomy.shares, architecture),
            victims: sees_wakes.then(|| VictimsEntry {
                tasks: (victims.tasks.len() as u64).saturating_mul(times),
                delays: victims.delays.saturating_mul(times),
                delay_ns: Nanos(victims.time.0.saturating_mul(times)),
                is_sampled: times > 1,
            }),
            inconsistent: anatomy.inconsistent,
            shares: anatomy
                .shares
                .iter()
                .map(|share| share_entry(share, stacks, architecture))
                .collect(),
        }
    };
    polls.iter().zip(victims).map(entry).collect()
}

fn share_entry(share: &Share, stacks: &Stacks, architecture: &str) -> ShareEntry {
    let stack = share.stack.filter(|_| stacks.get(share.stack).is_some());
    ShareEntry {
        activity: share.activity,
        evidence: match share.evidence {
            // In a capture that was cut off its stacks may be missing.
            Evidence::Stack if stack.is_none() => Evidence::NoStack,
            evidence => evidence,
        },
        stack: stack.map(|StackId(id)| hex(id)),
        lock: share.lock.map(|(lock, _)| hex(lock.0)),
        held_by: share.lock.map(|_| match share.held_by {
            HeldBy::Holder(stack) => HeldByEntry::Holder {
                stack: stack.map(|StackId(id)| hex(id)),
            },
            HeldBy::Others => HeldByEntry::Others,
            HeldBy::Handover => HeldByEntry::Handover,
            HeldBy::Unseen => HeldByEntry::Unseen,
        }),
        call: Asleep::new(share.cause, architecture)
            .call
            .map(str::to_owned),
        time_ns: share.time,
        events: share.events,
    }
}

fn poll_sites(capture: &Capture, long_polls: &[LongPollEntry]) -> Vec<PollSiteEntry> {
    let mut blocking: BTreeMap<u32, (u64, Nanos)> = BTreeMap::new();
    for poll in long_polls {
        let (count, total) = blocking.entry(poll.poll_site).or_default();
        *count += 1;
        *total += poll.duration_ns;
    }
    let entries = (0..).zip(&capture.poll_sites).filter_map(|(id, site)| {
        let (long_polls, blocking_ns) = blocking.get(&id).copied().unwrap_or_default();
        (site.polls > 0 || long_polls > 0).then(|| PollSiteEntry {
            id,
            address: hex(site.address.0),
            class: site.class,
            task_name: task_name(capture, SiteId(id)),
            future: site.future.clone(),
            polls: site.polls,
            total_ns: site.total,
            max_ns: site.max,
            tasks: site.tasks,
            long_polls,
            blocking_ns,
        })
    });
    entries.collect()
}
