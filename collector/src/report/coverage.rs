//! What could be observed, what not, and what was lost: counted, and said in sentences beside the numbers
//! that it affects.

use std::collections::{BTreeMap, BTreeSet};

use holdup_probe_ebpf::wire::{
    self,
    unwind::{KIND_OFF_CPU, KIND_SAMPLE, KIND_UPROBE},
};

use super::stacks::Stacks;
use super::words::{count, duration, percent};
use super::{Certainty, Coverage, Lost, PollCoverage, Report, StackCoverage, Unwinding};
use crate::capture::Capture;
use crate::correlate::{Activity, Evidence, PollAnatomy};
use crate::event::{Exactness, Nanos, WalkOutcome};
use crate::symbolize::SymbolTable;

/// In less time than this a program may not have done anything yet.
const SHORTEST_RECORDING: Nanos = Nanos(100_000_000);

impl Report {
    /// Why it does not follow that there was nothing, if nothing was found. Each is half a sentence.
    pub fn doubts(&self) -> Vec<String> {
        let coverage = &self.coverage;
        let mut doubts = Vec::new();
        if coverage.cut.is_some() {
            doubts.push("the capture is cut off".to_owned());
        }
        let polls = coverage.probes.iter().find(|family| family.name == "polls");
        match polls.map(|family| (family.attached, family.found)) {
            None if coverage.cut.is_some() => {}
            None | Some((0, _)) => doubts.push("polls were not probed".to_owned()),
            Some((attached, found)) if attached < found => doubts.push(format!(
                "only {attached} of {found} poll functions were probed"
            )),
            Some(_) if self.summary.polls == 0 && coverage.cut.is_none() => {
                doubts.push("no poll was seen to end".to_owned());
            }
            Some(_) => {}
        }
        let recorded = self.capture.duration_ns;
        if recorded < SHORTEST_RECORDING.max(self.capture.threshold_ns) {
            doubts.push(format!("only {} were recorded", duration(recorded)));
        }
        let Lost {
            long_polls,
            long_poll_ns: _,
            samples,
            off_cpu,
            lock_waits,
            holds,
            delays,
            other,
        } = coverage.lost;
        let lost = [
            long_polls, samples, off_cpu, lock_waits, holds, delays, other,
        ];
        let lost = lost.into_iter().fold(0, u64::saturating_add);
        for (times, what, fate) in [
            (lost, "event", "lost"),
            (
                coverage
                    .undecoded
                    .values()
                    .copied()
                    .fold(0, u64::saturating_add),
                "record",
                "not understood",
            ),
            (coverage.threads_not_tracked, "thread", "not observed"),
            (coverage.polls.too_deep, "poll", "nested too deep"),
            (
                coverage.lock_waits_not_aggregated,
                "lock wait",
                "not counted",
            ),
            (
                coverage.polls.return_sites_unwatched,
                "poll return site",
                "not probed",
            ),
        ] {
            if times > 0 {
                let were = if times == 1 { "was" } else { "were" };
                doubts.push(format!("{} {were} {fate}", count(times, what)));
            }
        }
        doubts
    }
}

impl Coverage {
    /// Of a capture with these long polls.
    pub(super) fn new(capture: &Capture, polls: &[PollAnatomy], stacks: &Stacks) -> Coverage {
        let counter = |index| capture.counters.get(index);
        let unwinding = unwinding(capture);
        let mut coverage = Coverage {
            probes: capture.probes.clone(),
            lost: Lost {
                long_polls: counter(wire::COUNTER_LOST_LONG_POLLS),
                long_poll_ns: Nanos(counter(wire::COUNTER_LOST_LONG_POLL_NS)),
                samples: counter(wire::COUNTER_LOST_SAMPLES),
                off_cpu: counter(wire::COUNTER_LOST_OFF_CPU),
                lock_waits: counter(wire::COUNTER_LOST_LOCK_WAITS),
                holds: counter(wire::COUNTER_LOST_HOLDS),
                delays: counter(wire::COUNTER_LOST_DELAYS),
                other: counter(wire::COUNTER_LOST_OTHER),
            },
            stacks: stack_coverage(capture, polls, stacks, &unwinding),
            unwind_tables: capture.meta.unwind_tables.clone(),
            unwinding,
            polls: poll_coverage(capture, polls),
            lock_waits_not_aggregated: counter(wire::COUNTER_LOCK_WAITS_NOT_AGGREGATED),
            lock_waits_too_deep: counter(wire::COUNTER_LOCKS_TOO_DEEP),
            unlocks_not_stored: counter(wire::COUNTER_UNLOCKS_NOT_STORED),
            pairs_not_stored: counter(wire::COUNTER_PAIRS_NOT_STORED),
            holds_not_stored: counter(wire::COUNTER_HOLDS_NOT_STORED),
            task_releases_unmatched: counter(wire::COUNTER_TASK_RELEASES_UNMATCHED),
            wakes_not_stored: counter(wire::COUNTER_WAKES_NOT_STORED),
            early_not_kept: counter(wire::COUNTER_EARLY_NOT_KEPT),
            back_on_cpu_unseen: counter(wire::COUNTER_BACK_ON_CPU_UNSEEN),
            threads_not_tracked: counter(wire::COUNTER_THREADS_NOT_TRACKED),
            undecoded: capture.undecoded.clone(),
            cut: capture.cut.clone(),
            notes: Vec::new(),
        };
        coverage.notes = coverage.notes(polls.len());
        let refused = capture.symbols.refused.iter();
        coverage.notes.extend(refused.map(|why| format!("{why}.")));
        coverage
    }

    /// How good a sum of all long polls can be: at least so much, if there are some that are not in it.
    pub(super) fn of_blocking(&self) -> Certainty {
        self.at_least_if(self.lost.long_polls > 0 || self.polls.too_deep > 0)
    }

    /// The same of lock waits.
    pub(super) fn of_lock_wait(&self) -> Certainty {
        self.at_least_if(self.lock_waits_not_aggregated > 0 || self.lock_waits_too_deep > 0)
    }

    fn at_least_if(&self, missing: bool) -> Certainty {
        if missing || self.threads_not_tracked > 0 || self.cut.is_some() {
            Certainty::LowerBound
        } else {
            Certainty::Exact
        }
    }

    fn notes(&self, long_polls: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(cut) = &self.cut {
            notes.push(format!(
                "The capture is cut off at byte {} ({}): what came later is missing; without its last part there \
                 are no stacks, no names, no sums of lock waits and no counters.",
                cut.offset, cut.why
            ));
        }
        self.probe_notes(&mut notes);
        self.poll_notes(&mut notes, long_polls);
        self.lost_notes(&mut notes);
        self.stack_notes(&mut notes);
        for (why, times) in &self.undecoded {
            notes.push(format!(
                "{} skipped, because this version does not understand it: {why}.",
                count(*times, "record")
            ));
        }
        notes
    }

    fn probe_notes(&self, notes: &mut Vec<String>) {
        for family in &self.probes {
            // One sentence for all that is missing for one reason.
            let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for missing in &family.missing {
                by_reason
                    .entry(&missing.why)
                    .or_default()
                    .push(&missing.what);
            }
            for (why, what) in by_reason {
                notes.push(format!(
                    "Not seen ({}): {}: {why}.",
                    family.name,
                    what.join(", ")
                ));
            }
        }
        let is_off = |name: &str| {
            self.probes
                .iter()
                .any(|family| family.name == name && family.attached == 0)
        };
        if is_off("scheduler") {
            notes.push(
                "The scheduler was not observed: what is called on-CPU includes time off the CPU."
                    .to_owned(),
            );
        }
        let roots = self.probes.iter().find(|family| family.name == "block_on");
        if roots.is_some_and(|family| family.attached > 0) {
            notes.push(
                "Of what `block_on` was given, on a current-thread runtime, only long polls are known and counted."
                    .to_owned(),
            );
        }
        if is_off("cpu") {
            notes.push("No CPU samples were taken: on-CPU time has no stacks.".to_owned());
        }
    }

    fn poll_notes(&self, notes: &mut Vec<String>, long_polls: usize) {
        let PollCoverage {
            began_earlier,
            end_unseen,
            upper_bounds,
            lower_bounds,
            unwatched_at_end,
            unclassified,
            inconsistent,
            without_event_ns,
            too_deep,
            return_sites_unwatched,
        } = self.polls;
        counted(
            notes,
            &[
                (
                    lower_bounds,
                    "long poll",
                    "not ended when the recording did, so at least this long",
                ),
                (
                    upper_bounds,
                    "long poll",
                    "ended unseen, closed at the thread's next poll, so at most this long",
                ),
                (
                    end_unseen,
                    "poll",
                    "ended unseen; only those above can be told to be long",
                ),
                (
                    began_earlier,
                    "long poll",
                    "begun before the recording, left out",
                ),
                (
                    unwatched_at_end,
                    "poll",
                    "under way at the end or ended unseen before, nobody knows: left out",
                ),
                (
                    return_sites_unwatched,
                    "poll return site",
                    "not probed: a poll that returns there ends unseen",
                ),
                (
                    unclassified,
                    "long poll",
                    "maybe not a scheduler's: neither DWARF nor the return address told",
                ),
                (
                    inconsistent,
                    "long poll",
                    "with parts that did not fit the duration and were cut to it",
                ),
                (too_deep, "poll", "nested too deep to be followed"),
            ],
        );
        if without_event_ns != Nanos::ZERO {
            notes.push(format!(
                "{} of lock wait, run queue and sleep in long polls have no stack: their events found no room early in \
                 the poll, or were lost.",
                duration(without_event_ns)
            ));
        }
        if self.lost.long_polls > 0 {
            notes.push(format!(
                "{} of {} long polls did not fit into the ring buffer: {} of runtime-blocking time is missing \
                 in all totals; record with a larger `--ring-buffer-bytes`.",
                self.lost.long_polls,
                self.lost.long_polls.saturating_add(long_polls as u64),
                duration(self.lost.long_poll_ns)
            ));
        }
    }

    fn lost_notes(&self, notes: &mut Vec<String>) {
        counted(
            notes,
            &[
                (
                    self.lost.samples,
                    "CPU sample",
                    "lost; on-CPU time is shared out over fewer",
                ),
                (
                    self.lost.off_cpu,
                    "off-CPU interval",
                    "lost; that time has no stack",
                ),
                (
                    self.back_on_cpu_unseen,
                    "off-CPU interval",
                    "with an end or a wake-up that the scheduler's tracepoints did not tell; when that was is reckoned from the \
                     kernel's own account of the thread, if it keeps one",
                ),
                (
                    self.lost.lock_waits,
                    "lock wait",
                    "lost; in long polls that time has no stack, the sums for each lock are whole",
                ),
                (
                    self.lost.other,
                    "other event",
                    "lost; threads may have no names",
                ),
                (
                    self.lock_waits_not_aggregated,
                    "lock wait",
                    "without room in the kernel's map, missing in the sums for each lock",
                ),
                (
                    self.lock_waits_too_deep,
                    "lock wait",
                    "nested too deep to be followed",
                ),
                (
                    self.unlocks_not_stored,
                    "unlock",
                    "without room in the kernel's map, so some holders are unknown",
                ),
                (
                    self.pairs_not_stored,
                    "release",
                    "without room in the kernel's map: these holders are called unknown",
                ),
                (
                    self.holds_not_stored,
                    "hold",
                    "without room in the kernel's map, missing in the sums for each lock",
                ),
                (
                    self.task_releases_unmatched,
                    "release",
                    "of Tokio's locks by a task that was not seen to acquire one: these holds are missing in the sums",
                ),
                (
                    self.lost.holds,
                    "hold",
                    "lost; the sums for each lock are whole, the list is not",
                ),
                (
                    self.lost.delays,
                    "delay",
                    "of tasks lost; what long polls cost others is at least as much as told",
                ),
                (
                    self.wakes_not_stored,
                    "wake",
                    "of tasks without room in the kernel's map: what it waited is not known",
                ),
                (
                    self.threads_not_tracked,
                    "thread",
                    "without room in the kernel's map, nothing of theirs is seen",
                ),
            ],
        );
    }

    fn stack_notes(&self, notes: &mut Vec<String>) {
        let StackCoverage {
            distinct: _,
            reached_thread_start: _,
            taken: _,
            frames: _,
            frames_without_cfi: _,
            return_addresses_restored: _,
            not_stored,
            blocking_with_stack_ns,
            blocking_to_thread_start_ns,
            addresses,
            addresses_named,
            addresses_with_line,
        } = self.stacks;
        let of_blocking = if blocking_with_stack_ns > Nanos::ZERO {
            format!(
                ", {} of the runtime-blocking time that has a stack",
                percent(blocking_to_thread_start_ns, blocking_with_stack_ns)
            )
        } else {
            String::new()
        };
        let taken = self.unwinding.iter().filter(|kind| kind.taken > 0);
        let complete: Vec<String> = taken.map(complete_of_kind).collect();
        if !complete.is_empty() {
            notes.push(format!(
                "Complete stacks: {}{of_blocking}.",
                complete.join(", ")
            ));
        }
        let cut = cut_short(&self.unwinding);
        if !cut.is_empty() {
            notes.push(format!("Stacks that stop earlier: {}.", cut.join(", ")));
        }
        if not_stored > 0 {
            notes.push(format!(
                "{} found no room; that time has none.",
                count(not_stored, "stack")
            ));
        }
        let nameless = addresses.saturating_sub(addresses_named);
        if nameless > 0 {
            // A few have none in any binary: the vDSO, hand-written assembly.
            let why = if nameless.saturating_mul(20) > addresses {
                ": the binary or a library is stripped; provide its debug file, or build without `strip`"
            } else {
                ""
            };
            notes.push(format!(
                "{nameless} of {addresses} addresses in stacks have no function's name{why}."
            ));
        }
        if addresses_with_line.saturating_mul(2) < addresses_named {
            notes.push(format!(
                "Only {addresses_with_line} of {addresses_named} named addresses have a file and line: build \
                 with `debug = 1` (line tables) to see lines and inlined functions."
            ));
        }
    }
}

/// What happened at all: how often, what, and what it means.
fn counted(notes: &mut Vec<String>, what_happened: &[(u64, &str, &str)]) {
    for (times, what, meaning) in what_happened.iter().filter(|(times, ..)| *times > 0) {
        notes.push(format!("{} {meaning}.", count(*times, what)));
    }
}

/// Kinds of stacks as the report's schema calls them, and for people, with the codes of the kernel side.
const KINDS: [(&str, &str, u32); 3] = [
    ("uprobe", "lock waits and releases", KIND_UPROBE),
    ("sample", "CPU samples", KIND_SAMPLE),
    ("off_cpu", "off-CPU intervals", KIND_OFF_CPU),
];

fn unwinding(capture: &Capture) -> Vec<Unwinding> {
    KINDS
        .iter()
        .map(|(kind, _, code)| {
            let mut unwinding = Unwinding {
                kind: (*kind).to_owned(),
                ..Unwinding::default()
            };
            for outcome in WalkOutcome::ALL {
                let times = capture
                    .counters
                    .get(wire::counter_walks(*code, outcome.code()));
                if times == 0 {
                    continue;
                }
                unwinding.taken = unwinding.taken.saturating_add(times);
                if outcome == WalkOutcome::Complete {
                    unwinding.complete = times;
                }
                unwinding.outcomes.insert(outcome.name().to_owned(), times);
            }
            unwinding
        })
        .collect()
}

/// How complete one kind of stack is.
fn complete_of_kind(kind: &Unwinding) -> String {
    let of = KINDS.iter().find(|(name, ..)| *name == kind.kind);
    format!(
        "{} of {} at {}",
        kind.complete,
        kind.taken,
        of.map_or(kind.kind.as_str(), |(_, people, _)| people)
    )
}

/// How many stacks of all kinds were cut short by what.
fn cut_short(unwinding: &[Unwinding]) -> Vec<String> {
    let outcomes = WalkOutcome::ALL.into_iter();
    outcomes
        .filter(|outcome| *outcome != WalkOutcome::Complete)
        .filter_map(|outcome| {
            let times = unwinding
                .iter()
                .filter_map(|kind| kind.outcomes.get(outcome.name()))
                .fold(0_u64, |sum, times| sum.saturating_add(*times));
            (times > 0).then(|| format!("{times} {}", outcome.in_words()))
        })
        .collect()
}

fn stack_coverage(
    capture: &Capture,
    polls: &[PollAnatomy],
    stacks: &Stacks,
    unwinding: &[Unwinding],
) -> StackCoverage {
    let counter = |index| capture.counters.get(index);
    let mut coverage = StackCoverage {
        // A capture may claim any number.
        taken: unwinding
            .iter()
            .fold(0, |sum, kind| sum.saturating_add(kind.taken)),
        frames: counter(wire::COUNTER_FRAMES),
        frames_without_cfi: counter(wire::COUNTER_FRAMES_WITHOUT_CFI),
        return_addresses_restored: counter(wire::COUNTER_RETURN_ADDRESSES_RESTORED),
        not_stored: counter(wire::COUNTER_STACKS_NOT_STORED),
        ..StackCoverage::default()
    };
    let mut reached_ids = BTreeSet::new();
    for (id, stack) in stacks.iter() {
        coverage.distinct += 1;
        if stack.outcome() == WalkOutcome::Complete {
            reached_ids.insert(id);
        }
    }
    coverage.reached_thread_start = reached_ids.len() as u64;
    for share in polls.iter().flat_map(|anatomy| &anatomy.shares) {
        if let Some(id) = share.stack
            && stacks.get(share.stack).is_some()
        {
            coverage.blocking_with_stack_ns += share.time;
            if reached_ids.contains(&id) {
                coverage.blocking_to_thread_start_ns += share.time;
            }
        }
    }
    let addresses: BTreeSet<u64> = capture
        .stacks
        .values()
        .flat_map(|stack| SymbolTable::lookup_addresses(&stack.addresses))
        .collect();
    coverage.addresses = addresses.len() as u64;
    for address in &addresses {
        let frames = capture
            .symbols
            .frames
            .get(address)
            .map_or(&[][..], Vec::as_slice);
        if frames.iter().any(|frame| frame.unresolved.is_none()) {
            coverage.addresses_named += 1;
        }
        if frames.iter().any(|frame| frame.line.is_some()) {
            coverage.addresses_with_line += 1;
        }
    }
    coverage
}

fn poll_coverage(capture: &Capture, polls: &[PollAnatomy]) -> PollCoverage {
    let those =
        |fits: fn(&PollAnatomy) -> bool| polls.iter().filter(|poll| fits(poll)).count() as u64;
    PollCoverage {
        began_earlier: capture.counters.get(wire::COUNTER_LONG_POLLS_BEGAN_EARLIER),
        end_unseen: capture.counters.get(wire::COUNTER_POLL_END_UNSEEN),
        upper_bounds: those(|anatomy| anatomy.poll.exactness == Exactness::UpperBound),
        lower_bounds: those(|anatomy| anatomy.poll.exactness == Exactness::LowerBound),
        unwatched_at_end: capture.unwatched_at_end,
        unclassified: those(|anatomy| anatomy.poll.unclassified),
        inconsistent: those(|anatomy| anatomy.inconsistent),
        without_event_ns: polls
            .iter()
            .flat_map(|anatomy| &anatomy.shares)
            .filter(|share| {
                share.evidence == Evidence::NoEvent && share.activity != Activity::OnCpu
            })
            .map(|share| share.time)
            .sum(),
        too_deep: capture.counters.get(wire::COUNTER_POLLS_TOO_DEEP),
        return_sites_unwatched: capture
            .return_sites
            .iter()
            .filter(|site| site.attached.is_none())
            .count() as u64,
    }
}
