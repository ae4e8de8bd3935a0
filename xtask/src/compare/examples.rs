//! Truths and reports to compare, made of what a test is about.

use std::collections::BTreeMap;

use super::Check;
use crate::reported::{LongPoll, Reported};
use crate::truth::{Family, Hold, Lock, Operation, Poll, Span, Truth};

pub const MS: u64 = 1_000_000;

pub fn span(start_ms: u64, ns: u64) -> Span {
    Span {
        start_ns: start_ms * MS,
        ns,
    }
}

/// Address of the lock of the examples.
pub const LOCK: u64 = 0x10;

pub fn lock(family: Family, is_mutex: bool) -> Lock {
    Lock {
        name: "accounts".to_owned(),
        family,
        is_mutex,
    }
}

/// Of [`LOCK`], within one poll, without a wait.
pub fn hold(tid: u32, span: Span) -> Hold {
    Hold {
        addr: LOCK,
        op: Operation::StdMutex,
        tid,
        span,
        upgradable_since_ns: None,
        poll_start_ns: None,
        across_await: false,
        contended: false,
    }
}

pub fn report(polls: &[(u32, Span)]) -> Reported {
    Reported {
        threshold_ns: 5 * MS,
        recorded: span(0, 1_000 * MS),
        long_polls: polls
            .iter()
            .map(|&(tid, span)| LongPoll {
                tid,
                span,
                is_of_root: false,
                run_queue_ns: 0,
                stolen_ns: 0,
                on_cpu_ns: span.ns,
                lock_wait_ns: 0,
                asleep: Some(BTreeMap::new()),
                victims_ns: Some(0),
            })
            .collect(),
        locks: BTreeMap::new(),
        knows_families: true,
        lock_waits: None,
        holds: None,
        across_await: None,
        spawned_in: Vec::new(),
    }
}

pub fn truth(polls: &[(u32, Span)]) -> Truth {
    let polls = polls.iter().map(|&(tid, span)| Poll {
        name: "task".to_owned(),
        tid,
        span,
        at_least_ns: span.ns,
        surroundings: span,
    });
    Truth {
        polls: polls.collect(),
        ..Truth::default()
    }
}

pub fn wrong(checks: &[Check]) -> Vec<&str> {
    checks
        .iter()
        .filter(|check| !check.holds)
        .map(|check| check.what.as_str())
        .collect()
}
