//! Locks: a report's, sorted into the rows of an inventory.

use std::collections::BTreeSet;

use super::pattern::any;
use super::{Inventory, LockResult, LockRow, Names, SeenLocks, TOO_LONG};
use crate::classify::Origin;
use crate::report::{
    CallSite, Certainty, HoldTotalsEntry, LockFamily, LockShape, LockTypeEntry, NamedFrame, Report,
    WaitTotals,
};

/// All locks of a report.
pub struct Sorted {
    /// One for each row of the inventory.
    pub rows: Vec<LockResult>,
    /// In none of them.
    pub in_no_row: Vec<SeenLocks>,
    /// The same, inside of the runtime.
    pub of_the_runtime: Vec<SeenLocks>,
}

/// Sorts the locks of a report.
pub fn measure(inventory: &Inventory, report: &Report, names: &dyn Names) -> Sorted {
    let mut of_row: Vec<Vec<&LockTypeEntry>> = vec![Vec::new(); inventory.locks.len()];
    let mut others = Vec::new();
    for lock in &report.lock_types {
        match inventory.locks.iter().position(|row| row.has(lock)) {
            Some(row) => of_row[row].push(lock),
            // Waiting for room is no contention.
            None if lock.kind == LockShape::Channel => {}
            None => others.push(lock),
        }
    }
    let rows = inventory
        .locks
        .iter()
        .zip(of_row)
        .map(|(row, locks)| {
            let seen = seen(&locks, report);
            LockResult {
                name: row.name.clone(),
                krate: row.krate.clone(),
                file: row.file.clone(),
                lock: row.lock.clone(),
                held_across_await: row.held_across_await.clone(),
                held_too_long: row.held_too_long.clone(),
                unseen_because: seen.is_none().then(|| row.unseen_because(report, names)),
                seen,
            }
        })
        .collect();
    let (of_the_runtime, in_no_row): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|lock| is_the_runtimes(lock));
    let seen_each = |locks: Vec<&LockTypeEntry>| {
        let each = locks.into_iter().filter_map(|lock| seen(&[lock], report));
        each.collect()
    };
    Sorted {
        rows,
        in_no_row: seen_each(in_no_row),
        of_the_runtime: seen_each(of_the_runtime),
    }
}

impl LockRow {
    fn has(&self, lock: &LockTypeEntry) -> bool {
        if self.family != Some(lock.family) || self.no_lock.is_some() {
            return false;
        }
        // Of Tokio's locks all are semaphores to those who don't know better.
        let kind_fits = self.kind == Some(lock.kind)
            || (lock.family == LockFamily::Tokio
                && lock.kind == LockShape::Semaphore
                && lock.protects.is_none());
        if !kind_fits {
            return false;
        }
        let is_acquired_here = || {
            lock.acquired_at
                .as_ref()
                .is_some_and(|site| self.is_in(site))
        };
        match &lock.protects {
            Some(protects) if !self.protects.is_empty() => {
                any(&self.protects, protects)
                    && (self.acquired_in.is_empty()
                        || self.is_told_by_type(protects)
                        || is_acquired_here())
            }
            _ => is_acquired_here(),
        }
    }

    /// A type of the row's own crate is nobody else's.
    fn is_told_by_type(&self, protects: &str) -> bool {
        protects.contains(&format!("{}::", self.krate))
    }

    fn is_in(&self, site: &CallSite) -> bool {
        let fits = |frame: &NamedFrame| {
            let file = frame.file.as_deref();
            file.is_some_and(|file| any(&self.acquired_in, file))
                || any(&self.acquired_in, &frame.function)
        };
        fits(&site.frame) || site.called_by.as_ref().is_some_and(fits)
    }

    fn unseen_because(&self, report: &Report, names: &dyn Names) -> String {
        if let Some(why) = &self.no_lock {
            return why.clone();
        }
        if let Some(part) = &self.only_with {
            match names.contain(part) {
                Some(false) => {
                    return format!(
                        "not compiled into this binary: no symbol of it names `{part}`"
                    );
                }
                Some(true) => {}
                None => {
                    return format!(
                        "nobody was seen to wait for it or to hold it; it is there only if a symbol of the binary names \
                         `{part}`, which a capture does not tell"
                    );
                }
            }
        }
        if let Some(why) = self.not_probed(report) {
            return why;
        }
        let has_types = report.lock_types.iter().any(|lock| lock.protects.is_some());
        if self.acquired_in.is_empty() && !has_types && !report.lock_types.is_empty() {
            return "debug information has no type of any lock, and this one is told by its type alone"
                .to_owned();
        }
        match self.family {
            Some(LockFamily::Tokio) => "nobody was seen to wait for it or to release it".to_owned(),
            _ if attached(report, "uncontended") > 0 => {
                "nobody was seen to take it at any place that debug information tells of".to_owned()
            }
            _ => "no contention: nobody waited for it, and a free lock is taken and released by inlined code, which was not \
                  probed"
                .to_owned(),
        }
    }

    fn not_probed(&self, report: &Report) -> Option<String> {
        let family = match (self.family?, self.kind?) {
            (LockFamily::ParkingLot, LockShape::RwLock) => "rwlock",
            (LockFamily::ParkingLot, _) => "mutex",
            (LockFamily::Std, LockShape::RwLock) => "std_rwlock",
            (LockFamily::Std, _) => "std_mutex",
            (LockFamily::Tokio, _) => "tokio_sync",
        };
        if attached(report, family) > 0 {
            return None;
        }
        let probes = report.coverage.probes.iter().find(|f| f.name == family);
        let why = probes.and_then(|probes| probes.missing.first());
        let why = why.map_or("the recording has no such probes", |missing| &missing.why);
        Some(format!("not probed in this binary ({family}): {why}"))
    }
}

/// Probes of a family that were in place.
fn attached(report: &Report, family: &str) -> u32 {
    let family = report.coverage.probes.iter().find(|f| f.name == family);
    family.map_or(0, |family| family.attached)
}

/// Inside of the runtime, or of a library without any code of the user's around it.
pub fn is_the_runtimes(lock: &LockTypeEntry) -> bool {
    // What the user puts into a lock of their own.
    const HANDED_OUT: [&str; 10] = [
        "tokio::net::",
        "tokio::sync::broadcast::Receiver",
        "tokio::sync::broadcast::Sender",
        "tokio::sync::mpsc::",
        "tokio::sync::mutex::",
        "tokio::sync::notify::Notify",
        "tokio::sync::oneshot::",
        "tokio::sync::watch::Receiver",
        "tokio::sync::watch::Sender",
        "tokio::task::",
    ];
    let is_tokios = lock.protects.as_ref().is_some_and(|protects| {
        protects.starts_with("tokio::")
            && !HANDED_OUT.iter().any(|module| protects.starts_with(module))
    });
    let is_the_users = lock
        .acquired_at
        .as_ref()
        .is_some_and(|site| matches!(site.frame.origin, Origin::User | Origin::Crypto));
    is_tokios || !is_the_users
}

fn seen(locks: &[&LockTypeEntry], report: &Report) -> Option<SeenLocks> {
    let first = locks.first()?;
    let instances: BTreeSet<&str> = locks
        .iter()
        .flat_map(|lock| &lock.instances)
        .map(String::as_str)
        .collect();
    let mut waits = WaitTotals::default();
    let mut holds = HoldTotalsEntry::default();
    let mut across_await = HoldTotalsEntry::default();
    for lock in locks {
        waits.add(&lock.totals);
        holds.merge(&lock.holds);
        across_await.merge(&lock.across_await);
    }
    let mut protects: Vec<String> = locks
        .iter()
        .filter_map(|lock| lock.protects.clone())
        .collect();
    protects.dedup();
    let too_long = report.holds.iter().filter(|hold| {
        hold.at_least_ns > TOO_LONG
            && LockFamily::of(hold.operation) == first.family
            && instances.contains(hold.lock.as_str())
    });
    let site = first.acquired_at.as_ref();
    Some(SeenLocks {
        name: first.name.clone(),
        family: first.family,
        kind: first.kind,
        protects,
        acquired_at: site.map(|site| site.own_frame().with_place()),
        instances: instances.len() as u64,
        waits: waits.waits,
        wait_total_ns: waits.total_ns,
        wait_max_ns: waits.max_ns,
        wait_certainty: if locks.iter().any(|lock| lock.still_waiting.waits > 0) {
            Certainty::LowerBound
        } else {
            report.summary.lock_wait_certainty
        },
        holds: holds.count,
        hold_longest_ns: holds.longest_ns,
        hold_certainty: holds.longest_certainty,
        across_await: across_await.count,
        across_await_longest_ns: across_await.longest_ns,
        across_await_certainty: across_await.longest_certainty,
        held_too_long: too_long.count() as u64,
    })
}
