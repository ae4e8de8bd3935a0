//! Polls that do a bit of everything, each bit measured: computing, a sleep, a slow read, a wait for another thread, a wait
//! for a lock. Each is several milliseconds long, so that a poll can be taken apart and held against this.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

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
    // The clock around the account: what happens in between is in both, or in the clock alone.
    let start_ns = truth::now();
    let began = Usage::now();
    derive_session_key(Suite::Sha2, part());
    let mut asleep_ns = asleep("timer", || wait_for_counter(part()));
    asleep_ns += asleep("io", || disk.read_slowly(part()));
    derive_session_key(Suite::Blake3, part());
    asleep_ns += asleep("futex", || join_helper(part()));
    let waited = wait_for_ledger();
    derive_session_key(Suite::AesGcm, part());
    let used = Usage::now().since(&began);
    let ns = truth::now() - start_ns;
    // All of a wait for a lock is that wait, also when its thread waits for a CPU.
    let run_delay_ns = used.run_delay_ns - waited.run_delay_ns;
    truth::amount("run_queue", run_delay_ns);
    // Not by the thread's CPU clock: what interrupts and a hypervisor take of it is not in there, but was no wait for a
    // CPU either.
    let others_ns = asleep_ns + waited.ns + run_delay_ns;
    truth::amount("on_cpu", ns.saturating_sub(others_ns));
}

/// Notes for how long something neither ran nor waited for a CPU.
fn asleep(part: &'static str, body: impl FnOnce()) -> u64 {
    let (began, start_ns) = (Usage::now(), truth::now());
    body();
    let ns = truth::now() - start_ns;
    let used = Usage::now().since(&began);
    let asleep_ns = ns.saturating_sub(used.cpu_ns + used.run_delay_ns);
    truth::amount(part, asleep_ns);
    asleep_ns
}

/// A wait for the ledger, and how much of it the thread waited for a CPU.
struct Waited {
    ns: u64,
    run_delay_ns: u64,
}

fn wait_for_ledger() -> Waited {
    let (began, start_ns) = (Usage::now(), truth::now());
    *lock!(LEDGER) += 1;
    let ns = truth::now() - start_ns;
    truth::amount("lock_wait", ns);
    Waited {
        ns,
        run_delay_ns: Usage::now().since(&began).run_delay_ns,
    }
}

#[inline(never)]
fn wait_for_counter(duration: Duration) {
    thread::sleep(duration);
}

#[inline(never)]
fn join_helper(duration: Duration) {
    // std's `join` waits for a futex that belongs to no lock.
    let _ = thread::spawn(move || thread::sleep(duration)).join();
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
        assert!(asked && (&self.reader).read_exact(&mut byte).is_ok(), "the disk is there");
    }
}

fn answer(asked: &mpsc::Receiver<Duration>, mut writer: PipeWriter) {
    for duration in asked {
        thread::sleep(duration);
        let _ = writer.write_all(&[1]);
    }
}

/// What the kernel itself says that the running thread used.
struct Usage {
    cpu_ns: u64,
    run_delay_ns: u64,
}

thread_local! {
    /// Time on the CPU, time spent waiting on a run queue, timeslices (Documentation/scheduler/sched-stats.rst).
    static SCHEDSTAT: File = File::open("/proc/thread-self/schedstat").expect("the kernel keeps it");
}

impl Usage {
    fn now() -> Self {
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        let mut bytes = [0; 80];
        let read = SCHEDSTAT.with(|file| file.read_at(&mut bytes, 0));
        let text = str::from_utf8(&bytes[..read.unwrap_or(0)]).unwrap_or("");
        let delay = text.split_whitespace().nth(1);
        Self {
            cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
            run_delay_ns: delay.and_then(|ns| ns.parse().ok()).unwrap_or(0),
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            run_delay_ns: self.run_delay_ns - earlier.run_delay_ns,
        }
    }
}
