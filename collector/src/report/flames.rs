//! The flamegraphs.
//!
//! ```text
//!   blocking    task > code of the poll, outermost first > [on-CPU] | [lock wait: …] | [run queue] | [sleep]
//!               task > [on-CPU, no sample] | [sleep, early: no stack] | …
//!   by waiter   lock > [write] > code of the waiter
//!   by holder   lock > [held by] > code of the holder, where it released the lock
//!   pairs       lock > [held by] > code of the holder > [write] > code of the waiter, innermost first
//!   on-CPU      task, [blocking pool], [runtime], [thread: …] > code, outermost first
//! ```
//!
//! The task stands for the frames below it (thread start, worker loop, `raw::poll`), which are the same for
//! all tasks. Every nanosecond of every long poll, and of every lock wait, is in exactly one stack.

use std::collections::{BTreeMap, BTreeSet};

use super::stacks::Stacks;
use super::{Flame, FlameFrame, FrameKind, WorkerEntry};
use crate::capture::Capture;
use crate::correlate::{Activity, Evidence, LockKind, LockWaits, PollAnatomy, Share};
use crate::event::{
    CodeAddr, Event, LockAddr, LockOperation, Nanos, SiteClass, SiteId, StackId, Tid,
};
use holdup_probe_ebpf::wire;

/// What a lock is called.
#[derive(Clone, Debug)]
pub struct LockName {
    /// With the place where it is acquired.
    pub whole: String,
    /// Without: `Mutex<app::Sessions> (std)`.
    pub what: String,
    /// It is no lock, but a channel.
    pub is_channel: bool,
}

/// Names of locks, by what identifies them.
pub type LockNames = BTreeMap<(LockAddr, LockKind), LockName>;

/// Runtime-blocking time by stack.
pub fn blocking(
    capture: &Capture,
    polls: &[PollAnatomy],
    stacks: &Stacks,
    task_name: impl Fn(&PollAnatomy) -> String,
    lock_names: &LockNames,
) -> Flame {
    let mut flame = Flame::default();
    for anatomy in polls {
        let root = FlameFrame::tag(FrameKind::Root, task_name(anatomy));
        for share in &anatomy.shares {
            let mut frames = vec![root.clone()];
            match code(stacks, share.stack, Some(anatomy.poll.return_addr)) {
                Some(code) => {
                    frames.extend(code);
                    frames.push(leaf(share, lock_names));
                }
                None => frames.push(FlameFrame::tag(
                    FrameKind::NoStack,
                    without_stack(share, capture),
                )),
            }
            flame.add(frames, share.time);
        }
    }
    flame
}

/// CPU time of the whole process, whatever it did: each sample of the grid stands for the time between two of them.
/// Under tasks by type, beside them the blocking pool, the runtime itself, and threads that are none of its.
pub fn on_cpu(
    capture: &Capture,
    stacks: &Stacks,
    task_name: impl Fn(SiteId) -> String,
    threads: &BTreeMap<Tid, &str>,
    workers: &[WorkerEntry],
) -> Flame {
    let ticks = u64::from(capture.meta.grid_ticks);
    let each = Nanos(ticks * (1_000_000_000 / u64::from(capture.meta.frequency_hz.max(1))));
    // A worker's loop may have begun before the recording.
    let of_runtime = workers.iter().filter(|worker| worker.polls > 0);
    let of_runtime: BTreeSet<u32> = of_runtime.map(|worker| worker.tid).collect();
    let mut flame = Flame::default();
    for event in &capture.events {
        let Event::CpuSample(sample) = event else {
            continue;
        };
        if !sample.on_grid {
            continue;
        }
        let site = sample.site;
        let class = site.and_then(|site| Some(capture.poll_sites.get(site.0 as usize)?.class));
        let label = match (class, site) {
            (Some(SiteClass::Worker), _) => "[runtime: between polls]".to_owned(),
            (Some(SiteClass::Blocking), Some(site)) => {
                format!("[blocking pool] {}", task_name(site))
            }
            (Some(_), Some(site)) => task_name(site),
            _ if of_runtime.contains(&sample.tid.0) => "[runtime: between polls]".to_owned(),
            _ => match threads.get(&sample.tid) {
                Some(name) => format!("[thread: {name}]"),
                None => "[another thread]".to_owned(),
            },
        };
        let mut frames = vec![FlameFrame::tag(FrameKind::Root, label)];
        frames.extend(code_or_none(stacks, sample.stack));
        flame.add(frames, each);
    }
    flame
}

/// The three pictures of lock wait, of the same time each: condvars and channels are none.
pub struct LockFlames {
    /// What suffers.
    pub by_waiter: Flame,
    /// What to fix.
    pub by_holder: Flame,
    /// Both.
    pub pairs: Flame,
}

/// Lock wait by waiter, by holder, and by both.
pub fn lock_waits(
    locks: &BTreeMap<(LockAddr, LockKind), LockWaits<'_>>,
    stacks: &Stacks,
    lock_names: &LockNames,
) -> LockFlames {
    let mut flames = LockFlames {
        by_waiter: Flame::default(),
        by_holder: Flame::default(),
        pairs: Flame::default(),
    };
    for (key @ (address, kind), waits) in locks {
        let name = lock_names.get(key);
        if *kind == LockKind::Condvar || name.is_some_and(|name| name.is_channel) {
            continue;
        }
        let name = name.map_or("lock", |name| name.whole.as_str());
        let root = FlameFrame::tag(FrameKind::Root, format!("{name} [{:#x}]", address.0));
        by_waiter(&mut flames.by_waiter, &root, waits, stacks);
        by_holder(&mut flames, &root, waits, stacks);
    }
    flames
}

fn by_waiter(flame: &mut Flame, root: &FlameFrame, waits: &LockWaits<'_>, stacks: &Stacks) {
    let ended = waits.ended.iter();
    let ended = ended.map(|it| (it.operation, it.waiter_stack, it.total));
    let still_waiting = waits.still_waiting.iter();
    let still_waiting =
        still_waiting.map(|it| (it.operation, it.waiter_stack, it.end.since(it.start)));
    for (operation, stack, time) in ended.chain(still_waiting) {
        let mut frames = vec![root.clone(), wanted(operation)];
        frames.extend(code_or_none(stacks, stack));
        flame.add(frames, time);
    }
}

/// Each waiter's time is split over those who held the lock; what is left of it has no holder.
fn by_holder(flames: &mut LockFlames, root: &FlameFrame, waits: &LockWaits<'_>, stacks: &Stacks) {
    let mut left: BTreeMap<(LockOperation, Option<StackId>), (Nanos, Nanos)> = BTreeMap::new();
    for ended in &waits.ended {
        let left = left
            .entry((ended.operation, ended.waiter_stack))
            .or_default();
        left.0 += ended.total.saturating_sub(ended.handover);
        left.1 += ended.handover;
    }
    for wait in &waits.still_waiting {
        let left = left.entry((wait.operation, wait.waiter_stack)).or_default();
        left.0 += wait.end.since(wait.start);
    }
    let mut add = |holder: Vec<FlameFrame>, operation, waiter, time| {
        let mut frames = vec![root.clone()];
        frames.extend(holder);
        flames.by_holder.add(frames.clone(), time);
        frames.push(wanted(operation));
        // The waiter's stack stands on its head, so that the two places where they met are side by side.
        let mut of_waiter = code_or_none(stacks, waiter);
        of_waiter.reverse();
        frames.extend(of_waiter);
        flames.pairs.add(frames, time);
    };
    for pair in &waits.pairs {
        if let Some(left) = left.get_mut(&(pair.operation, pair.waiter_stack)) {
            left.0 = left.0.saturating_sub(pair.total);
        }
        let mut holder = vec![FlameFrame::tag(FrameKind::Root, "[held by]".to_owned())];
        holder.extend(code_or_none(stacks, pair.holder_stack));
        add(holder, pair.operation, pair.waiter_stack, pair.total);
    }
    for ((operation, waiter), (unseen, handover)) in left {
        for (what, time) in [
            ("[holder not seen]", unseen),
            ("[released, and not known to be somebody's again]", handover),
        ] {
            let tag = FlameFrame::tag(FrameKind::NoStack, what.to_owned());
            add(vec![tag], operation, waiter, time);
        }
    }
}

fn wanted(operation: LockOperation) -> FlameFrame {
    FlameFrame::tag(
        FrameKind::LockWait,
        format!("[{}]", operation_name(operation)),
    )
}

fn code_or_none(stacks: &Stacks, stack: Option<StackId>) -> Vec<FlameFrame> {
    match code(stacks, stack, None) {
        Some(code) => code.collect(),
        None => vec![FlameFrame::tag(FrameKind::NoStack, "[no stack]".to_owned())],
    }
}

/// The frames of a stack's innermost poll, outermost first. A stack that does not reach it says so at that place.
fn code(
    stacks: &Stacks,
    stack: Option<StackId>,
    return_addr: Option<CodeAddr>,
) -> Option<impl Iterator<Item = FlameFrame>> {
    let stack = stacks.get(stack)?;
    let cut = stack.cut_short(return_addr).map(|outcome| {
        let words = outcome.in_words();
        FlameFrame::tag(FrameKind::NoStack, format!("[stack cut short {words}]"))
    });
    let frames = stack.of_poll(return_addr).iter().rev();
    Some(
        cut.into_iter()
            .chain(frames.map(|frame| frame.flame_frame())),
    )
}

fn leaf(share: &Share, lock_names: &LockNames) -> FlameFrame {
    match share.activity {
        Activity::OnCpu => FlameFrame::tag(FrameKind::OnCpu, "[on-CPU]".to_owned()),
        Activity::RunQueue => FlameFrame::tag(FrameKind::RunQueue, "[run queue]".to_owned()),
        Activity::Sleep => FlameFrame::tag(FrameKind::Sleep, "[sleep]".to_owned()),
        Activity::LockWait => {
            let name = share
                .lock
                .and_then(|(lock, operation)| lock_names.get(&(lock, operation.into())))
                .map_or("a lock", |name| name.whole.as_str());
            FlameFrame::tag(FrameKind::LockWait, format!("[lock wait: {name}]"))
        }
    }
}

/// Why there is no stack: not seen because it was too early in the poll, or because its event was lost; or
/// seen, but the stack could not be read or stored.
fn without_stack(share: &Share, capture: &Capture) -> String {
    let lost = |counter| capture.counters.get(counter) > 0;
    let (what, lost) = match share.activity {
        Activity::OnCpu => ("on-CPU", lost(wire::COUNTER_LOST_SAMPLES)),
        Activity::LockWait => ("lock wait", lost(wire::COUNTER_LOST_LOCK_WAITS)),
        Activity::RunQueue => ("run queue", lost(wire::COUNTER_LOST_OFF_CPU)),
        Activity::Sleep => ("sleep", lost(wire::COUNTER_LOST_OFF_CPU)),
    };
    match (share.evidence, share.activity, lost) {
        (Evidence::NoEvent, Activity::OnCpu, _) => "[on-CPU, no sample]".to_owned(),
        (Evidence::NoEvent, _, false) => format!("[{what}, early: no stack]"),
        (Evidence::NoEvent, _, true) => format!("[{what}, early or lost: no stack]"),
        (Evidence::Stack | Evidence::NoStack, ..) => format!("[{what}, no stack]"),
    }
}

/// What a lock was wanted for.
pub fn operation_name(operation: LockOperation) -> &'static str {
    match operation {
        LockOperation::Mutex => "lock",
        LockOperation::RwShared => "read",
        LockOperation::RwExclusive => "write",
        LockOperation::RwUpgradable => "upgradable read",
        LockOperation::RwUpgrade => "upgrade",
        LockOperation::Condvar => "condvar wait",
        LockOperation::StdMutex => "lock",
        LockOperation::StdRead => "read",
        LockOperation::StdWrite => "write",
        LockOperation::TokioAcquire => "acquire",
    }
}
