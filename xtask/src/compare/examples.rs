//! Truths and reports to compare, made of what a test is about.

use std::collections::BTreeMap;

use super::Check;
use crate::reported::{LongPoll, Reported};
use crate::truth::{Poll, Span, Truth};

pub const MS: u64 = 1_000_000;

pub fn span(start_ms: u64, ns: u64) -> Span {
    Span {
        start_ns: start_ms * MS,
        ns,
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
                run_queue_ns: 0,
            })
            .collect(),
        locks: BTreeMap::new(),
    }
}

pub fn truth(polls: &[(u32, Span)]) -> Truth {
    let polls = polls.iter().map(|&(tid, span)| Poll {
        name: "task".to_owned(),
        tid,
        span,
        at_least_ns: span.ns,
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
