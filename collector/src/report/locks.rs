//! Locks in the report: their names, who waited, and for whom.

use std::collections::{BTreeMap, BTreeSet};

use super::flames::LockNames;
use super::holders::HolderSum;
use super::label;
use super::protected::ProtectedTypes;
use super::stacks::{NamedStack, SiteKey, Stacks, call_site, hex};
use super::{CallSite, CondvarEntry, LockEntry, LockPair, StillWaiting, WaitTotals};
use crate::classify::Origin;
use crate::correlate::{LockKind, LockWaits, WaitSum};
use crate::event::{LockAddr, LockOperation, Nanos, StackId};

/// All locks of a capture, named.
pub struct Locks {
    /// Most waited for first.
    pub entries: Vec<LockEntry>,
    /// Most waited at first.
    pub condvars: Vec<CondvarEntry>,
    /// For tags.
    pub names: LockNames,
    /// Stacks that the entries name.
    pub stacks: BTreeSet<StackId>,
}

impl Locks {
    /// From the waits of each lock.
    pub fn new(locks: &BTreeMap<(LockAddr, LockKind), LockWaits<'_>>, stacks: &Stacks) -> Locks {
        let mut result = Locks {
            entries: Vec::new(),
            condvars: Vec::new(),
            names: BTreeMap::new(),
            stacks: BTreeSet::new(),
        };
        for (key @ (address, kind), waits) in locks {
            if *kind == LockKind::Condvar {
                result.condvars.push(CondvarEntry {
                    address: hex(address.0),
                    totals: waits.sum.into(),
                });
                continue;
            }
            let entry = lock_entry(*address, *kind, waits, stacks, &mut result.stacks);
            result.names.insert(*key, entry.name.clone());
            result.entries.push(entry);
        }
        // The map's order is by address, so that equal ones keep an order that doesn't change.
        result.entries.sort_by_key(|lock| {
            std::cmp::Reverse(lock.totals.total_ns + lock.still_waiting.at_least_ns)
        });
        result
            .condvars
            .sort_by_key(|condvar| std::cmp::Reverse(condvar.totals.total_ns));
        result
    }
}

fn lock_entry(
    address: LockAddr,
    kind: LockKind,
    waits: &LockWaits<'_>,
    stacks: &Stacks,
    named: &mut BTreeSet<StackId>,
) -> LockEntry {
    let mut places = Places::default();
    let mut types = ProtectedTypes::default();
    let ended = waits.ended.iter().map(|e| (e.waiter_stack, e.total));
    let still_waiting = waits.still_waiting.iter();
    let still_waiting = still_waiting.map(|w| (w.waiter_stack, w.end.since(w.start)));
    for (stack, time) in ended.chain(still_waiting) {
        places.add(stacks, stack, time);
        types.add(stacks, stack, time);
    }
    let mut holders = HolderSum::default();
    for entry in &waits.ended {
        let holder = stacks.get(entry.holder_stack).and_then(site_of_lock);
        holders.add(holder, entry.count, entry.total);
    }
    let acquired_from = places.0.len() as u64;
    let acquired_at = places.heaviest();
    let protects = types.heaviest();
    LockEntry {
        address: hex(address.0),
        kind,
        name: lock_name(kind, protects.as_deref(), acquired_at.as_ref()),
        protects,
        acquired_at,
        acquired_from,
        totals: waits.sum.into(),
        log2_histogram: without_empty_end(&waits.log2_histogram),
        operations: waits
            .operations
            .iter()
            .map(|(operation, sum)| (*operation, WaitTotals::from(*sum)))
            .collect(),
        still_waiting: StillWaiting {
            waits: waits.still_waiting.len() as u64,
            at_least_ns: waits
                .still_waiting
                .iter()
                .map(|wait| wait.end.since(wait.start))
                .sum(),
        },
        holders: holders.finish(),
        pairs: pairs(waits, stacks, named),
    }
}

/// A lock has no name of its own. It is called by what it protects and by where most of the wait for it is.
fn lock_name(kind: LockKind, protects: Option<&str>, acquired_at: Option<&CallSite>) -> String {
    let what = lock_type(kind, protects);
    match acquired_at {
        Some(site) => format!("{what} locked at {}", site.own_frame().with_place()),
        None => format!("{what} locked where no stack tells"),
    }
}

/// `Mutex<app::…::Sessions>`, or what is known of that.
pub fn lock_type(kind: LockKind, protects: Option<&str>) -> String {
    let what = match kind {
        LockKind::Mutex => "Mutex",
        LockKind::RwLock => "RwLock",
        LockKind::Condvar => "Condvar",
    };
    match protects {
        Some(protects) => format!("{what}<{}>", label::protected(protects)),
        None => what.to_owned(),
    }
}

/// Where a lock was wanted or released: the innermost frame that is neither a lock's nor std's.
pub fn site_of_lock(stack: &NamedStack) -> Option<CallSite> {
    let frames = stack.of_poll(None);
    let outside = frames
        .iter()
        .position(|frame| !matches!(frame.origin, Origin::Lock | Origin::Std | Origin::Kernel));
    call_site(outside.map_or(frames, |at| &frames[at..]))
}

/// Call sites of one function, by file and line, with their time.
type Lines = BTreeMap<(Option<String>, Option<u32>), (CallSite, Nanos)>;

/// Call sites by function.
#[derive(Default)]
struct Places(BTreeMap<SiteKey, Lines>);

impl Places {
    fn add(&mut self, stacks: &Stacks, stack: Option<StackId>, time: Nanos) {
        let Some(site) = stacks.get(stack).and_then(site_of_lock) else {
            return;
        };
        let line = (site.frame.file.clone(), site.frame.line);
        let lines = self.0.entry(SiteKey::new(&site)).or_default();
        lines.entry(line).or_insert((site, Nanos::ZERO)).1 += time;
    }

    /// The line with the most time of the function with the most.
    fn heaviest(self) -> Option<CallSite> {
        let lines = self.0.into_values().reduce(|most, lines| {
            let time = |lines: &Lines| lines.values().map(|(_, time)| *time).sum::<Nanos>();
            if time(&lines) > time(&most) {
                lines
            } else {
                most
            }
        })?;
        let heaviest = lines
            .into_values()
            .reduce(|most, line| if line.1 > most.1 { line } else { most });
        heaviest.map(|(site, _)| site)
    }
}

/// One pair while it is summed.
struct Pair {
    waiter: Option<CallSite>,
    holder: Option<CallSite>,
    sum: WaitSum,
    heaviest: Nanos,
    waiter_stack: Option<StackId>,
    holder_stack: Option<StackId>,
}

fn pairs(waits: &LockWaits<'_>, stacks: &Stacks, named: &mut BTreeSet<StackId>) -> Vec<LockPair> {
    let mut pairs: BTreeMap<(LockOperation, Option<SiteKey>, Option<SiteKey>), Pair> =
        BTreeMap::new();
    let site = |stack| stacks.get(stack).and_then(site_of_lock);
    for entry in &waits.ended {
        let (waiter, holder) = (site(entry.waiter_stack), site(entry.holder_stack));
        let key = (
            entry.operation,
            waiter.as_ref().map(SiteKey::new),
            holder.as_ref().map(SiteKey::new),
        );
        let pair = pairs.entry(key).or_insert_with(|| Pair {
            waiter: None,
            holder: None,
            sum: WaitSum::default(),
            heaviest: Nanos::ZERO,
            waiter_stack: None,
            holder_stack: None,
        });
        pair.sum.add(entry);
        if entry.total >= pair.heaviest {
            pair.heaviest = entry.total;
            pair.waiter = waiter;
            pair.holder = holder;
            pair.waiter_stack = entry.waiter_stack;
            pair.holder_stack = entry.holder_stack;
        }
    }
    let mut listed: Vec<LockPair> = pairs
        .into_iter()
        .map(|((operation, ..), pair)| {
            named.extend(pair.waiter_stack.into_iter().chain(pair.holder_stack));
            LockPair {
                operation,
                waiter: pair.waiter,
                holder: pair.holder,
                totals: pair.sum.into(),
                waiter_stack: pair.waiter_stack.map(|id| hex(id.0)),
                holder_stack: pair.holder_stack.map(|id| hex(id.0)),
            }
        })
        .collect();
    listed.sort_by_key(|pair| std::cmp::Reverse(pair.totals.total_ns));
    listed
}

fn without_empty_end(histogram: &[u64]) -> Vec<u64> {
    let used = histogram
        .iter()
        .rposition(|count| *count > 0)
        .map_or(0, |last| last + 1);
    histogram[..used].to_vec()
}

impl From<WaitSum> for WaitTotals {
    fn from(sum: WaitSum) -> WaitTotals {
        let WaitSum {
            count,
            total,
            max,
            long_count,
            long_total,
            timed_out,
        } = sum;
        WaitTotals {
            waits: count,
            total_ns: total,
            max_ns: max,
            long_waits: long_count,
            long_total_ns: long_total,
            timed_out,
        }
    }
}
