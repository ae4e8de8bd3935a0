//! Threads that are stuck, in words: what was found of them goes in, entries, groups and findings come out. The same
//! words are said at once, while the threads wait, and in the report.
//!
//! | group | the words claim |
//! | --- | --- |
//! | circle, everybody seen acquiring | a deadlock |
//! | circle, somebody by an address alone | likely a deadlock |
//! | two threads, two locks, nobody's holder known, nobody else stuck | a deadlock if each has what the other wants |
//! | all others, lock by lock | stuck |
//!
//! An address alone proves little: who is about to take two locks keeps the addresses of both, and a lock that is the
//! first thing in a struct has the struct's address, which everybody keeps. So one such thread "may have" the
//! lock; that several would have to hold just what the others want, in a circle, is what makes it likely.
//!
//! A wait with a deadline ends by itself, so it is part of no circle.

mod words;

use serde::{Deserialize, Serialize};
use words::{MEMBERS, circle, of_lock, pair, wants};

use super::locks;
use super::protected::ToldTypes;
use super::stacks::{NamedStack, Stacks, hex};
use super::{CallSite, Certainty, Finding, LockEntry, LockFamily, LockShape, NamedFrame};
use crate::capture::Capture;
use crate::classify::{Origin, Rules};
use crate::correlate::LockKind;
use crate::event::{LockOperation, Nanos, StackId, Timestamp};
use crate::stuck::{HolderEvidence, StuckNews, StuckWait, Waited};

/// Frames of the user's own code that are told of each thread.
const OWN_FRAMES: usize = 6;

/// A thread that was found waiting for a lock for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckEntry {
    /// Kernel thread id.
    pub tid: u32,
    /// The thread's name.
    pub thread: String,
    /// Address of the lock; None where the thread's memory did not tell.
    pub lock: Option<String>,
    /// What it waits to do with it.
    pub operation: LockOperation,
    /// Whose lock it is.
    pub family: LockFamily,
    /// What it is.
    pub kind: LockShape,
    /// The type of what the lock protects, whole; None where debug information does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protects: Option<String>,
    /// For how long, when it was seen in this wait last. The hang can be older than the recording.
    pub waited_ns: Nanos,
    /// How good that is: an estimate by the scheduler's account, or a lower bound.
    pub certainty: Certainty,
    /// It gives up by itself at some time.
    pub has_deadline: bool,
    /// When it was told to be stuck, from the recording's start.
    pub found_ns: Nanos,
    /// When it was seen in this wait last, from the recording's start.
    pub last_seen_ns: Nanos,
    /// It was no more there at the next two looks, while the process was.
    pub has_ended: bool,
    /// Who may hold the lock.
    pub holders: Vec<StuckHolderEntry>,
    /// Entries with the same number wait for each other in a circle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circle: Option<usize>,
    /// Where it waits.
    pub call_site: Option<CallSite>,
    /// The innermost frames of the user's own code.
    pub own_frames: Vec<NamedFrame>,
    /// The whole stack.
    pub stack: String,
}

/// A thread that may hold a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckHolderEntry {
    /// Kernel thread id.
    pub tid: u32,
    /// How that is known.
    pub evidence: HolderEvidence,
}

/// Threads that are stuck together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckGroup {
    /// They wait for each other: `deadlock`, else `stuck_threads`.
    pub is_circle: bool,
    /// What is the matter: a sentence.
    pub headline: String,
    /// The threads of it that are told of.
    pub members: Vec<StuckMember>,
    /// How many more there are.
    pub more: usize,
    /// What to do.
    pub advice: Option<&'static str>,
    /// Indices of all its entries.
    entries: Vec<usize>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckMember {
    /// Who wants what, and who has it.
    pub what: String,
    /// Where: the innermost frames of the user's own code.
    pub own_frames: Vec<NamedFrame>,
}

/// What was found in a recording, and the stacks that it names.
pub(super) fn entries(capture: &Capture, stacks: &Stacks) -> Vec<StuckEntry> {
    listed(capture.stuck.iter(), stacks, capture.meta.start)
}

/// The stacks that the entries of a capture name.
pub(super) fn stack_ids(capture: &Capture) -> impl Iterator<Item = StackId> + '_ {
    capture.stuck.iter().map(|wait| wait.stack)
}

/// The groups in which news of stuck threads are, of all that are stuck now.
pub fn stuck_now(news: &StuckNews<'_>, rules: &Rules) -> Vec<StuckGroup> {
    let stacks = Stacks::of(&news.found.stacks, news.symbols, &[], rules);
    let entries = listed(news.now(), &stacks, Timestamp(0));
    let new = &news.found.waits[news.news.clone()];
    let is_new = |n: &usize| new.iter().any(|wait| wait.tid.0 == entries[*n].tid);
    let mut groups = groups(&entries);
    groups.retain(|group| group.entries.iter().any(is_new));
    groups
}

/// Findings about all entries: circles first, then most harm first.
pub(super) fn findings(entries: &[StuckEntry]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = groups(entries)
        .iter()
        .map(|group| finding(group, entries))
        .collect();
    findings.sort_by_key(|it| (it.check != DEADLOCK, std::cmp::Reverse(it.harm_ns)));
    findings
}

const DEADLOCK: &str = "deadlock";

fn finding(group: &StuckGroup, entries: &[StuckEntry]) -> Finding {
    let members = || group.entries.iter().map(|n| &entries[*n]);
    let first = members().next();
    let parts = std::iter::once(group.headline.clone())
        .chain(
            members()
                .take(MEMBERS)
                .map(|entry| format!("{}.", wants(entry, entries, entry.call_site.as_ref()))),
        )
        .chain((group.more > 0).then(|| format!("And {} more.", group.more)))
        .chain(group.advice.map(str::to_owned));
    Finding {
        check: if group.is_circle {
            DEADLOCK.to_owned()
        } else {
            "stuck_threads".to_owned()
        },
        sentence: parts.collect::<Vec<_>>().join(" "),
        explanation: if group.is_circle {
            "Threads that each have what the next one wants wait for ever; so does everybody who wants one of \
             these locks from now on."
                .to_owned()
        } else {
            "Threads that wait for one lock for this long wait for somebody who does not let go of it, who waits \
             for something else, is gone, or forgot to."
                .to_owned()
        },
        harm_ns: members().map(|entry| entry.waited_ns).sum(),
        certainty: Certainty::of_all(members().map(|entry| entry.certainty)),
        count: group.entries.len() as u64,
        longest_ns: members().map(|it| it.waited_ns).max().unwrap_or_default(),
        call_site: first.and_then(|entry| entry.call_site.clone()),
        lock: first.and_then(|entry| entry.lock.clone()),
        holder: None,
        holders: None,
        tasks: Vec::new(),
        anatomy: None,
        asleep: Vec::new(),
        victims: None,
        long_polls: Vec::new(),
    }
}

fn listed<'a>(
    waits: impl Iterator<Item = &'a StuckWait>,
    stacks: &Stacks,
    start: Timestamp,
) -> Vec<StuckEntry> {
    let mut entries: Vec<StuckEntry> = waits.map(|wait| entry(wait, stacks, start)).collect();
    for (number, circle) in circles(&entries).into_iter().enumerate() {
        for n in circle {
            entries[n].circle = Some(number);
        }
    }
    entries
}

fn entry(wait: &StuckWait, stacks: &Stacks, start: Timestamp) -> StuckEntry {
    let stack = stacks.get(Some(wait.stack));
    let lock_kind = LockKind::from(wait.operation);
    let family = locks::family(lock_kind);
    let mut types = ToldTypes::new(family);
    types.add(stacks, Some(wait.stack), wait.waited);
    StuckEntry {
        tid: wait.tid.0,
        thread: wait.thread.clone(),
        lock: wait.lock.map(|lock| hex(lock.0)),
        operation: wait.operation,
        family,
        kind: locks::shape(lock_kind, types.shape()),
        protects: types.protects(),
        waited_ns: wait.waited,
        certainty: match wait.waited_is {
            Waited::Estimate => Certainty::Estimate,
            Waited::LowerBound => Certainty::LowerBound,
        },
        has_deadline: wait.has_deadline,
        found_ns: wait.found.since(start),
        last_seen_ns: wait.last_seen.since(start),
        has_ended: wait.has_ended,
        holders: wait
            .holders
            .iter()
            .map(|holder| StuckHolderEntry {
                tid: holder.tid.0,
                evidence: holder.evidence,
            })
            .collect(),
        circle: None,
        call_site: stack.and_then(locks::site_of_lock),
        own_frames: stack.map(own_frames).unwrap_or_default(),
        stack: hex(wait.stack.0),
    }
}

/// What a person who has to act looks at: the code that is theirs, or where there is none, that of libraries.
fn own_frames(stack: &NamedStack) -> Vec<NamedFrame> {
    let of = |origin| {
        let frames = stack
            .frames
            .iter()
            .filter(move |frame| frame.origin == origin);
        frames.take(OWN_FRAMES).map(|frame| (**frame).clone())
    };
    let user: Vec<NamedFrame> = of(Origin::User).collect();
    if user.is_empty() {
        of(Origin::Library).collect()
    } else {
        user
    }
}

/// The circles in which threads wait for each other. Each waits for one lock, so that it is in one circle at most.
fn circles(entries: &[StuckEntry]) -> Vec<Vec<usize>> {
    let waits_for = |n: usize| {
        let entry = &entries[n];
        let [holder] = &entry.holders[..] else {
            return None;
        };
        let lasts = |entry: &StuckEntry| !entry.has_ended && !entry.has_deadline;
        let next = entries
            .iter()
            .position(|other| other.tid == holder.tid && lasts(other));
        next.filter(|_| lasts(entry))
    };
    let mut circles = Vec::new();
    let mut been = vec![false; entries.len()];
    for first in 0..entries.len() {
        let mut path = Vec::new();
        let mut at = Some(first);
        while let Some(n) = at.filter(|n| !been[*n]) {
            been[n] = true;
            path.push(n);
            at = waits_for(n);
        }
        if let Some(again) = at.and_then(|at| path.iter().position(|n| *n == at)) {
            circles.push(path.split_off(again));
        }
    }
    circles
}

/// All entries, each in one group.
fn groups(entries: &[StuckEntry]) -> Vec<StuckGroup> {
    let all = |wanted: &dyn Fn(&StuckEntry) -> bool| -> Vec<usize> {
        (0..entries.len())
            .filter(|n| wanted(&entries[*n]))
            .collect()
    };
    let numbers: std::collections::BTreeSet<usize> =
        entries.iter().filter_map(|entry| entry.circle).collect();
    let mut groups: Vec<StuckGroup> = numbers
        .iter()
        .map(|number| circle(all(&|entry| entry.circle == Some(*number)), entries))
        .collect();
    let rest = all(&|entry| entry.circle.is_none());
    if groups.is_empty() && is_pair(&rest, entries) {
        return vec![pair(rest, entries)];
    }
    let mut seen = std::collections::BTreeSet::new();
    for n in rest {
        let lock = (&entries[n].lock, entries[n].has_ended);
        // Waits whose lock is not known have nothing in common.
        if lock.0.is_none() {
            groups.push(of_lock(vec![n], entries));
        } else if seen.insert(lock) {
            let same = |it: &StuckEntry| it.circle.is_none() && (&it.lock, it.has_ended) == lock;
            groups.push(of_lock(all(&same), entries));
        }
    }
    groups
}

/// Whether these entries say all that is known of a lock: it was waited for by stuck threads alone.
pub(super) fn say_all_of(lock: &LockEntry, entries: &[StuckEntry]) -> bool {
    let address = Some(&lock.address);
    let told = entries
        .iter()
        .filter(|entry| entry.lock.as_ref() == address);
    lock.totals.waits == 0 && lock.still_waiting.waits <= told.count() as u64
}

/// Whether these may be two who wait for each other, for all that is known.
fn is_pair(rest: &[usize], entries: &[StuckEntry]) -> bool {
    let [one, other] = rest else {
        return false;
    };
    let (one, other) = (&entries[*one], &entries[*other]);
    let is_open = |entry: &StuckEntry| {
        entry.lock.is_some() && entry.holders.is_empty() && !entry.has_deadline && !entry.has_ended
    };
    is_open(one) && is_open(other) && one.lock != other.lock
}

#[cfg(test)]
mod tests;
