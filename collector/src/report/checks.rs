//! What holdup tells a person: each check looks for one kind of harm and says it in one sentence.
//!
//! | check | finds | not a finding |
//! | --- | --- | --- |
//! | `crypto_on_worker` | long polls that mostly computed crypto | |
//! | `cpu_on_worker` | long polls that mostly computed something else | |
//! | `lock_wait_on_worker` | long polls that mostly waited for a lock | |
//! | `sleep_on_worker` | long polls that were mostly off-CPU: blocking calls | |
//! | `starved_worker` | long polls that were mostly runnable, but not running | under 1 % of the recording |
//! | `contended_lock` | a lock with a wait as long as a long poll, or waited for in 10 % of the recording | many short waits, full channels |
//! | `long_hold` | holds of parking_lot's and std's locks as long as a long poll | Tokio's locks, which tasks wait for without blocking anything |
//! | `held_across_await` | a guard of parking_lot or std that outlives the poll that acquired it | the same of Tokio's locks, which are made for it |

use std::collections::BTreeMap;

use super::asleep;
use super::flames::LockNames;
use super::groups::PollGroup;
use super::stacks::{SiteKey, hex, parse_hex};
use super::words::{bounded, count, duration, percent};
use super::{CallSite, Certainty, Finding, HoldEntry, Holders, LockEntry, LockFamily, LockShape};
use crate::classify::Origin;
use crate::correlate::Activity;
use crate::event::{LockAddr, LockOperation, Nanos};

/// What the checks look at.
pub struct Facts<'a> {
    /// Long polls by reason.
    pub groups: &'a [PollGroup],
    /// Locks.
    pub locks: &'a [LockEntry],
    /// What they are called.
    pub lock_names: &'a LockNames,
    /// Long holds, and those across an await.
    pub holds: &'a [HoldEntry],
    /// How good their sums are.
    pub lock_wait_certainty: Certainty,
    /// Fast paths of locks were probed, too.
    pub is_uncontended: bool,
    /// How long was recorded.
    pub recorded: Nanos,
    /// What a long poll is.
    pub threshold: Nanos,
}

/// One kind of harm.
trait Check {
    /// Its name in the report.
    fn name(&self) -> &'static str;
    /// What it looks for and why that is bad: one sentence for somebody who meets it the first time.
    fn summary(&self) -> &'static str;
    /// All that it finds.
    fn check(&self, facts: &Facts<'_>) -> Vec<Finding>;
}

/// All findings, most harm first.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let checks: [&dyn Check; 8] = [
        &CryptoOnWorker,
        &LockWaitOnWorker,
        &SleepOnWorker,
        &CpuOnWorker,
        &StarvedWorker,
        &ContendedLock,
        &LongHold,
        &HeldAcrossAwait,
    ];
    let mut findings: Vec<Finding> = checks.iter().flat_map(|check| check.check(facts)).collect();
    // Stable: of equal harm, in the order above.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.harm_ns));
    findings
}

fn of_group(check: &dyn Check, group: &PollGroup, sentence: String) -> Finding {
    Finding {
        check: check.name().to_owned(),
        sentence: match delayed(group) {
            Some(delayed) => format!("{sentence} {delayed}"),
            None => sentence,
        },
        explanation: check.summary().to_owned(),
        harm_ns: group.total
            + group
                .victims
                .map_or(Nanos::ZERO, |victims| victims.delay_ns),
        certainty: group.certainty,
        count: group.polls.len() as u64,
        longest_ns: group.longest,
        call_site: group.call_site.clone(),
        lock: group.lock.map(|(lock, _)| super::stacks::hex(lock.0)),
        holder: group.holders.main().cloned(),
        holders: (group.activity == Activity::LockWait).then(|| group.holders.clone()),
        tasks: group.tasks.clone(),
        anatomy: Some(group.anatomy),
        asleep: group.asleep.clone(),
        victims: group.victims,
        long_polls: group.polls.clone(),
    }
}

/// Who held up a worker and for how long: the beginning of each sentence about polls.
fn blocked(group: &PollGroup) -> String {
    let (who, whose) = match group.tasks.as_slice() {
        [] => ("A task".to_owned(), "its worker"),
        [task] => (format!("`{}`", task.task_name), "its worker"),
        [task, others @ ..] => {
            let others = count(others.len() as u64, "other task");
            (
                format!("`{}` and {others}", task.task_name),
                "their workers",
            )
        }
    };
    let polls = group.polls.len() as u64;
    let total = bounded(group.total, group.certainty);
    let how_long = if polls == 1 {
        format!("{total} in one poll")
    } else {
        format!(
            "{total} in {} (longest {})",
            count(polls, "poll"),
            duration(group.longest)
        )
    };
    let doubt = if group.unclassified {
        " (if it runs on a scheduler, which could not be told)"
    } else {
        ""
    };
    format!("{who} blocked {whose} for {how_long}{doubt}")
}

/// What others paid.
fn delayed(group: &PollGroup) -> Option<String> {
    let victims = group.victims?;
    (victims.delay_ns != Nanos::ZERO).then(|| {
        let bound = if victims.is_sampled {
            "about"
        } else {
            "at least"
        };
        let who = if group.polls.len() == 1 { "It" } else { "They" };
        let times = count(victims.delays, "time");
        let delay = duration(victims.delay_ns);
        format!("{who} delayed other tasks {bound} {times}, by {bound} {delay} in total.")
    })
}

fn share_of(group: &PollGroup) -> String {
    percent(group.anatomy.of(group.activity), group.total)
}

/// `argon2 (argon2::fill_block, called from app::derive at src/x.rs:41)`, or `app::f (src/x.rs:3)`.
fn site_in_words(site: &CallSite) -> String {
    match (&site.called_by, &site.frame.krate) {
        (Some(user), Some(krate)) if site.frame.origin == Origin::Crypto => format!(
            "{krate} (`{}`), called from `{}`{}",
            site.frame.label,
            user.label,
            at(user)
        ),
        (Some(user), _) => format!(
            "`{}`, called from `{}`{}",
            site.frame.label,
            user.label,
            at(user)
        ),
        (None, _) => format!("`{}`{}", site.frame.label, at(&site.frame)),
    }
}

fn at(frame: &super::NamedFrame) -> String {
    frame
        .at
        .as_ref()
        .map_or_else(String::new, |place| format!(" at {place}"))
}

/// `, in … (9 of 10 samples)`.
fn computed_in(group: &PollGroup) -> String {
    let Some(site) = &group.call_site else {
        return ", where no stack tells".to_owned();
    };
    let (here, all) = group.samples;
    format!(
        ", mostly in {} ({here} of {})",
        site_in_words(site),
        count(all, "sample")
    )
}

fn is_crypto(group: &PollGroup) -> bool {
    group
        .call_site
        .as_ref()
        .is_some_and(|site| site.frame.origin == Origin::Crypto)
}

/// Each group of an activity that also fits makes a finding with this sentence.
fn each(
    check: &dyn Check,
    facts: &Facts<'_>,
    fits: impl Fn(&PollGroup) -> bool,
    sentence: impl Fn(&PollGroup) -> String,
) -> Vec<Finding> {
    facts
        .groups
        .iter()
        .filter(|group| fits(group))
        .map(|group| of_group(check, group, sentence(group)))
        .collect()
}

struct CryptoOnWorker;

impl Check for CryptoOnWorker {
    fn name(&self) -> &'static str {
        "crypto_on_worker"
    }

    fn summary(&self) -> &'static str {
        "Cryptography that takes milliseconds (password hashing, key exchange, large messages) keeps a runtime \
         worker from polling the other tasks; it belongs on the blocking pool or on threads of its own."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        each(
            self,
            facts,
            |group| group.activity == Activity::OnCpu && is_crypto(group),
            |group| {
                format!(
                    "{}: {} on-CPU{}. Move that call to `tokio::task::spawn_blocking`.",
                    blocked(group),
                    share_of(group),
                    computed_in(group)
                )
            },
        )
    }
}

struct CpuOnWorker;

impl Check for CpuOnWorker {
    fn name(&self) -> &'static str {
        "cpu_on_worker"
    }

    fn summary(&self) -> &'static str {
        "A poll that computes for milliseconds keeps a runtime worker from polling the other tasks; split it \
         with `tokio::task::yield_now` or move it to the blocking pool."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        each(
            self,
            facts,
            |group| group.activity == Activity::OnCpu && !is_crypto(group),
            |group| {
                format!(
                    "{}: {} on-CPU{}. Move that work to `tokio::task::spawn_blocking`, or yield in between.",
                    blocked(group),
                    share_of(group),
                    computed_in(group)
                )
            },
        )
    }
}

struct LockWaitOnWorker;

impl Check for LockWaitOnWorker {
    fn name(&self) -> &'static str {
        "lock_wait_on_worker"
    }

    fn summary(&self) -> &'static str {
        "A worker that waits for a lock polls nothing meanwhile: whoever holds the lock for long holds up all of \
         the worker's tasks."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        each(
            self,
            facts,
            |group| group.activity == Activity::LockWait,
            |group| {
                let which = match &group.lock {
                    Some((lock, operation)) => format!(
                        "the {} at {:#x}{} (`{}`)",
                        lock_type(facts, *lock, *operation),
                        lock.0,
                        match group.other_locks {
                            0 => String::new(),
                            others => format!(" and {}", count(others, "other lock")),
                        },
                        super::flames::operation_name(*operation),
                    ),
                    None => "a lock that no event names".to_owned(),
                };
                let wanted = group.call_site.as_ref().map_or_else(String::new, |site| {
                    format!(", wanted in {}", site_in_words(site))
                });
                let lock = group.lock.map(|(lock, operation)| {
                    let (address, family) = (hex(lock.0), super::locks::family(operation.into()));
                    let mut locks = facts.locks.iter();
                    let lock = locks.find(|it| it.address == address && it.family == family);
                    (family, lock.and_then(|it| it.protects.as_deref()))
                });
                let (family, protects) = lock.unwrap_or((LockFamily::ParkingLot, None));
                let why_unseen = why_unseen(facts, family, protects);
                let holders = held_by(&group.holders, "that wait", why_unseen);
                format!(
                    "{}: {} waiting for {which}{wanted}. {holders}",
                    blocked(group),
                    share_of(group)
                )
            },
        )
    }
}

fn lock_type(facts: &Facts<'_>, lock: LockAddr, operation: LockOperation) -> String {
    let named = facts.lock_names.get(&(lock, operation.into()));
    named.map_or_else(|| "lock".to_owned(), |name| name.what.clone())
}

struct SleepOnWorker;

impl Check for SleepOnWorker {
    fn name(&self) -> &'static str {
        "sleep_on_worker"
    }

    fn summary(&self) -> &'static str {
        "A blocking call (sleep, file or socket I/O, a lock of another library, a page fault) takes the worker's \
         thread off the CPU, and its tasks with it; use the async counterpart or the blocking pool."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        each(
            self,
            facts,
            |group| group.activity == Activity::Sleep,
            |group| {
                let place = match (&group.call_site, &group.calls) {
                    (Some(site), Some(calls)) => {
                        format!(" in {}, which calls `{calls}`", site_in_words(site))
                    }
                    (Some(site), None) => format!(" in {}", site_in_words(site)),
                    (None, _) => ", where no stack tells".to_owned(),
                };
                format!(
                    "{}: {} {}{place}. {}",
                    blocked(group),
                    share_of(group),
                    asleep::in_words(&group.asleep),
                    asleep::advice(&group.asleep)
                )
            },
        )
    }
}

struct StarvedWorker;

impl Check for StarvedWorker {
    fn name(&self) -> &'static str {
        "starved_worker"
    }

    fn summary(&self) -> &'static str {
        "Workers were ready to run and had no CPU: the machine is overloaded, or a container's CPU limit \
         throttles the process. No line of its code is at fault."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        // Any busy machine preempts a thread for milliseconds now and then. At 1 % of the time of one
        // worker a person would notice.
        let least = Nanos(facts.recorded.0 / 100);
        each(
            self,
            facts,
            |group| group.activity == Activity::RunQueue && group.total >= least,
            |group| {
                let polls = group.polls.len() as u64;
                format!(
                    "{} took {} (longest {}) mostly because the thread was ready to run and had no CPU ({} of \
                     that time). Give the process more CPU, or look for what else runs on this machine.",
                    count(polls, "poll"),
                    bounded(group.total, group.certainty),
                    duration(group.longest),
                    share_of(group)
                )
            },
        )
    }
}

struct ContendedLock;

impl ContendedLock {
    /// The harm of a lock is what was waited for it, by anybody, worker or not.
    fn sentence(facts: &Facts<'_>, lock: &LockEntry) -> String {
        let mut parts = Vec::new();
        if lock.totals.waits > 0 {
            parts.push(format!(
                "was waited for {} in {} (longest {})",
                bounded(lock.totals.total_ns, facts.lock_wait_certainty),
                count(lock.totals.waits, "wait"),
                duration(lock.totals.max_ns)
            ));
        }
        if lock.still_waiting.waits > 0 {
            parts.push(format!(
                "had {} still under way at the end, for at least {}",
                count(lock.still_waiting.waits, "wait"),
                duration(lock.still_waiting.at_least_ns)
            ));
        }
        let elsewhere = match lock.acquired_from {
            0 | 1 => String::new(),
            places => format!(" (and at {})", count(places - 1, "other place")),
        };
        let why_unseen = why_unseen(facts, lock.family, lock.protects.as_deref());
        let holder = match (lock.totals.waits, lock.still_waiting.waits) {
            (0, _) => "Who holds it was not seen.".to_owned(),
            (_, 0) => held_by(&lock.holders, "that time", why_unseen),
            _ => held_by(&lock.holders, "the waits that ended", why_unseen),
        };
        format!(
            "The {}{elsewhere} {} [{}]. {holder}",
            lock.name,
            parts.join(" and "),
            lock.address
        )
    }
}

/// Why nobody was seen to have a lock for a part of the waits for it, and what sees more if anything does.
fn why_unseen(facts: &Facts<'_>, family: LockFamily, protects: Option<&str>) -> &'static str {
    // Their fast paths are never probed.
    let is_the_runtimes = protects.is_some_and(|what| what.starts_with("tokio::runtime::"));
    if family == LockFamily::Tokio {
        "the wait was given up, or who released it had not been seen to acquire it"
    } else if facts.is_uncontended || is_the_runtimes {
        "nobody was parked, the wait was given up, or the unlock was not probed"
    } else {
        "nobody was parked, the wait was given up, or the unlock was not probed; `--uncontended` tells more"
    }
}

/// Most places that are named where none of them is to blame alone.
const PLACES: usize = 3;

/// Who held a lock in the waits for it, for what share of `of_what`, and what to do.
fn held_by(holders: &Holders, of_what: &str, why_unseen: &str) -> String {
    let told = holders.told(PLACES);
    let mut rest = Vec::new();
    if told.handover > 0 {
        rest.push(format!(
            "{} % lies between a release and the next known holder",
            told.handover
        ));
    }
    if told.unseen > 0 {
        rest.push(format!(
            "for {} % it was not seen by whom ({why_unseen})",
            told.unseen
        ));
    }
    if told.named.is_empty() {
        return match told.handover {
            0 => format!("Who held it was not seen ({why_unseen})."),
            _ => format!("Who held it was not seen: {}.", rest.join("; ")),
        };
    }
    let mut sentence = "It was held".to_owned();
    for (n, (site, percent)) in told.named.iter().enumerate() {
        let (comma, of) = match n {
            0 => ("", format!(" of {of_what}")),
            _ => (",", String::new()),
        };
        let site = site_in_words(site);
        sentence.push_str(&format!("{comma} by {site} for {percent} %{of}"));
    }
    let (places, percent) = told.others;
    if percent > 0 {
        let places = match places {
            0 => "others".to_owned(),
            places => count(places, "other place"),
        };
        sentence.push_str(&format!(", by {places} for {percent} %"));
    }
    let advice = match (holders.main(), told.named.len()) {
        (Some(_), _) => "hold it for less time there",
        (None, _) if told.unseen + told.handover > 50 => {
            "most of the time is not known to be anybody's"
        }
        (None, 1) => "look there first",
        (None, _) => "no place alone is to blame, so each should hold it for less time",
    };
    let rest = match rest.join("; ") {
        rest if rest.is_empty() => rest,
        rest => format!(" The rest: {rest}."),
    };
    format!("{sentence}: {advice}.{rest}")
}

impl Check for ContendedLock {
    fn name(&self) -> &'static str {
        "contended_lock"
    }

    fn summary(&self) -> &'static str {
        "Threads waited for this lock as long as a long poll lasts, or in a large part of the recording: the \
         one who holds it is to blame, the ones who wait pay."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        facts
            .locks
            .iter()
            .filter(|lock| lock.kind != LockShape::Channel)
            .filter(|lock| {
                let total = lock.totals.total_ns + lock.still_waiting.at_least_ns;
                lock.totals.max_ns >= facts.threshold
                    || lock.still_waiting.at_least_ns >= facts.threshold
                    || (total.0 >= facts.recorded.0 / 10 && total > Nanos::ZERO)
            })
            .map(|lock| Finding {
                check: self.name().to_owned(),
                sentence: Self::sentence(facts, lock),
                explanation: self.summary().to_owned(),
                harm_ns: lock.totals.total_ns + lock.still_waiting.at_least_ns,
                certainty: if lock.still_waiting.waits > 0 {
                    Certainty::LowerBound
                } else {
                    facts.lock_wait_certainty
                },
                count: lock.totals.waits + lock.still_waiting.waits,
                longest_ns: lock.totals.max_ns,
                call_site: lock.acquired_at.clone(),
                lock: Some(lock.address.clone()),
                holder: lock.holders.main().cloned(),
                holders: Some(lock.holders.clone()),
                tasks: Vec::new(),
                anatomy: None,
                asleep: Vec::new(),
                victims: None,
                long_polls: Vec::new(),
            })
            .collect()
    }
}

/// Holds of one lock type that ended at one place.
struct HoldGroup<'a> {
    what: String,
    holds: Vec<&'a HoldEntry>,
}

impl<'a> HoldGroup<'a> {
    /// A finding for each group of holds that block threads and are meant.
    fn findings(
        check: &dyn Check,
        facts: &Facts<'a>,
        is_meant: impl Fn(&HoldEntry) -> bool,
        sentence: impl Fn(&HoldGroup<'a>) -> String,
    ) -> Vec<Finding> {
        let fits =
            |hold: &HoldEntry| LockFamily::of(hold.operation).blocks_threads() && is_meant(hold);
        HoldGroup::of(facts, fits)
            .iter()
            .map(|group| group.finding(check, sentence(group)))
            .collect()
    }

    /// Those that `fit`, most time first.
    fn of(facts: &Facts<'a>, fits: impl Fn(&HoldEntry) -> bool) -> Vec<HoldGroup<'a>> {
        let mut groups: BTreeMap<(String, Option<SiteKey>), Vec<&HoldEntry>> = BTreeMap::new();
        for hold in facts.holds.iter().filter(|hold| fits(hold)) {
            let what = match parse_hex(&hold.lock) {
                Some(lock) => lock_type(facts, LockAddr(lock), hold.operation),
                None => "lock".to_owned(),
            };
            let place = hold.call_site.as_ref().map(SiteKey::new);
            groups.entry((what, place)).or_default().push(hold);
        }
        let mut groups: Vec<HoldGroup<'a>> = groups
            .into_iter()
            .map(|((what, _), holds)| HoldGroup { what, holds })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.total()));
        groups
    }

    fn total(&self) -> Nanos {
        self.holds.iter().map(|hold| hold.at_least_ns).sum()
    }

    fn longest(&self) -> &'a HoldEntry {
        let first = self.holds[0];
        let mut others = self.holds.iter().copied();
        others.by_ref().fold(first, |longest, hold| {
            if hold.at_least_ns > longest.at_least_ns {
                hold
            } else {
                longest
            }
        })
    }

    fn certainty(&self) -> Certainty {
        Certainty::of_all(self.holds.iter().map(|hold| hold.certainty))
    }

    /// `` `app::f` at src/f.rs:3``, or what is known of that.
    fn place(&self) -> String {
        match &self.longest().call_site {
            Some(site) => site_in_words(site),
            None => "a place that no stack tells".to_owned(),
        }
    }

    /// `3 times, for at least 20.0 ms in total (longest 9.0 ms)`.
    fn how_long(&self) -> String {
        let longest = self.longest();
        let longest_in_words = bounded(longest.at_least_ns, longest.certainty);
        match self.holds.len() {
            1 => format!("once, for {longest_in_words}"),
            times => format!(
                "{times} times, for {} in total (longest {longest_in_words})",
                bounded(self.total(), self.certainty())
            ),
        }
    }

    fn finding(&self, check: &dyn Check, sentence: String) -> Finding {
        let longest = self.longest();
        Finding {
            check: check.name().to_owned(),
            sentence,
            explanation: check.summary().to_owned(),
            harm_ns: self.total(),
            certainty: self.certainty(),
            count: self.holds.len() as u64,
            longest_ns: longest.at_least_ns,
            call_site: longest.call_site.clone(),
            lock: Some(longest.lock.clone()),
            holder: longest.call_site.clone(),
            holders: None,
            tasks: Vec::new(),
            anatomy: None,
            asleep: Vec::new(),
            victims: None,
            long_polls: Vec::new(),
        }
    }
}

struct LongHold;

impl Check for LongHold {
    fn name(&self) -> &'static str {
        "long_hold"
    }

    fn summary(&self) -> &'static str {
        "A lock that is held for as long as a long poll stops every thread that wants it meanwhile, workers included. \
         What takes the time belongs before or behind the critical section."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        let is_meant = |hold: &HoldEntry| !hold.across_await && hold.at_least_ns >= facts.threshold;
        HoldGroup::findings(self, facts, is_meant, |group| {
            let computed = match &group.longest().during {
                Some(site) => format!(", computing mostly in {}", site_in_words(site)),
                None => String::new(),
            };
            format!(
                "The {} was held too long by {} {}{computed}. Do the long part outside of the lock.",
                group.what,
                group.place(),
                group.how_long()
            )
        })
    }
}

struct HeldAcrossAwait;

impl Check for HeldAcrossAwait {
    fn name(&self) -> &'static str {
        "held_across_await"
    }

    fn summary(&self) -> &'static str {
        "A guard of a blocking lock that is kept over an await keeps the lock for as long as the task sleeps. Every \
         thread that wants it stops meanwhile, and if that is the worker that would poll the task, for ever."
    }

    fn check(&self, facts: &Facts<'_>) -> Vec<Finding> {
        HoldGroup::findings(
            self,
            facts,
            |hold| hold.across_await,
            |group| {
                format!(
                    "The {} was held across an await by {} {}: the task slept with the guard in its hands. Drop the guard \
                 before the await, or use `tokio::sync`'s lock.",
                    group.what,
                    group.place(),
                    group.how_long()
                )
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::holders::tests::sum;
    use super::*;

    /// A place is called the one to change only when it has half of the wait; the numbers add up to 100.
    #[test]
    fn holders_in_words() {
        let said = |shares: &[(&str, u64)], unseen| {
            held_by(&sum(shares, unseen).finish(), "that time", "a reason")
        };
        assert_eq!(
            said(&[("app::a", 50), ("app::b", 30), ("app::c", 20)], 0),
            "It was held by `app::a` at src/lib.rs:1 for 50 % of that time, by 2 other places for 50 %: \
             hold it for less time there."
        );
        assert_eq!(
            said(&[("app::a", 38), ("app::b", 32), ("app::c", 10)], 20),
            "It was held by `app::a` at src/lib.rs:1 for 38 % of that time, by `app::b` at \
             src/lib.rs:1 for 32 %, by `app::c` at src/lib.rs:1 for 10 %: no place alone is to blame, so each \
             should hold it for less time. The rest: for 20 % it was not seen by whom (a reason)."
        );
        assert_eq!(
            said(&[("app::a", 5)], 95),
            "It was held by `app::a` at src/lib.rs:1 for 5 % of that time: most of the time is not known to be \
             anybody's. The rest: for 95 % it was not seen by whom (a reason)."
        );
        assert_eq!(said(&[], 95), "Who held it was not seen (a reason).");
    }
}
