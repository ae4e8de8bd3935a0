//! What really happened, by this program's own clock. What enters: polls, lock waits, holds and other spans,
//! from the threads they happened on. What leaves: JSON lines, one for each.
//!
//! Recording must not disturb what it measures: each thread writes into memory of its own that was
//! reserved before, and nothing is written to the file until the end. README.md has the schema.

mod file;
mod locks;
mod spawns;
mod workers;

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::time::{ClockId, clock_gettime};

pub use file::TruthFile;
pub use locks::{Attempt, Hold, Wait, condvar_wait};
pub use spawns::spawned;
pub use workers::polls_on_worker;

/// Polls are only counted if they were shorter even with all that their thread did before and behind them.
pub const POLL_FLOOR_NS: u64 = 100_000;
/// Shorter lock waits are only counted.
pub const WAIT_FLOOR_NS: u64 = 50_000;
/// Shorter holds are only counted.
pub const HOLD_FLOOR_NS: u64 = 20_000;

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

impl Span {
    fn until(start_ns: u64, end_ns: u64) -> Self {
        Self {
            start_ns,
            ns: end_ns - start_ns,
        }
    }
}

#[derive(Clone, Copy)]
enum Event {
    Poll(MeasuredPoll),
    LockWait {
        lock: &'static str,
        op: &'static str,
        addr: usize,
        span: Span,
        acquired: bool,
    },
    Hold(locks::Released),
    CondvarWait {
        name: &'static str,
        addr: usize,
        span: Span,
    },
    NotBlocking {
        name: &'static str,
        span: Span,
    },
    /// A task that was woken and had to wait for its poll.
    Delay {
        name: &'static str,
        span: Span,
    },
    /// What a poll did for a part of its time.
    Part {
        poll: PresentPoll,
        part: &'static str,
        ns: u64,
    },
}

/// A poll, and what is known of the thread around it.
#[derive(Clone, Copy)]
struct MeasuredPoll {
    name: &'static str,
    span: Span,
    end: PollEnd,
    /// What this thread noted last before: another poll's start or end, or the end of a park. Whatever led to this poll, it
    /// began no earlier.
    earliest_ns: u64,
    /// What it noted first afterwards: another poll's start or end, or the start of a park; of a poll that handed its worker off,
    /// that.
    latest_ns: Option<u64>,
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
    /// The last poll that ended, of which nobody knows yet what came after it.
    last_poll: Option<MeasuredPoll>,
    /// When the thread noted something that ends or begins a poll's surroundings.
    noted_ns: u64,
    totals: Vec<Total>,
    workers: Vec<workers::Worker>,
    dropped: u64,
}

impl Buffer {
    fn count(&mut self, total: (&'static str, &'static str, &'static str), ns: u64) {
        let (kind, name, op) = total;
        let known = self
            .totals
            .iter_mut()
            .find(|t| t.kind == kind && t.name == name && t.op == op);
        match known {
            Some(known) => {
                known.count += 1;
                known.ns += ns;
            }
            None => self.totals.push(Total {
                kind,
                name,
                op,
                count: 1,
                ns,
            }),
        }
    }

    fn push(&mut self, event: Event) {
        if self.events.len() < self.events.capacity() {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    /// The thread is somewhere else now than in the poll that ended last. Returns since when it can have been where it was.
    fn goes_on(&mut self, at_ns: u64) -> u64 {
        if let Some(mut poll) = self.last_poll.take() {
            let latest_ns = *poll.latest_ns.get_or_insert(at_ns);
            if latest_ns - poll.earliest_ns >= POLL_FLOOR_NS {
                self.push(Event::Poll(poll));
            }
        }
        std::mem::replace(&mut self.noted_ns, at_ns)
    }
}

/// Events a thread has room for; set once, before the first thread starts.
static CAPACITY: AtomicUsize = AtomicUsize::new(0);
static BUFFERS: Mutex<Vec<Arc<Mutex<Buffer>>>> = Mutex::new(Vec::new());

thread_local! {
    static BUFFER: Arc<Mutex<Buffer>> = register();
    static TID: i32 = rustix::thread::gettid().as_raw_nonzero().get();
    /// The poll that this thread is in.
    static PRESENT_POLL: Cell<Option<PresentPoll>> = const { Cell::new(None) };
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

fn tid() -> i32 {
    TID.with(|&tid| tid)
}

fn register() -> Arc<Mutex<Buffer>> {
    let buffer = Arc::new(Mutex::new(Buffer {
        tid: tid(),
        thread: std::thread::current().name().unwrap_or("").to_owned(),
        events: Vec::with_capacity(CAPACITY.load(Ordering::Relaxed)),
        last_poll: None,
        noted_ns: now(),
        totals: Vec::with_capacity(256),
        workers: Vec::with_capacity(16),
        dropped: 0,
    }));
    lock(&BUFFERS).push(Arc::clone(&buffer));
    buffer
}

/// Called when a thread starts, so that its first poll doesn't pay for the memory.
pub fn register_thread() {
    BUFFER.with(|_| {});
}

/// Called where a thread begins or ends something that is no part of the poll before or behind it: to wait for work, a job of the
/// blocking pool, a runtime of its own.
pub fn between_polls() {
    BUFFER.with(|buffer| lock(buffer).goes_on(now()));
}

fn record(total: (&'static str, &'static str, &'static str), ns: u64, event: Option<Event>) {
    BUFFER.with(|buffer| {
        let mut buffer = lock(buffer);
        buffer.count(total, ns);
        if let Some(event) = event {
            buffer.push(event);
        }
    });
}

/// A poll that a thread is in. Two polls are never equal: those of one thread begin one after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PresentPoll {
    task: &'static str,
    tid: i32,
    start_ns: u64,
}

/// A poll under way. Dropping it ends it, so that a panic ends it too.
pub struct Poll {
    name: &'static str,
    earliest_ns: u64,
    start_ns: u64,
    /// The one that this one is nested in.
    outer: Option<PresentPoll>,
    /// Of the poll that this one is nested in (a runtime inside `block_in_place`).
    outer_handoff: Option<(u64, u64)>,
}

impl Poll {
    pub fn begin(name: &'static str) -> Self {
        let tid = tid();
        let outer_handoff = HANDOFF.replace(None);
        let start_ns = now();
        let present = PresentPoll {
            task: name,
            tid,
            start_ns,
        };
        Self {
            name,
            // A thread's memory may be only made here.
            earliest_ns: BUFFER.with(|buffer| lock(buffer).goes_on(start_ns).min(start_ns)),
            outer: PRESENT_POLL.replace(Some(present)),
            outer_handoff,
            start_ns,
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        PRESENT_POLL.set(self.outer);
        let handoff = HANDOFF.replace(self.outer_handoff);
        BUFFER.with(|buffer| {
            let mut buffer = lock(buffer);
            let end_ns = now();
            // A poll that was nested in this one.
            buffer.goes_on(end_ns);
            let (span_end_ns, end) = match handoff {
                Some((called_ns, began_ns)) => (began_ns, PollEnd::HandedOff { called_ns }),
                None if std::thread::panicking() => (end_ns, PollEnd::Panicked),
                None => (end_ns, PollEnd::Returned),
            };
            let span = Span::until(self.start_ns, span_end_ns);
            buffer.count(("polls", self.name, ""), span.ns);
            buffer.last_poll = Some(MeasuredPoll {
                name: self.name,
                span,
                end,
                earliest_ns: self.earliest_ns,
                latest_ns: handoff.map(|(_, began_ns)| began_ns),
            });
        });
    }
}

/// Notes that `block_in_place`, called at `called_ns`, has handed the worker off and now runs its
/// closure. Only the first hand-off of a poll counts.
pub fn handed_off(called_ns: u64) {
    if HANDOFF.get().is_none() {
        HANDOFF.set(Some((called_ns, now())));
    }
}

/// Notes how much of the present poll something took.
pub fn amount(part: &'static str, ns: u64) {
    if let Some(poll) = PRESENT_POLL.get() {
        record(
            ("parts", poll.task, part),
            ns,
            Some(Event::Part { poll, part, ns }),
        );
    }
}

/// A task runs that was woken at `woken_ns`.
pub fn delayed(name: &'static str, woken_ns: u64) {
    let span = Span::until(woken_ns, now());
    record(
        ("delays", name, ""),
        span.ns,
        Some(Event::Delay { name, span }),
    );
}

/// Time that blocks no runtime: a blocking-pool task, the inside of `block_in_place`.
pub fn not_blocking(name: &'static str, start_ns: u64) {
    let span = Span::until(start_ns, now());
    record(
        ("not_blocking", name, ""),
        span.ns,
        Some(Event::NotBlocking { name, span }),
    );
}
