//! The anatomy of one long poll: what its time was made of, to the nanosecond, and where.
//!
//! ```text
//!   poll       |------------------------------------------------------|
//!   kernel     on-CPU | sleep | run queue | on-CPU | lock wait | on-CPU      exact sums of the three
//!   intervals           <stack>                                              exact times
//!   waits                                             <stack>
//!   samples                             x     x                 x            share out the rest
//! ```
//!
//! On-CPU time is the duration without the other three. Each interval and wait carries its own exact time;
//! on-CPU time is shared out over the samples, all of which stand for the same stretch of CPU time, and
//! those of the first stretches carry the nanoseconds that are left over. Time of which only a sum is known (before the
//! sampling age the kernel side keeps only so many events, and events can be lost) is a share of its own.
//! So the shares add up to the duration, always.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::polls::Parts;
use crate::event::{
    LockAddr, LockOperation, LockWait, LongPoll, Nanos, OffCpuCause, StackId, Timestamp,
};

/// What a thread was doing for a part of a long poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Running.
    OnCpu,
    /// In a lock's slow path.
    LockWait,
    /// Runnable, not running.
    RunQueue,
    /// Off-CPU otherwise: sleep, I/O, page fault.
    Sleep,
}

/// What is known of where a stretch of time was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// There is a stack.
    Stack,
    /// It was seen, but its stack could not be read or stored.
    NoStack,
    /// It is known from sums only: one of too many early in the poll, lost, or no sample hit it.
    NoEvent,
}

/// Who had the lock while a thread waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldBy {
    /// That was not seen, or is not asked: there was no lock wait.
    Unseen,
    /// Nobody that is known: it had been released, and was not known to be somebody's again.
    Handover,
    /// Others than those whose releases are told one by one.
    Others,
    /// Who released it with this stack, if that could be stored.
    Holder(Option<StackId>),
}

impl HeldBy {
    /// Stack of the release, where it is one that is known.
    pub fn stack(self) -> Option<StackId> {
        match self {
            HeldBy::Holder(stack) => stack,
            HeldBy::Unseen | HeldBy::Handover | HeldBy::Others => None,
        }
    }
}

/// A stretch of a long poll, or several with the same stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Doing what.
    pub activity: Activity,
    /// What is known of where.
    pub evidence: Evidence,
    /// The stack.
    pub stack: Option<StackId>,
    /// The lock that was waited for.
    pub lock: Option<(LockAddr, LockOperation)>,
    /// Who had it meanwhile.
    pub held_by: HeldBy,
    /// Of sleep, what for, where that was told.
    pub cause: Option<OffCpuCause>,
    /// How long.
    pub time: Nanos,
    /// Samples, intervals, or releases and waits without one, behind it.
    pub events: u64,
}

/// One long poll, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollAnatomy {
    /// The poll.
    pub poll: LongPoll,
    /// Running. This and the next three add up to the poll's duration.
    pub on_cpu: Nanos,
    /// Of it, at least so much was taken by the hypervisor.
    pub stolen: Nanos,
    /// In locks' slow paths.
    pub lock_wait: Nanos,
    /// Runnable, not running.
    pub run_queue: Nanos,
    /// Off-CPU otherwise.
    pub sleep: Nanos,
    /// The same time by stack; adds up to the poll's duration.
    pub shares: Vec<Share>,
    /// The parts did not fit into the poll, and were cut to it.
    pub inconsistent: bool,
}

impl PollAnatomy {
    /// Takes a poll apart.
    pub(super) fn new(poll: LongPoll, parts: &Parts) -> PollAnatomy {
        let mut shares = Shares::default();
        let mut known = Vec::new();
        let (mut sleep, mut run_queue, mut lock_wait) =
            (poll.sleep, poll.run_queue, poll.lock_wait);

        for interval in &parts.intervals {
            let woken = Timestamp(interval.end.0.saturating_sub(interval.runnable.0));
            for (activity, from, to, sum) in [
                (Activity::Sleep, interval.start, woken, &mut sleep),
                (Activity::RunQueue, woken, interval.end, &mut run_queue),
            ] {
                let (inside, behind) = clip(&poll, from, to);
                // The kernel side's sum goes on behind an end that was cut.
                *sum = sum.saturating_sub(behind);
                let key = Key {
                    cause: (activity == Activity::Sleep).then_some(interval.cause),
                    ..Key::new(activity, interval.stack)
                };
                known.push((key, inside, 1));
            }
        }
        for wait in &parts.waits {
            let (inside, behind) = clip(&poll, wait.start, wait.end);
            lock_wait = lock_wait.saturating_sub(behind);
            for (held_by, time) in by_holder(wait, inside) {
                // A release, or a wait without one.
                let is_event = match held_by {
                    HeldBy::Holder(_) => true,
                    HeldBy::Unseen => wait.releases == 0,
                    HeldBy::Others | HeldBy::Handover => false,
                };
                let key = Key {
                    lock: Some((wait.lock, wait.operation)),
                    held_by,
                    ..Key::new(Activity::LockWait, wait.waiter_stack)
                };
                known.push((key, time, u64::from(is_event)));
            }
        }

        let duration = poll.end.since(poll.start);
        let mut left = duration;
        let mut inconsistent = false;
        // What does not fit is taken from the end of this list: lock waits are timed by the thread itself.
        for sum in [&mut lock_wait, &mut run_queue, &mut sleep] {
            inconsistent |= *sum > left;
            *sum = (*sum).min(left);
            left = left.saturating_sub(*sum);
        }
        let on_cpu = left;

        for (activity, sum) in [
            (Activity::LockWait, lock_wait),
            (Activity::RunQueue, run_queue),
            (Activity::Sleep, sleep),
        ] {
            let mut left = sum;
            for (key, time, events) in known.iter().filter(|(key, ..)| key.activity == activity) {
                inconsistent |= *time > left;
                let time = (*time).min(left);
                left = left.saturating_sub(time);
                shares.add(*key, time, *events);
            }
            shares.add(Key::without_event(activity), left, 0);
        }
        share_out(on_cpu, &poll, parts, &mut shares);

        PollAnatomy {
            poll,
            on_cpu,
            stolen: poll.stolen.min(on_cpu),
            lock_wait,
            run_queue,
            sleep,
            shares: shares.into_list(),
            inconsistent,
        }
    }
}

/// On-CPU time over the samples, evenly; the first ones carry the remainder.
fn share_out(on_cpu: Nanos, poll: &LongPoll, parts: &Parts, shares: &mut Shares) {
    let inside = || {
        parts
            .samples
            .iter()
            .filter(|sample| (poll.start..=poll.end).contains(&sample.at))
    };
    let count = inside().count() as u64;
    if count == 0 {
        shares.add(Key::without_event(Activity::OnCpu), on_cpu, 0);
        return;
    }
    let (each, remainder) = (on_cpu.0 / count, on_cpu.0 % count);
    for (n, sample) in inside().enumerate() {
        let time = Nanos(each + u64::from((n as u64) < remainder));
        shares.add(Key::new(Activity::OnCpu, sample.stack), time, 1);
    }
}

/// What of a lock wait is whose; adds up to `inside`, which is all of the wait, or what of it lies in the poll.
fn by_holder(wait: &LockWait, inside: Nanos) -> Vec<(HeldBy, Nanos)> {
    let holders = wait.holders.iter().flatten();
    let mut parts: Vec<_> = holders
        .map(|holder| (HeldBy::Holder(holder.stack), holder.held))
        .collect();
    if wait.releases > 0 {
        parts.push((HeldBy::Others, wait.others));
        parts.push((HeldBy::Handover, wait.handover));
    }
    let mut left = inside;
    for (_, time) in &mut parts {
        *time = (*time).min(left);
        left = left.saturating_sub(*time);
    }
    parts.push((HeldBy::Unseen, left));
    parts
}

/// How much of an interval lies in the poll, and how much behind its end.
fn clip(poll: &LongPoll, from: Timestamp, to: Timestamp) -> (Nanos, Nanos) {
    let inside = to.min(poll.end).since(from.max(poll.start));
    let behind = to.since(from.max(poll.end));
    (inside, behind)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    activity: Activity,
    evidence: Evidence,
    stack: Option<StackId>,
    lock: Option<(LockAddr, LockOperation)>,
    held_by: HeldBy,
    cause: Option<OffCpuCause>,
}

impl Key {
    fn new(activity: Activity, stack: Option<StackId>) -> Key {
        Key {
            activity,
            evidence: if stack.is_some() {
                Evidence::Stack
            } else {
                Evidence::NoStack
            },
            stack,
            lock: None,
            held_by: HeldBy::Unseen,
            cause: None,
        }
    }

    fn without_event(activity: Activity) -> Key {
        Key {
            evidence: Evidence::NoEvent,
            ..Key::new(activity, None)
        }
    }
}

/// Time and events by key.
#[derive(Default)]
struct Shares(BTreeMap<Key, (Nanos, u64)>);

impl Shares {
    fn add(&mut self, key: Key, time: Nanos, events: u64) {
        // A sample counts, though it may stand for no time.
        if time == Nanos::ZERO && (events == 0 || key.activity != Activity::OnCpu) {
            return;
        }
        let sum = self.0.entry(key).or_default();
        sum.0 += time;
        sum.1 += events;
    }

    fn into_list(self) -> Vec<Share> {
        self.0
            .into_iter()
            .filter(|(_, (time, _))| *time != Nanos::ZERO)
            .map(|(key, (time, events))| Share {
                activity: key.activity,
                evidence: key.evidence,
                stack: key.stack,
                lock: key.lock,
                held_by: key.held_by,
                cause: key.cause,
                time,
                events,
            })
            .collect()
    }
}
