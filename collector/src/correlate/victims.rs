//! Who paid for a long poll: tasks that were ready to run and had to wait until it was over.
//!
//! ```text
//!   worker A   |=== poll that wakes T =====================|-- poll of T
//!                          ^ T is in A's queue  |<- blame ->|
//!   elsewhere  wakes U (into the common queue)
//!   worker B   |============ another poll ============|-- poll of U
//!                     ^ U                |<-- blame ->|
//! ```
//!
//! A task that a worker wakes is in that worker's queue; any other is in a queue that all share, and is charged to
//! the poll that kept the worker that took it. Of a delay, a poll gets what both have in common.

use std::collections::{BTreeSet, HashMap};

use super::PollAnatomy;
use crate::event::{Event, Nanos, SiteId, TaskAddr, TaskDelay, Tid, Timestamp};

/// What one long poll did to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Victims {
    /// Which tasks.
    pub tasks: BTreeSet<TaskAddr>,
    /// Times that one of them had to wait.
    pub delays: u64,
    /// How long they waited for this poll, all together.
    pub time: Nanos,
}

/// Pairs of a delay and a poll that are looked at: far more than a recording has, but a capture file can be made up of
/// delays that all overlap with all polls.
const MOST_PAIRS: usize = 1_000_000;

/// For each long poll; `polls` are in the order of their starts. `is_on_pool` tells which sites' tasks wait for a thread of
/// the blocking pool: no worker keeps them.
pub fn victims<'a>(
    polls: &[PollAnatomy],
    events: impl IntoIterator<Item = &'a Event>,
    is_on_pool: impl Fn(SiteId) -> bool,
) -> Vec<Victims> {
    let mut by_thread: HashMap<Tid, Vec<usize>> = HashMap::new();
    for (n, anatomy) in polls.iter().enumerate() {
        by_thread.entry(anatomy.poll.tid).or_default().push(n);
    }
    let mut victims = vec![Victims::default(); polls.len()];
    let mut pairs = MOST_PAIRS;
    for event in events {
        let Event::TaskDelay(delay) = event else {
            continue;
        };
        if is_on_pool(delay.site) {
            continue;
        }
        let Some(of_thread) = by_thread.get(&queue_of(delay)) else {
            continue;
        };
        // Polls of one thread come one after the other: those that end behind the wake, and begin before the poll.
        let first = of_thread.partition_point(|&n| polls[n].poll.end <= delay.woken);
        for &n in &of_thread[first..] {
            let poll = &polls[n].poll;
            if poll.start >= delay.end || pairs == 0 {
                break;
            }
            pairs -= 1;
            let victims = &mut victims[n];
            victims.tasks.insert(delay.task);
            victims.delays += 1;
            victims.time += overlap((poll.start, poll.end), (delay.woken, delay.end));
        }
    }
    victims
}

fn queue_of(delay: &TaskDelay) -> Tid {
    if delay.local { delay.waker } else { delay.tid }
}

fn overlap(one: (Timestamp, Timestamp), other: (Timestamp, Timestamp)) -> Nanos {
    one.1.min(other.1).since(one.0.max(other.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::{example_poll, join};

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp(ms * MS)
    }

    fn poll(tid: u32, from: u64, to: u64) -> Event {
        Event::LongPoll(example_poll(Tid(tid), at(from), at(to)))
    }

    fn delay(task: u64, (waker, local): (u32, bool), tid: u32, woken: u64, end: u64) -> Event {
        Event::TaskDelay(TaskDelay {
            tid: Tid(tid),
            woken: at(woken),
            end: at(end),
            task: TaskAddr(task),
            task_id: None,
            site: SiteId(0),
            waker: Tid(waker),
            local,
        })
    }

    fn of(events: &[Event]) -> Vec<(usize, u64, u64)> {
        let polls = join(events).polls;
        let victims = victims(&polls, events, |site| site == SiteId(7));
        let sums = victims.iter();
        sums.map(|it| (it.tasks.len(), it.delays, it.time.0 / MS))
            .collect()
    }

    /// Each waits from its wake, or from the poll's start, until the poll is over.
    #[test]
    fn tasks_behind_a_poll() {
        let events = [
            poll(1, 10, 30),
            delay(0xa, (1, true), 1, 12, 31),
            delay(0xb, (9, false), 1, 5, 32),
            // Another worker was in no long poll.
            delay(0xc, (9, false), 2, 12, 14),
        ];
        assert_eq!(of(&events), [(2, 2, 38)]);
    }

    /// What a worker wakes is in its queue, also if another one comes and takes it.
    #[test]
    fn a_stolen_task() {
        let events = [
            poll(1, 10, 30),
            poll(2, 10, 20),
            delay(0xa, (1, true), 2, 12, 20),
        ];
        assert_eq!(of(&events), [(1, 1, 8), (0, 0, 0)]);
    }

    /// One task twice is one victim; several polls share what it waited.
    #[test]
    fn several_polls_and_one_task() {
        let events = [
            poll(1, 10, 20),
            poll(1, 21, 30),
            delay(0xa, (1, true), 1, 15, 31),
            delay(0xa, (1, true), 1, 28, 31),
        ];
        assert_eq!(of(&events), [(1, 1, 5), (1, 2, 11)]);
    }

    /// A blocking task waits for a thread.
    #[test]
    fn the_pools_queue_is_another() {
        let Event::TaskDelay(delayed) = delay(0xa, (1, true), 1, 12, 31) else {
            panic!("it is one");
        };
        let on_pool = Event::TaskDelay(TaskDelay {
            site: SiteId(7),
            ..delayed
        });
        assert_eq!(of(&[poll(1, 10, 30), on_pool]), [(0, 0, 0)]);
    }
}
