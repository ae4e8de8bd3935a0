//! Recordings made by hand: every number in them is written here, and every number in the report follows.
//!
//! ```text
//!   ms      thread 101                              thread 102                          thread 103
//!   100     poll of 42: crypto, preempted for 4
//!   200                                             poll of 21: lock wait of 20         holds that lock
//!   300     poll of 30: sleep, its end unseen
//!   400                                             poll of 6, then handed off
//!   500     poll of 6: 5 in the run queue
//!   600     poll of 3, not long
//!   1980                                                                                waits for a lock ...
//!   1990                                            poll ...
//!   2000    ------------------------------------ the end ------------------------------------
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use holdup::capture::{
    Delays, End, EndReason, Meta, MissingProbe, PollSite, ProbeFamily, Rest, ReturnSite,
    UnwindTables, Writer,
};
use holdup::event::{
    CodeAddr, LockAddr, LockOperation, Nanos, Pid, RawStack, SiteClass, SpawnPath, StackId, Tid,
    Timestamp, WalkOutcome,
};
use holdup::histogram::Histogram;
use holdup::stuck::{StuckWait, Waited};
use holdup::symbolize::{Frame, SymbolTable};
use holdup_probe_ebpf::wire::{self, unwind::*};
use zerocopy::{FromZeros as _, Immutable, IntoBytes};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// The recording's start.
const START: u64 = 1_000 * MS;

/// Microseconds from the recording's start, as the kernel side says it.
fn at_us(us: u64) -> u64 {
    START + us * US
}

/// Milliseconds from the recording's start.
fn at(ms: u64) -> u64 {
    START + ms * MS
}

// Stacks.
const ARGON2: u64 = 1;
const ENCODE: u64 = 2;
const UPDATE: u64 = 3;
const UPDATE_ELSEWHERE: u64 = 4;
const REBUILD: u64 = 5;
const SLEEP: u64 = 6;
const ROUTES: u64 = 7;

/// How the handshake's tasks are made.
fn handshake_spawns() -> Vec<SpawnPath> {
    vec![
        SpawnPath(vec![0x6000, 0x6101]),
        SpawnPath(vec![0x6000, 0x6201]),
    ]
}

/// Where the scheduler's call of a poll returns to.
const RETURN: u64 = 0x9001;
const MUTEX: u64 = 0x7f00_0000_1000;
const RW_LOCK: u64 = 0x7f00_0000_2000;
const OTHER_MUTEX: u64 = 0x7f00_0000_3000;
const CONDVAR: u64 = 0x7f00_0000_4000;

fn stacks() -> BTreeMap<u64, RawStack> {
    let worker = [0x8001, RETURN, 0x9101, 0x9201];
    let in_poll = |frames: &[u64]| [frames, &worker].concat();
    let stacks = [
        (ARGON2, in_poll(&[0x1000, 0x1101, 0x1201])),
        (ENCODE, in_poll(&[0x1300, 0x1201])),
        (UPDATE, in_poll(&[0x2000, 0x2101, 0x4301])),
        (UPDATE_ELSEWHERE, in_poll(&[0x2000, 0x2201, 0x4301])),
        // A thread of its own, and a walk that did not reach its start.
        (REBUILD, vec![0x3000, 0x3101]),
        (SLEEP, in_poll(&[0x4000, 0x4101, 0x4201, 0x4301])),
        (ROUTES, vec![0x5000, 0x5101, 0x9101, 0x9201]),
    ];
    let raw = |(key, addresses)| {
        let outcome = match key {
            REBUILD => WalkOutcome::NoTable,
            _ => WalkOutcome::Complete,
        };
        (key, RawStack { outcome, addresses })
    };
    stacks.map(raw).into()
}

fn frame(function: &str, file: &str, line: u32, module: &str) -> Frame {
    Frame {
        function: function.to_owned(),
        generics: None,
        file: (!file.is_empty()).then(|| file.to_owned()),
        line: (!file.is_empty()).then_some(line),
        module: module.to_owned(),
        inlined: false,
        unresolved: None,
    }
}

/// Names for the lookup addresses: an instruction pointer itself, a return address less one.
fn symbols() -> SymbolTable {
    let registry = |package: &str| format!("/home/u/.cargo/registry/src/mirror-1/{package}");
    let code = |function, file: &str, line| vec![frame(function, file, line, "server")];
    let c_library = |function| vec![frame(function, "", 0, "libc.so.6")];
    let inlined_drop = Frame {
        inlined: true,
        ..frame(
            "<lock_api::mutex::MutexGuard<R,T> as core::ops::drop::Drop>::drop",
            &registry("lock_api-0.4.12/src/mutex.rs"),
            743,
            "server",
        )
    };
    let inlined_lock = Frame {
        inlined: true,
        generics: Some("parking_lot::raw_mutex::RawMutex, app::state::Shared".to_owned()),
        ..frame(
            "lock_api::mutex::Mutex<R,T>::lock",
            &registry("lock_api-0.4.12/src/mutex.rs"),
            223,
            "server",
        )
    };
    let frames = [
        (
            0x6000,
            code(
                "tokio::task::spawn::spawn",
                &registry("tokio-1.49.0/src/task/spawn.rs"),
                170,
            ),
        ),
        (
            0x6100,
            code("app::accept::{{closure}}", "/home/u/app/src/main.rs", 88),
        ),
        (
            0x6200,
            code("app::renew", "/home/u/app/src/handshake.rs", 75),
        ),
        (
            0x1000,
            code(
                "argon2::Argon2::fill_blocks",
                &registry("argon2-0.5.3/src/lib.rs"),
                300,
            ),
        ),
        (
            0x1100,
            code(
                "app::handshake::derive_session_key",
                "/home/u/app/src/handshake.rs",
                41,
            ),
        ),
        (
            0x1200,
            code(
                "app::handshake::serve::{{closure}}",
                "/home/u/app/src/handshake.rs",
                20,
            ),
        ),
        (
            0x1300,
            code("app::handshake::encode", "/home/u/app/src/handshake.rs", 60),
        ),
        (
            0x2000,
            code(
                "parking_lot::raw_mutex::RawMutex::lock_slow",
                &registry("parking_lot-0.12.5/src/raw_mutex.rs"),
                215,
            ),
        ),
        (
            0x2100,
            vec![
                inlined_lock,
                frame(
                    "app::state::update",
                    "/home/u/app/src/state.rs",
                    88,
                    "server",
                ),
            ],
        ),
        (
            0x2200,
            code("app::state::update", "/home/u/app/src/state.rs", 95),
        ),
        (
            0x3000,
            code(
                "parking_lot::raw_mutex::RawMutex::unlock_slow",
                &registry("parking_lot-0.12.5/src/raw_mutex.rs"),
                290,
            ),
        ),
        (
            0x3100,
            vec![
                inlined_drop,
                frame(
                    "app::state::rebuild",
                    "/home/u/app/src/state.rs",
                    120,
                    "server",
                ),
            ],
        ),
        (0x4000, c_library("__GI___clock_nanosleep")),
        (
            0x4100,
            code(
                "std::thread::sleep",
                "/rustc/59807616/library/std/src/thread/mod.rs",
                900,
            ),
        ),
        (0x4200, code("app::io::flush", "/home/u/app/src/io.rs", 7)),
        (
            0x4300,
            code(
                "app::main::{{closure}}::{{closure}}",
                "/home/u/app/src/main.rs",
                12,
            ),
        ),
        (
            0x5000,
            code(
                "parking_lot::raw_rwlock::RawRwLock::lock_shared_slow",
                &registry("parking_lot-0.12.5/src/raw_rwlock.rs"),
                700,
            ),
        ),
        (
            0x5100,
            code("app::routes::look_up", "/home/u/app/src/routes.rs", 30),
        ),
        (
            0x8000,
            code(
                "tokio::runtime::task::raw::poll",
                &registry("tokio-1.49.0/src/runtime/task/raw.rs"),
                275,
            ),
        ),
        (
            0x9000,
            code(
                "tokio::runtime::scheduler::multi_thread::worker::Context::run_task",
                &registry("tokio-1.49.0/src/runtime/scheduler/multi_thread/worker.rs"),
                650,
            ),
        ),
        (
            0x9100,
            code(
                "std::sys::thread::unix::Thread::new::thread_start",
                "/rustc/59807616/library/std/src/sys/thread/unix.rs",
                100,
            ),
        ),
        (0x9200, c_library("start_thread")),
    ];
    SymbolTable {
        frames: BTreeMap::from(frames),
        refused: Vec::new(),
    }
}

fn meta() -> Meta {
    Meta {
        holdup_version: "0.1.0".to_owned(),
        wire_version: wire::WIRE_VERSION,
        pid: Pid(4242),
        process_name: "server".to_owned(),
        executable: "/srv/server".to_owned(),
        build_id: Some("1f2e3d".to_owned()),
        host: "node-3".to_owned(),
        kernel: "6.18.0".to_owned(),
        architecture: "x86_64".to_owned(),
        started_unix_ns: 1_700_000_000_000_000_000,
        start: Timestamp(START),
        attach: Nanos(20 * MS),
        threshold: Nanos(5 * MS),
        sample_after: Nanos(1_250 * US),
        frequency_hz: 997,
        grid_ticks: 10,
        one_task_of: 1,
        has_task_ids: true,
        unwind_tables: UnwindTables::default(),
    }
}

fn header(kind: u32, tid: u32, at_ns: u64) -> wire::EventHeader {
    wire::EventHeader { kind, tid, at_ns }
}

/// All but one of some polls take 20 µs, and that one the longest.
fn durations(polls: u64, longest_ms: u64) -> Histogram {
    let mut buckets = [0; wire::DURATION_BUCKETS];
    let bucket = |ns: u64| wire::duration_bucket(ns, ns.ilog2());
    if polls > 0 {
        buckets[bucket(20 * US)] += polls - 1;
        buckets[bucket(longest_ms * MS)] += 1;
    }
    Histogram::new(&buckets)
}

/// The number of the system call on x86-64.
const CLOCK_NANOSLEEP: u32 = 230;

/// Records of the ring buffer, in its order.
#[derive(Default)]
struct Records(Vec<Vec<u8>>);

impl Records {
    fn push(&mut self, record: &(impl IntoBytes + Immutable)) {
        self.0.push(record.as_bytes().to_vec());
    }

    fn thread(&mut self, tid: u32, name: &str) {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        self.push(&wire::ThreadSeen {
            header: header(wire::EVENT_THREAD_SEEN, tid, at(1)),
            comm,
        });
    }

    fn sample(&mut self, tid: u32, poll_start_ns: u64, at_ns: u64, stack: u64) {
        self.push(&wire::CpuSample {
            header: header(wire::EVENT_CPU_SAMPLE, tid, at_ns),
            poll_start_ns,
            stack,
            class: wire::CLASS_SCHEDULER,
            site: 0,
            flags: 0,
            zero: 0,
        });
    }

    fn off_cpu(
        &mut self,
        tid: u32,
        poll_start_ns: u64,
        us: (u64, u64),
        runnable_us: u64,
        stack: u64,
    ) {
        self.push(&wire::OffCpu {
            header: header(wire::EVENT_OFF_CPU, tid, at_us(us.1)),
            poll_start_ns,
            start_ns: at_us(us.0),
            runnable_ns: runnable_us * US,
            stack,
            cause: CLOCK_NANOSLEEP,
            zero: 0,
        });
    }

    fn long_poll(&mut self, tid: u32, start_ns: u64, ns: u64, poll: wire::LongPoll) {
        self.push(&wire::LongPoll {
            header: header(wire::EVENT_LONG_POLL, tid, start_ns + ns),
            start_ns,
            return_addr: RETURN,
            ..poll
        });
    }
}

fn records() -> Records {
    let mut records = Records::default();
    for tid in [101, 102] {
        records.thread(tid, "tokio-runtime-w");
    }
    records.thread(103, "rebuild");
    let nothing = wire::LongPoll::new_zeroed();

    let start = at(100);
    records.sample(101, start, at(102), ARGON2);
    records.off_cpu(101, start, (105_000, 109_000), 4_000, ARGON2);
    records.sample(101, start, at(120), ENCODE);
    records.sample(101, start, at(130), ARGON2);
    records.long_poll(
        101,
        start,
        42 * MS,
        wire::LongPoll {
            task: 0xa0,
            run_queue_ns: 4 * MS,
            // Before the sampling age: there is no event of it.
            sleep_ns: MS,
            stolen_ns: 3 * MS,
            site: 0,
            ..nothing
        },
    );

    let start = at(200);
    records.push(&wire::LockWait {
        header: header(wire::EVENT_LOCK_WAIT, 102, at_us(220_500)),
        start_ns: at_us(200_500),
        lock: MUTEX,
        poll_start_ns: start,
        waiter_stack: UPDATE,
        handover_ns: 500 * US,
        releases: 1,
        operation: wire::LOCK_MUTEX,
        outcome: wire::OUTCOME_ACQUIRED,
        holders: held_by(103, REBUILD, 19_500),
        ..wire::LockWait::new_zeroed()
    });
    records.push(&wire::Hold {
        header: header(wire::EVENT_HOLD, 103, at(220)),
        lock: MUTEX,
        at_least_ns: 19_400 * US,
        release_stack: REBUILD,
        operation: wire::LOCK_MUTEX,
        ..wire::Hold::new_zeroed()
    });
    records.long_poll(
        102,
        start,
        21 * MS,
        wire::LongPoll {
            task: 0xb0,
            lock_wait_ns: 20 * MS,
            site: 1,
            ..nothing
        },
    );

    let start = at(300);
    records.off_cpu(101, start, (300_100, 330_000), 100, SLEEP);
    records.long_poll(
        101,
        start,
        30 * MS,
        wire::LongPoll {
            task: 0xb8,
            run_queue_ns: 100 * US,
            sleep_ns: 29_800 * US,
            site: 1,
            flags: wire::POLL_END_UNSEEN,
            ..nothing
        },
    );

    let start = at(400);
    records.sample(102, start, at(403), ENCODE);
    // Behind the hand-off, before the poll returns.
    records.sample(102, start, at(410), ARGON2);
    records.long_poll(
        102,
        start,
        6 * MS,
        wire::LongPoll {
            task: 0xa8,
            site: 0,
            flags: wire::POLL_HANDED_OFF,
            ..nothing
        },
    );

    let start = at(500);
    records.off_cpu(101, start, (500_500, 505_500), 5_000, ENCODE);
    records.sample(101, start, at_us(505_800), 0);
    records.long_poll(
        101,
        start,
        6 * MS,
        wire::LongPoll {
            task: 0xb0,
            run_queue_ns: 5 * MS,
            site: 1,
            ..nothing
        },
    );

    records.sample(101, at(600), at(602), ARGON2);
    records.sample(102, at(1990), at(1995), ENCODE);
    // From a version to come.
    records.0.push(vec![0xee; 24]);
    records
}

/// One holder of a lock during a wait for it.
/// A thread that waits since before the recording for a lock that nobody is known to have.
fn stuck() -> StuckWait {
    StuckWait {
        tid: Tid(9),
        thread: "reporter".to_owned(),
        operation: LockOperation::Mutex,
        lock: Some(LockAddr(0x7f00_0000_5000)),
        has_deadline: false,
        stack: StackId(UPDATE),
        waited: Nanos(25_000_000_000),
        waited_is: Waited::Estimate,
        found: Timestamp(START + MS),
        last_seen: Timestamp(START + 900 * MS),
        has_ended: false,
        holders: Vec::new(),
    }
}

fn held_by(tid: u32, stack: u64, us: u64) -> [wire::WaitHolder; wire::WAIT_HOLDERS] {
    let mut holders = <[wire::WaitHolder; wire::WAIT_HOLDERS]>::new_zeroed();
    holders[0] = wire::WaitHolder {
        stack,
        held_ns: us * US,
        tid,
        nth: 0,
    };
    holders
}

/// All but the last half millisecond of the wait is that of one holder.
fn pair() -> (wire::PairKey, wire::Totals) {
    (
        wire::PairKey {
            lock: MUTEX,
            waiter_stack: UPDATE,
            holder_stack: REBUILD,
            operation: wire::LOCK_MUTEX,
            zero: 0,
        },
        wire::Totals {
            count: 1,
            total_ns: 19_500 * US,
            max_ns: 19_500 * US,
        },
    )
}

fn hold() -> (wire::HoldKey, wire::Totals) {
    (
        wire::HoldKey {
            lock: MUTEX,
            acquire_stack: 0,
            release_stack: REBUILD,
            operation: wire::LOCK_MUTEX,
            flags: 0,
        },
        wire::Totals {
            count: 1,
            total_ns: 19_400 * US,
            max_ns: 19_400 * US,
        },
    )
}

fn lock_waits(
    (lock, operation, outcome): (u64, u32, u32),
    waiter_stack: u64,
    count: u64,
    each_us: u64,
) -> (wire::LockWaitKey, wire::LockWaitTotals) {
    let key = wire::LockWaitKey {
        lock,
        waiter_stack,
        operation,
        outcome,
    };
    let each_ns = each_us * US;
    let mut totals = wire::LockWaitTotals::new_zeroed();
    totals.count = count;
    totals.total_ns = count * each_ns;
    totals.max_ns = each_ns;
    if each_ns >= wire::LONG_WAIT_NS {
        totals.long_count = count;
        totals.long_total_ns = totals.total_ns;
    }
    totals.log2_histogram[each_ns.ilog2() as usize] = count;
    (key, totals)
}

/// A wait whose holder was seen.
fn joined(
    (key, totals): (wire::LockWaitKey, wire::LockWaitTotals),
) -> (wire::LockWaitKey, wire::LockWaitTotals) {
    let totals = wire::LockWaitTotals {
        joined_count: totals.count,
        handover_ns: 500 * US,
        ..totals
    };
    (key, totals)
}

fn poll_under_way() -> wire::Thread {
    let mut thread = wire::Thread::new_zeroed();
    thread.tid = 102;
    thread.poll_depth = 1;
    thread.active_poll = 1;
    thread.polls[0].start_ns = at(1990);
    thread.polls[0].task = 0xa8;
    thread.polls[0].return_addr = RETURN;
    thread.polls[0].class = wire::CLASS_SCHEDULER;
    thread
}

fn wait_under_way() -> wire::Thread {
    let mut thread = wire::Thread::new_zeroed();
    thread.tid = 103;
    thread.lock_depth = 1;
    thread.lock_waits = 1;
    thread.locks[0].start_ns = at(1980);
    thread.locks[0].lock = OTHER_MUTEX;
    thread.locks[0].waiter_stack = UPDATE;
    thread.locks[0].operation = wire::LOCK_MUTEX;
    thread
}

fn rest() -> Rest {
    let family = |name: &str, sites, missing| ProbeFamily {
        name: name.to_owned(),
        attached: sites,
        found: sites,
        missing,
    };
    let poll_site = |address, future: &str, polls, total_ms, max_ms| PollSite {
        address: CodeAddr(address),
        class: SiteClass::MultiThread,
        future: Some(future.to_owned()),
        polls,
        total: Nanos(total_ms * MS),
        max: Nanos(max_ms * MS),
        durations: durations(polls, max_ms),
        tasks: 3,
        delays: Delays::default(),
        spawn_paths: Vec::new(),
    };
    let mut counters = [0; wire::COUNTERS as usize];
    for (counter, value) in [
        (wire::COUNTER_POLLS, 1_000),
        (wire::COUNTER_LONG_POLLS, 5),
        (wire::COUNTER_LOCK_WAITS, 14),
        (wire::COUNTER_CONDVAR_WAITS, 100),
        (wire::COUNTER_LOST_SAMPLES, 2),
        (wire::COUNTER_POLL_END_UNSEEN, 1),
        (wire::COUNTER_FRAMES, 120),
        (wire::COUNTER_FRAMES_WITHOUT_CFI, 3),
        (wire::counter_walks(KIND_UPROBE, OUTCOME_COMPLETE), 9),
        (wire::counter_walks(KIND_UPROBE, OUTCOME_NO_TABLE), 4),
        (wire::counter_walks(KIND_SAMPLE, OUTCOME_COMPLETE), 12),
        (wire::counter_walks(KIND_OFF_CPU, OUTCOME_COMPLETE), 5),
        (wire::counter_walks(KIND_OFF_CPU, OUTCOME_READ_FAULT), 1),
        (wire::COUNTER_HANDOFFS, 1),
    ] {
        counters[counter as usize] = value;
    }
    let acquired = wire::OUTCOME_ACQUIRED;
    Rest {
        meta: meta(),
        probes: vec![
            family("polls", 2, vec![]),
            family("mutex", 2, vec![]),
            family(
                "rwlock",
                3,
                vec![MissingProbe {
                    what: "RawRwLock::upgrade_slow".to_owned(),
                    why: "this binary has no such function".to_owned(),
                }],
            ),
            family("cpu", 2, vec![]),
            family("scheduler", 2, vec![]),
        ],
        poll_sites: vec![
            PollSite {
                spawn_paths: handshake_spawns(),
                ..poll_site(
                    0x8000,
                    "app::handshake::serve::{async_fn_env#0}",
                    400,
                    60,
                    42,
                )
            },
            poll_site(
                0x8800,
                "app::main::{async_block#0}::{async_block_env#1}",
                600,
                70,
                21,
            ),
            poll_site(0x8900, "app::never::{async_fn_env#0}", 0, 0, 0),
        ],
        return_sites: vec![ReturnSite {
            return_addr: CodeAddr(RETURN),
            function: Some(
                "tokio::runtime::scheduler::multi_thread::worker::Context::run_task".to_owned(),
            ),
            class: SiteClass::MultiThread,
            attached: Some(Timestamp(START - MS)),
            why_not: None,
        }],
        lock_waits: vec![
            joined(lock_waits(
                (MUTEX, wire::LOCK_MUTEX, acquired),
                UPDATE,
                1,
                20_000,
            )),
            lock_waits(
                (MUTEX, wire::LOCK_MUTEX, acquired),
                UPDATE_ELSEWHERE,
                10,
                500,
            ),
            lock_waits((RW_LOCK, wire::LOCK_RW_SHARED, acquired), ROUTES, 2, 50),
            lock_waits(
                (RW_LOCK, wire::LOCK_RW_EXCLUSIVE, wire::OUTCOME_TIMED_OUT),
                0,
                1,
                400,
            ),
            lock_waits((CONDVAR, wire::LOCK_CONDVAR, acquired), 0, 100, 50_000),
        ],
        pairs: vec![pair()],
        holds: vec![hold()],
        stacks: stacks(),
        counters,
        threads: vec![poll_under_way(), wait_under_way()],
        stuck: vec![stuck()],
        runtime_threads: vec![],
        symbols: symbols(),
        end: End {
            at: Timestamp(at(2_000)),
            reason: EndReason::Duration,
            detach: Nanos(35 * MS),
        },
    }
}

fn written(write: impl FnOnce(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("capture.holdup");
    write(&path);
    std::fs::read(&path).expect("the capture is there")
}

fn begun(path: &Path, records: &Records) -> Writer {
    let mut writer = Writer::create(path, &meta()).expect("a file can be made");
    for record in &records.0 {
        writer.record(record).expect("a record can be written");
    }
    writer
}

/// The whole recording.
pub fn bytes() -> Vec<u8> {
    written(|path| {
        let writer = begun(path, &records());
        writer.finish(&rest()).expect("it can be completed");
    })
}

/// What is under way at the end ended while the probes were taken off: it is in the ring buffer as well.
pub fn ended_while_detaching() -> Vec<u8> {
    written(|path| {
        let mut records = records();
        records.push(&wire::LockWait {
            header: header(wire::EVENT_LOCK_WAIT, 103, at(2_000)),
            start_ns: at(1980),
            lock: OTHER_MUTEX,
            waiter_stack: UPDATE,
            releases: 1,
            holders: held_by(101, REBUILD, 1_000),
            operation: wire::LOCK_MUTEX,
            outcome: wire::OUTCOME_STILL_WAITING,
            ..wire::LockWait::new_zeroed()
        });
        records.long_poll(
            102,
            at(1990),
            10 * MS,
            wire::LongPoll {
                task: 0xa8,
                sleep_ns: 3 * MS,
                flags: wire::POLL_STILL_RUNNING,
                ..wire::LongPoll::new_zeroed()
            },
        );
        let writer = begun(path, &records);
        writer.finish(&rest()).expect("it can be completed");
    })
}

/// As a recorder leaves it that is killed at the end.
pub fn without_rest() -> Vec<u8> {
    written(|path| drop(begun(path, &records())))
}

/// Lock waits, but no long poll, and these counters.
pub fn without_polls(counters: &[(u32, u64)]) -> Vec<u8> {
    let mut rest = rest();
    rest.threads.clear();
    rest.stuck.clear();
    for (counter, value) in counters {
        rest.counters[*counter as usize] = *value;
    }
    written(|path| {
        let writer = begun(path, &Records::default());
        writer.finish(&rest).expect("it can be completed");
    })
}

/// A recording in which nothing is long.
pub fn quiet() -> Vec<u8> {
    quiet_with(|_| {})
}

/// The same, changed.
pub fn quiet_with(change: impl FnOnce(&mut Rest)) -> Vec<u8> {
    written(|path| {
        let mut records = Records::default();
        records.thread(101, "tokio-runtime-w");
        records.sample(101, at(600), at(602), ARGON2);
        let mut rest = Rest {
            threads: vec![],
            stuck: vec![],
            pairs: vec![],
            holds: vec![],
            lock_waits: vec![lock_waits(
                (MUTEX, wire::LOCK_MUTEX, wire::OUTCOME_ACQUIRED),
                UPDATE,
                2,
                40,
            )],
            ..rest()
        };
        rest.counters[wire::COUNTER_LOST_SAMPLES as usize] = 0;
        change(&mut rest);
        let writer = begun(path, &records);
        writer.finish(&rest).expect("it can be completed");
    })
}

/// Threads that polled, each a little less than the one before, and the first one once for long.
pub fn with_workers(tids: [u32; 3], change: impl FnOnce(&mut Rest)) -> Vec<u8> {
    written(|path| {
        let mut records = Records::default();
        for (n, tid) in (0..).zip(tids) {
            records.thread(tid, "tokio-rt-worker");
            let mut slice = wire::WorkerSlice::new_zeroed();
            slice.header = header(wire::EVENT_WORKER_SLICE, tid, at(900));
            slice.slice.start_ns = at(800);
            slice.slice.polls = 10;
            slice.slice.busy_ns = (50 - n) * MS;
            records.push(&slice);
        }
        let poll = wire::LongPoll {
            task: 0xa0,
            site: 1,
            ..wire::LongPoll::new_zeroed()
        };
        records.long_poll(tids[0], at(850), 20 * MS, poll);
        let mut rest = rest();
        rest.threads.clear();
        rest.stuck.clear();
        change(&mut rest);
        let writer = begun(path, &records);
        writer.finish(&rest).expect("it can be completed");
    })
}
