//! Replay: a capture written from literal records gives an exact report, on any machine, without root.
//!
//! `report.json` beside this file is the golden report. After a wanted change:
//! `HOLDUP_WRITE_GOLDEN=1 cargo test -p holdup --test replay`, and read the difference.
#![forbid(unsafe_code)]

mod audit;
mod gate;
mod recording;
mod runtimes;
mod scenarios;

use std::path::Path;

use holdup::capture::{self, Capture, EndReason, Rest};
use holdup::classify::Rules;
use holdup::event::Nanos;
use holdup::render;
use holdup::report::{
    self, Activity, Certainty, Evidence, FrameKind, Limits, LongPollEntry, NotListed, Report,
};
use holdup_probe_ebpf::wire;

fn reported(bytes: &[u8]) -> Option<(Capture, Report)> {
    let capture = capture::parse(bytes, bytes.len() as u64).ok()?;
    let report = report::build(&capture, &Rules::embedded());
    Some((capture, report))
}

fn whole() -> Report {
    let bytes = recording::bytes();
    let (capture, report) = reported(&bytes).expect("a whole capture");
    assert_eq!(capture.cut, None);
    report
}

/// The whole report, byte for byte.
#[test]
fn the_report_is_exactly_this() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/report.json");
    let json = String::from_utf8(render::json(&whole())).expect("JSON is text");
    if std::env::var_os("HOLDUP_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &json).expect("the golden report is writable");
        // What the fuzzer of captures begins with.
        let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/capture/recording");
        std::fs::write(&seed, recording::bytes()).expect("the seed is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden report is there");
    for (n, (line, expected)) in json.lines().zip(golden.lines()).enumerate() {
        assert_eq!(line, expected, "line {} of {}", n + 1, path.display());
    }
    assert_eq!(json.len(), golden.len(), "one is longer");
}

/// A report is read back as it was written, but for the flamegraphs, which are not in it.
#[test]
fn the_schema_goes_both_ways() {
    let mut report = whole();
    let read: Report = serde_json::from_slice(&render::json(&report)).expect("a report");
    report.blocking = report::Flame::default();
    for flame in [
        &mut report.lock_wait,
        &mut report.lock_holder,
        &mut report.lock_pairs,
    ] {
        *flame = report::Flame::default();
    }
    assert_eq!(read, report);
}

fn assert_exact(report: &Report) {
    for poll in &report.long_polls {
        let LongPollEntry {
            anatomy,
            shares,
            duration_ns,
            ..
        } = poll;
        let parts =
            anatomy.on_cpu_ns + anatomy.lock_wait_ns + anatomy.run_queue_ns + anatomy.sleep_ns;
        assert_eq!(parts, *duration_ns);
        assert_eq!(
            shares.iter().map(|share| share.time_ns).sum::<Nanos>(),
            *duration_ns
        );
    }
    // Three pictures of the same time.
    assert_eq!(report.lock_holder.total, report.lock_wait.total);
    assert_eq!(report.lock_pairs.total, report.lock_wait.total);
    let total: Nanos = report.long_polls.iter().map(|poll| poll.duration_ns).sum();
    assert_eq!(report.summary.blocking_ns, total);
    assert_eq!(report.summary.blocking_flame_ns, total);
    assert_eq!(report.blocking.total, total);
    assert_eq!(
        report
            .call_sites
            .iter()
            .map(|site| site.time_ns)
            .sum::<Nanos>(),
        total
    );
    let waited: Nanos = report
        .locks
        .iter()
        .map(|lock| lock.totals.total_ns + lock.still_waiting.at_least_ns)
        .sum();
    assert_eq!(report.lock_wait.total, waited);
    assert_eq!(report.summary.lock_wait_flame_ns, waited);
}

/// To the nanosecond: anatomies and shares are the polls' durations, the flamegraphs are the sums.
#[test]
fn every_nanosecond_is_somewhere() {
    let report = whole();
    assert_eq!(report.long_polls.len(), 6);
    assert_exact(&report);
}

/// Each long poll is in one finding about polls at most; only the starved one of 6 ms is in none.
#[test]
fn each_poll_is_blamed_once() {
    let report = whole();
    let mut blamed: Vec<usize> = report
        .findings
        .iter()
        .flat_map(|finding| finding.long_polls.iter().copied())
        .collect();
    blamed.sort_unstable();
    assert_eq!(blamed, [0, 1, 2, 3, 5]);
    let starved = &report.long_polls[4];
    assert!(starved.anatomy.run_queue_ns > starved.anatomy.on_cpu_ns);
}

#[track_caller]
fn sentence_of<'a>(report: &'a Report, check: &str) -> &'a str {
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.check == check);
    &finding.unwrap_or_else(|| panic!("no {check}")).sentence
}

/// The sentences that a person reads.
#[test]
fn what_a_person_is_told() {
    let report = whole();
    assert_eq!(
        sentence_of(&report, "crypto_on_worker"),
        "`async fn app::handshake::serve` blocked its worker for 42.0 ms in one poll: 88 % on-CPU, mostly in \
         argon2 (`argon2::Argon2::fill_blocks`), called from `app::handshake::derive_session_key` at \
         app/src/handshake.rs:41 (2 of 3 samples). Move that call to `tokio::task::spawn_blocking`."
    );
    assert_eq!(
        sentence_of(&report, "lock_wait_on_worker"),
        "`async block in app::main` blocked its worker for 21.0 ms in one poll: 95 % waiting for the \
         Mutex<app::…::Shared> (parking_lot) at 0x7f0000001000 (`lock`), wanted in `app::state::update` at \
         app/src/state.rs:88. It was held by `app::state::rebuild` at app/src/state.rs:120 for 98 % of that wait: \
         hold it for less time there. The rest: 2 % lies between a release and the next known holder."
    );
    assert_eq!(
        sentence_of(&report, "sleep_on_worker"),
        "`async block in app::main` blocked its worker for at most 30.0 ms in one poll: 99 % asleep on \
         a timer (`clock_nanosleep`) in `app::io::flush` at app/src/io.rs:7, which calls `std::thread::sleep`. Use \
         `tokio::time::sleep`."
    );
    assert_eq!(
        sentence_of(&report, "contended_lock"),
        "The Mutex<app::…::Shared> (parking_lot) locked at app::state::update (app/src/state.rs:88) was waited for \
         25.0 ms in 11 waits (longest 20.0 ms) [0x7f0000001000]. It was held by `app::state::rebuild` at \
         app/src/state.rs:120 for 78 % of that time: hold it for less time there. The rest: 2 % lies between a \
         release and the next known holder; for 20 % it was not seen by whom (nobody was \
         parked, the wait was given up, or the unlock was not probed; `--uncontended` tells more)."
    );
    assert_eq!(
        sentence_of(&report, "long_hold"),
        "The Mutex<app::…::Shared> (parking_lot) was held too long by `app::state::rebuild` at app/src/state.rs:120 \
         once, for at least 19.4 ms. Do the long part outside of the lock."
    );
    // One is still waited for at the end. The RwLock was waited for too, but never for long, and the condvar is
    // no contention.
    let locks: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.check == "contended_lock")
        .filter_map(|finding| finding.lock.as_deref())
        .collect();
    assert_eq!(locks, ["0x7f0000001000", "0x7f0000003000"]);
}

/// Roots are tasks; the thread's start, the worker's loop and `raw::poll` are not drawn below them.
#[test]
fn stacks_begin_at_the_task() {
    let report = whole();
    for stack in report
        .blocking
        .stacks
        .iter()
        .chain(&report.lock_wait.stacks)
    {
        assert_eq!(stack.frames[0].kind, FrameKind::Root);
        for frame in &stack.frames {
            assert!(!frame.label.contains("raw::poll"), "{}", frame.label);
            assert!(!frame.label.contains("run_task"), "{}", frame.label);
        }
    }
    let stack = report
        .blocking
        .stacks
        .iter()
        .find(|stack| {
            stack
                .frames
                .iter()
                .any(|frame| frame.label.contains("fill_blocks"))
        })
        .expect("the crypto");
    let labels: Vec<&str> = stack
        .frames
        .iter()
        .map(|frame| frame.label.as_str())
        .collect();
    assert_eq!(
        labels,
        [
            "async fn app::handshake::serve",
            "app::handshake::serve::{closure} (app/src/handshake.rs:20)",
            "app::handshake::derive_session_key (app/src/handshake.rs:41)",
            "argon2::Argon2::fill_blocks (argon2-0.5.3/src/lib.rs:300)",
            "[on-CPU]",
        ]
    );
}

/// A list that would be too long keeps what weighs most; totals and flamegraphs are those of everything.
#[test]
fn long_lists_are_cut_and_totals_are_not() {
    let bytes = recording::bytes();
    let capture = capture::parse(bytes.as_slice(), bytes.len() as u64).expect("a capture");
    let limits = Limits {
        long_polls: 3,
        locks: 1,
        lock_types: 1,
        lock_waits: 1,
        holds: 0,
        condvars: 0,
        findings: 4,
    };
    let cut = report::build_within(&capture, &Rules::embedded(), &limits);
    let all = whole();
    let durations: Vec<u64> = cut
        .long_polls
        .iter()
        .map(|poll| poll.duration_ns.0 / 1_000_000)
        .collect();
    assert_eq!(durations, [42, 21, 30]);
    assert_eq!(
        cut.not_listed,
        NotListed {
            long_polls: 3,
            locks: 2,
            lock_types: 1,
            lock_waits: 1,
            holds: 1,
            condvars: 1,
            findings: 4
        }
    );
    let note = "Not listed in report.json, but in all totals and flamegraphs, because others weigh more: 3 long \
                polls, 2 locks, 1 lock type, 1 lock wait, 1 hold, 1 condvar, 4 findings.";
    assert_eq!(cut.coverage.notes.last().map(String::as_str), Some(note));
    assert_eq!(cut.summary, all.summary);
    assert_eq!(cut.blocking, all.blocking);
    assert_eq!(cut.lock_wait, all.lock_wait);
    for (finding, whole) in cut.findings.iter().zip(&all.findings) {
        assert_eq!(finding.sentence, whole.sentence);
        let polls: Vec<&LongPollEntry> = finding
            .long_polls
            .iter()
            .map(|n| &cut.long_polls[*n])
            .collect();
        let expected: Vec<&LongPollEntry> = whole
            .long_polls
            .iter()
            .map(|n| &all.long_polls[*n])
            .filter(|poll| poll.duration_ns.0 > 20_000_000)
            .collect();
        assert_eq!(polls, expected);
    }
    for share in cut.long_polls.iter().flat_map(|poll| &poll.shares) {
        assert!(
            share
                .stack
                .as_ref()
                .is_none_or(|id| cut.stacks.contains_key(id))
        );
    }
}

/// Bounds are marked as what they are, on each poll and on the total.
#[test]
fn bounds_are_marked() {
    let report = whole();
    let certainties: Vec<Certainty> = report
        .long_polls
        .iter()
        .map(|poll| poll.certainty)
        .collect();
    assert_eq!(
        certainties,
        [
            Certainty::Exact,
            Certainty::Exact,
            Certainty::UpperBound,
            Certainty::Exact,
            Certainty::Exact,
            Certainty::LowerBound,
        ]
    );
    assert_eq!(report.summary.blocking_certainty, Certainty::Estimate);
    assert_eq!(report.coverage.polls.upper_bounds, 1);
    assert_eq!(report.coverage.polls.lower_bounds, 1);
}

/// What is known to be missing makes a lower bound of the sum that it is missing in.
#[test]
fn sums_without_what_was_lost_are_lower_bounds() {
    use Certainty::{Exact, LowerBound};
    for (counter, blocking, lock_wait) in [
        (wire::COUNTER_LOST_SAMPLES, Exact, Exact),
        (wire::COUNTER_LOST_LONG_POLLS, LowerBound, Exact),
        (wire::COUNTER_POLLS_TOO_DEEP, LowerBound, Exact),
        (wire::COUNTER_THREADS_NOT_TRACKED, LowerBound, LowerBound),
        (wire::COUNTER_LOCK_WAITS_NOT_AGGREGATED, Exact, LowerBound),
        (wire::COUNTER_LOCKS_TOO_DEEP, Exact, LowerBound),
    ] {
        let bytes = recording::without_polls(&[(counter, 1)]);
        let (_, report) = reported(&bytes).expect("a capture");
        let found = (
            report.summary.blocking_certainty,
            report.summary.lock_wait_certainty,
        );
        assert_eq!(found, (blocking, lock_wait), "counter {counter}");
        let sentence = sentence_of(&report, "contended_lock");
        let at_least = sentence.contains("was waited for at least 25.0 ms");
        assert_eq!(at_least, lock_wait == LowerBound, "{sentence}");
    }
    let lost = recording::without_polls(&[(wire::COUNTER_LOST_LONG_POLLS, 3)]);
    let (_, report) = reported(&lost).expect("a capture");
    let notes = report.coverage.notes.join("\n");
    assert!(notes.contains("--ring-buffer-bytes"), "{notes}");
}

/// A poll and a wait that both the ring buffer and their threads' records tell of are no two.
#[test]
fn what_is_told_twice_counts_once() {
    let (_, report) = reported(&recording::ended_while_detaching()).expect("a capture");
    assert_eq!(render::json(&report), render::json(&whole()));
}

/// Nothing happened: nothing is found.
#[test]
fn a_quiet_recording_has_no_finding() {
    let (_, report) = reported(&recording::quiet()).expect("a capture");
    assert_eq!(report.findings, []);
    assert_eq!(report.long_polls, []);
    assert_eq!(report.blocking.total, Nanos(0));
    assert_eq!(report.summary.lock_waits, 2);
    assert_exact(&report);
}

/// That nothing was found says only that nothing was there where all would have been seen.
#[test]
fn nothing_found_is_not_nothing_there() {
    type Change<'a> = &'a dyn Fn(&mut Rest);
    let told = |change: Change<'_>| {
        let (_, report) = reported(&recording::quiet_with(change)).expect("a capture");
        let text = render::terminal(&report, false);
        let line = text
            .lines()
            .find(|line| line.starts_with("No finding") || line.starts_with("Nothing was found"));
        line.expect("a line about findings").to_owned()
    };
    assert_eq!(told(&|_| {}), "No finding: nothing held the runtime up.");
    let counters =
        |counter: u32, value| move |rest: &mut Rest| rest.counters[counter as usize] = value;
    let cases: [(Change<'_>, &str); 8] = [
        (&|rest| rest.probes.clear(), "polls were not probed"),
        (&|rest| rest.probes[0].attached = 0, "polls were not probed"),
        (
            &|rest| rest.probes[0].attached = 1,
            "only 1 of 2 poll functions were probed",
        ),
        (&counters(wire::COUNTER_POLLS, 0), "no poll was seen to end"),
        (
            &|rest| rest.end.at.0 = rest.meta.start.0 + 50_000_000,
            "only 50.0 ms were recorded",
        ),
        (
            &counters(wire::COUNTER_LOST_SAMPLES, 2),
            "2 events were lost",
        ),
        (
            &counters(wire::COUNTER_THREADS_NOT_TRACKED, 1),
            "1 thread was not observed",
        ),
        (
            &|rest| {
                rest.return_sites[0].attached = None;
                rest.counters[wire::COUNTER_LOST_OTHER as usize] = 1;
            },
            "1 event was lost, and 1 poll return site was not probed",
        ),
    ];
    for (change, why) in cases {
        assert_eq!(told(change), format!("Nothing was found, but {why}."));
    }
}

/// Wherever the file is cut, what came before gives a report that adds up, and says that it was cut.
#[test]
fn a_capture_cut_anywhere_still_gives_a_report() {
    let bytes = recording::bytes();
    let mut most_polls = 0;
    for length in (0..bytes.len()).step_by(41) {
        let Some((_, report)) = reported(&bytes[..length]) else {
            assert_eq!(most_polls, 0, "cut at {length}");
            continue;
        };
        assert_eq!(report.capture.end, EndReason::Truncated);
        assert!(report.coverage.notes[0].starts_with("The capture is cut off at byte"));
        assert_exact(&report);
        most_polls = most_polls.max(report.long_polls.len());
    }
    // The one still under way is known from the last part only, and lasts until the last event.
    assert_eq!(most_polls, 6);
}

/// Records without the part with stacks and names: times are there, and said to have no stack.
#[test]
fn without_stacks_there_are_still_times() {
    let bytes = recording::without_rest();
    let (_, report) = reported(&bytes).expect("the records");
    assert_eq!(report.long_polls.len(), 5);
    let shares = report.long_polls.iter().flat_map(|poll| &poll.shares);
    for share in shares {
        assert_ne!(share.evidence, Evidence::Stack);
        assert_eq!(share.stack, None);
    }
    let on_cpu = report.blocking.stacks.iter().filter(|stack| {
        stack
            .frames
            .iter()
            .any(|frame| frame.label == "[on-CPU, no stack]")
    });
    assert_eq!(on_cpu.count(), 4);
    assert!(
        report
            .call_sites
            .iter()
            .any(|site| site.call_site.is_none() && site.activity == Activity::LockWait)
    );
}

/// Flipped bytes: an error or a report that adds up, never a panic.
#[test]
fn a_damaged_capture_never_panics() {
    let bytes = recording::bytes();
    for at in (0..bytes.len()).step_by(37) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        if let Some((capture, report)) = reported(&damaged) {
            assert!(capture.cut.is_some(), "byte {at}");
            assert_exact(&report);
        }
    }
}
