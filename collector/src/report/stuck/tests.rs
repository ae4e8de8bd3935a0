//! What is claimed of stuck threads, and what not.

use super::*;

fn entry(tid: u32, lock: u64, holders: &[u32], evidence: HolderEvidence) -> StuckEntry {
    StuckEntry {
        tid,
        thread: format!("t{tid}"),
        lock: Some(hex(lock)),
        operation: LockOperation::Mutex,
        family: LockFamily::ParkingLot,
        kind: LockShape::Mutex,
        protects: None,
        waited_ns: Nanos(u64::from(tid) * 1_000_000_000),
        certainty: Certainty::Estimate,
        has_deadline: false,
        found_ns: Nanos::ZERO,
        last_seen_ns: Nanos::ZERO,
        has_ended: false,
        holders: holders
            .iter()
            .map(|tid| StuckHolderEntry {
                tid: *tid,
                evidence,
            })
            .collect(),
        circle: None,
        call_site: None,
        own_frames: Vec::new(),
        stack: "0x1".to_owned(),
    }
}

fn by_address(tid: u32, lock: u64, holders: &[u32]) -> StuckEntry {
    entry(tid, lock, holders, HolderEvidence::AddressOnStack)
}

fn seen(tid: u32, lock: u64, holder: u32) -> StuckEntry {
    entry(tid, lock, &[holder], HolderEvidence::SeenAcquiring)
}

/// What is found, as the report says it.
fn said(mut entries: Vec<StuckEntry>) -> Vec<(String, String)> {
    for (number, circle) in circles(&entries).into_iter().enumerate() {
        for n in circle {
            entries[n].circle = Some(number);
        }
    }
    findings(&entries)
        .into_iter()
        .map(|finding| (finding.check, finding.sentence))
        .collect()
}

#[track_caller]
fn expect(entries: Vec<StuckEntry>, expected: &[(&str, &str)]) {
    let said = said(entries);
    let said: Vec<(&str, &str)> = said
        .iter()
        .map(|(check, sentence)| (check.as_str(), sentence.as_str()))
        .collect();
    assert_eq!(said, expected);
}

/// Seen to acquire what the others want: certain. One of them by an address: likely.
#[test]
fn circles_in_words() {
    expect(
        vec![seen(2, 0xa, 3), seen(3, 0xb, 2)],
        &[(
            "deadlock",
            "Deadlock: `t2` (tid 2) and `t3` (tid 3) wait for each other, for about 2.00 s so far. `t2` (tid 2) \
             wants to lock the Mutex (parking_lot) at 0xa, which `t3` (tid 3) has, as it was seen acquiring it. `t3` (tid 3) \
             wants to lock the Mutex (parking_lot) at 0xb, which `t2` (tid 2) has, as it was seen acquiring it. They never go \
             on. Take these locks in the same order everywhere.",
        )],
    );
    let likely = said(vec![
        seen(2, 0xa, 3),
        by_address(3, 0xb, &[4]),
        by_address(4, 0xc, &[2]),
    ]);
    let [(check, sentence)] = &likely[..] else {
        panic!("{likely:?}");
    };
    assert_eq!(check, "deadlock");
    assert!(
        sentence.starts_with(
            "Likely a deadlock: `t2` (tid 2), `t3` (tid 3) and `t4` (tid 4) wait for each other, "
        ),
        "{sentence}"
    );
    let alone = said(vec![seen(2, 0xa, 2)]);
    assert!(
        alone[0].1.starts_with(
            "Deadlock: `t2` (tid 2) waits for a lock that it has itself, for about 2.00 s so far."
        ),
        "{alone:?}"
    );
}

/// Threads behind a circle are no part of it; nor does a deadline, an end, or a doubt make one.
#[test]
fn what_is_no_circle() {
    let behind = said(vec![
        by_address(2, 0xa, &[3]),
        by_address(3, 0xb, &[2]),
        by_address(4, 0xa, &[3]),
        by_address(5, 0xc, &[4]),
    ]);
    let checks: Vec<&str> = behind.iter().map(|(check, _)| check.as_str()).collect();
    assert_eq!(checks, ["deadlock", "stuck_threads", "stuck_threads"]);
    assert!(!behind[0].1.contains("t4"), "{behind:?}");
    assert!(
        behind[2].1.contains("which `t3` (tid 3) may have"),
        "{behind:?}"
    );

    for change in [
        |entry: &mut StuckEntry| entry.has_deadline = true,
        |entry: &mut StuckEntry| entry.has_ended = true,
        |entry: &mut StuckEntry| {
            let holder = StuckHolderEntry {
                tid: 9,
                evidence: HolderEvidence::AddressOnStack,
            };
            entry.holders.push(holder);
        },
    ] {
        let mut one = by_address(2, 0xa, &[3]);
        change(&mut one);
        let said = said(vec![one, by_address(3, 0xb, &[2])]);
        let has_circle = said.iter().any(|(check, _)| check == DEADLOCK);
        assert!(!has_circle, "{said:?}");
    }
}

/// Two threads of whose locks nobody knows who has them, and nobody else: both are named, nothing is claimed.
#[test]
fn a_pair_without_evidence() {
    expect(
        vec![by_address(2, 0xa, &[]), by_address(3, 0xb, &[])],
        &[(
            "stuck_threads",
            "Stuck: `t2` (tid 2) and `t3` (tid 3) have waited for two locks for about 2.00 s, and nobody else is \
             stuck. They are a deadlock if each has what the other wants. `t2` (tid 2) wants to lock the Mutex (parking_lot) \
             at 0xa, and who has it is not known. `t3` (tid 3) wants to lock the Mutex (parking_lot) at 0xb, and who has it \
             is not known.",
        )],
    );
    // A third one, or one lock, and nobody can say so.
    let three = said((2..5).map(|n| by_address(n, u64::from(n), &[])).collect());
    assert_eq!(three.len(), 3, "{three:?}");
    let one_lock = said(vec![by_address(2, 0xa, &[]), by_address(3, 0xa, &[])]);
    assert!(
        one_lock[0]
            .1
            .starts_with("Stuck: 2 threads have waited for one lock for up to about 3.00 s."),
        "{one_lock:?}"
    );
}

/// Of many threads at one lock the first are told one by one.
#[test]
fn a_crowd() {
    let said = said((2..40).map(|n| by_address(n, 0xa, &[])).collect());
    let [(_, sentence)] = &said[..] else {
        panic!("{said:?}");
    };
    assert!(sentence.starts_with("Stuck: 38 threads have waited for one lock"));
    assert!(sentence.ends_with("And 32 more."), "{sentence}");
}

/// Who went on in the end is said to have.
#[test]
fn a_wait_that_ended() {
    let mut entry = by_address(2, 0xa, &[]);
    entry.has_ended = true;
    expect(
        vec![entry],
        &[(
            "stuck_threads",
            "Stuck: `t2` (tid 2) waited for one lock for about 2.00 s and then went on. `t2` (tid 2) wanted to \
             lock the Mutex (parking_lot) at 0xa, and who had it is not known.",
        )],
    );
}
