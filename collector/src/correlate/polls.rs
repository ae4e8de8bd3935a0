//! Which samples, intervals and lock waits belong to which long poll.
//!
//! A poll is named by its thread and its start, and its parts come before it:
//!
//! ```text
//!   event              parts under (tid, poll start)     out
//!   sample, interval   added
//!   lock wait          added, if it is part of a poll
//!   long poll          taken                             its anatomy
//!   (end)              left over: polls that stayed      counted
//!                      short, or whose event was lost
//! ```

use std::collections::HashMap;

use super::PollAnatomy;
use crate::event::{CpuSample, Event, LockWait, OffCpu, PollClass, Tid, Timestamp};

/// What the ring buffer said of one poll before it was known to be long.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) samples: Vec<CpuSample>,
    pub(super) intervals: Vec<OffCpu>,
    pub(super) waits: Vec<LockWait>,
}

/// All long polls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// By their starts.
    pub polls: Vec<PollAnatomy>,
    /// Polls of which there were parts, but no long poll.
    pub stayed_short: u64,
}

/// Joins events in the order of the ring buffer.
pub fn join<'a>(events: impl IntoIterator<Item = &'a Event>) -> Joined {
    let mut parts: HashMap<(Tid, Timestamp), Parts> = HashMap::new();
    let mut polls = Vec::new();
    for event in events {
        match event {
            Event::CpuSample(sample) => {
                // The other samples are of threads that may hold a lock.
                if let Some(poll_start) = sample.poll_start
                    && sample.class != PollClass::Blocking
                {
                    parts
                        .entry((sample.tid, poll_start))
                        .or_default()
                        .samples
                        .push(*sample);
                }
            }
            Event::OffCpu(interval) => parts
                .entry((interval.tid, interval.poll_start))
                .or_default()
                .intervals
                .push(*interval),
            Event::LockWait(wait) => {
                if let Some(poll_start) = wait.poll_start {
                    parts
                        .entry((wait.tid, poll_start))
                        .or_default()
                        .waits
                        .push(*wait);
                }
            }
            Event::LongPoll(poll) => {
                let parts = parts.remove(&(poll.tid, poll.start)).unwrap_or_default();
                polls.push(PollAnatomy::new(*poll, &parts));
            }
            Event::Hold(_)
            | Event::TaskDelay(_)
            | Event::WorkerSlice(_)
            | Event::ThreadSeen { .. }
            | Event::ReturnSite { .. }
            | Event::ProcessExec { .. } => {}
        }
    }
    polls.sort_by_key(|anatomy| (anatomy.poll.start, anatomy.poll.tid));
    Joined {
        polls,
        stayed_short: parts.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Activity, Evidence, HeldBy, Share, example_poll};
    use super::*;
    use crate::event::{
        Exactness, LockAddr, LockOperation, LockOutcome, LongPoll, Nanos, OffCpuCause, StackId,
        WaitHolder,
    };

    const TID: Tid = Tid(7);
    const MS: u64 = 1_000_000;
    const START: Timestamp = Timestamp(100 * MS);

    fn long_poll(ms: u64) -> LongPoll {
        example_poll(TID, START, at(ms))
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp(START.0 + ms * MS)
    }

    fn sample(ms: u64, stack: u64) -> Event {
        Event::CpuSample(CpuSample {
            tid: TID,
            poll_start: Some(START),
            class: PollClass::Scheduler,
            site: None,
            on_grid: false,
            at: at(ms),
            stack: (stack != 0).then_some(StackId(stack)),
        })
    }

    fn off_cpu(from: u64, to: u64, runnable: u64, stack: u64) -> Event {
        Event::OffCpu(OffCpu {
            tid: TID,
            poll_start: START,
            start: at(from),
            end: at(to),
            runnable: Nanos(runnable * MS),
            stack: Some(StackId(stack)),
            cause: OffCpuCause::Fault,
        })
    }

    fn lock_wait(from: u64, to: u64) -> Event {
        Event::LockWait(LockWait {
            tid: TID,
            start: at(from),
            end: at(to),
            lock: LockAddr(0xa),
            operation: LockOperation::Mutex,
            outcome: LockOutcome::Acquired,
            poll_start: Some(START),
            waiter_stack: Some(StackId(4)),
            task: None,
            releases: 1,
            holders: [
                Some(WaitHolder {
                    tid: Tid(8),
                    held: Nanos(MS),
                    stack: Some(StackId(5)),
                }),
                None,
                None,
                None,
            ],
            others: Nanos::ZERO,
            handover: Nanos::ZERO,
        })
    }

    fn only(events: &[Event]) -> PollAnatomy {
        let joined = join(events);
        assert_eq!(joined.polls.len(), 1);
        let anatomy = joined.polls[0].clone();
        let duration = anatomy.poll.end.since(anatomy.poll.start);
        assert_eq!(
            anatomy.on_cpu + anatomy.lock_wait + anatomy.run_queue + anatomy.sleep,
            duration,
            "the four add up"
        );
        assert_eq!(
            anatomy.shares.iter().map(|share| share.time).sum::<Nanos>(),
            duration,
            "the shares add up"
        );
        anatomy
    }

    fn time(anatomy: &PollAnatomy, activity: Activity, stack: u64) -> u64 {
        anatomy
            .shares
            .iter()
            .filter(|share| share.activity == activity && share.stack == Some(StackId(stack)))
            .map(|share| share.time.0)
            .sum()
    }

    fn without_event(anatomy: &PollAnatomy, activity: Activity) -> Option<Share> {
        anatomy
            .shares
            .iter()
            .find(|share| share.activity == activity && share.evidence == Evidence::NoEvent)
            .copied()
    }

    /// Intervals and waits carry their own time, and the rest is shared out over the samples.
    #[test]
    fn a_poll_with_everything() {
        let poll = LongPoll {
            sleep: Nanos(4 * MS),
            run_queue: Nanos(MS),
            lock_wait: Nanos(3 * MS),
            ..long_poll(20)
        };
        let anatomy = only(&[
            sample(3, 1),
            off_cpu(4, 9, 1, 2),
            lock_wait(10, 13),
            sample(15, 1),
            sample(16, 3),
            Event::LongPoll(poll),
        ]);
        assert_eq!(anatomy.on_cpu, Nanos(12 * MS));
        assert_eq!(time(&anatomy, Activity::Sleep, 2), 4 * MS);
        assert_eq!(time(&anatomy, Activity::RunQueue, 2), MS);
        assert_eq!(time(&anatomy, Activity::LockWait, 4), 3 * MS);
        assert_eq!(time(&anatomy, Activity::OnCpu, 1), 8 * MS);
        assert_eq!(time(&anatomy, Activity::OnCpu, 3), 4 * MS);
        assert!(!anatomy.inconsistent);
    }

    /// Of a wait each holder has its part, and what is nobody's is not theirs.
    #[test]
    fn a_wait_by_holder() {
        let poll = |lock_wait| {
            Event::LongPoll(LongPoll {
                lock_wait: Nanos(lock_wait * MS),
                ..long_poll(20)
            })
        };
        let wait = |releases, others, handover| {
            let Event::LockWait(mut wait) = lock_wait(10, 18) else {
                unreachable!("it makes one");
            };
            let holder = |stack, ms| WaitHolder {
                tid: Tid(8),
                held: Nanos(ms * MS),
                stack: Some(StackId(stack)),
            };
            if releases > 0 {
                wait.holders = [Some(holder(5, 3)), Some(holder(6, 2)), None, None];
            } else {
                wait.holders = [None; 4];
            }
            wait.releases = releases;
            wait.others = Nanos(others * MS);
            wait.handover = Nanos(handover * MS);
            Event::LockWait(wait)
        };
        let parts = |wait, poll| {
            let anatomy = only(&[wait, poll]);
            let shares = anatomy.shares.iter();
            let parts = shares.filter(|share| share.activity == Activity::LockWait);
            parts
                .map(|share| (share.held_by, share.time.0 / MS))
                .collect::<Vec<_>>()
        };
        let holder = |stack| HeldBy::Holder(Some(StackId(stack)));
        assert_eq!(
            parts(wait(3, 1, 1), poll(8)),
            [
                (HeldBy::Unseen, 1),
                (HeldBy::Handover, 1),
                (HeldBy::Others, 1),
                (holder(5), 3),
                (holder(6), 2)
            ]
        );
        // Older captures call all of a wait without a release handed over.
        assert_eq!(parts(wait(0, 0, 8), poll(8)), [(HeldBy::Unseen, 8)]);
        // Parts that a damaged file makes longer than the wait.
        assert_eq!(
            parts(wait(2, 0, 99), poll(8)),
            [(HeldBy::Handover, 3), (holder(5), 3), (holder(6), 2)]
        );
    }

    /// Nanoseconds that don't divide by the samples are not dropped.
    #[test]
    fn the_remainder_is_given_out() {
        let poll = LongPoll {
            end: Timestamp(START.0 + 10_000_001),
            ..long_poll(0)
        };
        let anatomy = only(&[
            sample(3, 1),
            sample(4, 2),
            sample(5, 3),
            Event::LongPoll(poll),
        ]);
        assert_eq!(time(&anatomy, Activity::OnCpu, 1), 3_333_334);
        assert_eq!(time(&anatomy, Activity::OnCpu, 2), 3_333_334);
        assert_eq!(time(&anatomy, Activity::OnCpu, 3), 3_333_333);
    }

    /// Time before the sampling age has a sum and no event: it is named, not dropped.
    #[test]
    fn sums_without_events() {
        let poll = LongPoll {
            sleep: Nanos(5 * MS),
            lock_wait: Nanos(MS),
            ..long_poll(10)
        };
        let anatomy = only(&[off_cpu(3, 7, 0, 2), Event::LongPoll(poll)]);
        let time_without = |activity| without_event(&anatomy, activity).map(|share| share.time.0);
        assert_eq!(time_without(Activity::Sleep), Some(MS));
        assert_eq!(time_without(Activity::LockWait), Some(MS));
        assert_eq!(time_without(Activity::OnCpu), Some(4 * MS));
        assert_eq!(time_without(Activity::RunQueue), None);
        assert!(!anatomy.inconsistent);
    }

    /// A sample whose stack could not be stored is not the same as no sample.
    #[test]
    fn a_sample_without_a_stack() {
        let anatomy = only(&[sample(3, 0), sample(4, 1), Event::LongPoll(long_poll(10))]);
        let share = anatomy
            .shares
            .iter()
            .find(|share| share.evidence == Evidence::NoStack)
            .expect("a share for it");
        assert_eq!((share.time, share.events), (Nanos(5 * MS), 1));
    }

    /// A poll that was handed off ends there: what its thread did later is no part of it.
    #[test]
    fn parts_behind_a_handoff_are_left_out() {
        let poll = LongPoll {
            handed_off: true,
            ..long_poll(10)
        };
        let anatomy = only(&[sample(5, 1), sample(15, 2), Event::LongPoll(poll)]);
        assert_eq!(time(&anatomy, Activity::OnCpu, 1), 10 * MS);
        assert_eq!(time(&anatomy, Activity::OnCpu, 2), 0);
    }

    /// A poll cut at the recording's end: the kernel side's sums count on behind it.
    #[test]
    fn an_interval_across_the_cut() {
        let poll = LongPoll {
            exactness: Exactness::LowerBound,
            sleep: Nanos(8 * MS),
            run_queue: Nanos(2 * MS),
            ..long_poll(10)
        };
        let anatomy = only(&[off_cpu(4, 14, 2, 2), Event::LongPoll(poll)]);
        assert_eq!(time(&anatomy, Activity::Sleep, 2), 6 * MS);
        assert_eq!(anatomy.run_queue, Nanos::ZERO);
        assert_eq!(anatomy.on_cpu, Nanos(4 * MS));
        assert!(!anatomy.inconsistent);
    }

    /// Parts that are more than the whole are cut to it, and said to be.
    #[test]
    fn parts_that_do_not_fit() {
        let sums = LongPoll {
            sleep: Nanos(8 * MS),
            lock_wait: Nanos(7 * MS),
            // Never more than there was on-CPU.
            stolen: Nanos(MS),
            ..long_poll(10)
        };
        let anatomy = only(&[Event::LongPoll(sums)]);
        assert!(anatomy.inconsistent && anatomy.stolen == Nanos::ZERO);
        assert_eq!(anatomy.lock_wait, Nanos(7 * MS));
        assert_eq!(anatomy.sleep, Nanos(3 * MS));

        // An interval that the kernel side's sum does not know of.
        let anatomy = only(&[off_cpu(1, 4, 0, 2), Event::LongPoll(long_poll(10))]);
        assert!(anatomy.inconsistent);
        assert_eq!(anatomy.on_cpu, Nanos(10 * MS));

        // Sums as only a damaged file has them.
        let wild = LongPoll {
            sleep: Nanos(u64::MAX),
            run_queue: Nanos(u64::MAX),
            lock_wait: Nanos(u64::MAX),
            ..long_poll(10)
        };
        assert!(only(&[off_cpu(0, 9, 99, 1), Event::LongPoll(wild)]).inconsistent);
    }

    /// Parts find their poll by thread and start; those of polls that stay short are counted and dropped.
    #[test]
    fn parts_of_other_polls() {
        let other_thread = Event::CpuSample(CpuSample {
            tid: Tid(8),
            poll_start: Some(START),
            class: PollClass::Scheduler,
            site: None,
            on_grid: false,
            at: at(3),
            stack: Some(StackId(9)),
        });
        let other_poll = Event::CpuSample(CpuSample {
            tid: TID,
            poll_start: Some(Timestamp(START.0 + 1)),
            class: PollClass::Scheduler,
            site: None,
            on_grid: false,
            at: at(3),
            stack: Some(StackId(9)),
        });
        let joined = join(&[
            other_thread,
            sample(2, 1),
            other_poll,
            Event::LongPoll(long_poll(10)),
        ]);
        assert_eq!(joined.stayed_short, 2);
        assert_eq!(time(&joined.polls[0], Activity::OnCpu, 9), 0);
        assert_eq!(time(&joined.polls[0], Activity::OnCpu, 1), 10 * MS);
    }
}
