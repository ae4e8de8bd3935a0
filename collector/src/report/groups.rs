//! Long polls by whose fault they are: each belongs to exactly one group, of the activity that took most of
//! it, and the call site that took most of that. So the groups' times add up to the runtime-blocking time.

use std::collections::BTreeMap;

use super::asleep;
use super::holders::HolderSum;
use super::locks::site_of_lock;
use super::stacks::{SiteKey, Stacks, call_site, called_by_site};
use super::{
    Anatomy, AsleepEntry, CallSite, CallSiteTotals, Certainty, Holders, LongPollEntry, TaskShare,
    VictimsEntry,
};
use crate::correlate::{Activity, HeldBy, PollAnatomy};
use crate::event::{LockAddr, LockOperation, Nanos, SiteId, StackId};

/// Long polls with the same reason.
#[derive(Clone, Debug)]
pub struct PollGroup {
    /// What took most of each.
    pub activity: Activity,
    /// Where; the line with the most time. None where no stack tells, and for the run queue, where a thread
    /// is stopped at any line.
    pub call_site: Option<CallSite>,
    /// The function that the call site's own line called, by most time.
    pub calls: Option<String>,
    /// The lock with the most wait in these polls.
    pub lock: Option<(LockAddr, LockOperation)>,
    /// How many other locks were waited for in them.
    pub other_locks: u64,
    /// Who released these locks last, of all lock wait in these polls.
    pub holders: Holders,
    /// Indices of the polls.
    pub polls: Vec<usize>,
    /// Their summed duration.
    pub total: Nanos,
    /// How good that is.
    pub certainty: Certainty,
    /// The longest.
    pub longest: Nanos,
    /// What they were made of.
    pub anatomy: Anatomy,
    /// What they slept for, most first.
    pub asleep: Vec<AsleepEntry>,
    /// Who had to wait for them.
    pub victims: Option<VictimsEntry>,
    /// Time at the call site.
    pub at_site: Nanos,
    /// CPU samples at the call site, and of these polls in all.
    pub samples: (u64, u64),
    /// None of them is known to be a scheduler poll.
    pub unclassified: bool,
    /// Whose polls, most time first.
    pub tasks: Vec<TaskShare>,
}

/// A place: for polls without any stack, the poll instance.
type Place = (Activity, Result<SiteKey, Option<SiteId>>);

/// Groups long polls; `entries` are the same polls in the report. Most time first.
pub fn group(polls: &[PollAnatomy], entries: &[LongPollEntry], stacks: &Stacks) -> Vec<PollGroup> {
    let mut members: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
    for (n, anatomy) in polls.iter().enumerate() {
        members.entry(place(anatomy, stacks)).or_default().push(n);
    }
    let mut groups: Vec<PollGroup> = members
        .into_iter()
        .map(|(place, members)| summed(&place, members, polls, entries, stacks))
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.total));
    groups
}

fn place(anatomy: &PollAnatomy, stacks: &Stacks) -> Place {
    // Of equal ones the first: what a thread does, before what is done to it.
    let activities = [
        (Activity::OnCpu, anatomy.on_cpu),
        (Activity::LockWait, anatomy.lock_wait),
        (Activity::Sleep, anatomy.sleep),
        (Activity::RunQueue, anatomy.run_queue),
    ];
    let (activity, _) = activities
        .into_iter()
        .reduce(|most, other| if other.1 > most.1 { other } else { most })
        .unwrap_or((Activity::OnCpu, Nanos::ZERO));
    if activity == Activity::RunQueue {
        return (activity, Err(None));
    }
    let mut sites: BTreeMap<SiteKey, Nanos> = BTreeMap::new();
    for share in anatomy
        .shares
        .iter()
        .filter(|share| share.activity == activity)
    {
        if let Some(site) = site_of(stacks, share.stack, anatomy) {
            *sites.entry(SiteKey::new(&site)).or_default() += share.time;
        }
    }
    let most = sites
        .into_iter()
        .reduce(|most, other| if other.1 > most.1 { other } else { most });
    match most {
        Some((key, _)) => (activity, Ok(key)),
        None => (activity, Err(Some(anatomy.poll.site))),
    }
}

fn site_of(stacks: &Stacks, stack: Option<StackId>, anatomy: &PollAnatomy) -> Option<CallSite> {
    call_site(stacks.get(stack)?.of_poll(Some(anatomy.poll.return_addr)))
}

/// Of several with the same key, the one with the most time.
struct Heaviest<K, V>(BTreeMap<K, (V, Nanos)>);

impl<K: Ord, V> Heaviest<K, V> {
    fn new() -> Heaviest<K, V> {
        Heaviest(BTreeMap::new())
    }

    fn add(&mut self, key: K, value: V, time: Nanos) {
        self.0.entry(key).or_insert((value, Nanos::ZERO)).1 += time;
    }

    fn take(self) -> Option<V> {
        let most = self
            .0
            .into_values()
            .reduce(|most, other| if other.1 > most.1 { other } else { most });
        most.map(|(value, _)| value)
    }
}

fn summed(
    (activity, key): &Place,
    members: Vec<usize>,
    polls: &[PollAnatomy],
    entries: &[LongPollEntry],
    stacks: &Stacks,
) -> PollGroup {
    let mut group = PollGroup {
        activity: *activity,
        call_site: None,
        calls: None,
        lock: None,
        other_locks: 0,
        holders: Holders::default(),
        polls: Vec::new(),
        total: Nanos::ZERO,
        certainty: Certainty::Exact,
        longest: Nanos::ZERO,
        anatomy: Anatomy::default(),
        asleep: Vec::new(),
        victims: None,
        at_site: Nanos::ZERO,
        samples: (0, 0),
        unclassified: true,
        tasks: Vec::new(),
    };
    let (mut lines, mut calls) = (Heaviest::new(), Heaviest::new());
    let (mut locks, mut holders) = (Heaviest::new(), HolderSum::default());
    let mut tasks: BTreeMap<&str, (u64, Nanos)> = BTreeMap::new();
    for &n in &members {
        let (anatomy, entry) = (&polls[n], &entries[n]);
        group.total += entry.duration_ns;
        group.certainty = group.certainty.and(entry.certainty);
        group.longest = group.longest.max(entry.duration_ns);
        group.anatomy.add(&entry.anatomy);
        if let Some(victims) = &entry.victims {
            group.victims.get_or_insert_default().add(victims);
        }
        group.unclassified &= entry.unclassified;
        let task = tasks.entry(&entry.task_name).or_default();
        task.0 += 1;
        task.1 += entry.duration_ns;
        for share in &anatomy.shares {
            if share.activity == Activity::OnCpu {
                group.samples.1 += share.events;
            }
            if share.activity != *activity {
                continue;
            }
            if let Some(lock) = share.lock {
                locks.add(lock, lock, share.time);
            }
            if share.activity == Activity::LockWait {
                match share.held_by {
                    HeldBy::Holder(stack) => {
                        let site = stacks.get(stack).and_then(site_of_lock);
                        holders.add(site, share.events, share.time);
                    }
                    HeldBy::Others => holders.add_others(share.time),
                    HeldBy::Handover => holders.add_handover(share.time),
                    HeldBy::Unseen => holders.add(None, share.events, share.time),
                }
            }
            let Some(stack) = stacks.get(share.stack) else {
                continue;
            };
            let frames = stack.of_poll(Some(anatomy.poll.return_addr));
            let Some(site) = call_site(frames) else {
                continue;
            };
            if Ok(SiteKey::new(&site)) != *key {
                continue;
            }
            group.at_site += share.time;
            if share.activity == Activity::OnCpu {
                group.samples.0 += share.events;
            }
            if let Some(called) = called_by_site(frames, &site) {
                calls.add(called.label.clone(), called.label.clone(), share.time);
            }
            let own = site.own_frame();
            let line = (site.frame.label.clone(), own.file.clone(), own.line);
            lines.add(line, site, share.time);
        }
    }
    group.call_site = lines.take();
    group.calls = calls.take();
    group.asleep = asleep::of_polls(members.iter().map(|&n| &entries[n]));
    group.other_locks = (locks.0.len() as u64).saturating_sub(1);
    group.lock = locks.take();
    group.holders = holders.finish();
    group.tasks = tasks
        .into_iter()
        .map(|(name, (polls, total_ns))| TaskShare {
            task_name: name.to_owned(),
            polls,
            total_ns,
        })
        .collect();
    group
        .tasks
        .sort_by_key(|task| std::cmp::Reverse(task.total_ns));
    group.polls = members;
    group
}

/// Time of all long polls by call site and activity, most first.
pub fn call_sites(polls: &[PollAnatomy], stacks: &Stacks) -> Vec<CallSiteTotals> {
    struct Sum {
        lines: Heaviest<(String, Option<String>, Option<u32>), CallSite>,
        time: Nanos,
        samples: u64,
        polls: u64,
        last_poll: usize,
    }
    let mut sums: BTreeMap<(Activity, Option<SiteKey>), Sum> = BTreeMap::new();
    for (n, anatomy) in polls.iter().enumerate() {
        for share in &anatomy.shares {
            let site = site_of(stacks, share.stack, anatomy);
            let key = (share.activity, site.as_ref().map(SiteKey::new));
            let sum = sums.entry(key).or_insert_with(|| Sum {
                lines: Heaviest::new(),
                time: Nanos::ZERO,
                samples: 0,
                polls: 0,
                last_poll: usize::MAX,
            });
            sum.time += share.time;
            if share.activity == Activity::OnCpu {
                sum.samples += share.events;
            }
            if sum.last_poll != n {
                sum.last_poll = n;
                sum.polls += 1;
            }
            if let Some(site) = site {
                let own = site.own_frame();
                let line = (site.frame.label.clone(), own.file.clone(), own.line);
                sum.lines.add(line, site, share.time);
            }
        }
    }
    let mut totals: Vec<CallSiteTotals> = sums
        .into_iter()
        .map(|((activity, _), sum)| CallSiteTotals {
            call_site: sum.lines.take(),
            activity,
            time_ns: sum.time,
            samples: sum.samples,
            polls: sum.polls,
        })
        .collect();
    totals.sort_by_key(|site| std::cmp::Reverse(site.time_ns));
    totals
}

impl VictimsEntry {
    /// Adds another poll's.
    pub fn add(&mut self, other: &VictimsEntry) {
        self.tasks = self.tasks.saturating_add(other.tasks);
        self.delays = self.delays.saturating_add(other.delays);
        self.delay_ns += other.delay_ns;
        self.is_sampled |= other.is_sampled;
    }
}

impl Anatomy {
    /// Adds another poll's.
    pub fn add(&mut self, other: &Anatomy) {
        let Anatomy {
            on_cpu_ns,
            stolen_ns,
            lock_wait_ns,
            run_queue_ns,
            sleep_ns,
        } = other;
        self.on_cpu_ns += *on_cpu_ns;
        self.stolen_ns += *stolen_ns;
        self.lock_wait_ns += *lock_wait_ns;
        self.run_queue_ns += *run_queue_ns;
        self.sleep_ns += *sleep_ns;
    }

    /// One of the four.
    pub fn of(&self, activity: Activity) -> Nanos {
        match activity {
            Activity::OnCpu => self.on_cpu_ns,
            Activity::LockWait => self.lock_wait_ns,
            Activity::RunQueue => self.run_queue_ns,
            Activity::Sleep => self.sleep_ns,
        }
    }
}
