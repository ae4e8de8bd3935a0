//! Limits, held against the same recording.

use holdup::event::LockOperation;
use holdup::gate::{Breach, Limit, breaches};
use holdup::report::{Certainty, HoldTotalsEntry, LockFamily, LockShape, Report};

use super::{Nanos, whole};

fn broken(report: &Report, limits: &[&str]) -> Vec<Breach> {
    let limits: Vec<Limit> = limits
        .iter()
        .map(|limit| limit.parse().expect("a limit"))
        .collect();
    breaches(&limits, report)
}

fn longest(breaches: &[Breach]) -> Vec<u64> {
    breaches.iter().map(|breach| breach.longest_ns.0).collect()
}

/// The polls last 42, 21, 30, 6, 6 and 10 ms. Of the first, 4 ms are run queue and 3 ms the hypervisor's, and 5 ms of a short one
/// run queue; the third's end was not seen.
#[test]
fn polls_count_with_their_own_time() {
    const MS: u64 = 1_000_000;
    let report = whole();
    let over_5 = broken(&report, &["poll>5ms"]);
    assert_eq!(longest(&over_5), [35 * MS, 21 * MS, 10 * MS]);
    // The same task at the same place: 10 ms and 6 ms.
    assert_eq!(over_5[2].count, 2);
    assert_eq!(over_5[2].certainty, Certainty::LowerBound);
    assert_eq!(
        over_5[0].sentence,
        "`async fn app::handshake::serve` held its thread up for 35.0 ms in 1 poll; the longest took 35.0 ms of its own \
         (34.0 ms on-CPU, 1.0 ms sleep), and 4.0 ms in the run queue and 3.0 ms taken by the hypervisor beside it."
    );
    assert_eq!(longest(&broken(&report, &["poll>21ms"])), [35 * MS]);
    assert_eq!(broken(&report, &["poll>35ms"]), []);
}

/// The longest wait of each lock; of all together the sum.
#[test]
fn waits() {
    let report = whole();
    let over_5 = broken(&report, &["wait>5ms"]);
    assert_eq!(longest(&over_5), [20_000_000]);
    assert_eq!(
        over_5[0].place.as_deref(),
        Some("app::state::update (app/src/state.rs:88)")
    );
    assert_eq!(
        longest(&broken(&report, &["wait>399us"])),
        [20_000_000, 400_000]
    );
    assert_eq!(broken(&report, &["wait>20ms"]), []);
    let total = broken(&report, &["lock-wait-total>25ms"]);
    assert_eq!(longest(&total), [25_500_000]);
    assert_eq!(total[0].count, 14);
    assert_eq!(broken(&report, &["lock-wait-total>25500us"]), []);
}

/// A hold counts with what is known of it; one across an await whatever it lasted, of Tokio's locks only if asked for.
#[test]
fn holds() {
    let mut report = whole();
    let over_5 = broken(&report, &["hold>5ms"]);
    assert_eq!(longest(&over_5), [19_400_000]);
    assert_eq!(over_5[0].certainty, Certainty::LowerBound);
    assert!(
        over_5[0]
            .place
            .as_deref()
            .is_some_and(|place| place.starts_with("app::state::rebuild")),
        "{over_5:?}"
    );
    assert_eq!(broken(&report, &["hold>19400us"]), []);
    assert_eq!(broken(&report, &["held-across-await=any"]), []);
    report.holds[0].across_await = true;
    assert_eq!(
        longest(&broken(&report, &["held-across-await"])),
        [19_400_000]
    );
    for lock in &mut report.locks {
        lock.family = LockFamily::Tokio;
    }
    report.holds[0].operation = LockOperation::TokioAcquire;
    assert_eq!(broken(&report, &["held-across-await"]), []);
    // Of these only the sums have every one.
    report.holds.clear();
    assert_eq!(broken(&report, &["held-across-await=any"]), []);
    report.locks[0].across_await = HoldTotalsEntry {
        count: 7,
        total_ns: Nanos(30_000),
        longest_ns: Nanos(9_000),
        longest_certainty: Certainty::LowerBound,
    };
    let any = broken(&report, &["held-across-await=any"]);
    assert_eq!(longest(&any), [9_000]);
    assert_eq!((any[0].count, any[0].certainty), (7, Certainty::LowerBound));
    assert_eq!(broken(&report, &["held-across-await"]), []);
    // A permit that is kept is no lock that is held.
    for lock in &mut report.locks {
        lock.kind = LockShape::Semaphore;
    }
    assert_eq!(
        broken(&report, &["held-across-await=any", "hold>5ms", "wait>5ms"]),
        []
    );
}

/// What the recording's end cut off is stuck only if it had lasted long.
#[test]
fn stuck() {
    let mut report = whole();
    let threads = report.stuck.split_off(0);
    assert_eq!(broken(&report, &["stuck"]), []);
    for lock in &mut report.locks {
        if lock.still_waiting.waits > 0 {
            lock.still_waiting.at_least_ns = Nanos(1_000_000_000);
        }
    }
    let found = broken(&report, &["stuck"]);
    assert_eq!(longest(&found), [1_000_000_000]);
    assert!(found[0].sentence.contains("had not ended"));

    let mut report = whole();
    report.stuck = threads;
    let found = broken(&report, &["stuck"]);
    assert_eq!(longest(&found), [25_000_000_000]);
    for thread in &mut report.stuck {
        thread.has_ended = true;
    }
    assert_eq!(broken(&report, &["stuck"]), []);
}

/// Breaches stand in the order of the limits, and name the process.
#[test]
fn several_limits() {
    let report = whole();
    let found = broken(&report, &["wait>5ms", "poll>30ms"]);
    let limits: Vec<&str> = found.iter().map(|breach| breach.limit.as_str()).collect();
    assert_eq!(limits, ["wait>5ms", "poll>30ms"]);
    assert!(found.iter().all(|breach| breach.pid == report.capture.pid));
}

/// Sleep in which no code but the runtime's was inside the poll is what a probe's trap waited for.
#[test]
fn sleep_of_a_trap() {
    let mut report = whole();
    report.long_polls[2].certainty = Certainty::Exact;
    assert_eq!(broken(&report, &["poll>29ms"]).len(), 2);
    let poll = |report: &Report, n: &usize| report.frames[*n].function.contains("raw::poll");
    let stack = report.stacks["0x6"].clone();
    let at = stack
        .iter()
        .position(|n| poll(&report, n))
        .expect("it is of a poll");
    report.stacks.insert("0x6".to_owned(), stack[at..].to_vec());
    assert_eq!(longest(&broken(&report, &["poll>29ms"])), [35_000_000]);
}
