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

use serde::{Deserialize, Serialize};

use super::locks::{self, lock_type};
use super::protected::ToldTypes;
use super::stacks::{NamedStack, Stacks, hex};
use super::words::{bounded, count};
use super::{CallSite, Certainty, Finding, LockEntry, LockFamily, LockShape, NamedFrame};
use crate::capture::Capture;
use crate::classify::{Origin, Rules};
use crate::correlate::LockKind;
use crate::event::{LockOperation, Nanos, StackId, Timestamp};
use crate::stuck::{HolderEvidence, StuckNews, StuckWait, Waited};

/// Frames of the user's own code that are told of each thread.
const OWN_FRAMES: usize = 6;
/// Threads of one group that are told of one by one.
const MEMBERS: usize = 6;

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

fn circle(members: Vec<usize>, entries: &[StuckEntry]) -> StuckGroup {
    let is_certain = members.iter().all(|n| {
        let mut holders = entries[*n].holders.iter();
        holders.all(|holder| holder.evidence == HolderEvidence::SeenAcquiring)
    });
    let how = if is_certain {
        "Deadlock"
    } else {
        "Likely a deadlock"
    };
    let time = shortest(&members, entries);
    let headline = match members[..] {
        [one] => format!(
            "{how}: {} waits for a lock that it has itself, for {time} so far.",
            who(&entries[one])
        ),
        _ => format!(
            "{how}: {} wait for each other, for {time} so far.",
            names(&members, entries)
        ),
    };
    let advice = match members.len() {
        1 => "A thread must not take a lock that it has already.",
        _ => "They never go on. Take these locks in the same order everywhere.",
    };
    StuckGroup {
        is_circle: true,
        headline,
        advice: Some(advice),
        ..told(members, entries)
    }
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

fn pair(members: Vec<usize>, entries: &[StuckEntry]) -> StuckGroup {
    StuckGroup {
        headline: format!(
            "Stuck: {} have waited for two locks for {}, and nobody else is stuck. They are a deadlock if each has \
             what the other wants.",
            names(&members, entries),
            shortest(&members, entries)
        ),
        ..told(members, entries)
    }
}

fn of_lock(members: Vec<usize>, entries: &[StuckEntry]) -> StuckGroup {
    let has_ended = members.iter().any(|n| entries[*n].has_ended);
    let (verb, end) = if has_ended {
        ("waited", " and then went on")
    } else {
        ("has waited", "")
    };
    let time = longest(&members, entries);
    let headline = match members[..] {
        [one] => format!(
            "Stuck: {} {verb} for one lock for {time}{end}.",
            who(&entries[one])
        ),
        _ => format!(
            "Stuck: {} {} for one lock for up to {time}{end}.",
            count(members.len() as u64, "thread"),
            if has_ended { "waited" } else { "have waited" },
        ),
    };
    StuckGroup {
        headline,
        ..told(members, entries)
    }
}

/// A group with what is told of its members.
fn told(members: Vec<usize>, entries: &[StuckEntry]) -> StuckGroup {
    let told = members.iter().take(MEMBERS).map(|n| StuckMember {
        what: wants(&entries[*n], entries, None),
        own_frames: entries[*n].own_frames.clone(),
    });
    StuckGroup {
        is_circle: false,
        headline: String::new(),
        members: told.collect(),
        more: members.len().saturating_sub(MEMBERS),
        advice: None,
        entries: members,
    }
}

/// `deadlock-ab (tid 5) wants to lock the Mutex<u64> at 0x… in transfer (src/accounts.rs:9), which deadlock-ba
/// (tid 6) likely has, …`.
fn wants(entry: &StuckEntry, entries: &[StuckEntry], site: Option<&CallSite>) -> String {
    let lock_type = lock_type(entry.family, entry.kind, entry.protects.as_deref());
    let which = match &entry.lock {
        Some(lock) => format!("the {lock_type} at {lock}"),
        None => format!("a {lock_type} that could not be told"),
    };
    let how = match entry.operation {
        LockOperation::RwShared | LockOperation::StdRead => "read",
        LockOperation::RwExclusive | LockOperation::StdWrite => "write to",
        LockOperation::RwUpgradable => "read (upgradable)",
        LockOperation::RwUpgrade => "upgrade to write to",
        _ => "lock",
    };
    let deadline = if entry.has_deadline {
        ", until its deadline"
    } else {
        ""
    };
    let place = site.map_or_else(String::new, |site| format!(" in {}", place(site)));
    let verb = if entry.has_ended { "wanted" } else { "wants" };
    format!(
        "{} {verb} to {how} {which}{place}{deadline}, {}",
        who(entry),
        holder(entry, entries)
    )
}

fn holder(entry: &StuckEntry, entries: &[StuckEntry]) -> String {
    let name = |tid: u32| {
        let other = entries.iter().find(|other| other.tid == tid);
        other.map_or_else(|| format!("thread {tid}"), who)
    };
    let names: Vec<String> = entry.holders.iter().map(|it| name(it.tid)).collect();
    let has = if entry.has_ended { "had" } else { "has" };
    match &entry.holders[..] {
        [] => format!("and who {has} it is not known"),
        [one] if one.evidence == HolderEvidence::SeenAcquiring => {
            format!("which {} {has}, as it was seen acquiring it", names[0])
        }
        [_] if entry.circle.is_some() => format!(
            "which {} likely has, as it keeps the lock's address",
            names[0]
        ),
        [_] => format!(
            "which {} may have, as it keeps the lock's address",
            names[0]
        ),
        _ => format!(
            "which one of {} may have, as they keep the lock's address",
            names.join(" and ")
        ),
    }
}

fn who(entry: &StuckEntry) -> String {
    format!("`{}` (tid {})", entry.thread, entry.tid)
}

fn names(members: &[usize], entries: &[StuckEntry]) -> String {
    let names: Vec<String> = members.iter().map(|n| who(&entries[*n])).collect();
    match &names[..] {
        [] => String::new(),
        [one] => one.clone(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

/// How long all of them have waited.
fn shortest(members: &[usize], entries: &[StuckEntry]) -> String {
    let shortest = members
        .iter()
        .map(|n| &entries[*n])
        .min_by_key(|it| it.waited_ns);
    shortest.map_or_else(String::new, |it| bounded(it.waited_ns, it.certainty))
}

/// How long the first of them has waited.
fn longest(members: &[usize], entries: &[StuckEntry]) -> String {
    let longest = members
        .iter()
        .map(|n| &entries[*n])
        .max_by_key(|it| it.waited_ns);
    longest.map_or_else(String::new, |it| bounded(it.waited_ns, it.certainty))
}

fn place(site: &CallSite) -> String {
    let frame = site.own_frame();
    match &frame.at {
        Some(at) => format!("`{}` ({at})", frame.label),
        None => format!("`{}`", frame.label),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tid: u32, lock: u64, holders: &[u32], evidence: HolderEvidence) -> StuckEntry {
        StuckEntry {
            tid,
            thread: format!("t{tid}"),
            lock: Some(hex(lock)),
            operation: LockOperation::Mutex,
            family: LockFamily::ParkingLot,
            kind: LockShape::Mutex,
            protects: None,
            waited_ns: Nanos(u64::from(tid) * 1_000_000_000),
            certainty: Certainty::Estimate,
            has_deadline: false,
            found_ns: Nanos::ZERO,
            last_seen_ns: Nanos::ZERO,
            has_ended: false,
            holders: holders
                .iter()
                .map(|tid| StuckHolderEntry {
                    tid: *tid,
                    evidence,
                })
                .collect(),
            circle: None,
            call_site: None,
            own_frames: Vec::new(),
            stack: "0x1".to_owned(),
        }
    }

    fn by_address(tid: u32, lock: u64, holders: &[u32]) -> StuckEntry {
        entry(tid, lock, holders, HolderEvidence::AddressOnStack)
    }

    fn seen(tid: u32, lock: u64, holder: u32) -> StuckEntry {
        entry(tid, lock, &[holder], HolderEvidence::SeenAcquiring)
    }

    /// What is found, as the report says it.
    fn said(mut entries: Vec<StuckEntry>) -> Vec<(String, String)> {
        for (number, circle) in circles(&entries).into_iter().enumerate() {
            for n in circle {
                entries[n].circle = Some(number);
            }
        }
        findings(&entries)
            .into_iter()
            .map(|finding| (finding.check, finding.sentence))
            .collect()
    }

    #[track_caller]
    fn expect(entries: Vec<StuckEntry>, expected: &[(&str, &str)]) {
        let said = said(entries);
        let said: Vec<(&str, &str)> = said
            .iter()
            .map(|(check, sentence)| (check.as_str(), sentence.as_str()))
            .collect();
        assert_eq!(said, expected);
    }

    /// Seen to acquire what the others want: certain. One of them by an address: likely.
    #[test]
    fn circles_in_words() {
        expect(
            vec![seen(2, 0xa, 3), seen(3, 0xb, 2)],
            &[(
                "deadlock",
                "Deadlock: `t2` (tid 2) and `t3` (tid 3) wait for each other, for about 2.00 s so far. `t2` (tid 2) \
                 wants to lock the Mutex (parking_lot) at 0xa, which `t3` (tid 3) has, as it was seen acquiring it. `t3` (tid 3) \
                 wants to lock the Mutex (parking_lot) at 0xb, which `t2` (tid 2) has, as it was seen acquiring it. They never go \
                 on. Take these locks in the same order everywhere.",
            )],
        );
        let likely = said(vec![
            seen(2, 0xa, 3),
            by_address(3, 0xb, &[4]),
            by_address(4, 0xc, &[2]),
        ]);
        let [(check, sentence)] = &likely[..] else {
            panic!("{likely:?}");
        };
        assert_eq!(check, "deadlock");
        assert!(
            sentence.starts_with(
                "Likely a deadlock: `t2` (tid 2), `t3` (tid 3) and `t4` (tid 4) wait for each other, "
            ),
            "{sentence}"
        );
        let alone = said(vec![seen(2, 0xa, 2)]);
        assert!(
            alone[0].1.starts_with(
                "Deadlock: `t2` (tid 2) waits for a lock that it has itself, for about 2.00 s so far."
            ),
            "{alone:?}"
        );
    }

    /// Threads behind a circle are no part of it; nor does a deadline, an end, or a doubt make one.
    #[test]
    fn what_is_no_circle() {
        let behind = said(vec![
            by_address(2, 0xa, &[3]),
            by_address(3, 0xb, &[2]),
            by_address(4, 0xa, &[3]),
            by_address(5, 0xc, &[4]),
        ]);
        let checks: Vec<&str> = behind.iter().map(|(check, _)| check.as_str()).collect();
        assert_eq!(checks, ["deadlock", "stuck_threads", "stuck_threads"]);
        assert!(!behind[0].1.contains("t4"), "{behind:?}");
        assert!(
            behind[2].1.contains("which `t3` (tid 3) may have"),
            "{behind:?}"
        );

        for change in [
            |entry: &mut StuckEntry| entry.has_deadline = true,
            |entry: &mut StuckEntry| entry.has_ended = true,
            |entry: &mut StuckEntry| {
                let holder = StuckHolderEntry {
                    tid: 9,
                    evidence: HolderEvidence::AddressOnStack,
                };
                entry.holders.push(holder);
            },
        ] {
            let mut one = by_address(2, 0xa, &[3]);
            change(&mut one);
            let said = said(vec![one, by_address(3, 0xb, &[2])]);
            let has_circle = said.iter().any(|(check, _)| check == DEADLOCK);
            assert!(!has_circle, "{said:?}");
        }
    }

    /// Two threads of whose locks nobody knows who has them, and nobody else: both are named, nothing is claimed.
    #[test]
    fn a_pair_without_evidence() {
        expect(
            vec![by_address(2, 0xa, &[]), by_address(3, 0xb, &[])],
            &[(
                "stuck_threads",
                "Stuck: `t2` (tid 2) and `t3` (tid 3) have waited for two locks for about 2.00 s, and nobody else is \
                 stuck. They are a deadlock if each has what the other wants. `t2` (tid 2) wants to lock the Mutex (parking_lot) \
                 at 0xa, and who has it is not known. `t3` (tid 3) wants to lock the Mutex (parking_lot) at 0xb, and who has it \
                 is not known.",
            )],
        );
        // A third one, or one lock, and nobody can say so.
        let three = said((2..5).map(|n| by_address(n, u64::from(n), &[])).collect());
        assert_eq!(three.len(), 3, "{three:?}");
        let one_lock = said(vec![by_address(2, 0xa, &[]), by_address(3, 0xa, &[])]);
        assert!(
            one_lock[0]
                .1
                .starts_with("Stuck: 2 threads have waited for one lock for up to about 3.00 s."),
            "{one_lock:?}"
        );
    }

    /// Of many threads at one lock the first are told one by one.
    #[test]
    fn a_crowd() {
        let said = said((2..40).map(|n| by_address(n, 0xa, &[])).collect());
        let [(_, sentence)] = &said[..] else {
            panic!("{said:?}");
        };
        assert!(sentence.starts_with("Stuck: 38 threads have waited for one lock"));
        assert!(sentence.ends_with("And 32 more."), "{sentence}");
    }

    /// Who went on in the end is said to have.
    #[test]
    fn a_wait_that_ended() {
        let mut entry = by_address(2, 0xa, &[]);
        entry.has_ended = true;
        expect(
            vec![entry],
            &[(
                "stuck_threads",
                "Stuck: `t2` (tid 2) waited for one lock for about 2.00 s and then went on. `t2` (tid 2) wanted to \
                 lock the Mutex (parking_lot) at 0xa, and who had it is not known.",
            )],
        );
    }
}
