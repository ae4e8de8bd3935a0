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
    atomics,
    emit::{count, count_by, emit, emit_urgent},
    locks,
    maps::{CORE_TAKERS, RETURN_SITES, SITE_CLASS, SITE_TOTALS, config},
    registers, threads, window,
};

const DEPTH: u32 = wire::POLL_DEPTH as u32;

/// The n-th poll of a thread. The mask is what lets the verifier see the bound.
#[inline(always)]
fn frame(thread: *mut wire::Thread, n: u32) -> *mut wire::PollFrame {
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
    if class == wire::CLASS_BLOCKING {
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
        let outer_active = (*thread).active_poll;
        *frame(thread, depth) = wire::PollFrame {
            start_ns,
            stack_pointer,
            task: registers::argument(&ctx, 0),
            return_addr,
            handed_off_ns: 0,
            run_queue_ns: 0,
            sleep_ns: 0,
            lock_wait_ns: 0,
            site,
            class,
            outer_active,
            zero: 0,
        };
        (*thread).poll_depth = depth + 1;
        (*thread).active_poll = active_after(thread, outer_active, depth, class);
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
    const NO_EXIST: u64 = 1;
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

/// Ends the innermost poll.
///
/// # Safety
/// `thread` is the running thread's record, with a `poll_depth` of 1 to DEPTH.
#[inline(always)]
unsafe fn end(thread: *mut wire::Thread, at_ns: u64, unseen: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let index = (*thread).poll_depth - 1;
        let poll = &*frame(thread, index);
        let was_active = (*thread).active_poll == index + 1;
        (*thread).poll_depth = index;
        // The outer poll may have been handed off while this one ran inside it.
        let outer = poll.outer_active;
        let outer_is_over = (*frame(thread, outer.wrapping_sub(1))).handed_off_ns != 0;
        (*thread).active_poll = if outer_is_over { 0 } else { outer };
        if was_active {
            locks::poll_ended(thread, at_ns);
        }
        let handed_off = poll.handed_off_ns != 0;

        let recording = window::get();
        let recorded = window::includes(poll.start_ns);
        // A poll that goes on behind the recording's end is cut there.
        let cut = at_ns > recording.stop_ns;
        let at_ns = if cut { recording.stop_ns } else { at_ns };
        if recorded && !cut {
            if unseen != 0 {
                count(wire::COUNTER_POLL_END_UNSEEN);
            } else {
                totals(poll.site, at_ns.saturating_sub(poll.start_ns));
            }
            count(if poll.class == wire::CLASS_BLOCKING {
                wire::COUNTER_BLOCKING_POLLS
            } else {
                wire::COUNTER_POLLS
            });
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
            let event = wire::LongPoll {
                header: wire::EventHeader {
                    kind: wire::EVENT_LONG_POLL,
                    tid: (*thread).tid,
                    at_ns: end_ns,
                },
                start_ns: poll.start_ns,
                task: poll.task,
                return_addr: poll.return_addr,
                run_queue_ns: poll.run_queue_ns,
                sleep_ns: poll.sleep_ns,
                lock_wait_ns: poll.lock_wait_ns,
                site: poll.site,
                flags,
            };
            if !emit(&event, wire::COUNTER_LOST_LONG_POLLS) {
                count_by(wire::COUNTER_LOST_LONG_POLL_NS, duration_ns);
            }
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
        // SAFETY: a map value of three words, aligned.
        unsafe {
            atomics::add(&raw mut (*totals).count, 1);
            atomics::add(&raw mut (*totals).total_ns, ns);
            atomics::raise(&raw mut (*totals).max_ns, ns);
        }
    }
}

/// A `block_in_place` on this thread gives its worker's core away: what follows in this poll blocks nobody.
/// Seen when a task is given to the blocking pool that runs a worker's loop. The cookie is a
/// `wire::HANDOFF_` code.
#[uprobe]
pub fn poll_handoff(ctx: ProbeContext) -> u32 {
    let Some(thread) = threads::current() else {
        return 0;
    };
    let Some(poll) = active(thread) else {
        return 0;
    };
    // SAFETY: the context of this program.
    let always = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } == wire::HANDOFF_ALWAYS;
    // The compiler is free to drop or to split the arguments in front of the task.
    let is_handoff = always
        || runs_worker_loop(registers::argument(&ctx, 0))
        || runs_worker_loop(registers::argument(&ctx, 1))
        || runs_worker_loop(registers::argument(&ctx, 2))
        || runs_worker_loop(registers::argument(&ctx, 3));
    if !is_handoff {
        return 0;
    }
    // SAFETY: points into the record.
    unsafe {
        (*poll).handed_off_ns = crate::now();
        (*thread).active_poll = 0;
    }
    count(wire::COUNTER_HANDOFFS);
    0
}

/// Whether `header` is the header of a task whose `raw::poll` instance runs a worker's loop.
#[inline(always)]
fn runs_worker_loop(header: u64) -> bool {
    poll_function(header).is_ok_and(|function| CORE_TAKERS.get_ptr(function).is_some())
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
