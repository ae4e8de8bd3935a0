use std::path::Path;

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;
use crate::event::{LockAddr, LockOperation, Tid, WalkOutcome};
use crate::histogram::Histogram;
use crate::stuck::{HolderEvidence, StuckHolder, Waited};
use crate::symbolize::Frame;

fn meta() -> Meta {
    Meta {
        holdup_version: "0.1.0".to_owned(),
        wire_version: wire::WIRE_VERSION,
        pid: Pid(42),
        process_name: "server".to_owned(),
        executable: "/srv/server".to_owned(),
        build_id: None,
        host: "node-3".to_owned(),
        kernel: "6.18.0".to_owned(),
        architecture: "x86_64".to_owned(),
        started_unix_ns: 1,
        start: Timestamp(1_000),
        threshold: Nanos(5_000),
        sample_after: Nanos(1_250),
        attach: Nanos(20_000_000),
        frequency_hz: 997,
        grid_ticks: 10,
        one_task_of: 1,
        has_task_ids: true,
        unwind_tables: UnwindTables::default(),
    }
}

fn raw_stack(outcome: WalkOutcome, addresses: &[u64]) -> RawStack {
    RawStack {
        outcome,
        addresses: addresses.to_vec(),
    }
}

fn sample(tid: u32) -> wire::CpuSample {
    wire::CpuSample {
        header: wire::EventHeader {
            kind: wire::EVENT_CPU_SAMPLE,
            tid,
            at_ns: 3_000 + u64::from(tid),
        },
        poll_start_ns: 1_500,
        stack: 9,
        class: wire::CLASS_SCHEDULER,
        site: 0,
        flags: 0,
        zero: 0,
    }
}

fn stuck_wait() -> StuckWait {
    StuckWait {
        tid: Tid(5),
        thread: "worker".to_owned(),
        operation: LockOperation::StdWrite,
        lock: Some(LockAddr(0xdef)),
        has_deadline: false,
        stack: StackId(9),
        waited: Nanos(60_000_000_000),
        waited_is: Waited::Estimate,
        found: Timestamp(2_000),
        last_seen: Timestamp(9_000),
        has_ended: false,
        holders: vec![StuckHolder {
            tid: Tid(6),
            evidence: HolderEvidence::AddressOnStack,
        }],
    }
}

fn runtime_thread() -> RuntimeThread {
    RuntimeThread {
        tid: Tid(5),
        runtime: 0x5581_0000_1000,
        worker: Some(3),
        last_seen: Timestamp(8_000),
        has_changed: true,
    }
}

fn rest() -> Rest {
    let mut totals = wire::LockWaitTotals::new_zeroed();
    totals.count = 3;
    totals.total_ns = 600;
    let mut thread = wire::Thread::new_zeroed();
    thread.tid = 5;
    thread.poll_depth = 1;
    thread.active_poll = 1;
    thread.polls[0].start_ns = 2_000;
    thread.polls[0].return_addr = 0x77;
    let mut counters = [0; wire::COUNTERS as usize];
    counters[wire::COUNTER_POLLS as usize] = 11;
    let frame = Frame {
        function: "app::work".to_owned(),
        generics: Some("app::Job".to_owned()),
        file: Some("src/main.rs".to_owned()),
        line: Some(3),
        module: "server".to_owned(),
        inlined: false,
        unresolved: None,
    };
    Rest {
        meta: Meta {
            build_id: Some("abcd".to_owned()),
            ..meta()
        },
        probes: vec![ProbeFamily {
            name: "mutex".to_owned(),
            attached: 0,
            found: 0,
            missing: vec![MissingProbe {
                what: "RawMutex::lock_slow".to_owned(),
                why: "not in this binary".to_owned(),
            }],
        }],
        poll_sites: vec![PollSite {
            address: CodeAddr(0x100),
            class: SiteClass::MultiThread,
            future: None,
            polls: 11,
            total: Nanos(20_000),
            max: Nanos(9_000),
            durations: Histogram::new(&[0, 3, 8]),
            tasks: 2,
            delays: Delays::default(),
            spawn_paths: Vec::new(),
        }],
        return_sites: vec![ReturnSite {
            return_addr: CodeAddr(0x77),
            function: None,
            class: SiteClass::MultiThread,
            attached: Some(Timestamp(900)),
            why_not: None,
        }],
        lock_waits: vec![
            (
                wire::LockWaitKey {
                    lock: 0xabc,
                    waiter_stack: 9,
                    operation: wire::LOCK_MUTEX,
                    outcome: wire::OUTCOME_ACQUIRED,
                },
                totals,
            ),
            (wire::LockWaitKey::new_zeroed(), totals),
        ],
        pairs: vec![(
            wire::PairKey {
                lock: 0xabc,
                waiter_stack: 9,
                holder_stack: 10,
                operation: wire::LOCK_MUTEX,
                zero: 0,
            },
            wire::Totals {
                count: 2,
                total_ns: 500,
                max_ns: 400,
            },
        )],
        holds: vec![(
            wire::HoldKey {
                lock: 0xabc,
                acquire_stack: 0,
                release_stack: 10,
                operation: wire::LOCK_MUTEX,
                flags: wire::HOLD_EXACT,
            },
            wire::Totals {
                count: 1,
                total_ns: 700,
                max_ns: 700,
            },
        )],
        stacks: BTreeMap::from([
            (9, raw_stack(WalkOutcome::Complete, &[0x101, 0x202])),
            (10, raw_stack(WalkOutcome::NoCfi, &[])),
        ]),
        counters,
        threads: vec![thread],
        stuck: vec![stuck_wait()],
        runtime_threads: vec![runtime_thread()],
        symbols: SymbolTable {
            frames: BTreeMap::from([(0x101, vec![frame])]),
            refused: vec!["old.debug is not used as debug file: it is old".to_owned()],
        },
        end: End {
            at: Timestamp(10_000),
            reason: EndReason::Interrupted,
            detach: Nanos(35_000_000),
        },
    }
}

/// A whole file as the writer makes it: three samples, one record that nobody understands, and the rest.
fn file() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("capture.holdup");
    let mut writer = Writer::create(&path, &meta()).expect("made");
    for tid in 1..=3 {
        writer.record(sample(tid).as_bytes()).expect("written");
    }
    writer.record(&[0xff; 20]).expect("written");
    writer.finish(&rest()).expect("finished");
    std::fs::read(&path).expect("read back")
}

fn parsed(bytes: &[u8]) -> Result<Capture, FormatError> {
    parse(bytes, bytes.len() as u64)
}

/// Everything that was written is there again, and what was still under way is an event.
#[test]
fn a_capture_survives_the_way_through_a_file() {
    let capture = parsed(&file()).expect("a capture");
    assert_eq!(capture.meta, rest().meta);
    assert_eq!(capture.probes, rest().probes);
    assert_eq!(capture.poll_sites, rest().poll_sites);
    assert_eq!(capture.return_sites, rest().return_sites);
    assert_eq!(capture.symbols, rest().symbols);
    assert_eq!(capture.end, rest().end);
    assert_eq!(capture.stuck, rest().stuck);
    assert_eq!(capture.runtime_threads, rest().runtime_threads);
    assert_eq!(capture.cut, None);
    assert_eq!(capture.counters.get(wire::COUNTER_POLLS), 11);
    assert_eq!(
        capture.stacks[&StackId(9)],
        raw_stack(WalkOutcome::Complete, &[0x101, 0x202])
    );
    assert_eq!(
        capture.stacks[&StackId(10)],
        raw_stack(WalkOutcome::NoCfi, &[])
    );
    assert_eq!(capture.lock_waits.len(), 1);
    assert_eq!(capture.lock_waits[0].total, Nanos(600));
    assert_eq!(
        capture.undecoded,
        BTreeMap::from([
            ("unknown kind 4294967295".to_owned(), 1),
            ("unknown lock operation 0".to_owned(), 1),
        ])
    );
    let [
        Event::CpuSample(first),
        Event::CpuSample(_),
        Event::CpuSample(_),
        Event::LongPoll(poll),
    ] = capture.events.as_slice()
    else {
        panic!("{:?}", capture.events);
    };
    assert_eq!(first.tid, Tid(1));
    assert_eq!(poll.end, Timestamp(10_000));
}

/// A poll, its interval and a wait that are under way at the end, in the thread's record and, because they ended
/// while the probes were taken off, in the ring buffer too: each counts once, as the record has it.
#[test]
fn what_is_under_way_counts_once() {
    const END: u64 = 10_000;
    let header = |kind, at_ns| wire::EventHeader {
        kind,
        tid: 5,
        at_ns,
    };
    let poll = wire::LongPoll {
        header: header(wire::EVENT_LONG_POLL, END),
        start_ns: 2_000,
        return_addr: 0x77,
        sleep_ns: 70_000,
        flags: wire::POLL_STILL_RUNNING,
        ..wire::LongPoll::new_zeroed()
    };
    let interval = |start_ns, at_ns| wire::OffCpu {
        header: header(wire::EVENT_OFF_CPU, at_ns),
        poll_start_ns: 2_000,
        start_ns,
        runnable_ns: 0,
        stack: 0,
        cause: wire::CAUSE_PREEMPTED,
        zero: 0,
    };
    let wait = wire::LockWait {
        header: header(wire::EVENT_LOCK_WAIT, END),
        start_ns: 3_000,
        lock: 0xabc,
        operation: wire::LOCK_MUTEX,
        outcome: wire::OUTCOME_STILL_WAITING,
        ..wire::LockWait::new_zeroed()
    };
    let captured = |records: &[&[u8]], threads: Vec<wire::Thread>, attached| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("capture.holdup");
        let mut writer = Writer::create(&path, &meta()).expect("made");
        for record in records {
            writer.record(record).expect("written");
        }
        let mut rest = Rest { threads, ..rest() };
        rest.return_sites[0].attached = Some(Timestamp(attached));
        writer.finish(&rest).expect("finished");
        read(&path).expect("a capture")
    };
    let mut thread = rest().threads[0];
    thread.polls[0].sleep_ns = 500;
    thread.off_cpu_start_ns = 9_000;
    let mut waiting = wire::Thread::new_zeroed();
    waiting.tid = 5;
    waiting.lock_depth = 1;
    waiting.locks[0].start_ns = 3_000;
    waiting.locks[0].lock = 0xabc;
    waiting.locks[0].operation = wire::LOCK_MUTEX;

    // An interval that ended before, the one under way, and one behind the end.
    let intervals = [
        interval(4_000, 4_500),
        interval(9_000, 20_000),
        interval(30_000, 80_000),
    ];
    let mut records: Vec<&[u8]> = intervals
        .iter()
        .map(zerocopy::IntoBytes::as_bytes)
        .collect();
    records.extend([poll.as_bytes(), wait.as_bytes()]);
    let both = captured(&records, vec![thread, waiting], 900);
    let record_alone = captured(&records[..1], vec![thread, waiting], 900);
    assert_eq!(both.events, record_alone.events);
    assert_eq!(both.events.len(), 4);
    let joined = crate::correlate::join(&both.events);
    assert_eq!(joined.polls.len(), 1);
    assert_eq!(joined.polls[0].sleep, Nanos(1_500));
    assert!(!joined.polls[0].inconsistent);

    // Without a record the ring buffer's version counts ...
    assert_eq!(captured(&records, vec![], 900).events.len(), 5);
    // ... and where a record alone leaves it open whether the poll had ended.
    let late = captured(&records, vec![thread], 2_500);
    assert_eq!((late.events.len(), late.unwatched_at_end), (5, 0));
    assert_eq!(captured(&[], vec![thread], 2_500).unwatched_at_end, 1);
}

/// Cut anywhere, a file gives what stood before the cut and says that it was cut; before the meta data
/// is whole there is nothing to give.
#[test]
fn cut_at_every_byte() {
    let file = file();
    let mut events_before = 0;
    let mut usable = 0;
    for length in 0..file.len() {
        match parsed(&file[..length]) {
            Ok(capture) => {
                usable += 1;
                assert_eq!(capture.end.reason, EndReason::Truncated);
                assert!(capture.cut.is_some());
                assert!(
                    capture.events.len() >= events_before,
                    "cut at {length}: {} events",
                    capture.events.len()
                );
                events_before = capture.events.len();
            }
            Err(FormatError::NotACapture) => assert!(length < section::FILE_HEADER),
            Err(FormatError::Unusable { .. }) => assert_eq!(usable, 0),
            Err(other) => panic!("cut at {length}: {other}"),
        }
    }
    assert!(usable > file.len() / 2);
    // The poll under way at the end is none when nobody knows when the end was.
    assert_eq!(events_before, 3);
    // The file can also shrink between the question for its length and the reading.
    assert!(parse(&file[..file.len() / 2], file.len() as u64).is_ok());
}

/// A flipped byte is met by the checksum: never a panic, never a whole capture with wrong contents.
#[test]
fn flipped_at_every_byte() {
    let file = file();
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0xff;
        match parsed(&damaged) {
            Ok(capture) => assert_eq!(capture.end.reason, EndReason::Truncated, "byte {at}"),
            Err(
                FormatError::NotACapture | FormatError::Newer { .. } | FormatError::Unusable { .. },
            ) => {}
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
}

/// Sections whose checksum is right, but whose contents lie about lengths.
#[test]
fn contents_that_lie() {
    let start = {
        let file = file();
        let meta = section::FILE_HEADER + 4;
        let length = u32::from_le_bytes(file[meta..meta + 4].try_into().expect("four bytes"));
        file[..section::FILE_HEADER + section::SECTION_HEADER + length as usize].to_vec()
    };
    let with = |kind: u32, payload: &[u8]| {
        let mut bytes = start.clone();
        bytes.extend(kind.to_le_bytes());
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(section::checksum(kind, payload).to_le_bytes());
        bytes.extend(payload);
        parsed(&bytes).expect("the meta data is whole")
    };
    let huge = u64::MAX.to_le_bytes();
    for (kind, payload) in [
        (section::RECORDS, &huge[..]),
        (section::RECORDS, &[1, 0, 0]),
        (section::STACKS, &[huge, huge].concat()),
        (section::STACKS, &huge[..]),
        (section::STACKS, &[0; 7]),
        (section::LOCK_WAITS, &[0; 33]),
        (section::THREADS, &[0; 1]),
        (section::COUNTERS, &[0; 9]),
        (section::SYMBOLS, b"{\"frames\": 3}"),
        (section::END, b"[[[["),
        (section::META, b""),
    ] {
        let capture = with(kind, payload);
        let cut = capture.cut.expect("damage is noticed");
        assert_eq!(
            cut.offset,
            start.len() as u64,
            "section {kind}: {}",
            cut.why
        );
    }
    let capture = with(77, b"from the future");
    assert_eq!(
        capture.undecoded,
        BTreeMap::from([("unknown section 77".to_owned(), 1)])
    );
}

/// Checksums are right, but the times are not of this world: an error, and no sums of them.
#[test]
fn times_that_can_not_be() {
    let result = |change: &dyn Fn(&mut Rest), records: &[wire::LongPoll]| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("capture.holdup");
        let mut writer = Writer::create(&path, &meta()).expect("made");
        for record in records {
            writer.record(record.as_bytes()).expect("written");
        }
        let mut rest = rest();
        change(&mut rest);
        writer.finish(&rest).expect("finished");
        read(&path).map(|_| ())
    };
    let poll = |start_ns, at_ns| wire::LongPoll {
        header: wire::EventHeader {
            kind: wire::EVENT_LONG_POLL,
            tid: 1,
            at_ns,
        },
        start_ns,
        ..wire::LongPoll::new_zeroed()
    };
    assert!(result(&|_| {}, &[poll(2_000, 9_000)]).is_ok());
    const HOUR: u64 = 3_600_000_000_000;
    let long = |rest: &mut Rest| rest.end.at = Timestamp(1 << 52);
    assert!(result(&long, &[poll(1_000, 1 << 52)]).is_ok());
    let changes: [&dyn Fn(&mut Rest); 7] = [
        &|rest| rest.end.at = Timestamp(999),
        &|rest| rest.end.at = Timestamp(u64::MAX),
        &|rest| rest.end.detach = Nanos(u64::MAX),
        &|rest| rest.meta.attach = Nanos(u64::MAX),
        &|rest| rest.lock_waits[0].1.total_ns = u64::MAX,
        &|rest| rest.lock_waits[0].1.max_ns = 1 << 54,
        &|rest| rest.meta.start = Timestamp(u64::MAX),
    ];
    let impossible = |result| {
        matches!(
            result,
            Err(CaptureError::Format {
                source: FormatError::Impossible { .. },
                ..
            })
        )
    };
    for (n, change) in changes.iter().enumerate() {
        assert!(impossible(result(change, &[])), "change {n}");
    }
    assert!(impossible(result(&|_| {}, &[poll(2_000, 2 * HOUR)])));
    let three = [1_000, 1_001, 1_002].map(|start| poll(start, 1 << 52));
    assert!(impossible(result(&long, &three)));
}

/// Other files, and captures of other versions, are told apart.
#[test]
fn files_that_are_not_for_this_version() {
    assert!(matches!(parsed(b""), Err(FormatError::NotACapture)));
    assert!(matches!(
        parsed(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"),
        Err(FormatError::NotACapture)
    ));
    let mut newer = file();
    newer[section::MAGIC.len()] = 2;
    assert!(matches!(
        parsed(&newer),
        Err(FormatError::Newer {
            what: "file version",
            found: 2,
            known: 1
        })
    ));
    assert!(matches!(
        parse(&file()[..], section::MOST_FILE_BYTES + 1),
        Err(FormatError::TooLarge { .. })
    ));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("capture.holdup");
    let future = Meta {
        wire_version: wire::WIRE_VERSION + 1,
        ..meta()
    };
    drop(Writer::create(&path, &future).expect("made"));
    let error = read(&path).expect_err("a newer wire version");
    assert!(matches!(
        error,
        CaptureError::Format {
            source: FormatError::Newer {
                what: "wire version",
                ..
            },
            ..
        }
    ));
    assert!(matches!(
        read(folder.path()),
        Err(CaptureError::Format {
            source: FormatError::NotACapture,
            ..
        })
    ));
    assert!(matches!(
        read(&folder.path().join("nothing")),
        Err(CaptureError::Read { .. })
    ));
}

/// A recorder that is dropped in the middle leaves the records that it had.
#[test]
fn a_recording_that_was_given_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("capture.holdup");
    let mut writer = Writer::create(&path, &meta()).expect("made");
    writer.record(sample(1).as_bytes()).expect("written");
    drop(writer);
    let capture = read(&path).expect("a capture");
    assert_eq!(capture.events.len(), 1);
    assert_eq!(capture.end.reason, EndReason::Truncated);
    assert_eq!(capture.end.at, Timestamp(3_001));
    assert_eq!(
        capture.cut.map(|cut| cut.why).as_deref(),
        Some("the file ends before its end mark")
    );
}

/// A recorder that is killed has not said yet when it began, however long the machine is up.
#[test]
fn a_recording_without_its_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("capture.holdup");
    let unknown = Meta {
        start: Timestamp(0),
        ..meta()
    };
    const YEAR: u64 = 365 * 24 * 3_600_000_000_000;
    let mut writer = Writer::create(&path, &unknown).expect("made");
    for tid in [1, 2] {
        let mut sample = sample(tid);
        sample.header.at_ns += YEAR;
        writer.record(sample.as_bytes()).expect("written");
    }
    drop(writer);
    let capture = read(&path).expect("a capture");
    assert_eq!(capture.meta.start, Timestamp(YEAR + 3_001));
    assert_eq!(capture.end.at, Timestamp(YEAR + 3_002));
}

/// Stacks that come before the end are among the others; a recorder that is killed leaves some without names, which are none.
#[test]
fn stacks_that_come_early() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("capture.holdup");
    let early = BTreeMap::from([(11, raw_stack(WalkOutcome::Complete, &[0x101, 0x303]))]);
    let started = || {
        let mut writer = Writer::create(&path, &meta()).expect("made");
        writer.stacks(early.iter()).expect("written");
        writer
    };
    started().finish(&rest()).expect("written");
    let whole = read(&path).expect("a capture");
    let keys: Vec<u64> = whole.stacks.keys().map(|key| key.0).collect();
    assert_eq!(keys, [9, 10, 11]);
    assert_eq!(whole.stacks[&StackId(11)], early[&11]);

    let mut writer = started();
    writer.record(sample(1).as_bytes()).expect("written");
    drop(writer);
    let cut = read(&path).expect("a capture");
    assert_eq!(cut.end.reason, EndReason::Truncated);
    assert_eq!((cut.events.len(), cut.stacks.len()), (1, 0));
}

/// A folder that can't be written to is an error that names it.
#[test]
fn a_file_that_can_not_be_made() {
    let error = Writer::create(Path::new("/nowhere/at/all"), &meta())
        .err()
        .expect("no such folder");
    assert!(error.to_string().contains("/nowhere/at/all"));
}
