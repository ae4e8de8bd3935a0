//! Polls that do a bit of everything, each bit measured: computing, a sleep, a slow read, a wait for another thread, a wait
//! for a lock. Each is several milliseconds long, so that a poll can be taken apart and held against this.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::handshake::{Suite, derive_session_key};
use crate::locks::{Named, lock};
use crate::pace::{self, stopping};
use crate::truth;

/// Nobody but the clerk below and the task waits for it.
static LEDGER: Named<parking_lot::Mutex<u64>> = Named {
    name: "day_ledger",
    lock: parking_lot::Mutex::new(0),
};

pub fn lines() -> [Value; 1] {
    [LEDGER.line()]
}

/// Called when a thread starts, so that its first poll doesn't pay for the file.
pub fn register_thread() {
    SCHEDSTAT.with(|_| {});
}

/// One poll after the other, each with all parts.
pub async fn close_day(mut rng: fastrand::Rng) {
    let disk = Disk::start();
    while !stopping() {
        close_one_day(&disk, &mut rng);
        tokio::time::sleep(pace::millis(&mut rng, 20.0..60.0)).await;
    }
}

/// Has the ledger most of the time.
pub fn keep_ledger(mut rng: fastrand::Rng) {
    while !stopping() {
        {
            let mut ledger = lock!(LEDGER);
            *ledger += 1;
            thread::sleep(pace::millis(&mut rng, 4.0..9.0));
        }
        // Long enough for the task to have it in between.
        thread::sleep(pace::millis(&mut rng, 1.0..2.0));
    }
}

fn close_one_day(disk: &Disk, rng: &mut fastrand::Rng) {
    let mut part = || pace::millis(rng, 3.0..9.0);
    let began = Moment::now();
    let pinned = Pinned::here();
    derive_session_key(Suite::Sha2, part());
    let mut others_ns = asleep("timer", || wait_for_counter(part()));
    others_ns += asleep("io", || disk.read_slowly(part()));
    derive_session_key(Suite::Blake3, part());
    let helper = start_helper(part());
    others_ns += asleep("futex", || join(helper));
    let waited = wait_for_ledger();
    derive_session_key(Suite::AesGcm, part());
    drop(pinned);
    let used = Moment::now().since(&began);
    // All of a wait for a lock is that wait, also when its thread waits for a CPU.
    let run_delay_ns = used.run_delay_ns - waited.run_delay_ns;
    truth::amount("run_queue", run_delay_ns);
    // Not by the thread's CPU clock: what a hypervisor takes of it is not in there, but was no wait for a CPU either.
    others_ns += waited.ns + run_delay_ns;
    truth::amount("on_cpu", used.ns.saturating_sub(others_ns));
}

/// Notes for how long something neither ran nor waited for a CPU. It does little but sleep, so that a hypervisor seldom takes the
/// CPU from it.
fn asleep(part: &'static str, body: impl FnOnce()) -> u64 {
    let began = Moment::now();
    body();
    let used = Moment::now().since(&began);
    let asleep_ns = used.ns.saturating_sub(used.cpu_ns + used.run_delay_ns);
    truth::amount(part, asleep_ns);
    asleep_ns
}

fn wait_for_ledger() -> Moment {
    let began = Moment::now();
    *lock!(LEDGER) += 1;
    let waited = Moment::now().since(&began);
    truth::amount("lock_wait", waited.ns);
    waited
}

#[inline(never)]
fn wait_for_counter(duration: Duration) {
    thread::sleep(duration);
}

fn start_helper(duration: Duration) -> JoinHandle<()> {
    thread::spawn(move || thread::sleep(duration))
}

#[inline(never)]
fn join(helper: JoinHandle<()>) {
    // std's `join` waits for a futex that belongs to no lock.
    let _ = helper.join();
}

/// A file that answers late: a pipe with somebody slow at its other end.
struct Disk {
    wanted: mpsc::Sender<Duration>,
    reader: PipeReader,
}

impl Disk {
    fn start() -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        let (wanted, asked) = mpsc::channel();
        thread::Builder::new()
            .name("slow-disk".to_owned())
            .spawn(move || answer(&asked, writer))
            .expect("a thread can be started");
        Self { wanted, reader }
    }

    #[inline(never)]
    fn read_slowly(&self, duration: Duration) {
        let mut byte = [0];
        let asked = self.wanted.send(duration).is_ok();
        assert!(
            asked && (&self.reader).read_exact(&mut byte).is_ok(),
            "the disk is there"
        );
    }
}

fn answer(asked: &mpsc::Receiver<Duration>, mut writer: PipeWriter) {
    for duration in asked {
        thread::sleep(duration);
        let _ = writer.write_all(&[1]);
    }
}

/// A reading of the clock, and how long the running thread had run and had waited on run queues by then; or what passed between
/// two.
#[derive(Clone, Copy)]
struct Moment {
    ns: u64,
    cpu_ns: u64,
    run_delay_ns: u64,
}

impl Moment {
    /// All of the same moment: read again where the thread lost its CPU in between.
    fn now() -> Self {
        let mut before = Schedstat::now();
        loop {
            let cpu = clock_gettime(ClockId::ThreadCPUTime);
            let ns = truth::now();
            let after = Schedstat::now();
            if after == before {
                return Self {
                    ns,
                    cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
                    run_delay_ns: after.run_delay_ns,
                };
            }
            before = after;
        }
    }

    fn since(self, earlier: &Self) -> Self {
        Self {
            ns: self.ns - earlier.ns,
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            run_delay_ns: self.run_delay_ns - earlier.run_delay_ns,
        }
    }
}

/// What the kernel itself says of the running thread: Documentation/scheduler/sched-stats.rst.
#[derive(Clone, Copy, PartialEq)]
struct Schedstat {
    /// Time spent waiting on a run queue.
    run_delay_ns: u64,
    /// How many times it got a CPU.
    timeslices: u64,
}

thread_local! {
    static SCHEDSTAT: File = File::open("/proc/thread-self/schedstat").expect("the kernel keeps it");
}

impl Schedstat {
    fn now() -> Self {
        let mut bytes = [0; 80];
        let read = SCHEDSTAT.with(|file| file.read_at(&mut bytes, 0));
        let text = str::from_utf8(&bytes[..read.unwrap_or(0)]).unwrap_or("");
        let mut numbers = text.split_whitespace().skip(1).map(|n| n.parse().ok());
        let mut next = || numbers.next().flatten().expect("the kernel keeps it");
        Self {
            run_delay_ns: next(),
            timeslices: next(),
        }
    }
}

/// The running thread stays on the CPU that it is on. A sleeper that the kernel takes along to another CPU is, since 6.12,
/// counted as waiting for a CPU until it wakes (it is on the run queue still: "delayed dequeue"), which is not true.
struct Pinned {
    before: Option<CpuSet>,
}

impl Pinned {
    fn here() -> Self {
        let before = sched_getaffinity(None).ok();
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).expect("a CPU that it runs on");
        Self { before }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = sched_setaffinity(None, before);
        }
    }
}
