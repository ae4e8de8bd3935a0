//! The thread pointers of the target's threads, one after the other, whenever user space reads the iterator. What enters: a
//! thread. What leaves: a [`ThreadPointer`] in what user space reads.

use holdup_probe_ebpf::wire::thread_pointers::ThreadPointer;

use crate::tasks::{GO_ON, Step, thread_pointer, tid};

/// # Safety
/// Called by the kernel alone, with its own context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn thread_pointers(step: *const Step) -> i32 {
    // SAFETY: the kernel's context.
    let step = unsafe { &*step };
    let Some(task) = step.thread() else {
        return GO_ON;
    };
    let at = task as u64;
    let Some(address) = thread_pointer(at) else {
        return GO_ON;
    };
    let record = ThreadPointer {
        tid: tid(at),
        zero: 0,
        address,
    };
    // SAFETY: the kernel's context, and plain data without padding.
    unsafe { step.give(&raw const record) };
    GO_ON
}
