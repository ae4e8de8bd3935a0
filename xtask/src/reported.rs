//! What a report says, as far as xtask needs it. What enters: the text of `report.json`. What leaves: the
//! numbers that are compared with a truth.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::truth::{Span, address};

/// One long poll of the report.
#[derive(Clone, Copy, Debug)]
pub struct LongPoll {
    pub tid: u32,
    pub span: Span,
    /// How much of it the thread waited for a CPU.
    pub run_queue_ns: u64,
}

/// The waits of one lock that lasted 100 µs or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongWaits {
    pub count: u64,
    pub total_ns: u64,
    pub longest_ns: u64,
}

/// The numbers of a report.
#[derive(Debug)]
pub struct Reported {
    pub threshold_ns: u64,
    /// From all probes in place to the end.
    pub recorded: Span,
    pub long_polls: Vec<LongPoll>,
    pub locks: BTreeMap<u64, LongWaits>,
}

impl Reported {
    pub fn parse(text: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(text).context("report.json is no JSON")?;
        let recorded = Span {
            start_ns: number(&report, "/capture/started_monotonic_ns")?,
            ns: number(&report, "/capture/duration_ns")?,
        };
        let mut long_polls = Vec::new();
        for poll in array(&report, "/long_polls")? {
            let span = Span {
                // In the report, times count from the recording's start.
                start_ns: recorded.start_ns.saturating_add(number(poll, "/start_ns")?),
                ns: number(poll, "/duration_ns")?,
            };
            let tid = number(poll, "/tid")?
                .try_into()
                .context("a thread id is too large")?;
            long_polls.push(LongPoll {
                tid,
                span,
                run_queue_ns: number(poll, "/anatomy/run_queue_ns")?,
            });
        }
        let mut locks: BTreeMap<u64, LongWaits> = BTreeMap::new();
        for lock in array(&report, "/locks")? {
            let addr = lock
                .pointer("/address")
                .and_then(Value::as_str)
                .context("a lock has no address")?;
            let waits = locks.entry(address(addr)?).or_default();
            waits.count += number(lock, "/long_waits")?;
            waits.total_ns += number(lock, "/long_total_ns")?;
            waits.longest_ns = waits.longest_ns.max(number(lock, "/max_ns")?);
        }
        Ok(Self {
            threshold_ns: number(&report, "/capture/threshold_ns")?,
            recorded,
            long_polls,
            locks,
        })
    }
}

fn number(value: &Value, pointer: &str) -> Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("report.json has no number at {pointer}"))
}

fn array<'a>(value: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .with_context(|| format!("report.json has no list at {pointer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times become those of the clock that the truth is written in.
    #[test]
    fn times_are_of_the_monotonic_clock() {
        let report = Reported::parse(
            r#"{"capture": {"started_monotonic_ns": 1000, "duration_ns": 500, "threshold_ns": 7},
                "long_polls": [{"start_ns": 20, "duration_ns": 30, "tid": 4, "anatomy": {"run_queue_ns": 3}}],
                "locks": [{"address": "0x10", "long_waits": 2, "long_total_ns": 300, "max_ns": 200}]}"#,
        )
        .expect("it has all that is needed");
        assert_eq!(report.threshold_ns, 7);
        assert_eq!(
            report.recorded,
            Span {
                start_ns: 1000,
                ns: 500
            }
        );
        assert_eq!(
            report.long_polls[0].span,
            Span {
                start_ns: 1020,
                ns: 30
            }
        );
        assert_eq!(
            report.locks[&0x10],
            LongWaits {
                count: 2,
                total_ns: 300,
                longest_ns: 200
            }
        );
    }

    /// What is missing is named.
    #[test]
    fn a_missing_number_is_named() {
        let error = Reported::parse("{}").expect_err("it has nothing");
        assert!(
            error.to_string().contains("/capture/started_monotonic_ns"),
            "{error}"
        );
    }
}
