//! What is said of threads that are stuck: groups of them go in, sentences come out.

use super::super::CallSite;
use super::super::locks::lock_type;
use super::super::words::{bounded, count};
use super::{StuckEntry, StuckGroup, StuckMember};
use crate::event::LockOperation;
use crate::stuck::HolderEvidence;

/// Threads of one group that are told of one by one.
pub const MEMBERS: usize = 6;

/// Threads that wait for each other.
pub fn circle(members: Vec<usize>, entries: &[StuckEntry]) -> StuckGroup {
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

/// Two of whom nobody knows whom they wait for.
pub fn pair(members: Vec<usize>, entries: &[StuckEntry]) -> StuckGroup {
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

/// Threads that wait for one lock.
pub fn of_lock(members: Vec<usize>, entries: &[StuckEntry]) -> StuckGroup {
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
pub fn wants(entry: &StuckEntry, entries: &[StuckEntry], site: Option<&CallSite>) -> String {
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
