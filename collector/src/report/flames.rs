//! The two flamegraphs.
//!
//! ```text
//!   blocking    task > code of the poll, outermost first > [on-CPU] | [lock wait: …] | [run queue] | [sleep]
//!               task > [on-CPU, no sample] | [sleep, early: no stack] | …
//!   lock wait   lock > [write] > code of the waiter
//! ```
//!
//! The task stands for the frames below it (thread start, worker loop, `raw::poll`), which are the same for
//! all tasks. Every nanosecond of every long poll, and of every lock wait, is in exactly one stack.

use std::collections::BTreeMap;

use super::stacks::Stacks;
use super::{Flame, FlameFrame, FrameKind};
use crate::capture::Capture;
use crate::correlate::{Activity, Evidence, LockKind, LockWaits, PollAnatomy, Share};
use crate::event::{CodeAddr, LockAddr, LockOperation, Nanos, StackId};
use holdup_probe_ebpf::wire;

/// Names of locks, by what identifies them.
pub type LockNames = BTreeMap<(LockAddr, LockKind), String>;

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

/// Lock wait by lock, operation and waiter; condvars are none.
pub fn lock_wait(
    locks: &BTreeMap<(LockAddr, LockKind), LockWaits<'_>>,
    stacks: &Stacks,
    lock_names: &LockNames,
) -> Flame {
    let mut flame = Flame::default();
    for (key @ (address, kind), waits) in locks {
        if *kind == LockKind::Condvar {
            continue;
        }
        let name = lock_names.get(key).map_or("lock", String::as_str);
        let root = FlameFrame::tag(FrameKind::Root, format!("{name} [{:#x}]", address.0));
        let mut add = |operation, stack, time| {
            let mut frames = vec![
                root.clone(),
                FlameFrame::tag(
                    FrameKind::LockWait,
                    format!("[{}]", operation_name(operation)),
                ),
            ];
            match code(stacks, stack, None) {
                Some(code) => frames.extend(code),
                None => frames.push(FlameFrame::tag(FrameKind::NoStack, "[no stack]".to_owned())),
            }
            flame.add(frames, time);
        };
        for entry in &waits.ended {
            add(entry.operation, entry.waiter_stack, entry.total);
        }
        for wait in &waits.still_waiting {
            let so_far: Nanos = wait.end.since(wait.start);
            add(wait.operation, wait.waiter_stack, so_far);
        }
    }
    flame
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
                .map_or("a lock", String::as_str);
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
    }
}
