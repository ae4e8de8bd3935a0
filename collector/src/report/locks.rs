//! Locks in the report: their names, who waited, and for whom.

use std::collections::{BTreeMap, BTreeSet};

use super::flames::{LockName, LockNames};
use super::holders::HolderSum;
use super::label;
use super::protected::ToldTypes;
use super::stacks::{NamedStack, SiteKey, Stacks, call_site, hex};
use super::{
    CallSite, Certainty, CondvarEntry, HoldTotalsEntry, Holders, LockEntry, LockFamily, LockPair,
    LockShape, StillWaiting, WaitTotals,
};
use crate::classify::Origin;
use crate::correlate::{LockKind, LockWaits, WaitSum};
use crate::event::{HoldEvidence, HoldTotals, LockAddr, LockOperation, Nanos, StackId};

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
    /// From the waits and holds of each lock.
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
            result.names.insert(
                *key,
                LockName {
                    whole: entry.name.clone(),
                    what: entry.lock_type(),
                    is_channel: entry.kind == LockShape::Channel,
                },
            );
            result.entries.push(entry);
        }
        // The map's order is by address, so that equal ones keep an order that doesn't change.
        result.entries.sort_by_key(LockEntry::weight);
        result
            .condvars
            .sort_by_key(|condvar| std::cmp::Reverse(condvar.totals.total_ns));
        result
    }
}

impl LockEntry {
    fn lock_type(&self) -> String {
        lock_type(self.family, self.kind, self.protects.as_deref())
    }

    /// Most waited for first, then longest held.
    fn weight(&self) -> std::cmp::Reverse<(Nanos, Nanos)> {
        std::cmp::Reverse((
            self.totals.total_ns + self.still_waiting.at_least_ns,
            self.holds.longest_ns,
        ))
    }
}

fn lock_entry(
    address: LockAddr,
    kind: LockKind,
    waits: &LockWaits<'_>,
    stacks: &Stacks,
    named: &mut BTreeSet<StackId>,
) -> LockEntry {
    let family = family(kind);
    let (mut places, mut types) = (Places::default(), ToldTypes::new(family));
    let ended = waits.ended.iter().map(|e| (e.waiter_stack, e.total));
    let still_waiting = waits.still_waiting.iter();
    let still_waiting = still_waiting.map(|w| (w.waiter_stack, w.end.since(w.start)));
    for (stack, time) in ended.chain(still_waiting) {
        places.add(stacks, stack, time);
        types.add(stacks, stack, time);
    }
    let acquired_from = places.0.len() as u64;
    for holds in &waits.holds {
        // Told by those who waited, if anybody did.
        let place = holds.acquire_stack.or(holds.release_stack);
        if waits.ended.is_empty() {
            places.add(stacks, place, holds.total);
        }
        types.add(stacks, place, Nanos(1));
    }
    let (holds, across_await, locked_at_poll_end) = holds_of(waits);
    let mut entry = LockEntry {
        address: hex(address.0),
        family,
        kind: shape(kind, types.shape()),
        name: String::new(),
        protects: types.protects(),
        acquired_at: places.heaviest(),
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
        holders: holders(waits, stacks),
        pairs: pairs(waits, stacks, named),
        holds,
        across_await,
        locked_at_poll_end,
    };
    entry.name = lock_name(&entry);
    entry
}

/// Whose it is.
pub fn family(kind: LockKind) -> LockFamily {
    match kind {
        LockKind::Mutex | LockKind::RwLock | LockKind::Condvar => LockFamily::ParkingLot,
        LockKind::StdMutex | LockKind::StdRwLock => LockFamily::Std,
        LockKind::TokioSemaphore => LockFamily::Tokio,
    }
}

/// A semaphore of Tokio's is whatever the stacks say, if they do.
pub fn shape(kind: LockKind, told: Option<LockShape>) -> LockShape {
    match kind {
        LockKind::Mutex | LockKind::StdMutex | LockKind::Condvar => LockShape::Mutex,
        LockKind::RwLock | LockKind::StdRwLock => LockShape::RwLock,
        LockKind::TokioSemaphore => told.unwrap_or(LockShape::Semaphore),
    }
}

/// All holds, those across an await, and how often it was locked at a poll's end.
fn holds_of(waits: &LockWaits<'_>) -> (HoldTotalsEntry, HoldTotalsEntry, u64) {
    let (mut all, mut across, mut locked) = <(HoldTotalsEntry, HoldTotalsEntry, u64)>::default();
    for holds in &waits.holds {
        if holds.evidence == HoldEvidence::LockedAtPollEnd {
            locked = locked.saturating_add(holds.count);
            continue;
        }
        all.add(holds);
        if holds.across_await {
            across.add(holds);
        }
    }
    (all, across, locked)
}

impl HoldTotalsEntry {
    fn add(&mut self, holds: &HoldTotals) {
        let certainty = match holds.evidence {
            HoldEvidence::Exact => Certainty::Exact,
            _ => Certainty::LowerBound,
        };
        self.merge(&HoldTotalsEntry {
            count: holds.count,
            total_ns: holds.total,
            longest_ns: holds.max,
            longest_certainty: certainty,
        });
    }

    /// Adds those of another lock, or of other places.
    pub(crate) fn merge(&mut self, other: &HoldTotalsEntry) {
        self.count = self.count.saturating_add(other.count);
        self.total_ns += other.total_ns;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        // One that may have been longer may have been the longest.
        self.longest_certainty = self.longest_certainty.and(other.longest_certainty);
    }
}

/// Each nanosecond of the waits that ended is somebody's, or the handover's, or nobody's.
fn holders(waits: &LockWaits<'_>, stacks: &Stacks) -> Holders {
    let mut sum = HolderSum::default();
    let mut charged = Nanos::ZERO;
    for pair in &waits.pairs {
        // A release without a stack is one whose place is not known.
        if let Some(site) = stacks.get(pair.holder_stack).and_then(site_of_lock) {
            sum.add(Some(site), pair.count, pair.total);
            charged += pair.total;
        }
    }
    let joined: u64 = waits.ended.iter().map(|ended| ended.joined).sum();
    let handover = waits.ended.iter().map(|ended| ended.handover).sum();
    sum.add_handover(handover);
    let unseen = waits.sum.total.saturating_sub(charged + handover);
    sum.add(None, waits.sum.count.saturating_sub(joined), unseen);
    sum.finish()
}

/// A lock has no name of its own. It is called by what it protects and by where most of the wait for it is.
fn lock_name(entry: &LockEntry) -> String {
    let what = entry.lock_type();
    let done = match entry.kind {
        LockShape::Channel => "sent to",
        LockShape::Semaphore => "acquired",
        LockShape::Mutex | LockShape::RwLock => "locked",
    };
    match &entry.acquired_at {
        Some(site) => format!("{what} {done} at {}", site.own_frame().with_place()),
        None => format!("{what} {done} where no stack tells"),
    }
}

/// `Mutex<app::…::Sessions> (std)`, or what is known of that.
pub fn lock_type(family: LockFamily, kind: LockShape, protects: Option<&str>) -> String {
    let what = match kind {
        LockShape::Mutex => "Mutex",
        LockShape::RwLock => "RwLock",
        LockShape::Semaphore => "Semaphore",
        LockShape::Channel => "channel",
    };
    let whose = match family {
        LockFamily::ParkingLot => "parking_lot",
        LockFamily::Std => "std",
        LockFamily::Tokio => "tokio",
    };
    match protects {
        Some(protects) => format!("{what}<{}> ({whose})", label::protected(protects)),
        None => format!("{what} ({whose})"),
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
#[derive(Default)]
struct Pair {
    waiter: Option<CallSite>,
    holder: Option<CallSite>,
    releases: u64,
    total: Nanos,
    max: Nanos,
    heaviest: Nanos,
    waiter_stack: Option<StackId>,
    holder_stack: Option<StackId>,
}

fn pairs(waits: &LockWaits<'_>, stacks: &Stacks, named: &mut BTreeSet<StackId>) -> Vec<LockPair> {
    let mut pairs: BTreeMap<(LockOperation, Option<SiteKey>, Option<SiteKey>), Pair> =
        BTreeMap::new();
    let site = |stack| stacks.get(stack).and_then(site_of_lock);
    for entry in &waits.pairs {
        let (waiter, holder) = (site(entry.waiter_stack), site(entry.holder_stack));
        let key = (
            entry.operation,
            waiter.as_ref().map(SiteKey::new),
            holder.as_ref().map(SiteKey::new),
        );
        let pair = pairs.entry(key).or_default();
        pair.releases = pair.releases.saturating_add(entry.count);
        pair.total += entry.total;
        pair.max = pair.max.max(entry.max);
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
                releases: pair.releases,
                total_ns: pair.total,
                max_ns: pair.max,
                waiter_stack: pair.waiter_stack.map(|id| hex(id.0)),
                holder_stack: pair.holder_stack.map(|id| hex(id.0)),
            }
        })
        .collect();
    listed.sort_by_key(|pair| std::cmp::Reverse(pair.total_ns));
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
