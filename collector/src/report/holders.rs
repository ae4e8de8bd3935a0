//! Who the waiters for a lock waited for, as far as that was seen.
//!
//! ```text
//!   wait  |- unseen -|------- A -------|- handover -|------ B ------|- handover -|
//!         start      A is known to     release      B is known to   release      the waiter has the lock
//!                    have it                        have it
//! ```
//!
//! Several can hold a lock during one wait: each is charged from when it is known to have the lock up to its own release.
//! What lies in between is nobody's: the next one needs a CPU to run on, or somebody was faster and is not seen.

use std::collections::BTreeMap;

use super::words::percents;
use super::{CallSite, HolderShare, Holders};
use crate::event::Nanos;

/// Of a holder with less than one in so many of the waits' time, there is nothing to gain.
const WORTH_NAMING: u64 = 20;

/// Waits and their time at each line of a function.
type Lines = BTreeMap<(Option<String>, Option<u32>), (CallSite, u64, Nanos)>;

/// Holders while they are summed.
#[derive(Default)]
pub struct HolderSum {
    /// By the function that a person of the program's team knows.
    seen: BTreeMap<String, Lines>,
    others: Nanos,
    handover: Nanos,
    unseen_waits: u64,
    unseen: Nanos,
}

impl HolderSum {
    /// Releases at `holder`, and what it took of the waits; None for waits without a release, and for what is nobody's before
    /// the first one.
    pub fn add(&mut self, holder: Option<CallSite>, releases: u64, time: Nanos) {
        let Some(site) = holder else {
            self.unseen_waits = self.unseen_waits.saturating_add(releases);
            self.unseen += time;
            return;
        };
        let own = site.own_frame();
        let line = (own.file.clone(), own.line);
        let lines = self.seen.entry(own.label.clone()).or_default();
        let sum = lines.entry(line).or_insert((site, 0, Nanos::ZERO));
        sum.1 = sum.1.saturating_add(releases);
        sum.2 += time;
    }

    /// Adds those of another lock.
    pub fn merge(&mut self, other: &Holders) {
        for share in &other.seen {
            self.add(
                Some(share.call_site.clone()),
                share.releases,
                share.total_ns,
            );
        }
        self.add_others(other.others_ns);
        self.add_handover(other.handover_ns);
        self.add(None, other.unseen_waits, other.unseen_ns);
    }

    /// What others took, who are not told one by one.
    pub fn add_others(&mut self, time: Nanos) {
        self.others += time;
    }

    /// What lies behind a release, and before somebody is known to have the lock again.
    pub fn add_handover(&mut self, time: Nanos) {
        self.handover += time;
    }

    /// The line with the most time stands for its function.
    pub fn finish(self) -> Holders {
        let share = |lines: Lines| {
            let releases = lines.values().map(|(_, releases, _)| *releases);
            let releases = releases.fold(0, u64::saturating_add);
            let total_ns = lines.values().map(|(.., time)| *time).sum();
            let heaviest = lines
                .into_values()
                .reduce(|most, line| if line.2 > most.2 { line } else { most });
            heaviest.map(|(call_site, ..)| HolderShare {
                call_site,
                releases,
                total_ns,
            })
        };
        let mut seen: Vec<HolderShare> = self.seen.into_values().filter_map(share).collect();
        // Of older captures alone: who took nothing is not told of any more.
        seen.retain(|holder| holder.total_ns > Nanos::ZERO);
        seen.sort_by_key(|holder| std::cmp::Reverse(holder.total_ns));
        Holders {
            seen,
            others_ns: self.others,
            handover_ns: self.handover,
            unseen_waits: self.unseen_waits,
            unseen_ns: self.unseen,
        }
    }
}

/// Holders for a person: percentages that add up to 100.
#[derive(Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// Most first: the main one alone, or the first few where there is none.
    pub named: Vec<(&'a CallSite, u64)>,
    /// How many others that are known, and the share of all others.
    pub others: (u64, u64),
    /// The share behind a release and before somebody was known to have the lock again.
    pub handover: u64,
    /// The share of waits without a release, and before anybody was known to have the lock.
    pub unseen: u64,
}

impl Holders {
    /// All of the wait.
    pub fn total(&self) -> Nanos {
        let seen: Nanos = self.seen.iter().map(|holder| holder.total_ns).sum();
        seen + self.others_ns + self.handover_ns + self.unseen_ns
    }

    /// The one to blame, if there is one: it held the lock for at least half of the wait.
    pub fn main(&self) -> Option<&CallSite> {
        let first = self.seen.first()?;
        let is_main = first.total_ns.0.saturating_mul(2) >= self.total().0;
        is_main.then_some(&first.call_site)
    }

    /// What a person is told; without a main one the first `most` are named, if they are worth it beside the first.
    pub fn told(&self, most: usize) -> Told<'_> {
        let most = if self.main().is_some() { 1 } else { most };
        let worth = |holder: &&HolderShare| {
            let time = holder.total_ns.0.saturating_mul(WORTH_NAMING);
            time >= self.total().0 || holder.total_ns == self.seen[0].total_ns
        };
        let named = self.seen.iter().take_while(worth).count().min(most);
        let (named, others) = self.seen.split_at(named);
        let mut parts: Vec<Nanos> = named.iter().map(|holder| holder.total_ns).collect();
        let of_others: Nanos = others.iter().map(|holder| holder.total_ns).sum();
        parts.push(of_others + self.others_ns);
        parts.push(self.handover_ns);
        parts.push(self.unseen_ns);
        let percents = percents(&parts);
        let of_named = percents.iter().copied();
        Told {
            named: named
                .iter()
                .map(|holder| &holder.call_site)
                .zip(of_named)
                .collect(),
            others: (others.len() as u64, percents[named.len()]),
            handover: percents[named.len() + 1],
            unseen: percents[named.len() + 2],
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::NamedFrame;
    use super::*;
    use crate::classify::Origin;

    /// A line of the user's.
    pub fn site(function: &str, line: u32) -> CallSite {
        CallSite {
            frame: NamedFrame {
                label: function.to_owned(),
                function: function.to_owned(),
                generics: None,
                at: Some(format!("src/lib.rs:{line}")),
                file: Some("src/lib.rs".to_owned()),
                line: Some(line),
                krate: Some("app".to_owned()),
                origin: Origin::User,
                inlined: false,
            },
            called_by: None,
        }
    }

    /// A release in each of these functions, and one wait without.
    pub fn sum(shares: &[(&str, u64)], unseen: u64) -> HolderSum {
        let mut sum = HolderSum::default();
        for (function, time) in shares {
            sum.add(Some(site(function, 1)), 1, Nanos(*time));
        }
        sum.add(None, 1, Nanos(unseen));
        sum
    }

    /// Two lines of one function are one holder, though each pair of waiter and line is less than another's.
    #[test]
    fn a_function_is_one_holder() {
        let mut sum = HolderSum::default();
        sum.add(Some(site("app::a", 1)), 2, Nanos(30));
        sum.add(Some(site("app::b", 9)), 1, Nanos(40));
        sum.add(Some(site("app::a", 2)), 1, Nanos(25));
        sum.add(None, 4, Nanos(5));
        sum.add_handover(Nanos(10));
        let holders = sum.finish();
        assert_eq!(holders.seen[0].call_site, site("app::a", 1));
        assert_eq!(
            (holders.seen[0].releases, holders.seen[0].total_ns),
            (3, Nanos(55))
        );
        assert_eq!((holders.unseen_waits, holders.unseen_ns), (4, Nanos(5)));
        assert_eq!(holders.main(), Some(&site("app::a", 1)));
        let told = holders.told(3);
        assert_eq!(told.named, [(&site("app::a", 1), 50)]);
        assert_eq!((told.others, told.handover, told.unseen), ((1, 36), 9, 5));
    }

    /// Who held it for less than half of the wait is not the one to blame.
    #[test]
    fn nobody_is_to_blame_alone() {
        let mut sum = HolderSum::default();
        for (n, function) in ["app::a", "app::b", "app::c", "app::d"].iter().enumerate() {
            sum.add(Some(site(function, 1)), 1, Nanos(10 - n as u64));
        }
        let holders = sum.finish();
        assert_eq!(holders.main(), None);
        let told = holders.told(2);
        assert_eq!(
            told.named,
            [(&site("app::a", 1), 29), (&site("app::b", 1), 27)]
        );
        assert_eq!((told.others, told.unseen), ((2, 44), 0));
    }

    /// A place with next to nothing of the time is not named beside others, but is alone.
    #[test]
    fn who_hardly_had_it() {
        let holders = sum(&[("app::a", 40), ("app::b", 5), ("app::c", 4)], 51).finish();
        let told = holders.told(3);
        assert_eq!(
            told.named,
            [(&site("app::a", 1), 40), (&site("app::b", 1), 5)]
        );
        assert_eq!(told.others, (1, 4));

        let mut sum = sum(&[("app::a", 1)], 0);
        sum.add_handover(Nanos(99));
        assert_eq!(sum.finish().told(3).named, [(&site("app::a", 1), 1)]);
    }

    /// Nothing was waited, nothing is told.
    #[test]
    fn no_wait_at_all() {
        let told = HolderSum::default().finish();
        assert_eq!((told.main(), told.told(3).unseen), (None, 0));
    }
}
