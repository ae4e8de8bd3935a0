//! All kernel-side state: configuration, per-thread records, interned stacks, aggregates, counters.
//! Every map is bounded; what finds no room is counted.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use holdup_probe_ebpf::wire;

/// Configuration: set by user space before loading, constant for the verifier afterwards.
pub mod config {
    /// A poll or a lock wait of at least this long gets an event of its own.
    #[unsafe(no_mangle)]
    static THRESHOLD_NS: u64 = 5_000_000;
    /// Samples and intervals are written once a poll is this old.
    #[unsafe(no_mangle)]
    static SAMPLE_AFTER_NS: u64 = 1_250_000;
    /// The target's process id in holdup's PID namespace.
    #[unsafe(no_mangle)]
    static TARGET_TGID: u32 = 0;
    /// holdup's PID namespace: device of its file in nsfs.
    #[unsafe(no_mangle)]
    static PID_NS_DEV: u64 = 0;
    /// holdup's PID namespace: inode of its file in nsfs.
    #[unsafe(no_mangle)]
    static PID_NS_INO: u64 = 0;

    macro_rules! read {
        ($name:ident, $static:ident, $type:ty) => {
            #[inline(always)]
            pub fn $name() -> $type {
                // SAFETY: a valid static; volatile, because the value that is compiled in is not the
                // one that the loader puts there.
                unsafe { core::ptr::read_volatile(&raw const $static) }
            }
        };
    }
    read!(threshold_ns, THRESHOLD_NS, u64);
    read!(sample_after_ns, SAMPLE_AFTER_NS, u64);
    read!(target_tgid, TARGET_TGID, u32);
    read!(pid_ns_dev, PID_NS_DEV, u64);
    read!(pid_ns_ino, PID_NS_INO, u64);
}

/// Room for a stack while it is being read: one word in front of it for the two ways to complete a
/// stack that was taken on a function's first instruction (see `unwind.rs`).
#[repr(C)]
pub struct StackScratch {
    pub words: [u64; wire::STACK_FRAMES + 2],
}

/// A thread's record with what only the kernel side needs.
#[repr(C)]
pub struct ThreadRecord {
    /// First, so that user space can read the prefix.
    pub thread: wire::Thread,
    /// Uprobe programs can be preempted by another thread's on the same CPU, so their scratch space
    /// belongs to the thread and not to the CPU.
    pub scratch: StackScratch,
}

/// The recording's start and end.
#[map]
pub static WINDOW: Array<wire::Window> = Array::with_max_entries(1, 0);

/// Events for user space. User space may change the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Records of the target's threads, by the address of their `task_struct`: both sides of a context
/// switch have it at hand without reading kernel memory. Entries leave with their thread.
#[map]
pub static THREADS: HashMap<u64, ThreadRecord> = HashMap::with_max_entries(4096, 0);

/// A zeroed record to start one from: it is larger than a BPF stack.
#[map]
pub static EMPTY_THREAD: Array<ThreadRecord> = Array::with_max_entries(1, 0);

/// Interned stacks by hash.
#[map]
pub static STACKS: HashMap<u64, wire::Stack> = HashMap::with_max_entries(16384, 0);

/// Scratch for CPU samples: their interrupt does not nest on a CPU.
#[map]
pub static SAMPLE_SCRATCH: PerCpuArray<StackScratch> = PerCpuArray::with_max_entries(1, 0);

/// Scratch for context switches, which run with interrupts off.
#[map]
pub static SWITCH_SCRATCH: PerCpuArray<StackScratch> = PerCpuArray::with_max_entries(1, 0);

/// Lock waits, summed.
#[map]
pub static LOCK_WAITS: HashMap<wire::LockWaitKey, wire::LockWaitTotals> =
    HashMap::with_max_entries(16384, 0);

/// A zeroed entry to start one from.
#[map]
pub static EMPTY_LOCK_WAIT: Array<wire::LockWaitTotals> = Array::with_max_entries(1, 0);

/// Who released a lock through its slow unlock last.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Release {
    pub at_ns: u64,
    pub stack: u64,
    pub tid: u32,
    pub zero: u32,
}

/// The last slow unlock of each lock. Least recently used ones make room.
#[map]
pub static RELEASES: LruHashMap<u64, Release> = LruHashMap::with_max_entries(8192, 0);

/// Class of each poll site, set by user space.
#[map]
pub static SITE_CLASS: Array<u32> = Array::with_max_entries(wire::MAX_POLL_SITES, 0);

/// What was seen of each poll site. User space lowers the size to the number of sites.
#[map]
pub static SITE_TOTALS: PerCpuArray<wire::PollSiteTotals> =
    PerCpuArray::with_max_entries(wire::MAX_POLL_SITES, 0);

/// Return addresses of polls.
#[map]
pub static RETURN_SITES: HashMap<u64, wire::ReturnSiteState> = HashMap::with_max_entries(4096, 0);

/// Addresses of the `raw::poll` instances that run a worker's loop, set by user space.
#[map]
pub static CORE_TAKERS: HashMap<u64, u32> = HashMap::with_max_entries(64, 0);

/// The counters, indexed by the `COUNTER_` codes.
#[map]
pub static COUNTERS: PerCpuArray<[u64; wire::COUNTERS as usize]> =
    PerCpuArray::with_max_entries(1, 0);
