use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;

fn header(kind: u32, at_ns: u64) -> wire::EventHeader {
    wire::EventHeader {
        kind,
        tid: 7,
        at_ns,
    }
}

fn long_poll_record() -> wire::LongPoll {
    wire::LongPoll {
        header: header(wire::EVENT_LONG_POLL, 9_000),
        start_ns: 1_000,
        task: 0x10,
        task_id: 5,
        return_addr: 0x20,
        run_queue_ns: 1,
        sleep_ns: 2,
        lock_wait_ns: 3,
        stolen_ns: 4,
        site: 4,
        flags: wire::POLL_END_UNSEEN | wire::POLL_UNCLASSIFIED,
    }
}

/// Codes become types, and zeros that mean "none" become `None`.
#[test]
fn a_lock_wait_is_read_field_by_field() {
    let record = wire::LockWait {
        header: header(wire::EVENT_LOCK_WAIT, 50),
        start_ns: 20,
        lock: 0xabc,
        poll_start_ns: 0,
        waiter_stack: 5,
        task: 0,
        handover_ns: 3,
        releases: 5,
        operation: wire::LOCK_RW_UPGRADE,
        outcome: wire::OUTCOME_TIMED_OUT,
        others_us: 7,
        holders: [(14, 4, 4), (11, 9, 0), (0, 0, 0), (13, 2, 3)].map(|(tid, held_ns, nth)| {
            wire::WaitHolder {
                stack: 0,
                held_ns,
                tid,
                nth,
            }
        }),
    };
    let holder = |tid, held| {
        Some(WaitHolder {
            tid: Tid(tid),
            held: Nanos(held),
            stack: None,
        })
    };
    let holders = [holder(11, 9), holder(13, 2), holder(14, 4), None];
    assert_eq!(
        event(record.as_bytes()),
        Ok(Event::LockWait(LockWait {
            tid: Tid(7),
            start: Timestamp(20),
            end: Timestamp(50),
            lock: LockAddr(0xabc),
            operation: LockOperation::RwUpgrade,
            outcome: LockOutcome::TimedOut,
            poll_start: None,
            waiter_stack: Some(StackId(5)),
            task: None,
            releases: 5,
            holders,
            others: Nanos(7_000),
            handover: Nanos(3),
        }))
    );
}

/// What is not known of a hold is not there, and one that lasted longer than time itself is no hold.
#[test]
fn a_hold_is_read_field_by_field() {
    let record = wire::Hold {
        header: header(wire::EVENT_HOLD, 50),
        lock: 0xabc,
        at_least_ns: 40,
        at_most_ns: 0,
        acquire_stack: 0,
        release_stack: 6,
        poll_start_ns: 30,
        task: 0xd0,
        operation: wire::LOCK_STD_MUTEX,
        flags: wire::HOLD_ACROSS_AWAIT,
    };
    assert_eq!(
        event(record.as_bytes()),
        Ok(Event::Hold(Hold {
            tid: Tid(7),
            end: Timestamp(50),
            lock: LockAddr(0xabc),
            operation: LockOperation::StdMutex,
            at_least: Nanos(40),
            at_most: None,
            exact: false,
            across_await: true,
            acquire_stack: None,
            release_stack: Some(StackId(6)),
            task: Some(TaskAddr(0xd0)),
            poll_start: Some(Timestamp(30)),
        }))
    );
    let impossible = wire::Hold {
        at_least_ns: 51,
        ..record
    };
    assert_eq!(
        event(impossible.as_bytes()),
        Err(DecodeError::EndsBeforeStart(wire::EVENT_HOLD))
    );
}

/// The flags of a long poll say how good its duration is.
#[test]
fn a_long_poll_whose_end_was_not_seen_is_an_upper_bound() {
    let Ok(Event::LongPoll(poll)) = event(long_poll_record().as_bytes()) else {
        panic!("not a long poll");
    };
    assert_eq!(poll.exactness, Exactness::UpperBound);
    assert!(poll.unclassified && !poll.handed_off);
    assert_eq!(poll.end.since(poll.start), Nanos(8_000));
}

/// A thread's name ends at the first NUL, or at the end of its field.
#[test]
fn thread_names_of_all_lengths() {
    let mut seen = wire::ThreadSeen {
        header: header(wire::EVENT_THREAD_SEEN, 1),
        comm: *b"tokio-runtime-w\0",
    };
    let name = |seen: &wire::ThreadSeen| match event(seen.as_bytes()) {
        Ok(Event::ThreadSeen { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(&seen), "tokio-runtime-w");
    seen.comm = *b"sixteen-bytes-ab";
    assert_eq!(name(&seen), "sixteen-bytes-ab");
    seen.comm = [0xff; 16];
    assert!(name(&seen).starts_with('\u{fffd}'));
}

/// Empty, short, long and unknown records are errors with a reason, whatever their alignment.
#[test]
fn records_that_are_not_understood() {
    assert_eq!(event(&[]), Err(DecodeError::NoHeader));
    assert_eq!(event(&[1; 15]), Err(DecodeError::NoHeader));
    assert_eq!(
        event(header(99, 0).as_bytes()),
        Err(DecodeError::UnknownKind(99))
    );
    let record = long_poll_record();
    let mut bytes = record.as_bytes().to_vec();
    bytes.push(0);
    let wrong = |length| {
        Err(DecodeError::WrongLength {
            kind: wire::EVENT_LONG_POLL,
            length,
            expected: 88,
        })
    };
    assert_eq!(event(&bytes), wrong(89));
    assert_eq!(event(&bytes[..87]), wrong(87));
    // Shifted by one byte, so that no field is aligned.
    bytes.insert(0, 0);
    assert!(event(&bytes[1..89]).is_ok());
}

/// Codes of a newer kernel side, and intervals that run backwards, are errors too.
#[test]
fn values_that_make_no_sense() {
    let mut wait = wire::LockWait::new_zeroed();
    wait.header = header(wire::EVENT_LOCK_WAIT, 50);
    assert_eq!(
        event(wait.as_bytes()),
        Err(DecodeError::UnknownOperation(0))
    );
    wait.operation = wire::LOCK_MUTEX;
    wait.outcome = 77;
    assert_eq!(event(wait.as_bytes()), Err(DecodeError::UnknownOutcome(77)));
    wait.start_ns = 51;
    assert_eq!(
        event(wait.as_bytes()),
        Err(DecodeError::EndsBeforeStart(wire::EVENT_LOCK_WAIT))
    );
}

const WINDOW: Window = Window {
    start: Timestamp(1_000),
    end: Timestamp(11_000),
    threshold: Nanos(5_000),
};

fn thread_in_one_poll(start_ns: u64) -> wire::Thread {
    let mut thread = wire::Thread::new_zeroed();
    thread.tid = 7;
    thread.poll_depth = 1;
    thread.active_poll = 1;
    thread.polls[0].start_ns = start_ns;
    thread.polls[0].return_addr = 0x20;
    thread.polls[0].class = wire::CLASS_SCHEDULER;
    thread
}

fn always_watched(_: CodeAddr) -> Option<Timestamp> {
    Some(Timestamp(0))
}

/// A poll under way, asleep and already woken: a lower bound, with the open interval split at the wake-up.
#[test]
fn a_poll_still_running_is_a_lower_bound() {
    let mut thread = thread_in_one_poll(2_000);
    thread.polls[0].sleep_ns = 100;
    thread.off_cpu_start_ns = 8_000;
    thread.woken_ns = 10_000;
    thread.off_cpu_stack = 3;
    let Unfinished { events, unwatched } = unfinished(&thread, WINDOW, always_watched);
    assert_eq!(unwatched, []);
    let [Event::OffCpu(interval), Event::LongPoll(poll)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(interval.poll_start, Timestamp(2_000));
    assert_eq!(interval.end.since(interval.start), Nanos(3_000));
    assert_eq!(interval.runnable, Nanos(1_000));
    assert_eq!(poll.exactness, Exactness::LowerBound);
    assert_eq!(poll.end, WINDOW.end);
    assert_eq!((poll.sleep, poll.run_queue), (Nanos(2_100), Nanos(1_000)));
}

/// What was kept of a poll while it was young is told with it.
#[test]
fn what_a_poll_still_running_did_early() {
    let mut thread = thread_in_one_poll(2_000);
    thread.polls[0].task_id = 12;
    thread.polls[0].site = 3;
    thread.early_count = 4;
    thread.early[0] = wire::Early {
        kind: wire::EARLY_SAMPLE,
        at_ns: 2_100,
        stack: 5,
        ..wire::Early::new_zeroed()
    };
    thread.early[1] = wire::Early {
        kind: wire::EARLY_OFF_CPU,
        code: wire::CAUSE_FAULT,
        start_ns: 2_200,
        at_ns: 2_300,
        runnable_ns: 40,
        ..wire::Early::new_zeroed()
    };
    thread.early[2] = wire::Early {
        kind: wire::EARLY_LOCK_WAIT,
        code: wire::OUTCOME_ACQUIRED,
        start_ns: 2_400,
        at_ns: 2_500,
        lock: 0xa,
        operation: wire::LOCK_MUTEX,
        ..wire::Early::new_zeroed()
    };
    let Unfinished { events, .. } = unfinished(&thread, WINDOW, always_watched);
    // The fourth one is of no kind.
    let [
        Event::CpuSample(sample),
        Event::OffCpu(interval),
        Event::LockWait(wait),
        Event::LongPoll(poll),
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!(
        (sample.at, sample.site),
        (Timestamp(2_100), Some(SiteId(3)))
    );
    assert_eq!(sample.poll_start, Some(poll.start));
    assert_eq!(interval.cause, OffCpuCause::Fault);
    assert_eq!(interval.runnable, Nanos(40));
    assert_eq!(wait.lock, LockAddr(0xa));
    assert_eq!(wait.holders, [None; wire::WAIT_HOLDERS]);
    assert_eq!(poll.task_id, Some(TaskId(12)));
}

/// The outermost lock wait under way is the wait; the slow path inside it is part of it.
#[test]
fn a_lock_wait_still_under_way_is_a_lower_bound() {
    let mut thread = thread_in_one_poll(2_000);
    thread.lock_depth = 2;
    thread.lock_waits = 2;
    thread.locks[0].start_ns = 4_000;
    thread.locks[0].lock = 0xa;
    thread.locks[0].operation = wire::LOCK_RW_EXCLUSIVE;
    thread.locks[1].start_ns = 5_000;
    thread.locks[1].operation = wire::LOCK_RW_EXCLUSIVE;
    thread.locks[1].inside_another = 1;
    let events = unfinished(&thread, WINDOW, always_watched).events;
    let [Event::LockWait(wait), Event::LongPoll(poll)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(wait.outcome, LockOutcome::StillWaiting);
    assert_eq!(wait.lock, LockAddr(0xa));
    assert_eq!(wait.poll_start, Some(poll.start));
    assert_eq!(poll.lock_wait, Nanos(7_000));
}

/// A poll that was handed off ended its blocking then: both ends were seen.
#[test]
fn a_handed_off_poll_ends_at_its_handoff() {
    let mut thread = thread_in_one_poll(2_000);
    thread.active_poll = 0;
    thread.polls[0].handed_off_ns = 9_000;
    let events = unfinished(&thread, WINDOW, always_watched).events;
    let [Event::LongPoll(poll)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(poll.end, Timestamp(9_000));
    assert_eq!(poll.exactness, Exactness::Exact);
    assert!(poll.handed_off);
}

/// Nothing is said of polls that began outside the recording, are short, or may have ended unseen.
#[test]
fn what_is_left_out() {
    let events_of = |start| {
        unfinished(&thread_in_one_poll(start), WINDOW, always_watched)
            .events
            .len()
    };
    assert_eq!(events_of(999), 0);
    assert_eq!(events_of(6_001), 0);
    assert_eq!(events_of(6_000), 1);
    let unwatched = Unfinished {
        events: vec![],
        unwatched: vec![Timestamp(2_000)],
    };
    let thread = thread_in_one_poll(2_000);
    assert_eq!(unfinished(&thread, WINDOW, |_| None), unwatched);
    assert_eq!(
        unfinished(&thread, WINDOW, |_| Some(Timestamp(2_001))),
        unwatched
    );
}

/// Depths and indices that no kernel side writes are bounded, not believed.
#[test]
fn a_record_of_a_thread_full_of_ones() {
    let mut thread = wire::Thread::new_zeroed();
    thread.as_mut_bytes().fill(0xff);
    assert_eq!(
        unfinished(&thread, WINDOW, always_watched),
        Unfinished::default()
    );
}
