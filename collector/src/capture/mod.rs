//! The capture: everything that one recording learned, with nothing interpreted yet.
//!
//! What enters is what the kernel side and the target's files said; what leaves is [`Capture`],
//! from which the report is made, on this machine or another one, now or by a later version. A
//! live recording goes through the same file, so that `record` and `report` can't differ.
#![forbid(unsafe_code)]

mod counters;
mod error;
mod read;
mod section;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use holdup_probe_ebpf::wire;
use serde::{Deserialize, Serialize};

pub use counters::Counters;
pub use error::{CaptureError, FormatError};
pub use read::{parse, read};
pub use section::checksum;
pub use write::Writer;

use crate::event::{
    CodeAddr, Event, HoldTotals, LockWaitTotals, Nanos, PairTotals, Pid, RawStack, SiteClass,
    SpawnPath, StackId, Tid, Timestamp,
};
use crate::histogram::Histogram;
use crate::stuck::StuckWait;
use crate::symbolize::SymbolTable;

/// A whole capture in memory.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Who, where, when, how.
    pub meta: Meta,
    /// What could be probed.
    pub probes: Vec<ProbeFamily>,
    /// Probed poll instances; a `SiteId` is an index in here.
    pub poll_sites: Vec<PollSite>,
    /// Return addresses of polls that were found.
    pub return_sites: Vec<ReturnSite>,
    /// In the order of the ring buffer: nearly, but not strictly, by time. Behind them what was still
    /// under way at the end, with the end as its own.
    pub events: Vec<Event>,
    /// Every lock wait, summed.
    pub lock_waits: Vec<LockWaitTotals>,
    /// Who waited for whom, summed.
    pub pairs: Vec<PairTotals>,
    /// Holds, summed.
    pub holds: Vec<HoldTotals>,
    /// The stacks.
    pub stacks: BTreeMap<StackId, RawStack>,
    /// What the kernel side counted.
    pub counters: Counters,
    /// Names for the addresses in `stacks`.
    pub symbols: SymbolTable,
    /// Threads that were found waiting for a lock for long; their stacks are in `stacks`.
    pub stuck: Vec<StuckWait>,
    /// Threads that were seen to drive a runtime, by thread.
    pub runtime_threads: Vec<RuntimeThread>,
    /// What ended the recording.
    pub end: End,
    /// Records that could not be decoded, by reason.
    pub undecoded: BTreeMap<String, u64>,
    /// Polls under way at the end of which nobody knows whether they had ended unseen: left out.
    pub unwatched_at_end: u64,
    /// Where and why the file's contents end early, if they do; `end.reason` is then `Truncated`.
    pub cut: Option<Cut>,
}

/// Where a capture file's usable contents end, short of its end mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// What is there, in words.
    pub why: String,
}

/// What is known only when a recording is over: the second half of the file.
#[derive(Clone, Debug)]
pub struct Rest {
    /// As it is in the end.
    pub meta: Meta,
    /// What could be probed.
    pub probes: Vec<ProbeFamily>,
    /// Probed poll instances with their totals.
    pub poll_sites: Vec<PollSite>,
    /// Return addresses of polls that were found.
    pub return_sites: Vec<ReturnSite>,
    /// The map of lock waits, verbatim.
    pub lock_waits: Vec<(wire::LockWaitKey, wire::LockWaitTotals)>,
    /// The map of who waited for whom, verbatim.
    pub pairs: Vec<(wire::PairKey, wire::Totals)>,
    /// The map of holds, verbatim.
    pub holds: Vec<(wire::HoldKey, wire::Totals)>,
    /// Stacks that were not written before.
    pub stacks: BTreeMap<u64, RawStack>,
    /// The counters, summed over CPUs.
    pub counters: [u64; wire::COUNTERS as usize],
    /// The records of threads, for what was still under way.
    pub threads: Vec<wire::Thread>,
    /// Threads that were found waiting for a lock for long.
    pub stuck: Vec<StuckWait>,
    /// Threads that were seen to drive a runtime.
    pub runtime_threads: Vec<RuntimeThread>,
    /// Names for the addresses in `stacks`.
    pub symbols: SymbolTable,
    /// What ended the recording.
    pub end: End,
}

/// Who, where, when, how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of holdup that recorded.
    pub holdup_version: String,
    /// Version of the kernel-to-user contract.
    pub wire_version: u32,
    /// The target.
    pub pid: Pid,
    /// Its name (`comm`).
    pub process_name: String,
    /// Path of its executable as the target's own mount namespace has it.
    pub executable: String,
    /// GNU build-id of the executable, hex.
    pub build_id: Option<String>,
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture.
    pub architecture: String,
    /// Wall clock at `start`: nanoseconds since the Unix epoch.
    pub started_unix_ns: u64,
    /// When all probes were in place.
    pub start: Timestamp,
    /// How long it took to put the probes in place.
    pub attach: Nanos,
    /// A poll of at least this long is a long poll.
    pub threshold: Nanos,
    /// Samples and intervals are kept once a poll is this old.
    pub sample_after: Nanos,
    /// CPU samples for each second and CPU.
    pub frequency_hz: u32,
    /// Of these, every so many are a sample of whatever ran; 0 for none.
    pub grid_ticks: u32,
    /// The delays of one of so many tasks were looked at.
    pub one_task_of: u32,
    /// Tasks have numbers.
    pub has_task_ids: bool,
    /// What stacks are walked with.
    #[serde(default)]
    pub unwind_tables: UnwindTables,
}

/// The unwind tables of all that the target had mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindTables {
    /// Files with a table. Those without, and why, are the probe family `unwind_tables`.
    pub files: u32,
    /// Rows of all tables.
    pub rows: u64,
    /// Different rules that the rows name.
    pub rules: u32,
    /// Kernel memory of the rows.
    pub bytes: u64,
    /// Bytes of call frame information that they were made from.
    pub source_bytes: u64,
    /// Functions and rows that are not understood: a stack that meets one ends there.
    pub left_out: u64,
    /// Time that making them took.
    pub took: Nanos,
}

/// One family of probes and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFamily {
    /// `polls`, `mutex`, `rwlock`, `condvar`, `cpu`, `scheduler`, `block_in_place`.
    pub name: String,
    /// Sites attached.
    pub attached: u32,
    /// Sites found in the binary.
    pub found: u32,
    /// Functions of the family that this binary does not have, was not allowed, or failed; each with
    /// the reason in words and what to do about it.
    pub missing: Vec<MissingProbe>,
}

impl ProbeFamily {
    /// No probes, but what tells which worker of its runtime a thread is.
    pub const WORKER_INDEX: &str = "worker_index";
}

/// One function that is not probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingProbe {
    /// What can't be seen, e.g. `RawMutex::lock_slow`.
    pub what: String,
    /// Why, and what to do about it: one sentence.
    pub why: String,
}

/// One probed `tokio::runtime::task::raw::poll` instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollSite {
    /// Entry address in the running target.
    pub address: CodeAddr,
    /// What it runs.
    pub class: SiteClass,
    /// The future's type from DWARF, whole; None when DWARF is not there.
    pub future: Option<String>,
    /// Polls seen to end there.
    pub polls: u64,
    /// Their summed duration.
    pub total: Nanos,
    /// The longest.
    pub max: Nanos,
    /// How many took how long.
    pub durations: Histogram,
    /// Different tasks among them, as far as they were not forgotten meanwhile.
    pub tasks: u64,
    /// From a task's being woken to its poll, of those tasks whose delays are looked at.
    pub delays: Delays,
    /// The ways in which the program's code spawns its tasks. Their addresses have names as those of `stacks` do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spawn_paths: Vec<SpawnPath>,
}

/// From tasks' being woken to their polls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delays {
    /// How many.
    pub count: u64,
    /// Their summed duration.
    pub total: Nanos,
    /// The longest.
    pub max: Nanos,
    /// Entry i counts delays of 2^i up to (excluding) 2^(i+1) ns; the last one is open.
    pub log2_histogram: Vec<u64>,
}

/// A return address of polls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnSite {
    /// The address.
    pub return_addr: CodeAddr,
    /// The function it is in.
    pub function: Option<String>,
    /// Whether its calls are scheduler polls.
    pub class: SiteClass,
    /// When its probe was in place; None if it could not be.
    pub attached: Option<Timestamp>,
    /// Why not, if not.
    pub why_not: Option<String>,
}

/// A thread that was seen to drive a runtime: the last time that it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeThread {
    /// The thread.
    pub tid: Tid,
    /// Address of the runtime's `Handle`.
    pub runtime: u64,
    /// Which of a multi-thread runtime's workers it was; None for a current-thread runtime.
    pub worker: Option<u32>,
    /// When.
    pub last_seen: Timestamp,
    /// It was seen as something else before.
    #[serde(default)]
    pub has_changed: bool,
}

/// What ended a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: EndReason,
    /// How long it took to remove the probes.
    pub detach: Nanos,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The time asked for was over.
    Duration,
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// The target ended.
    TargetExited,
    /// The target replaced its image.
    TargetExeced,
    /// The capture file got as long as one may get.
    CaptureFull,
    /// The file ends in the middle: the recorder was killed, or the file was cut.
    Truncated,
}
