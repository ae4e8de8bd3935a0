//! What really happened, by this program's own clock. What enters: polls, lock waits and other spans,
//! from the threads they happened on. What leaves: JSON lines, one for each.
//!
//! Recording must not disturb what it measures: each thread writes into memory of its own that was
//! reserved before, and nothing is written to the file until the end. README.md has the schema.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Shorter polls are only counted.
pub const POLL_FLOOR_NS: u64 = 100_000;
/// Shorter lock waits are only counted.
pub const WAIT_FLOOR_NS: u64 = 50_000;

/// CLOCK_MONOTONIC, which is bpf_ktime_get_ns.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[derive(Clone, Copy)]
struct Span {
    start_ns: u64,
    ns: u64,
}

#[derive(Clone, Copy)]
enum Event {
    Poll {
        name: &'static str,
        span: Span,
        end: PollEnd,
    },
    LockWait {
        lock: &'static str,
        op: &'static str,
        addr: usize,
        span: Span,
        acquired: bool,
    },
    CondvarWait {
        name: &'static str,
        addr: usize,
        span: Span,
    },
    NotBlocking {
        name: &'static str,
        span: Span,
    },
}

/// How the part of a poll that blocks its runtime came to an end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PollEnd {
    Returned,
    Panicked,
    /// `block_in_place` gave the worker to another thread; what follows blocks nobody.
    HandedOff {
        called_ns: u64,
    },
}

/// All spans of one name, the short ones too.
struct Total {
    kind: &'static str,
    name: &'static str,
    op: &'static str,
    count: u64,
    ns: u64,
}

/// One thread's memory.
struct Buffer {
    tid: i32,
    thread: String,
    events: Vec<Event>,
    totals: Vec<Total>,
    dropped: u64,
}

/// Events a thread has room for; set once, before the first thread starts.
static CAPACITY: AtomicUsize = AtomicUsize::new(0);
static BUFFERS: Mutex<Vec<Arc<Mutex<Buffer>>>> = Mutex::new(Vec::new());

thread_local! {
    static BUFFER: Arc<Mutex<Buffer>> = register();
    /// When this thread's present poll called `block_in_place`, and when its closure began.
    static HANDOFF: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// std's mutex, so that no parking_lot lock exists beside those the truth is about. Nobody waits for
/// it: until the end only its own thread takes it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for 2,000 events a second: ten times what any thread here produces. Memory that is not
/// written to is not used.
pub fn reserve(seconds: u64) {
    CAPACITY.store(
        (seconds as usize)
            .saturating_mul(2_000)
            .clamp(20_000, 2_000_000),
        Ordering::Relaxed,
    );
}

fn register() -> Arc<Mutex<Buffer>> {
    let buffer = Arc::new(Mutex::new(Buffer {
        tid: rustix::thread::gettid().as_raw_nonzero().get(),
        thread: std::thread::current().name().unwrap_or("").to_owned(),
        events: Vec::with_capacity(CAPACITY.load(Ordering::Relaxed)),
        totals: Vec::with_capacity(64),
        dropped: 0,
    }));
    lock(&BUFFERS).push(Arc::clone(&buffer));
    buffer
}

/// Called when a thread starts, so that its first poll doesn't pay for the memory.
pub fn register_thread() {
    BUFFER.with(|_| {});
}

fn record(total: (&'static str, &'static str, &'static str), ns: u64, event: Option<Event>) {
    BUFFER.with(|buffer| {
        let mut buffer = lock(buffer);
        let (kind, name, op) = total;
        let known = buffer
            .totals
            .iter_mut()
            .find(|t| t.kind == kind && t.name == name && t.op == op);
        match known {
            Some(known) => {
                known.count += 1;
                known.ns += ns;
            }
            None => buffer.totals.push(Total {
                kind,
                name,
                op,
                count: 1,
                ns,
            }),
        }
        let Some(event) = event else { return };
        if buffer.events.len() < buffer.events.capacity() {
            buffer.events.push(event);
        } else {
            buffer.dropped += 1;
        }
    });
}

/// A poll under way. Dropping it ends it, so that a panic ends it too.
pub struct Poll {
    name: &'static str,
    start_ns: u64,
    /// Of the poll that this one is nested in (a runtime inside `block_in_place`).
    outer_handoff: Option<(u64, u64)>,
}

impl Poll {
    pub fn begin(name: &'static str) -> Self {
        let outer_handoff = HANDOFF.replace(None);
        Self {
            name,
            outer_handoff,
            start_ns: now(),
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let end_ns = now();
        let handoff = HANDOFF.replace(self.outer_handoff);
        let (end_ns, end) = match handoff {
            Some((called_ns, began_ns)) => (began_ns, PollEnd::HandedOff { called_ns }),
            None if std::thread::panicking() => (end_ns, PollEnd::Panicked),
            None => (end_ns, PollEnd::Returned),
        };
        let span = Span {
            start_ns: self.start_ns,
            ns: end_ns - self.start_ns,
        };
        let event = Event::Poll {
            name: self.name,
            span,
            end,
        };
        record(
            ("polls", self.name, ""),
            span.ns,
            (span.ns >= POLL_FLOOR_NS).then_some(event),
        );
    }
}

/// Notes that `block_in_place`, called at `called_ns`, has handed the worker off and now runs its
/// closure. Only the first hand-off of a poll counts.
pub fn handed_off(called_ns: u64) {
    if HANDOFF.get().is_none() {
        HANDOFF.set(Some((called_ns, now())));
    }
}

/// A lock wait under way.
pub struct Wait {
    lock: &'static str,
    op: &'static str,
    addr: usize,
    start_ns: u64,
}

impl Wait {
    #[inline(always)]
    pub fn begin(lock: &'static str, op: &'static str, addr: usize) -> Self {
        Self {
            lock,
            op,
            addr,
            start_ns: now(),
        }
    }

    #[inline(always)]
    pub fn end(self, acquired: bool) {
        let span = Span {
            start_ns: self.start_ns,
            ns: now() - self.start_ns,
        };
        let event = Event::LockWait {
            lock: self.lock,
            op: self.op,
            addr: self.addr,
            span,
            acquired,
        };
        record(
            ("lock_waits", self.lock, self.op),
            span.ns,
            (span.ns >= WAIT_FLOOR_NS).then_some(event),
        );
    }
}

/// Waiting for a condition: never contention.
pub fn condvar_wait(name: &'static str, addr: usize, start_ns: u64) {
    let span = Span {
        start_ns,
        ns: now() - start_ns,
    };
    record(
        ("condvar_waits", name, ""),
        span.ns,
        Some(Event::CondvarWait { name, addr, span }),
    );
}

/// Time that blocks no runtime: a blocking-pool task, the inside of `block_in_place`.
pub fn not_blocking(name: &'static str, start_ns: u64) {
    let span = Span {
        start_ns,
        ns: now() - start_ns,
    };
    record(
        ("not_blocking", name, ""),
        span.ns,
        Some(Event::NotBlocking { name, span }),
    );
}

/// The file, of which `meta` and the locks are written at once and everything else at the end.
pub struct TruthFile(BufWriter<File>);

impl TruthFile {
    pub fn create(path: &Path, meta: &Value, locks: &[Value]) -> std::io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{meta}")?;
        for lock in locks {
            writeln!(file, "{lock}")?;
        }
        file.flush()?;
        Ok(Self(file))
    }

    /// Writes what every thread recorded, then the totals and the stacks, then an `end` line: a file without one is
    /// incomplete.
    pub fn finish(mut self, reason: &str) -> std::io::Result<()> {
        let buffers = lock(&BUFFERS).clone();
        let mut dropped = 0;
        for buffer in &buffers {
            let buffer = lock(buffer);
            for event in &buffer.events {
                writeln!(self.0, "{}", event_line(&buffer, event))?;
            }
            dropped += buffer.dropped;
        }
        for buffer in &buffers {
            let buffer = lock(buffer);
            for Total {
                kind,
                name,
                op,
                count,
                ns,
            } in &buffer.totals
            {
                let line = json!({"kind": "total", "of": kind, "name": name, "op": op, "tid": buffer.tid,
                    "thread": buffer.thread, "count": count, "ns": ns});
                writeln!(self.0, "{line}")?;
            }
        }
        for line in crate::stacks::lines() {
            writeln!(self.0, "{line}")?;
        }
        let end = json!({"kind": "end", "reason": reason, "end_ns": now(), "dropped": dropped});
        writeln!(self.0, "{end}")?;
        self.0.flush()
    }
}

fn event_line(buffer: &Buffer, event: &Event) -> Value {
    let mut line = match *event {
        Event::Poll { name, span, end } => {
            let mut line = json!({"kind": "poll", "name": name, "start_ns": span.start_ns, "ns": span.ns, "blocking": true});
            match end {
                PollEnd::Returned => line["end"] = "returned".into(),
                PollEnd::Panicked => line["end"] = "panicked".into(),
                PollEnd::HandedOff { called_ns } => {
                    line["end"] = "handed_off".into();
                    line["handoff_called_ns"] = called_ns.into();
                }
            }
            line
        }
        Event::LockWait {
            lock,
            op,
            addr,
            span,
            acquired,
        } => json!({"kind": "lock_wait", "lock": lock, "op": op,
            "addr": format!("{addr:#x}"), "start_ns": span.start_ns, "ns": span.ns,
            "outcome": if acquired { "acquired" } else { "timed_out" }}),
        Event::CondvarWait { name, addr, span } => json!({"kind": "condvar_wait", "name": name,
            "addr": format!("{addr:#x}"), "start_ns": span.start_ns, "ns": span.ns}),
        Event::NotBlocking { name, span } => {
            json!({"kind": "not_blocking", "name": name, "start_ns": span.start_ns, "ns": span.ns})
        }
    };
    line["tid"] = buffer.tid.into();
    line["thread"] = buffer.thread.as_str().into();
    line
}
