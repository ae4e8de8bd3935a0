//! A report goes in; which limits it breaks, where and how often, comes out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Limit;
use crate::classify::Origin;
use crate::event::Nanos;
use crate::report::words::{bounded, count, duration};
use crate::report::{
    Activity, Anatomy, Certainty, HoldEntry, HoldTotalsEntry, LockEntry, LockFamily, LockShape,
    LongPollEntry, NamedFrame, Report, StuckEntry,
};

/// What did not end has to have lasted this long to be stuck: a process can end at any moment, in the
/// middle of polls and waits that would have ended soon.
const STUCK: Nanos = Nanos(1_000_000_000);

/// A limit, broken in one way at one place by one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// The limit, as it is written.
    pub limit: String,
    /// What happened, and how much.
    pub sentence: String,
    /// The line of code, where one is known.
    pub place: Option<String>,
    /// How often.
    pub count: u64,
    /// The longest.
    pub longest_ns: Nanos,
    /// How good that is.
    pub certainty: Certainty,
    /// The process's name.
    pub process: String,
    /// Its id.
    pub pid: u32,
}

/// Every breach, in the order of the limits, longest first.
pub fn breaches(limits: &[Limit], report: &Report) -> Vec<Breach> {
    let mut all = Vec::new();
    for limit in limits {
        let mut found = match *limit {
            Limit::Poll(most) => long_polls(report, most),
            Limit::Wait(most) => waits(report, most),
            Limit::Hold(most) => holds(report, |hold, lock| {
                hold.at_least_ns > most && is_lock(lock)
            }),
            Limit::HeldAcrossAwait { any } => {
                let mut found = holds(report, |hold, lock| {
                    hold.across_await && is_lock(lock) && lock.family.blocks_threads()
                });
                if any {
                    found.extend(tokio_across_await(report));
                }
                found
            }
            Limit::LockWaitTotal(most) => lock_wait_total(report, most),
            Limit::Stuck => stuck(report),
        };
        found.sort_by_key(|what| std::cmp::Reverse(what.longest));
        all.extend(found.into_iter().map(|what| Breach {
            limit: limit.to_string(),
            sentence: what.sentence,
            place: what.place,
            count: what.count,
            longest_ns: what.longest,
            certainty: what.certainty,
            process: report.capture.process_name.clone(),
            pid: report.capture.pid,
        }));
    }
    all
}

struct Broken {
    sentence: String,
    place: Option<String>,
    count: u64,
    longest: Nanos,
    certainty: Certainty,
}

/// Without the time for which the machine had no CPU, or its hypervisor took it, and without what holdup's own probes made it wait: a trap can wait
/// for the process's memory map, before the poll's first instruction or behind its last one.
fn own_time(report: &Report, poll: &LongPollEntry) -> Nanos {
    let in_a_trap: Nanos = poll
        .shares
        .iter()
        .filter(|share| share.activity == Activity::Sleep)
        .filter(|share| {
            let stack = share.stack.as_deref();
            stack.is_some_and(|stack| !is_inside_the_poll(report, stack))
        })
        .map(|share| share.time_ns)
        .sum();
    poll.duration_ns
        .saturating_sub(poll.anatomy.run_queue_ns)
        .saturating_sub(poll.anatomy.stolen_ns)
        .saturating_sub(in_a_trap)
}

/// Whether any code but the runtime's stands inside of the innermost poll. A stack that was cut before it says nothing against
/// that.
fn is_inside_the_poll(report: &Report, stack: &str) -> bool {
    const POLL: &str = "tokio::runtime::task::raw::poll";
    let frames: Vec<&NamedFrame> = report
        .stacks
        .get(stack)
        .into_iter()
        .flatten()
        .filter_map(|&n| report.frames.get(n))
        .collect();
    let poll = frames
        .iter()
        .position(|frame| frame.function.starts_with(POLL));
    let inside = &frames[..poll.unwrap_or(0)];
    let is_somebodys = |frame: &&NamedFrame| {
        !matches!(
            frame.origin,
            Origin::Runtime | Origin::Std | Origin::Kernel | Origin::Lock
        )
    };
    poll.is_none() || inside.iter().any(is_somebodys)
}

fn is_proven(certainty: Certainty) -> bool {
    matches!(certainty, Certainty::Exact | Certainty::LowerBound)
}

fn long_polls(report: &Report, most: Nanos) -> Vec<Broken> {
    let mut by_place: BTreeMap<(&str, Option<String>), Vec<&LongPollEntry>> = BTreeMap::new();
    for poll in &report.long_polls {
        if own_time(report, poll) > most && is_proven(poll.certainty) && !poll.unclassified {
            let key = (poll.task_name.as_str(), place_of_poll(report, poll));
            by_place.entry(key).or_default().push(poll);
        }
    }
    let broken = by_place.into_iter().filter_map(|((task, place), polls)| {
        let longest = polls.iter().max_by_key(|poll| own_time(report, poll))?;
        Some(Broken {
            sentence: format!(
                "`{task}` held its thread up for {} in {}; the longest took {} of its own{}.",
                duration(polls.iter().map(|poll| own_time(report, poll)).sum()),
                count(polls.len() as u64, "poll"),
                bounded(own_time(report, longest), longest.certainty),
                parts(&longest.anatomy),
            ),
            place,
            count: polls.len() as u64,
            longest: own_time(report, longest),
            certainty: longest.certainty,
        })
    });
    broken.collect()
}

/// What a poll's own time was made of, and what is not in it.
fn parts(anatomy: &Anatomy) -> String {
    let own: Vec<String> = [
        (
            anatomy.on_cpu_ns.saturating_sub(anatomy.stolen_ns),
            "on-CPU",
        ),
        (anatomy.lock_wait_ns, "lock wait"),
        (anatomy.sleep_ns, "sleep"),
    ]
    .into_iter()
    .filter(|(time, _)| *time > Nanos::ZERO)
    .map(|(time, what)| format!("{} {what}", duration(time)))
    .collect();
    let beside: Vec<String> = [
        (anatomy.run_queue_ns, "in the run queue"),
        (anatomy.stolen_ns, "taken by the hypervisor"),
    ]
    .into_iter()
    .filter(|(time, _)| *time > Nanos::ZERO)
    .map(|(time, what)| format!("{} {what}", duration(time)))
    .collect();
    let beside = match beside.as_slice() {
        [] => String::new(),
        beside => format!(", and {} beside it", beside.join(" and ")),
    };
    format!(" ({}){beside}", own.join(", "))
}

/// Where most of a poll's own time went.
fn place_of_poll(report: &Report, poll: &LongPollEntry) -> Option<String> {
    let heaviest = poll
        .shares
        .iter()
        .filter(|share| share.activity != Activity::RunQueue)
        .max_by_key(|share| share.time_ns)?;
    place(report, heaviest.stack.as_deref()?)
}

/// The innermost line of the user's own code, else the innermost of all.
fn place(report: &Report, stack: &str) -> Option<String> {
    let frames = report.stacks.get(stack)?;
    let mut frames = frames.iter().filter_map(|&n| report.frames.get(n));
    let innermost = frames.clone().next();
    frames
        .find(|frame| frame.origin == Origin::User)
        .or(innermost)
        .map(NamedFrame::with_place)
}

/// Who waits for a permit or for room in a channel does so by design.
fn is_lock(lock: &LockEntry) -> bool {
    matches!(lock.kind, LockShape::Mutex | LockShape::RwLock)
}

/// Holds by lock and place.
fn holds(report: &Report, breaks: impl Fn(&HoldEntry, &LockEntry) -> bool) -> Vec<Broken> {
    let locks: BTreeMap<(LockFamily, &str), &LockEntry> = report
        .locks
        .iter()
        .map(|lock| ((lock.family, lock.address.as_str()), lock))
        .collect();
    let mut by_place: BTreeMap<(&str, Option<String>), Vec<&HoldEntry>> = BTreeMap::new();
    for hold in &report.holds {
        let key = (LockFamily::of(hold.operation), hold.lock.as_str());
        let Some(lock) = locks.get(&key) else {
            continue;
        };
        if breaks(hold, lock) {
            let site = hold.call_site.as_ref();
            let place = site.map(|site| site.own_frame().with_place());
            by_place.entry((&lock.name, place)).or_default().push(hold);
        }
    }
    let broken = by_place.into_iter().filter_map(|((lock, place), holds)| {
        let longest = holds.iter().max_by_key(|hold| hold.at_least_ns)?;
        let across = holds.iter().filter(|hold| hold.across_await).count() as u64;
        let across = match across {
            0 => String::new(),
            n => format!(", {} across an await", count(n, "time")),
        };
        let during = longest.during.as_ref().map_or(String::new(), |site| {
            format!(", mostly in {}", site.own_frame().with_place())
        });
        Some(Broken {
            sentence: format!(
                "The {lock} was held {}{across}; the longest for {}{during}.",
                count(holds.len() as u64, "time"),
                bounded(longest.at_least_ns, longest.certainty),
            ),
            place,
            count: holds.len() as u64,
            longest: longest.at_least_ns,
            certainty: longest.certainty,
        })
    });
    broken.collect()
}

/// Tokio's locks, from the sums: short holds of theirs have no events.
fn tokio_across_await(report: &Report) -> impl Iterator<Item = Broken> {
    let held = report.locks.iter().filter(|lock| {
        !lock.family.blocks_threads() && is_lock(lock) && lock.across_await.count > 0
    });
    held.map(|lock| {
        let HoldTotalsEntry {
            count: times,
            longest_ns,
            longest_certainty,
            ..
        } = lock.across_await;
        Broken {
            sentence: format!(
                "The {} was held {} across an await; the longest for {}.",
                lock.name,
                count(times, "time"),
                bounded(longest_ns, longest_certainty),
            ),
            place: place_of_lock(lock),
            count: times,
            longest: longest_ns,
            certainty: longest_certainty,
        }
    })
}

fn waits(report: &Report, most: Nanos) -> Vec<Broken> {
    let broken = report
        .locks
        .iter()
        .filter(|lock| lock.totals.max_ns > most && is_lock(lock));
    broken
        .map(|lock| Broken {
            sentence: format!(
                "The {} was waited for {}; the longest wait took {}{}.",
                lock.name,
                count(lock.totals.waits, "time"),
                duration(lock.totals.max_ns),
                held_by(lock),
            ),
            place: place_of_lock(lock),
            count: lock.totals.waits,
            longest: lock.totals.max_ns,
            certainty: Certainty::Exact,
        })
        .collect()
}

fn held_by(lock: &LockEntry) -> String {
    match lock.holders.main() {
        Some(holder) => format!(
            "; it was mostly held by {}",
            holder.own_frame().with_place()
        ),
        None => String::new(),
    }
}

fn place_of_lock(lock: &LockEntry) -> Option<String> {
    let site = lock.acquired_at.as_ref()?;
    Some(site.own_frame().with_place())
}

fn lock_wait_total(report: &Report, most: Nanos) -> Vec<Broken> {
    let summary = &report.summary;
    if summary.lock_wait_ns <= most || !is_proven(summary.lock_wait_certainty) {
        return Vec::new();
    }
    let heaviest = report.locks.first();
    let lock = heaviest.map_or(String::new(), |lock| {
        format!("; most of it for the {}{}", lock.name, held_by(lock))
    });
    vec![Broken {
        sentence: format!(
            "{} took {} in all{lock}.",
            count(summary.lock_waits, "lock wait"),
            bounded(summary.lock_wait_ns, summary.lock_wait_certainty),
        ),
        place: heaviest.and_then(place_of_lock),
        count: summary.lock_waits,
        longest: summary.lock_wait_ns,
        certainty: summary.lock_wait_certainty,
    }]
}

fn stuck(report: &Report) -> Vec<Broken> {
    let polls = report
        .long_polls
        .iter()
        .filter(|poll| poll.certainty == Certainty::LowerBound && own_time(report, poll) >= STUCK)
        .map(|poll| Broken {
            sentence: format!(
                "A poll of `{}` had not ended after {}.",
                poll.task_name,
                duration(own_time(report, poll))
            ),
            place: place_of_poll(report, poll),
            count: 1,
            longest: own_time(report, poll),
            certainty: Certainty::LowerBound,
        });
    let mut threads: BTreeMap<Option<&str>, Vec<&StuckEntry>> = BTreeMap::new();
    for thread in report.stuck.iter().filter(|thread| !thread.has_ended) {
        let lock = thread.lock.as_deref();
        threads.entry(lock).or_default().push(thread);
    }
    let is_told = |lock: &LockEntry| threads.contains_key(&Some(lock.address.as_str()));
    let waits = report
        .locks
        .iter()
        // Of several only the sum is known, and one of them has lasted at least its part of it.
        .filter(|lock| {
            let waiting = &lock.still_waiting;
            is_lock(lock)
                && !is_told(lock)
                && waiting.waits > 0
                && waiting.at_least_ns.0 / waiting.waits >= STUCK.0
        })
        .map(|lock| Broken {
            sentence: format!(
                "{} for the {} had not ended, after {} in all{}.",
                count(lock.still_waiting.waits, "wait"),
                lock.name,
                duration(lock.still_waiting.at_least_ns),
                held_by(lock),
            ),
            place: place_of_lock(lock),
            count: lock.still_waiting.waits,
            longest: lock.still_waiting.at_least_ns,
            certainty: Certainty::LowerBound,
        });
    let mut all: Vec<Broken> = polls.chain(waits).collect();
    all.extend(
        threads
            .values()
            .filter_map(|threads| stuck_threads(threads)),
    );
    all
}

/// Threads that wait for one lock.
fn stuck_threads(threads: &[&StuckEntry]) -> Option<Broken> {
    let longest = threads.iter().max_by_key(|thread| thread.waited_ns)?;
    let circle = match longest.circle {
        Some(_) => ", in a circle of threads that wait for each other",
        None => "",
    };
    Some(Broken {
        sentence: format!(
            "{} for a lock{circle}: `{}` for {}, and it had not ended.",
            match threads.len() {
                1 => "A thread waits".to_owned(),
                n => format!("{n} threads wait"),
            },
            longest.thread,
            bounded(longest.waited_ns, longest.certainty),
        ),
        place: longest
            .call_site
            .as_ref()
            .map(|site| site.own_frame().with_place()),
        count: threads.len() as u64,
        longest: longest.waited_ns,
        certainty: longest.certainty,
    })
}
