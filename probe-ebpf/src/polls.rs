//! Start and end of polls: every `tokio::runtime::task::raw::poll` instance at its entry, and the few
//! places where they return to.
//!
//! A thread's polls nest. Which one blocks a runtime, the *active* poll, follows from the classes:
//!
//! ```text
//!   worker loop (blocking) > task                                    task
//!   spawn_blocking (blocking) > block_on of a runtime > its task     its task
//!   task > LocalSet inside it > local task                           the outer task
//!   task, handed off by block_in_place > runtime inside > its task   the inner task
//!   unclassified > task                                              task
//! ```
//!
//! The root future of a current-thread runtime, which `block_on` was given, is no task. `block_on`'s loop polls it after each
//! park, if it was woken, and goes on with tasks or parks again: so what comes between is called a poll of it, and one that is
//! not long is not counted, because there may have been none.
//!
//! There is no uretprobe: it would replace the return address on the target's stack, and cut every
//! backtrace that the target takes of itself during a poll. The return address is read at the entry
//! instead; user space puts an ordinary probe there.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_loop},
    },
    macros::uprobe,
    programs::ProbeContext,
};
use holdup_probe_ebpf::wire;

use crate::{
    atomics, early,
    emit::{count, count_by, emit, emit_urgent},
    locks,
    maps::{BLOCKING_POLLS, NO_EXIST, RETURN_SITES, SITE_CLASS, SITE_TOTALS, TASKS, config},
    registers, sched, slices, stolen,
    sums::{self, log2},
    threads, wakes, window,
};

const DEPTH: u32 = wire::POLL_DEPTH as u32;

/// The n-th poll of a thread. The mask is what lets the verifier see the bound.
#[inline(always)]
pub fn frame(thread: *mut wire::Thread, n: u32) -> *mut wire::PollFrame {
    // SAFETY: masked below POLL_DEPTH, a power of two.
    unsafe {
        (&raw mut (*thread).polls)
            .cast::<wire::PollFrame>()
            .add((n & (DEPTH - 1)) as usize)
    }
}

/// The poll of this thread that blocks a runtime now.
#[inline(always)]
pub fn active(thread: *const wire::Thread) -> Option<*mut wire::PollFrame> {
    let thread = thread.cast_mut();
    // SAFETY: a thread's record in the map.
    let active = unsafe { (*thread).active_poll };
    if active == 0 {
        None
    } else {
        Some(frame(thread, active - 1))
    }
}

/// The poll that this thread is in, whatever it is.
#[inline(always)]
pub fn innermost(thread: *const wire::Thread) -> Option<*mut wire::PollFrame> {
    let thread = thread.cast_mut();
    // SAFETY: a thread's record in the map.
    let depth = unsafe { (*thread).poll_depth };
    if depth == 0 {
        None
    } else {
        Some(frame(thread, depth - 1))
    }
}

/// Which poll is active once one of `class` has begun at depth `index`, where `outer_active` was before.
///
/// # Safety
/// `thread` is the running thread's record.
#[inline(always)]
unsafe fn active_after(
    thread: *mut wire::Thread,
    outer_active: u32,
    index: u32,
    class: u32,
) -> u32 {
    if wire::is_blocking_class(class) {
        return 0;
    }
    // SAFETY: the caller's promise.
    let outer_class = unsafe { (*frame(thread, outer_active.wrapping_sub(1))).class };
    if outer_active == 0 || outer_class == wire::CLASS_UNKNOWN {
        index + 1
    } else {
        outer_active
    }
}

/// A `raw::poll` instance is entered. The cookie is the site's index.
#[uprobe]
pub fn poll_enter(ctx: ProbeContext) -> u32 {
    let start_ns = crate::now();
    // SAFETY: the context of this program.
    let site = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let Some(thread) = threads::current_or_new() else {
        return 0;
    };
    let stack_pointer = registers::stack_pointer(&ctx);
    let return_addr = registers::return_address(&ctx);

    root_ends(thread, start_ns);
    close_unseen(thread, stack_pointer);

    let mut class = SITE_CLASS.get(site).copied().unwrap_or(wire::CLASS_UNKNOWN);
    match RETURN_SITES.get_ptr(return_addr) {
        // SAFETY: a map value; user space replaces it whole.
        Some(known) if class == wire::CLASS_UNKNOWN => class = unsafe { (*known).class },
        Some(_) => {}
        None => announce_return_site(thread, return_addr, site, start_ns),
    }

    // SAFETY: the running thread's record, which only this thread writes.
    unsafe {
        let depth = (*thread).poll_depth;
        if depth >= DEPTH {
            count(wire::COUNTER_POLLS_TOO_DEEP);
            return 0;
        }
        let task = registers::argument(&ctx, 0);
        let poll = wire::PollFrame {
            start_ns,
            stack_pointer,
            task,
            task_id: meet(site, task, class, start_ns),
            return_addr,
            site,
            class,
            ..wire::PollFrame::NONE
        };
        begin(thread, &poll);
    }
    0
}

#[inline(always)]
fn announce_return_site(thread: *mut wire::Thread, return_addr: u64, site: u32, at_ns: u64) {
    let unknown = wire::ReturnSiteState {
        attached_ns: 0,
        class: wire::CLASS_UNKNOWN,
        zero: 0,
    };
    // Two threads can come here at once: only the one that inserts announces.
    if RETURN_SITES.insert(return_addr, unknown, NO_EXIST).is_err() {
        return;
    }
    let event = wire::ReturnSite {
        header: wire::EventHeader {
            kind: wire::EVENT_RETURN_SITE,
            // SAFETY: the running thread's record.
            tid: unsafe { (*thread).tid },
            at_ns,
        },
        return_addr,
        site,
        zero: 0,
    };
    if !emit_urgent(&event, wire::COUNTER_LOST_OTHER) {
        // The next poll from there announces it again.
        let _ = RETURN_SITES.remove(return_addr);
    }
}

/// What `close_one` is given.
struct Closing {
    thread: *mut wire::Thread,
    stack_pointer: u64,
}

/// A poll is entered or left at this stack pointer: polls that were entered at the same or a lower one
/// (the stack grows down) have ended, and their end was missed.
#[inline(always)]
fn close_unseen(thread: *mut wire::Thread, stack_pointer: u64) {
    if !innermost_is_left(thread, stack_pointer) {
        return;
    }
    let mut closing = Closing {
        thread,
        stack_pointer,
    };
    // Not a `for`: the verifier would walk through all ways of eight rounds, which takes it a second.
    // SAFETY: the callback has the type that the helper calls, and `closing` outlives the call.
    unsafe {
        bpf_loop(
            DEPTH,
            close_one as *mut c_void,
            (&raw mut closing).cast(),
            0,
        );
    }
}

/// Ends the innermost poll if it has been left; returns 1, which ends the loop, if not.
unsafe extern "C" fn close_one(_round: u32, closing: *mut Closing) -> i64 {
    // SAFETY: `close_unseen` passes a valid one.
    let (thread, stack_pointer) = unsafe { ((*closing).thread, (*closing).stack_pointer) };
    if !innermost_is_left(thread, stack_pointer) {
        return 1;
    }
    // SAFETY: the running thread's record, and a poll is under way.
    unsafe { end(thread, crate::now(), wire::POLL_END_UNSEEN) };
    0
}

#[inline(always)]
fn innermost_is_left(thread: *mut wire::Thread, stack_pointer: u64) -> bool {
    // SAFETY: the running thread's record.
    unsafe {
        let depth = (*thread).poll_depth;
        depth != 0 && depth <= DEPTH && (*frame(thread, depth - 1)).stack_pointer <= stack_pointer
    }
}

/// A poll returned. The probe may stand a few instructions behind the return address, but on a
/// straight line that leaves the stack pointer alone.
#[uprobe]
pub fn poll_exit(ctx: ProbeContext) -> u32 {
    let at_ns = crate::now();
    let Some(thread) = threads::current() else {
        count(wire::COUNTER_POLL_END_WITHOUT_START);
        return 0;
    };
    let entry_stack_pointer = registers::stack_pointer(&ctx).wrapping_sub(registers::return_pops());
    // Polls inside the one that returns now.
    close_unseen(thread, entry_stack_pointer.wrapping_sub(1));
    // SAFETY: the running thread's record.
    unsafe {
        let depth = (*thread).poll_depth;
        if depth == 0 || depth > DEPTH {
            count(wire::COUNTER_POLL_END_WITHOUT_START);
            return 0;
        }
        // Code can jump to the probed instruction without having polled.
        if (*frame(thread, depth - 1)).stack_pointer == entry_stack_pointer {
            end(thread, at_ns, 0);
        }
    }
    0
}

/// Back in the loop of a current-thread runtime, which polls its root future first. The cookie is the site's index.
#[uprobe]
pub fn root_enter(ctx: ProbeContext) -> u32 {
    let start_ns = crate::now();
    // SAFETY: the context of this program.
    let site = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let Some(thread) = threads::current_or_new() else {
        return 0;
    };
    let stack_pointer = registers::stack_pointer(&ctx);
    root_ends(thread, start_ns);
    close_unseen(thread, stack_pointer);
    // SAFETY: the running thread's record, which only this thread writes.
    unsafe {
        let depth = (*thread).poll_depth;
        if depth >= DEPTH {
            count(wire::COUNTER_POLLS_TOO_DEEP);
            return 0;
        }
        let poll = wire::PollFrame {
            start_ns,
            stack_pointer,
            site,
            class: wire::CLASS_ROOT,
            ..wire::PollFrame::NONE
        };
        begin(thread, &poll);
    }
    0
}

/// The loop of a current-thread runtime parks, or is left.
#[uprobe]
pub fn root_exit(_ctx: ProbeContext) -> u32 {
    let at_ns = crate::now();
    if let Some(thread) = threads::current() {
        root_ends(thread, at_ns);
    }
    0
}

/// The running thread polls something else than the root future, if that is what it did.
#[inline(always)]
fn root_ends(thread: *mut wire::Thread, at_ns: u64) {
    let class = innermost(thread).map(|poll| {
        // SAFETY: points into the record.
        unsafe { (*poll).class }
    });
    if class == Some(wire::CLASS_ROOT) {
        end_innermost(at_ns);
    }
}

/// A global function: it ends in three programs, two of which end other polls as well.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn end_innermost(at_ns: u64) -> u64 {
    if let Some(thread) = threads::current() {
        // SAFETY: the running thread's record.
        unsafe {
            let depth = (*thread).poll_depth;
            if depth != 0 && depth <= DEPTH {
                end(thread, at_ns, 0);
            }
        }
    }
    0
}

/// Makes a poll the innermost one.
///
/// # Safety
/// `thread` is the running thread's record, with a `poll_depth` under DEPTH.
#[inline(always)]
unsafe fn begin(thread: *mut wire::Thread, poll: &wire::PollFrame) {
    // SAFETY: the caller's promise.
    unsafe {
        let depth = (*thread).poll_depth;
        let outer_active = (*thread).active_poll;
        *frame(thread, depth) = *poll;
        (*frame(thread, depth)).outer_active = outer_active;
        (*thread).poll_depth = depth + 1;
        let active = active_after(thread, outer_active, depth, poll.class);
        slices::unparked(thread);
        if active != outer_active {
            sched::stretch_ends(thread, threads::current_key());
        }
        if active == depth + 1 {
            early::drop_all(thread);
        }
        (*thread).active_poll = active;
        if active == depth + 1 {
            stolen::stretch_begins(thread);
        }
    }
}

/// Ends the innermost poll.
///
/// # Safety
/// `thread` is the running thread's record, with a `poll_depth` of 1 to DEPTH.
#[inline(always)]
unsafe fn end(thread: *mut wire::Thread, at_ns: u64, unseen: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let index = (*thread).poll_depth - 1;
        let was_active = (*thread).active_poll == index + 1;
        if was_active {
            sched::stretch_ends(thread, threads::current_key());
        }
        let poll = &*frame(thread, index);
        (*thread).poll_depth = index;
        // The outer poll may have been handed off while this one ran inside it.
        let outer = poll.outer_active;
        let outer_is_over = (*frame(thread, outer.wrapping_sub(1))).handed_off_ns != 0;
        (*thread).active_poll = if outer_is_over { 0 } else { outer };
        if was_active {
            stolen::stretch_begins(thread);
            locks::poll_ended(thread, at_ns);
        }
        let handed_off = poll.handed_off_ns != 0;

        let recording = window::get();
        let recorded = window::includes(poll.start_ns);
        // A poll that goes on behind the recording's end is cut there.
        let cut = at_ns > recording.stop_ns;
        let at_ns = if cut { recording.stop_ns } else { at_ns };
        let took_ns = at_ns.saturating_sub(poll.start_ns);
        let happened = poll.class != wire::CLASS_ROOT || took_ns >= config::threshold_ns();
        if recorded && !cut && happened {
            if unseen != 0 {
                count(wire::COUNTER_POLL_END_UNSEEN);
            } else {
                totals(poll.site, took_ns);
            }
            count(if wire::is_blocking_class(poll.class) {
                wire::COUNTER_BLOCKING_POLLS
            } else {
                wire::COUNTER_POLLS
            });
        }
        if recorded
            && !cut
            && happened
            && unseen == 0
            && (was_active || wire::is_blocking_class(poll.class))
        {
            let is_worker = (*frame(thread, 0)).class == wire::CLASS_WORKER;
            slices::poll_ended(thread, poll.class, is_worker, poll.start_ns, at_ns);
        }
        // Where no probe stood at the return address all the while, "until the next entry" says nothing
        // about the poll: it is mostly the worker's idle time.
        let worthless = unseen != 0 && !was_watched(poll);
        let blocks_until_handoff = handed_off && poll.handed_off_ns <= at_ns;
        let end_ns = if blocks_until_handoff {
            poll.handed_off_ns
        } else {
            at_ns
        };
        let duration_ns = end_ns.saturating_sub(poll.start_ns);
        let long =
            (was_active || handed_off) && !worthless && duration_ns >= config::threshold_ns();
        if long && !recorded && !cut && at_ns >= recording.start_ns {
            count(wire::COUNTER_LONG_POLLS_BEGAN_EARLIER);
        }
        if long && recorded {
            let mut flags = if blocks_until_handoff {
                // The hand-off was seen, so the blocking part has both ends.
                wire::POLL_HANDED_OFF
            } else if cut {
                wire::POLL_STILL_RUNNING
            } else {
                unseen
            };
            if poll.class == wire::CLASS_UNKNOWN {
                flags |= wire::POLL_UNCLASSIFIED;
            }
            count(wire::COUNTER_LONG_POLLS);
            count_by(wire::COUNTER_LONG_POLL_NS, duration_ns);
            early::tell_of(thread, threads::current_key(), index);
            let event = wire::LongPoll {
                header: wire::EventHeader {
                    kind: wire::EVENT_LONG_POLL,
                    tid: (*thread).tid,
                    at_ns: end_ns,
                },
                start_ns: poll.start_ns,
                task: poll.task,
                task_id: poll.task_id,
                return_addr: poll.return_addr,
                run_queue_ns: poll.run_queue_ns,
                sleep_ns: poll.sleep_ns,
                lock_wait_ns: poll.lock_wait_ns,
                stolen_ns: poll.stolen_ns,
                site: poll.site,
                flags,
            };
            if !emit(&event, wire::COUNTER_LOST_LONG_POLLS) {
                count_by(wire::COUNTER_LOST_LONG_POLL_NS, duration_ns);
            }
        }
        if was_active {
            // What a short poll did is nobody's.
            early::drop_all(thread);
        }
    }
}

/// Whether a probe stood at the poll's return address since its start.
#[inline(always)]
fn was_watched(poll: &wire::PollFrame) -> bool {
    RETURN_SITES.get_ptr(poll.return_addr).is_some_and(|site| {
        // SAFETY: a map value; user space replaces it whole.
        let attached_ns = unsafe { (*site).attached_ns };
        attached_ns != 0 && attached_ns <= poll.start_ns
    })
}

#[inline(always)]
fn totals(site: u32, ns: u64) {
    if let Some(totals) = SITE_TOTALS.get_ptr_mut(site) {
        let bucket = wire::duration_bucket(ns, log2(ns));
        // SAFETY: a map value of words, aligned.
        unsafe {
            sums::add(&raw mut (*totals).polls, ns);
            // The bound is for the verifier.
            if bucket < wire::DURATION_BUCKETS {
                let buckets = (&raw mut (*totals).histogram).cast::<u64>();
                atomics::add(buckets.add(bucket), 1);
            }
        }
    }
}

/// A task is given to the blocking pool. If it runs a worker's loop, a `block_in_place` on this thread gives its worker's
/// core away: what follows in this poll blocks nobody. The cookie is a `wire::HANDOFF_` code.
#[uprobe]
pub fn poll_handoff(ctx: ProbeContext) -> u32 {
    // SAFETY: the context of this program.
    let mut is_handoff = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } == wire::HANDOFF_ALWAYS;
    if !is_handoff {
        // The compiler is free to drop or to split the arguments in front of the task.
        let arguments = [
            registers::argument(&ctx, 0),
            registers::argument(&ctx, 1),
            registers::argument(&ctx, 2),
            registers::argument(&ctx, 3),
        ];
        for argument in arguments {
            match blocking_task(argument) {
                wire::BLOCKING_WORKER_LOOP => is_handoff = true,
                wire::BLOCKING_TASK => wakes::woken(argument, false),
                _ => {}
            }
        }
    }
    if !is_handoff {
        return 0;
    }
    let Some(thread) = threads::current() else {
        return 0;
    };
    let Some(poll) = active(thread) else {
        return 0;
    };
    // SAFETY: points into the record.
    unsafe {
        sched::stretch_ends(thread, threads::current_key());
        (*poll).handed_off_ns = crate::now();
        (*thread).active_poll = 0;
    }
    count(wire::COUNTER_HANDOFFS);
    0
}

/// What sort of blocking task `header` is the header of: a `wire::BLOCKING_` code, 0 if of none.
#[inline(always)]
fn blocking_task(header: u64) -> u32 {
    let function = poll_function(header).unwrap_or(0);
    BLOCKING_POLLS.get_ptr(function).map_or(0, |sort| {
        // SAFETY: a map value.
        unsafe { *sort }
    })
}

/// Tokio's own number of a task that is about to be polled, 0 where it is not known. Since 1.23 the tenth word of the
/// vtable says how far it is from the header (tokio's src/runtime/task/raw.rs, `id_offset`), which is the same for all
/// tasks of a site.
#[inline(always)]
fn task_id(totals: *mut wire::PollSiteTotals, header: u64) -> u64 {
    const VTABLE: u64 = 0x10;
    const ID_OFFSET: u64 = 0x48;
    // The number stands between a scheduler's pointer and the future, at the beginning of the task.
    const FAR: u64 = 1 << 12;
    if !config::has_task_ids() {
        return 0;
    }
    let word = |at: u64| {
        // SAFETY: the helper checks user addresses and reports a fault as an error.
        unsafe { bpf_probe_read_user(at as *const u64) }.unwrap_or(0)
    };
    // SAFETY: a map value; whoever writes it writes the same.
    unsafe {
        if (*totals).task_id_offset == 0 {
            let vtable = word(header.wrapping_add(VTABLE));
            (*totals).task_id_offset = word(vtable.wrapping_add(ID_OFFSET));
        }
        let offset = (*totals).task_id_offset;
        if offset == 0 || offset >= FAR {
            return 0;
        }
        word(header.wrapping_add(offset))
    }
}

/// Whether this thread runs a runtime: what it wakes goes into its own queue.
#[inline(always)]
pub fn is_worker(thread: *mut wire::Thread) -> bool {
    // SAFETY: a thread's record in the map.
    unsafe {
        (*thread).active_poll != 0
            || ((*thread).poll_depth != 0 && (*frame(thread, 0)).class == wire::CLASS_WORKER)
    }
}

/// A task is about to be polled. Counts it when it is met the first time in the recording, if it is not of the
/// blocking pool, and ends its delay if it was woken. Returns its number.
#[inline(always)]
fn meet(site: u32, header: u64, class: u32, start_ns: u64) -> u64 {
    let Some(totals) = SITE_TOTALS.get_ptr_mut(site) else {
        return 0;
    };
    let id = task_id(totals, header);
    // SAFETY: map values.
    unsafe {
        let is_recorded = window::includes(start_ns);
        let counts = !wire::is_blocking_class(class);
        if let Some(task) = TASKS.get_ptr_mut(header) {
            if (*task).woken_ns != 0 {
                let woken = wire::Task { id, ..*task };
                (*task).woken_ns = 0;
                // An earlier task's here, which ended without being polled again.
                let is_other = counts && (*task).id != 0 && (*task).id != id;
                if !is_other {
                    wakes::delay_ended(&raw const woken, header, site, start_ns);
                }
            }
            if !counts || ((*task).id == id && (!is_recorded || window::includes((*task).met_ns))) {
                return id;
            }
            (*task).id = id;
            (*task).met_ns = start_ns;
        } else if counts {
            let met = wire::Task {
                id,
                met_ns: start_ns,
                woken_ns: 0,
                waker_tid: 0,
                flags: 0,
            };
            let _ = TASKS.insert(header, met, 0);
        }
        if counts && is_recorded {
            atomics::add(&raw mut (*totals).tasks, 1);
        }
    }
    id
}

/// The `raw::poll` instance of a task: the first entry of the vtable that its header (`repr(C)`: state,
/// queue_next, vtable) points to. So in every Tokio since 1.0.
#[inline(always)]
fn poll_function(header: u64) -> Result<u64, i32> {
    const VTABLE: u64 = 0x10;
    // SAFETY: the helper checks user addresses and reports a fault as an error.
    unsafe {
        let vtable = bpf_probe_read_user(header.wrapping_add(VTABLE) as *const u64)?;
        bpf_probe_read_user(vtable as *const u64)
    }
}
