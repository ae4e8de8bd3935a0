//! Waits for locks, and holds of them. What enters: the beginning and the end of each, from the macros that take
//! locks and the guards that they give. What leaves: spans in the thread's memory.
//!
//! ```text
//!   try_lock failed      lock returned           the guard is dropped
//!          ├──── Wait ────────┤
//!                             ├──── Hold ─────────────┤ the real unlock follows
//! ```
//!
//! tokio's locks are not tried first: who calls `lock` without need leaves a trace, unlike with the others' locks, and is to
//! leave it here as in every other program.

use super::{
    Event, HOLD_FLOOR_NS, PRESENT_POLL, PresentPoll, Span, WAIT_FLOOR_NS, now, record, tid,
};

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

    /// Begins the hold that was waited for.
    #[inline(always)]
    pub fn acquired(self) -> Hold {
        let end_ns = now();
        let (lock, op, addr) = (self.lock, self.op, self.addr);
        self.end(end_ns, true);
        Hold::new(lock, op, addr, end_ns, true)
    }

    #[inline(always)]
    pub fn timed_out(self) {
        self.end(now(), false);
    }

    fn end(self, end_ns: u64, acquired: bool) {
        let span = Span::until(self.start_ns, end_ns);
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

/// A task's attempt to acquire one of tokio's locks. It had to wait if it is in another poll when it has the lock.
pub struct Attempt {
    wait: Wait,
    begun_in: Option<PresentPoll>,
}

impl Attempt {
    #[inline(always)]
    pub fn begin(lock: &'static str, op: &'static str, addr: usize) -> Self {
        Self {
            begun_in: PRESENT_POLL.get(),
            wait: Wait::begin(lock, op, addr),
        }
    }

    #[inline(always)]
    pub fn acquired(self) -> Hold {
        let Wait { lock, op, addr, .. } = self.wait;
        if self.begun_in == PRESENT_POLL.get() {
            Hold::begin(lock, op, addr)
        } else {
            self.wait.acquired()
        }
    }
}

/// Waiting for a condition: never contention.
pub fn condvar_wait(name: &'static str, addr: usize, start_ns: u64) {
    let span = Span::until(start_ns, now());
    record(
        ("condvar_waits", name, ""),
        span.ns,
        Some(Event::CondvarWait { name, addr, span }),
    );
}

/// A lock that is held. Dropping it ends the hold: it has to be dropped right before the real guard.
pub struct Hold {
    lock: &'static str,
    op: &'static str,
    addr: usize,
    start_ns: u64,
    upgradable_since_ns: Option<u64>,
    acquired_tid: i32,
    acquired_in: Option<PresentPoll>,
    contended: bool,
}

/// A hold that has ended.
#[derive(Clone, Copy)]
pub(super) struct Released {
    pub lock: &'static str,
    pub op: &'static str,
    pub addr: usize,
    pub span: Span,
    /// Where an upgradable read was upgraded, when that began.
    pub upgradable_since_ns: Option<u64>,
    /// Who acquired it; who released it is the thread that recorded it.
    pub acquired_tid: i32,
    /// The task that released it, or that had acquired it and was dropped.
    pub task: Option<&'static str>,
    /// Start of the poll that released it.
    pub poll_start_ns: Option<u64>,
    /// Acquired in an earlier poll.
    pub across_await: bool,
    /// Acquiring had to wait.
    pub contended: bool,
}

impl Hold {
    /// The lock was free.
    #[inline(always)]
    pub fn begin(lock: &'static str, op: &'static str, addr: usize) -> Self {
        Self::new(lock, op, addr, now(), false)
    }

    #[inline(always)]
    fn new(
        lock: &'static str,
        op: &'static str,
        addr: usize,
        start_ns: u64,
        contended: bool,
    ) -> Self {
        Self {
            lock,
            op,
            addr,
            start_ns,
            upgradable_since_ns: None,
            acquired_tid: tid(),
            acquired_in: PRESENT_POLL.get(),
            contended,
        }
    }

    /// What began as this upgradable read, which ends here, goes on as an exclusive hold.
    #[inline(always)]
    pub fn upgraded(self, mut exclusive: Self) -> Self {
        exclusive.upgradable_since_ns = Some(self.start_ns);
        exclusive
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let span = Span::until(self.start_ns, now());
        let (acquired_in, released_in) = (self.acquired_in, PRESENT_POLL.get());
        let released = Released {
            lock: self.lock,
            op: self.op,
            addr: self.addr,
            span,
            upgradable_since_ns: self.upgradable_since_ns,
            acquired_tid: self.acquired_tid,
            task: released_in.or(acquired_in).map(|poll| poll.task),
            poll_start_ns: released_in.map(|poll| poll.start_ns),
            across_await: acquired_in.is_some() && acquired_in != released_in,
            contended: self.contended,
        };
        record(
            ("holds", self.lock, self.op),
            span.ns,
            (span.ns >= HOLD_FLOOR_NS).then_some(Event::Hold(released)),
        );
    }
}
