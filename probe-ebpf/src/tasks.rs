//! The target's threads that are asleep in a futex call, one after the other, whenever user space reads the
//! iterator. Nothing of theirs passes a probe as long as they sleep: one that waits for a lock for ever is seen here
//! alone. What enters: a thread. What leaves: a [`Sleeper`] in what user space reads.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{seq_file, task_struct},
    helpers::generated::{
        bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_seq_write, bpf_task_pt_regs,
    },
    macros::map,
    maps::Array,
};
use holdup_probe_ebpf::wire::sleepers::{
    ASLEEP_UNKNOWN, Head, REGISTERS, RETURN_PROBES, ReturnProbe, Sleeper, TaskOffsets,
};

use crate::{maps::config, registers::saved};

/// Set by user space before loading.
#[unsafe(no_mangle)]
static TASK_OFFSETS: TaskOffsets = TaskOffsets {
    only_tgid: 0,
    tgid: 0,
    pid: 0,
    state: 0,
    comm: 0,
    voluntary_switches: 0,
    involuntary_switches: 0,
    last_arrival: 0,
    run_delay: 0,
    last_queued: 0,
    run_time: 0,
    run_time_at_arrival: 0,
    cfs_rq: 0,
    run_queue: 0,
    run_queue_clock: 0,
    thread_pointer: 0,
};

macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a valid static; volatile, because the value that is compiled in is not the one that the loader
        // puts there.
        unsafe { core::ptr::read_volatile(&raw const TASK_OFFSETS.$field) }
    };
}

/// Room for the thread that the iterator is at: it is larger than a BPF stack.
#[map]
static SLEEPER: Array<Sleeper> = Array::with_max_entries(1, 0);

/// `struct bpf_iter__task` of kernel/bpf/task_iter.c.
#[repr(C)]
pub struct Step {
    meta: *const Meta,
    /// Null behind the last thread.
    task: *mut task_struct,
}

impl Step {
    /// The thread that the iterator is at, if it is one of the target's. Read once: the verifier knows that it is not null of
    /// this copy alone.
    #[inline(always)]
    pub fn thread(&self) -> Option<*mut task_struct> {
        let task = self.task;
        if task.is_null() || offset!(pid) == 0 {
            return None;
        }
        let at = task as u64;
        let is_of_target = offset!(only_tgid) == 0
            || u64::from(read::<u32>(at + offset!(tgid)).unwrap_or(0)) == offset!(only_tgid);
        is_of_target.then_some(task)
    }

    /// Gives a record to whoever reads the iterator.
    ///
    /// # Safety
    /// This is the kernel's context. `record` points to plain data without padding.
    #[inline(always)]
    pub unsafe fn give<T>(&self, record: *const T) {
        // SAFETY: as the caller says. What finds no room there is written again as a whole in the next read.
        unsafe {
            bpf_seq_write((*self.meta).seq, record.cast(), size_of::<T>() as u32);
        }
    }
}

/// The beginning of `struct bpf_iter_meta` of include/linux/bpf.h.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// What a program says so that the iterator goes on to the next thread.
pub const GO_ON: i32 = 0;

/// # Safety
/// Called by the kernel alone, with its own context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn sleepers(step: *const Step) -> i32 {
    // SAFETY: the kernel's context.
    let step = unsafe { &*step };
    let Some(task) = step.thread() else {
        return GO_ON;
    };
    let at = task as u64;
    // A thread that runs has other registers than those that it entered the kernel with last.
    if read::<u32>(at + offset!(state)).unwrap_or(0) & TASK_INTERRUPTIBLE == 0 {
        return GO_ON;
    }
    let Some(room) = SLEEPER.get_ptr_mut(0) else {
        return GO_ON;
    };
    // SAFETY: a map value, which nobody but the one reader's iterator uses.
    let sleeper = unsafe { &mut *room };
    // SAFETY: the registers that the thread entered the kernel with lie at the top of its kernel stack, which stays
    // as long as the iterator has the thread; the room is as large as the architecture with more of them needs.
    let error = unsafe {
        bpf_probe_read_kernel(
            (&raw mut sleeper.registers).cast(),
            (saved::count() * 8) as u32,
            bpf_task_pt_regs(task) as *const c_void,
        )
    };
    if error != 0 || !is_in_futex(&sleeper.registers) {
        return GO_ON;
    }
    sleeper.head = Head {
        tid: tid(at),
        zero: 0,
        comm: read(at + offset!(comm)).unwrap_or([0; 16]),
        switches: read::<u64>(at + offset!(voluntary_switches)).unwrap_or(0)
            + read::<u64>(at + offset!(involuntary_switches)).unwrap_or(0),
        asleep_ns: asleep_ns(at),
    };
    put_return_probes(at, &mut sleeper.return_probes);
    // SAFETY: the kernel's context, and plain data without padding.
    unsafe { step.give(room) };
    GO_ON
}

/// The number of a thread.
#[inline(always)]
pub fn tid(task: u64) -> u32 {
    read(task + offset!(pid)).unwrap_or(0)
}

/// Where a thread's pointer to its thread-local variables is kept while it does not run: every switch to another thread
/// stores it. One that runs has had the same since it was started.
#[inline(always)]
pub fn thread_pointer(task: u64) -> Option<u64> {
    match offset!(thread_pointer) {
        0 => None,
        offset => read(task + offset),
    }
}

/// Of include/linux/sched.h: asleep, until something it waits for or a signal wakes it.
const TASK_INTERRUPTIBLE: u32 = 1;

/// Whether the system call that these registers made is a wait for a futex.
#[inline(always)]
fn is_in_futex(registers: &[u64; REGISTERS]) -> bool {
    /// `futex_wait`, on all architectures.
    const FUTEX_WAIT: u64 = 455;
    // The number is in orig_rax, and in x8: both are left alone until the call returns.
    let (number, futex) = if config::is_aarch64() {
        (registers[8], 98)
    } else {
        (registers[15], 202)
    };
    number == futex || number == FUTEX_WAIT
}

/// How long a thread has not run. All in the scheduler's own clock, which is not `CLOCK_MONOTONIC`.
///
/// ```text
///   last_arrival    + run time since then = asleep         = the reading thread's own arrival + run time
///   |------------- ran -------------------|------ asleep ------| now, less up to a tick
/// ```
#[inline(always)]
fn asleep_ns(task: u64) -> u64 {
    // Some kernels keep it only when told to.
    if last_arrival(task) == 0 {
        return ASLEEP_UNKNOWN;
    }
    // SAFETY: no preconditions.
    let reader = unsafe { bpf_get_current_task_btf() } as u64;
    ran_until(reader).saturating_sub(ran_until(task))
}

/// When a thread ran last, as far as the kernel has accounted for it.
#[inline(always)]
fn ran_until(task: u64) -> u64 {
    let number = |offset| read::<u64>(task + offset).unwrap_or(0);
    let ran = number(offset!(run_time)).saturating_sub(number(offset!(run_time_at_arrival)));
    number(offset!(last_arrival)) + ran
}

/// How long the kernel says that a thread has waited on run queues since it was made, in nanoseconds; 0 where it does
/// not say.
#[inline(always)]
pub fn run_delay_ns(task: u64) -> u64 {
    if_kept(task, offset!(run_delay))
}

/// When the kernel says that a thread got a CPU last, by the clock of run queues; 0 where it does not say.
#[inline(always)]
pub fn last_arrival(task: u64) -> u64 {
    if_kept(task, offset!(last_arrival))
}

/// Since when the kernel says that a thread waits on the run queue that it is on, by the clock of run queues; 0 where it does
/// not say, and while the thread sleeps or runs.
#[inline(always)]
pub fn last_queued(task: u64) -> u64 {
    if_kept(task, offset!(last_queued))
}

/// A number that not every kernel keeps of a thread; 0 where this one does not.
#[inline(always)]
fn if_kept(task: u64, offset: u64) -> u64 {
    match offset {
        0 => 0,
        offset => read(task + offset).unwrap_or(0),
    }
}

/// The run queue that a thread is on; 0 where the kernel does not tell.
#[inline(always)]
pub fn run_queue(task: u64) -> u64 {
    match if_kept(task, offset!(cfs_rq)) {
        0 => 0,
        cfs_rq => read(cfs_rq + offset!(run_queue)).unwrap_or(0),
    }
}

/// The clock of the run queue that a thread is on, which stands still between what the scheduler does; 0 where the kernel does
/// not tell.
#[inline(always)]
pub fn run_queue_clock(task: u64) -> u64 {
    match run_queue(task) {
        0 => 0,
        run_queue => read(run_queue + offset!(run_queue_clock)).unwrap_or(0),
    }
}

/// Writes down the list that `unwind/return_probes.rs` describes, of a thread that is not running.
#[inline(always)]
fn put_return_probes(task: u64, probes: &mut [ReturnProbe; RETURN_PROBES]) {
    let number = |addr| read::<u64>(addr).unwrap_or(0);
    let mut instance = 0;
    if config::task_utask() != 0 {
        let utask = number(task + config::task_utask());
        if utask != 0 {
            instance = number(utask + config::utask_return_instances());
        }
    }
    for probe in probes {
        *probe = ReturnProbe {
            stack_pointer: 0,
            return_address: 0,
        };
        if instance != 0 {
            probe.stack_pointer = number(instance + config::return_instance_stack());
            probe.return_address = number(instance + config::return_instance_original());
            instance = number(instance + config::return_instance_next());
        }
    }
}

#[inline(always)]
fn read<T: Copy>(addr: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address, reports a fault as an error, and fills all of the value if there is none.
    unsafe {
        let error = bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            addr as *const c_void,
        );
        (error == 0).then(|| value.assume_init())
    }
}
