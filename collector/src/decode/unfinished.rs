//! What was still under way when the recording ended: the kernel side's record of a thread in, the events
//! out that the thread would have caused if everything had ended with the recording.
//!
//! ```text
//!   poll      |------------------------------------- - -
//!   off-CPU                    |-------------------- - -
//!   lock wait                  |-------------------- - -     (one of the two)
//!                                            end ^       ^ the record is read
//! ```
//!
//! They come in the order in which the kernel side writes them: parts of a poll before the poll.

use holdup_probe_ebpf::wire;

use super::{
    lock_operation, off_cpu_cause, outcome, poll_class, stack, task_id, wait_holder, worker_slice,
};
use crate::event::{
    CodeAddr, CpuSample, Event, Exactness, LockAddr, LockOperation, LockOutcome, LockWait,
    LongPoll, Nanos, OffCpu, SiteId, TaskAddr, Tid, Timestamp,
};

/// The recording's bounds, and what is long in it.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// What began earlier is left out.
    pub start: Timestamp,
    /// What began later is left out, what ended later is cut here.
    pub end: Timestamp,
    /// Polls and lock waits shorter than this are left out.
    pub threshold: Nanos,
}

impl Window {
    fn includes(&self, start_ns: u64) -> bool {
        (self.start.0..=self.end.0).contains(&start_ns)
    }
}

/// What one thread was at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// As if everything had ended with the recording.
    pub events: Vec<Event>,
    /// Starts of polls without a probe at their return address: they may have ended long ago, unseen.
    pub unwatched: Vec<Timestamp>,
}

/// `watched_since` tells when a probe stood at a return address of polls.
pub fn unfinished(
    thread: &wire::Thread,
    window: Window,
    watched_since: impl Fn(CodeAddr) -> Option<Timestamp>,
) -> Unfinished {
    let mut result = Unfinished::default();
    let tid = Tid(thread.tid);
    let polls = &thread.polls[..thread.polls.len().min(thread.poll_depth as usize)];
    let active = polls
        .get((thread.active_poll as usize).wrapping_sub(1))
        .filter(|poll| window.includes(poll.start_ns));
    let wait = lock_wait(thread, window);
    let interval = off_cpu(thread, window);

    let mut wait_is_part = false;
    for (n, poll) in polls.iter().enumerate() {
        let is_active = thread.active_poll as usize == n + 1;
        let handed_off = poll.handed_off_ns != 0;
        if !(is_active || handed_off) || !window.includes(poll.start_ns) {
            continue;
        }
        let ends_at_handoff = handed_off && poll.handed_off_ns <= window.end.0;
        let end = if ends_at_handoff {
            Timestamp(poll.handed_off_ns)
        } else {
            window.end
        };
        let start = Timestamp(poll.start_ns);
        if end.since(start) < window.threshold {
            continue;
        }
        if watched_since(CodeAddr(poll.return_addr)).is_none_or(|since| since > start) {
            result.unwatched.push(start);
            continue;
        }
        let mut long = LongPoll {
            tid,
            start,
            end,
            task: TaskAddr(poll.task),
            task_id: task_id(poll.task_id),
            site: SiteId(poll.site),
            return_addr: CodeAddr(poll.return_addr),
            exactness: if ends_at_handoff {
                Exactness::Exact
            } else {
                Exactness::LowerBound
            },
            handed_off: ends_at_handoff,
            unclassified: poll.class == wire::CLASS_UNKNOWN,
            run_queue: Nanos(poll.run_queue_ns),
            sleep: Nanos(poll.sleep_ns),
            lock_wait: Nanos(poll.lock_wait_ns),
            stolen: Nanos(poll.stolen_ns),
        };
        if is_active {
            result.events.extend(early(thread, poll, window));
            if let Some(interval) = interval.filter(|interval| interval.start >= start) {
                long.run_queue += interval.runnable;
                long.sleep += interval
                    .end
                    .since(interval.start)
                    .saturating_sub(interval.runnable);
                result.events.push(Event::OffCpu(OffCpu {
                    poll_start: start,
                    ..interval
                }));
            }
            if let Some(wait) = wait.filter(|wait| wait.start >= start) {
                long.lock_wait += wait.end.since(wait.start);
                wait_is_part = true;
                result.events.push(Event::LockWait(LockWait {
                    poll_start: Some(start),
                    ..wait
                }));
            }
        }
        result.events.push(Event::LongPoll(long));
    }
    result.events.extend(last_slice(thread, active, window));
    if let Some(wait) = wait
        && !wait_is_part
        && wait.end.since(wait.start) >= window.threshold
    {
        result.events.push(Event::LockWait(LockWait {
            poll_start: active
                .map(|poll| Timestamp(poll.start_ns))
                .filter(|start| *start <= wait.start),
            ..wait
        }));
    }
    result
}

/// What the thread did since it last told, with the poll or the park that is under way, up to the end.
fn last_slice(
    thread: &wire::Thread,
    active: Option<&wire::PollFrame>,
    window: Window,
) -> Option<Event> {
    let slice = &thread.slice;
    if !window.includes(slice.start_ns) {
        return None;
    }
    let under_way = |since_ns: u64| {
        let since = Timestamp(since_ns.max(slice.start_ns));
        window.end.since(since)
    };
    let start = Timestamp(slice.start_ns);
    let mut last = worker_slice(Tid(thread.tid), start, window.end, slice);
    if thread.parked_since_ns != 0 {
        last.parked += under_way(thread.parked_since_ns);
    }
    if let Some(poll) = active {
        let so_far = under_way(poll.start_ns);
        last.busy += so_far;
        last.longest = last.longest.max(so_far);
    }
    // The record is read a moment after the end.
    let length = window.end.since(start);
    last.busy = last.busy.min(length);
    last.parked = last.parked.min(length.saturating_sub(last.busy));
    Some(Event::WorkerSlice(last))
}

/// What was seen of the active poll while it was young, and not told yet.
fn early(
    thread: &wire::Thread,
    poll: &wire::PollFrame,
    window: Window,
) -> impl Iterator<Item = Event> {
    let count = thread.early.len().min(thread.early_count as usize);
    let kept = thread.early[..count].iter();
    kept.filter(move |kept| window.includes(kept.at_ns))
        .filter_map(|kept| early_event(Tid(thread.tid), poll, kept))
}

fn early_event(tid: Tid, poll: &wire::PollFrame, kept: &wire::Early) -> Option<Event> {
    let poll_start = Timestamp(poll.start_ns);
    let (start, end) = (Timestamp(kept.start_ns), Timestamp(kept.at_ns));
    Some(match kept.kind {
        wire::EARLY_SAMPLE => Event::CpuSample(CpuSample {
            tid,
            poll_start: Some(poll_start),
            class: poll_class(poll.class),
            site: Some(SiteId(poll.site)),
            on_grid: false,
            at: end,
            stack: stack(kept.stack),
        }),
        wire::EARLY_OFF_CPU if start <= end => Event::OffCpu(OffCpu {
            tid,
            poll_start,
            start,
            end,
            runnable: Nanos(kept.runnable_ns).min(end.since(start)),
            stack: stack(kept.stack),
            cause: off_cpu_cause(kept.code),
        }),
        wire::EARLY_LOCK_WAIT if start <= end => Event::LockWait(LockWait {
            tid,
            start,
            end,
            lock: LockAddr(kept.lock),
            operation: lock_operation(kept.operation).ok()?,
            outcome: outcome(kept.code).ok()?,
            poll_start: Some(poll_start),
            waiter_stack: stack(kept.stack),
            task: None,
            releases: kept.releases,
            holders: [wait_holder(&kept.holder), None, None, None],
            others: Nanos(kept.runnable_ns),
            handover: Nanos(kept.handover_ns),
        }),
        _ => return None,
    })
}

/// The lock wait under way: the outermost slow path that is one. What is inside it is part of it.
fn lock_wait(thread: &wire::Thread, window: Window) -> Option<LockWait> {
    let locks = &thread.locks[..thread.locks.len().min(thread.lock_depth as usize)];
    locks.iter().find_map(|lock| {
        let wanted = lock_operation(lock.operation).ok()?;
        (wanted != LockOperation::Condvar
            && lock.inside_another == 0
            && window.includes(lock.start_ns))
        .then_some(LockWait {
            tid: Tid(thread.tid),
            start: Timestamp(lock.start_ns),
            end: window.end,
            lock: LockAddr(lock.lock),
            operation: wanted,
            outcome: LockOutcome::StillWaiting,
            poll_start: None,
            waiter_stack: stack(lock.waiter_stack),
            task: None,
            releases: 0,
            holders: [None; wire::WAIT_HOLDERS],
            others: Nanos::ZERO,
            handover: Nanos::ZERO,
        })
    })
}

/// The off-CPU interval under way; its poll is filled in by the caller.
fn off_cpu(thread: &wire::Thread, window: Window) -> Option<OffCpu> {
    let start = thread.off_cpu_start_ns;
    if start == 0 || !window.includes(start) {
        return None;
    }
    let runnable_since = if thread.off_cpu_runnable != 0 {
        start
    } else if thread.woken_ns >= start {
        thread.woken_ns
    } else {
        u64::MAX
    };
    Some(OffCpu {
        tid: Tid(thread.tid),
        poll_start: Timestamp(0),
        start: Timestamp(start),
        end: window.end,
        runnable: window.end.since(Timestamp(runnable_since)),
        stack: stack(thread.off_cpu_stack),
        cause: off_cpu_cause(thread.off_cpu_cause),
    })
}
