//! What really happened, as a workload wrote it down by its own clock. What enters: JSON lines. What leaves:
//! the spans that can be held against a report. The schema is in workloads/contention/README.md.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A stretch of CLOCK_MONOTONIC, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start_ns: u64,
    pub ns: u64,
}

impl Span {
    pub fn between(start_ns: u64, end_ns: u64) -> Self {
        Self {
            start_ns,
            ns: end_ns.saturating_sub(start_ns),
        }
    }

    pub fn end_ns(self) -> u64 {
        self.start_ns.saturating_add(self.ns)
    }

    /// Both ends are in there.
    pub fn is_within(self, outer: Self) -> bool {
        self.start_ns >= outer.start_ns && self.end_ns() <= outer.end_ns()
    }

    /// How long both lasted at once.
    pub fn overlap_ns(self, other: Self) -> u64 {
        self.end_ns()
            .min(other.end_ns())
            .saturating_sub(self.start_ns.max(other.start_ns))
    }
}

/// One poll that the workload measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    pub name: String,
    pub tid: u32,
    /// The longest that it can have blocked its runtime.
    pub span: Span,
    /// The shortest. It is less where `block_in_place` handed the worker off: that happened somewhere between
    /// its call, which is taken here, and the start of its closure, where the span ends.
    pub at_least_ns: u64,
    /// What its thread was at that was none of the workload's other polls, and no park: this one, Tokio's own work before and
    /// behind it, and whatever came in between. Without an end if the thread noted nothing afterwards.
    pub surroundings: Span,
}

impl Poll {
    /// How far a duration is from what the workload allows.
    pub fn distance_ns(&self, duration_ns: u64) -> u64 {
        duration_ns.abs_diff(self.nearest_ns(duration_ns))
    }

    /// Of the durations that it can have had, the nearest to this one.
    pub fn nearest_ns(&self, duration_ns: u64) -> u64 {
        duration_ns.clamp(self.at_least_ns.min(self.span.ns), self.span.ns)
    }
}

/// How much of one poll something took, by the workload's clock or the kernel's account of its thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The poll's thread and start.
    pub tid: u32,
    pub poll_start_ns: u64,
    /// `on_cpu`, `run_queue`, or what was slept for, as the report calls it.
    pub part: String,
    pub ns: u64,
}

/// One lock wait that the workload measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockWait {
    pub addr: u64,
    pub span: Span,
}

/// One hold of a lock that the workload measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub addr: u64,
    /// How it was acquired.
    pub op: Operation,
    /// The thread that released it.
    pub tid: u32,
    pub span: Span,
    /// Where an upgradable read was upgraded, when that began: part of the hold, or a hold of its own.
    pub upgradable_since_ns: Option<u64>,
    /// Start of the poll that released it.
    pub poll_start_ns: Option<u64>,
    /// Acquired in an earlier poll.
    pub across_await: bool,
    /// Acquiring had to wait.
    pub contended: bool,
}

/// A call that acquires a lock, by the name that truth and report have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Mutex,
    RwShared,
    RwExclusive,
    RwUpgradable,
    RwUpgrade,
    StdMutex,
    StdRead,
    StdWrite,
    TokioAcquire,
}

impl Operation {
    /// Readers can have the lock at the same time.
    pub fn is_beside_readers(self) -> bool {
        matches!(self, Self::RwShared | Self::RwUpgradable | Self::StdRead)
    }

    /// Nobody else can have a reader-writer lock meanwhile.
    pub fn keeps_readers_out(self) -> bool {
        matches!(self, Self::RwExclusive | Self::RwUpgrade | Self::StdWrite)
    }
}

/// Whose code a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    ParkingLot,
    Std,
    Tokio,
}

/// One lock of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub name: String,
    pub family: Family,
    /// Nobody else has it at the same time.
    pub is_mutex: bool,
}

/// A line of the workload's code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CodeLine {
    pub file: String,
    pub line: u32,
}

/// A line that spawned tasks of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawn {
    /// As `type_name` has it.
    pub future: String,
    pub line: CodeLine,
}

/// A whole truth file.
#[derive(Debug, Default)]
pub struct Truth {
    pub polls: Vec<Poll>,
    pub parts: Vec<Part>,
    /// From tasks' being woken until they ran.
    pub delays: Vec<Span>,
    pub lock_waits: Vec<LockWait>,
    pub holds: Vec<Hold>,
    /// By address.
    pub locks: BTreeMap<u64, Lock>,
    pub spawns: Vec<Spawn>,
}

/// One line, as far as the comparison needs it.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Lock {
        lock: String,
        family: Family,
        r#type: String,
        addr: String,
    },
    Poll {
        name: String,
        tid: u32,
        start_ns: u64,
        ns: u64,
        blocking: bool,
        handoff_called_ns: Option<u64>,
        earliest_ns: u64,
        latest_ns: Option<u64>,
    },
    LockWait {
        addr: String,
        start_ns: u64,
        ns: u64,
    },
    Hold {
        addr: String,
        op: Operation,
        tid: u32,
        start_ns: u64,
        ns: u64,
        upgradable_since_ns: Option<u64>,
        poll_start_ns: Option<u64>,
        across_await: bool,
        contended: bool,
    },
    Delay {
        start_ns: u64,
        ns: u64,
    },
    Part {
        tid: u32,
        poll_start_ns: u64,
        part: String,
        ns: u64,
    },
    Spawn {
        future: String,
        file: String,
        line: u32,
    },
    End {
        dropped: u64,
    },
    #[serde(other)]
    Other,
}

/// Each line of a text `of` somebody; which one can't be read is said.
pub fn json_lines<'a, T: DeserializeOwned + 'a>(
    text: &'a str,
    of: &'a str,
) -> impl Iterator<Item = Result<T>> + 'a {
    (1..).zip(text.lines()).map(move |(number, line)| {
        serde_json::from_str(line).with_context(|| format!("line {number} of {of} is unreadable"))
    })
}

impl Truth {
    /// Reads a truth file; an incomplete one is an error, because what it leaves out would count
    /// as reported wrongly.
    pub fn parse(text: &str) -> Result<Self> {
        let mut truth = Self::default();
        let mut complete = false;
        for line in json_lines(text, "the truth") {
            match line? {
                Line::Lock {
                    lock,
                    family,
                    r#type,
                    addr,
                } => {
                    let lock = Lock {
                        name: lock,
                        family,
                        is_mutex: r#type == "mutex",
                    };
                    truth.locks.insert(address(&addr)?, lock);
                }
                Line::Poll {
                    name,
                    tid,
                    start_ns,
                    ns,
                    blocking: true,
                    handoff_called_ns,
                    earliest_ns,
                    latest_ns,
                } => {
                    truth.polls.push(Poll {
                        name,
                        tid,
                        span: Span { start_ns, ns },
                        at_least_ns: handoff_called_ns
                            .map_or(ns, |called_ns| called_ns.saturating_sub(start_ns)),
                        surroundings: Span::between(earliest_ns, latest_ns.unwrap_or(u64::MAX)),
                    });
                }
                Line::LockWait { addr, start_ns, ns } => {
                    truth.lock_waits.push(LockWait {
                        addr: address(&addr)?,
                        span: Span { start_ns, ns },
                    });
                }
                Line::Hold {
                    addr,
                    op,
                    tid,
                    start_ns,
                    ns,
                    upgradable_since_ns,
                    poll_start_ns,
                    across_await,
                    contended,
                } => {
                    truth.holds.push(Hold {
                        addr: address(&addr)?,
                        op,
                        tid,
                        span: Span { start_ns, ns },
                        upgradable_since_ns,
                        poll_start_ns,
                        across_await,
                        contended,
                    });
                }
                Line::Spawn { future, file, line } => truth.spawns.push(Spawn {
                    future,
                    line: CodeLine { file, line },
                }),
                Line::Delay { start_ns, ns } => truth.delays.push(Span { start_ns, ns }),
                Line::Part {
                    tid,
                    poll_start_ns,
                    part,
                    ns,
                } => truth.parts.push(Part {
                    tid,
                    poll_start_ns,
                    part,
                    ns,
                }),
                Line::End { dropped } => {
                    ensure!(
                        dropped == 0,
                        "the workload had no room for {dropped} of its spans"
                    );
                    complete = true;
                }
                Line::Poll { .. } | Line::Other => {}
            }
        }
        if !complete {
            bail!("the truth has no end: the workload has not finished, or was killed");
        }
        Ok(truth)
    }
}

/// `0x1f` as the truth and the report write addresses.
pub fn address(text: &str) -> Result<u64> {
    text.strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .with_context(|| format!("{text:?} is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the workload writes is read; what the comparison does not need is passed over.
    #[test]
    fn lines_become_spans() {
        let truth = Truth::parse(concat!(
            r#"{"kind":"meta","version":1,"pid":7}"#, "\n",
            r#"{"kind":"lock","lock":"accounts","family":"parking_lot","type":"mutex","addr":"0x10"}"#, "\n",
            r#"{"kind":"poll","name":"settle","start_ns":5,"ns":9,"blocking":true,"end":"returned","earliest_ns":4,"latest_ns":16,"tid":3,"thread":"w"}"#, "\n",
            r#"{"kind":"poll","name":"export","start_ns":7,"ns":9,"blocking":true,"end":"handed_off","handoff_called_ns":11,"earliest_ns":7,"latest_ns":null,"tid":3,"thread":"w"}"#, "\n",
            r#"{"kind":"lock_wait","lock":"accounts","op":"mutex","addr":"0x10","start_ns":6,"ns":2,"outcome":"acquired","tid":3,"thread":"w"}"#, "\n",
            r#"{"kind":"hold","lock":"accounts","op":"mutex","addr":"0x10","start_ns":8,"ns":4,"upgradable_since_ns":null,"acquired_tid":3,"task":"settle","poll_start_ns":5,"across_await":false,"contended":true,"tid":3,"thread":"w"}"#, "\n",
            r#"{"kind":"part","name":"close_day","part":"io","poll_start_ns":5,"ns":2,"tid":3,"thread":"w"}"#, "\n",
            r#"{"kind":"spawn","future":"app::serve::{{closure}}","file":"src/main.rs","line":7}"#, "\n",
            r#"{"kind":"end","reason":"signal","end_ns":20,"dropped":0}"#, "\n",
        ))
        .expect("it is complete");
        assert_eq!(
            truth.locks[&0x10],
            Lock {
                name: "accounts".to_owned(),
                family: Family::ParkingLot,
                is_mutex: true
            }
        );
        assert_eq!(
            truth.polls,
            [
                Poll {
                    name: "settle".to_owned(),
                    tid: 3,
                    span: Span { start_ns: 5, ns: 9 },
                    at_least_ns: 9,
                    surroundings: Span {
                        start_ns: 4,
                        ns: 12
                    },
                },
                Poll {
                    name: "export".to_owned(),
                    tid: 3,
                    span: Span { start_ns: 7, ns: 9 },
                    at_least_ns: 4,
                    surroundings: Span::between(7, u64::MAX),
                }
            ]
        );
        assert_eq!(
            truth.lock_waits,
            [LockWait {
                addr: 0x10,
                span: Span { start_ns: 6, ns: 2 }
            }]
        );
        assert_eq!(
            truth.parts,
            [Part {
                tid: 3,
                poll_start_ns: 5,
                part: "io".to_owned(),
                ns: 2,
            }]
        );
        assert_eq!(
            truth.holds,
            [Hold {
                addr: 0x10,
                op: Operation::Mutex,
                tid: 3,
                span: Span { start_ns: 8, ns: 4 },
                upgradable_since_ns: None,
                poll_start_ns: Some(5),
                across_await: false,
                contended: true,
            }]
        );
    }

    /// A file without its end, or with spans dropped, is no truth.
    #[test]
    fn incomplete_truth_is_an_error() {
        assert!(Truth::parse(r#"{"kind":"meta"}"#).is_err());
        assert!(Truth::parse(r#"{"kind":"end","dropped":1}"#).is_err());
        assert!(Truth::parse("{").is_err());
    }
}
