//! What a report says, as far as xtask needs it. What enters: the text of `report.json`. What leaves: the
//! numbers that are compared with a truth.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::truth::{CodeLine, Span, address};

/// One long poll of the report.
#[derive(Clone, Debug)]
pub struct LongPoll {
    pub tid: u32,
    pub span: Span,
    /// Of what was given to `block_on`, which is no task.
    pub is_of_root: bool,
    /// How much of it the thread waited for a CPU.
    pub run_queue_ns: u64,
    /// How much of its time on-CPU a hypervisor had taken, at least.
    pub stolen_ns: u64,
    /// How much of it the thread ran.
    pub on_cpu_ns: u64,
    /// How much of it the thread waited for locks.
    pub lock_wait_ns: u64,
    /// How much of it the thread slept, by what for. None where the report does not say.
    pub asleep: Option<BTreeMap<String, u64>>,
    /// What tasks that were ready waited for it. None where the report does not say.
    pub victims_ns: Option<u64>,
}

/// The waits of one lock that lasted 100 µs or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongWaits {
    pub count: u64,
    pub total_ns: u64,
    pub longest_ns: u64,
}

/// One lock wait that has an event of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    pub lock: u64,
    pub tid: u32,
    pub span: Span,
    pub acquired: bool,
    /// Waiting for a condition, not for a lock.
    pub is_condvar: bool,
    /// In the order in which they released the lock.
    pub holders: Vec<Holder>,
}

/// Somebody who had the lock during a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub tid: u32,
    /// How much of the wait is said to be theirs.
    pub held_ns: u64,
}

/// One hold that has an event of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub lock: u64,
    /// The thread that released it.
    pub tid: u32,
    pub end_ns: u64,
    pub at_least_ns: u64,
    pub at_most_ns: Option<u64>,
    /// Both ends were seen.
    pub is_exact: bool,
    pub across_await: bool,
}

/// The numbers of a report.
#[derive(Debug)]
pub struct Reported {
    pub threshold_ns: u64,
    /// From all probes in place to the end.
    pub recorded: Span,
    pub long_polls: Vec<LongPoll>,
    pub locks: BTreeMap<u64, LongWaits>,
    /// The report speaks of std's and tokio's locks too.
    pub knows_families: bool,
    /// None where the report does not list them.
    pub lock_waits: Option<Vec<LockWait>>,
    /// None where the report does not list them.
    pub holds: Option<Vec<Hold>>,
    /// How often each lock was held across an await. None where the report does not say.
    pub across_await: Option<BTreeMap<u64, u64>>,
    /// Where tasks are spawned, by the future's type. Types without a name are not in it.
    pub spawned_in: Vec<(String, Vec<CodeLine>)>,
}

impl Reported {
    pub fn parse(text: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(text).context("report.json is no JSON")?;
        let recorded = Span {
            start_ns: number(&report, "/capture/started_monotonic_ns")?,
            ns: number(&report, "/capture/duration_ns")?,
        };
        let mut roots = BTreeSet::new();
        // Older reports have no such list.
        let sites = report.pointer("/poll_sites").and_then(Value::as_array);
        for site in sites.into_iter().flatten() {
            if string(site, "/class")? == "block_on" {
                roots.insert(number(site, "/id")?);
            }
        }
        let mut long_polls = Vec::new();
        for poll in array(&report, "/long_polls")? {
            let span = Span {
                // In the report, times count from the recording's start.
                start_ns: recorded.start_ns.saturating_add(number(poll, "/start_ns")?),
                ns: number(poll, "/duration_ns")?,
            };
            long_polls.push(LongPoll {
                tid: thread(poll)?,
                span,
                is_of_root: number(poll, "/poll_site").is_ok_and(|site| roots.contains(&site)),
                run_queue_ns: number(poll, "/anatomy/run_queue_ns")?,
                // Older reports don't say.
                stolen_ns: number(poll, "/anatomy/stolen_ns").unwrap_or(0),
                on_cpu_ns: number(poll, "/anatomy/on_cpu_ns")?,
                lock_wait_ns: number(poll, "/anatomy/lock_wait_ns")?,
                asleep: asleep(poll)?,
                victims_ns: poll.pointer("/victims/delay_ns").and_then(Value::as_u64),
            });
        }
        let mut locks: BTreeMap<u64, LongWaits> = BTreeMap::new();
        let mut across_await = BTreeMap::new();
        for lock in array(&report, "/locks")? {
            let addr = address(string(lock, "/address")?)?;
            if lock.pointer("/across_await").is_some() {
                *across_await.entry(addr).or_default() += number(lock, "/across_await/count")?;
            }
            let waits = locks.entry(addr).or_default();
            waits.count += number(lock, "/long_waits")?;
            waits.total_ns += number(lock, "/long_total_ns")?;
            waits.longest_ns = waits.longest_ns.max(number(lock, "/max_ns")?);
        }
        Ok(Self {
            threshold_ns: number(&report, "/capture/threshold_ns")?,
            recorded,
            long_polls,
            locks,
            knows_families: report.pointer("/lock_types").is_some(),
            lock_waits: listed(&report, "/lock_waits", |it| lock_wait(it, recorded))?,
            holds: listed(&report, "/holds", |it| hold(it, recorded))?,
            // What is said of the holds is said of each lock beside them.
            across_await: report.pointer("/holds").map(|_| across_await),
            spawned_in: spawned_in(&report)?,
        })
    }
}

fn spawned_in(report: &Value) -> Result<Vec<(String, Vec<CodeLine>)>> {
    let types = listed(report, "/task_types", |of_type| {
        let mut lines = Vec::new();
        // Older reports don't say.
        let places = of_type.pointer("/spawned_in").and_then(Value::as_array);
        for place in places.into_iter().flatten() {
            if place.pointer("/line").is_some() {
                lines.push(CodeLine {
                    file: string(place, "/file")?.to_owned(),
                    line: number(place, "/line")?
                        .try_into()
                        .context("a line is too large")?,
                });
            }
        }
        let future = of_type.pointer("/future").and_then(Value::as_str);
        Ok(future.map(|future| (future.to_owned(), lines)))
    })?;
    Ok(types.into_iter().flatten().flatten().collect())
}

fn asleep(poll: &Value) -> Result<Option<BTreeMap<String, u64>>> {
    if poll.pointer("/asleep").is_none() && number(poll, "/anatomy/sleep_ns")? != 0 {
        return Ok(None);
    }
    let mut by_kind = BTreeMap::new();
    for entry in poll
        .pointer("/asleep")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        *by_kind
            .entry(string(entry, "/kind")?.to_owned())
            .or_default() += number(entry, "/time_ns")?;
    }
    Ok(Some(by_kind))
}

fn lock_wait(wait: &Value, recorded: Span) -> Result<LockWait> {
    let mut holders = Vec::new();
    for holder in array(wait, "/holders")? {
        holders.push(Holder {
            tid: thread(holder)?,
            held_ns: number(holder, "/held_ns")?,
        });
    }
    Ok(LockWait {
        lock: address(string(wait, "/lock")?)?,
        tid: thread(wait)?,
        span: Span {
            start_ns: recorded.start_ns.saturating_add(number(wait, "/start_ns")?),
            ns: number(wait, "/duration_ns")?,
        },
        acquired: string(wait, "/outcome")? == "acquired",
        is_condvar: string(wait, "/operation")? == "condvar",
        holders,
    })
}

fn hold(hold: &Value, recorded: Span) -> Result<Hold> {
    Ok(Hold {
        lock: address(string(hold, "/lock")?)?,
        tid: thread(hold)?,
        end_ns: recorded.start_ns.saturating_add(number(hold, "/end_ns")?),
        at_least_ns: number(hold, "/at_least_ns")?,
        at_most_ns: hold.pointer("/at_most_ns").and_then(Value::as_u64),
        is_exact: string(hold, "/certainty")? == "exact",
        across_await: hold
            .pointer("/across_await")
            .and_then(Value::as_bool)
            .context("a hold does not say whether it was across an await")?,
    })
}

/// None where there is no such list.
fn listed<T>(
    report: &Value,
    pointer: &str,
    read: impl Fn(&Value) -> Result<T>,
) -> Result<Option<Vec<T>>> {
    if report.pointer(pointer).is_none() {
        return Ok(None);
    }
    array(report, pointer)?
        .iter()
        .map(read)
        .collect::<Result<_>>()
        .map(Some)
}

fn thread(value: &Value) -> Result<u32> {
    number(value, "/tid")?
        .try_into()
        .context("a thread id is too large")
}

fn string<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("report.json has no text at {pointer}"))
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
                "long_polls": [{"start_ns": 20, "duration_ns": 30, "tid": 4, "anatomy": {"on_cpu_ns": 25, "lock_wait_ns": 1, "run_queue_ns": 3, "sleep_ns": 1},
                                "asleep": [{"kind": "io", "call": "read", "time_ns": 1}], "victims": {"delay_ns": 8}}],
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
        assert_eq!(report.long_polls[0].on_cpu_ns, 25);
        assert_eq!(report.long_polls[0].victims_ns, Some(8));
        assert_eq!(
            report.long_polls[0].asleep,
            Some(BTreeMap::from([("io".to_owned(), 1)]))
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

    /// An older report has neither waits nor holds of their own, and is read.
    #[test]
    fn lists_may_be_missing() {
        let report = Reported::parse(
            r#"{"capture": {"started_monotonic_ns": 1000, "duration_ns": 500, "threshold_ns": 7},
                "long_polls": [], "locks": []}"#,
        )
        .expect("it has all that is needed");
        assert_eq!(report.lock_waits, None);
        assert_eq!(report.holds, None);
        assert_eq!(report.across_await, None);
        assert!(!report.knows_families);
    }

    /// Waits and holds with events of their own.
    #[test]
    fn waits_and_holds_are_read() {
        let report = Reported::parse(
            r#"{"capture": {"started_monotonic_ns": 1000, "duration_ns": 500, "threshold_ns": 7},
                "long_polls": [], "lock_types": [],
                "locks": [{"address": "0x10", "long_waits": 2, "long_total_ns": 300, "max_ns": 200,
                           "across_await": {"count": 3, "longest_ns": 9, "longest_certainty": "exact"}}],
                "lock_waits": [{"start_ns": 20, "duration_ns": 30, "tid": 4, "lock": "0x10", "operation": "std_mutex",
                                "outcome": "acquired", "holders": [{"tid": 5, "held_ns": 28}]}],
                "holds": [{"lock": "0x10", "tid": 5, "end_ns": 50, "at_least_ns": 40, "at_most_ns": null,
                           "certainty": "lower_bound", "across_await": true}]}"#,
        )
        .expect("it has all that is needed");
        assert!(report.knows_families);
        assert_eq!(report.across_await, Some(BTreeMap::from([(0x10, 3)])));
        assert_eq!(
            report.lock_waits,
            Some(vec![LockWait {
                lock: 0x10,
                tid: 4,
                span: Span {
                    start_ns: 1020,
                    ns: 30
                },
                acquired: true,
                is_condvar: false,
                holders: vec![Holder {
                    tid: 5,
                    held_ns: 28
                }],
            }])
        );
        assert_eq!(
            report.holds,
            Some(vec![Hold {
                lock: 0x10,
                tid: 5,
                end_ns: 1050,
                at_least_ns: 40,
                at_most_ns: None,
                is_exact: false,
                across_await: true,
            }])
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
