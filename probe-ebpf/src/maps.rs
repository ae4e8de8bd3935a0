//! All kernel-side state: configuration, per-thread records, interned stacks, aggregates, counters.
//! Every map is bounded; what finds no room is counted.

use aya_ebpf::{
    btf_maps::{self, ArrayOfMaps, HashOfMaps},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use holdup_probe_ebpf::wire::{
    self,
    unwind::{Chunk, MAX_CHUNKS, MAX_PROCESSES, MAX_RULES, Ranges, Rule},
};

use crate::{
    holders::LockState,
    scratch::{self, Scratch},
};

/// Configuration: set by user space before loading, constant for the verifier afterwards.
pub mod config {
    /// A poll or a lock wait of at least this long gets an event of its own.
    #[unsafe(no_mangle)]
    static THRESHOLD_NS: u64 = 5_000_000;
    /// Samples and intervals are written once a poll is this old.
    #[unsafe(no_mangle)]
    static SAMPLE_AFTER_NS: u64 = 1_250_000;
    /// Which CPU samples are kept: a `SAMPLE_` code.
    #[unsafe(no_mangle)]
    static SAMPLE: u8 = 0;
    /// How many ticks of a CPU's clock are from one sample of everything to the next; 0 for never.
    #[unsafe(no_mangle)]
    static GRID_TICKS: u32 = 0;
    /// Of the hash of a task's address: its delays are looked at where these bits are zero.
    #[unsafe(no_mangle)]
    static TASK_MASK: u32 = 0;
    /// Non-zero when tasks have numbers where `polls::task_id` looks for them.
    #[unsafe(no_mangle)]
    static HAS_TASK_IDS: u8 = 0;
    /// The target's process id in holdup's PID namespace.
    #[unsafe(no_mangle)]
    static TARGET_TGID: u32 = 0;
    /// holdup's PID namespace: device of its file in nsfs.
    #[unsafe(no_mangle)]
    static PID_NS_DEV: u64 = 0;
    /// holdup's PID namespace: inode of its file in nsfs.
    #[unsafe(no_mangle)]
    static PID_NS_INO: u64 = 0;

    /// The target's architecture: 0 for x86-64, 1 for aarch64.
    #[unsafe(no_mangle)]
    static IS_AARCH64: u8 = 0;
    /// Offset of `utask` in the kernel's `task_struct`; 0 where it could not be found out.
    #[unsafe(no_mangle)]
    static TASK_UTASK: u64 = 0;
    /// Offset of `return_instances` in its `uprobe_task`.
    #[unsafe(no_mangle)]
    static UTASK_RETURN_INSTANCES: u64 = 0;
    /// Offset of `stack` in its `return_instance`.
    #[unsafe(no_mangle)]
    static RETURN_INSTANCE_STACK: u64 = 0;
    /// Offset of `orig_ret_vaddr` in it.
    #[unsafe(no_mangle)]
    static RETURN_INSTANCE_ORIGINAL: u64 = 0;
    /// Offset of `next` in it.
    #[unsafe(no_mangle)]
    static RETURN_INSTANCE_NEXT: u64 = 0;

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
    read!(sample, SAMPLE, u8);
    read!(grid_ticks, GRID_TICKS, u32);
    read!(task_mask, TASK_MASK, u32);
    read!(task_ids, HAS_TASK_IDS, u8);
    read!(target_tgid, TARGET_TGID, u32);
    read!(pid_ns_dev, PID_NS_DEV, u64);
    read!(pid_ns_ino, PID_NS_INO, u64);
    read!(architecture, IS_AARCH64, u8);
    read!(task_utask, TASK_UTASK, u64);
    read!(utask_return_instances, UTASK_RETURN_INSTANCES, u64);
    read!(return_instance_stack, RETURN_INSTANCE_STACK, u64);
    read!(return_instance_original, RETURN_INSTANCE_ORIGINAL, u64);
    read!(return_instance_next, RETURN_INSTANCE_NEXT, u64);

    /// Whether tasks have numbers where `polls::task_id` looks for them.
    #[inline(always)]
    pub fn has_task_ids() -> bool {
        task_ids() != 0
    }

    /// Whether the target runs on aarch64, else it is x86-64.
    #[inline(always)]
    pub fn is_aarch64() -> bool {
        architecture() != 0
    }
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
pub static THREADS: HashMap<u64, wire::Thread> = HashMap::with_max_entries(4096, 0);

/// A zeroed record to start one from: it is larger than a BPF stack.
#[map]
pub static EMPTY_THREAD: Array<wire::Thread> = Array::with_max_entries(1, 0);

/// For `insert`: what is there already stays. BPF_NOEXIST of include/uapi/linux/bpf.h. Two may come to insert at once; the loser finds
/// the winner's entry.
pub const NO_EXIST: u64 = 1;

/// Interned stacks by hash.
#[map]
pub static STACKS: HashMap<u64, wire::ShortStack> = HashMap::with_max_entries(wire::STACKS, 0);

/// Those that are deeper.
#[map]
pub static DEEP_STACKS: HashMap<u64, wire::Stack> = HashMap::with_max_entries(2048, 0);

/// Room for walks.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(scratch::SLOTS, 0);

/// When user space was last told of code that it had not seen.
#[map]
pub static LAST_UNMAPPED: Array<u64> = Array::with_max_entries(1, 0);

/// Address spaces, by process id in holdup's PID namespace.
#[btf_map]
pub static PROCESSES: HashOfMaps<u32, btf_maps::Array<Ranges, 1>, { MAX_PROCESSES as usize }> =
    HashOfMaps::new();

/// The tables' rows.
#[btf_map]
pub static CHUNKS: ArrayOfMaps<btf_maps::Array<Chunk, 1>, { MAX_CHUNKS as usize }> =
    ArrayOfMaps::new();

/// The rules that rows name.
#[map]
pub static RULES: Array<Rule> = Array::with_max_entries(MAX_RULES as u32, 0);

/// Lock waits, summed.
#[map]
pub static LOCK_WAITS: HashMap<wire::LockWaitKey, wire::LockWaitTotals> =
    HashMap::with_max_entries(16384, 0);

/// A zeroed entry to start one from.
#[map]
pub static EMPTY_LOCK_WAIT: Array<wire::LockWaitTotals> = Array::with_max_entries(1, 0);

/// What is known of each lock. Least recently used ones make room.
#[map]
pub static LOCKS: LruHashMap<u64, LockState> = LruHashMap::with_max_entries(16384, 0);

/// A zeroed record to start one from.
#[map]
pub static EMPTY_LOCK: Array<LockState> = Array::with_max_entries(1, 0);

/// Who waited for whom, summed.
#[map]
pub static PAIRS: HashMap<wire::PairKey, wire::Totals> = HashMap::with_max_entries(16384, 0);

/// Holds, summed.
#[map]
pub static HOLDS: HashMap<wire::HoldKey, wire::Totals> = HashMap::with_max_entries(16384, 0);

/// How many threads are in a lock's slow path.
#[map]
pub static WAITING: Array<u64> = Array::with_max_entries(1, 0);

/// Tasks that wait for permits.
#[map]
pub static TASK_WAITS: HashMap<wire::AcquireAddr, wire::TaskWait> =
    HashMap::with_max_entries(16384, 0);

/// Locks that were seen to be acquired, with both their ends to be seen. Those that are never released make room.
#[map]
pub static HELD: LruHashMap<wire::HeldKey, wire::Held> = LruHashMap::with_max_entries(16384, 0);

/// Class of each poll site, set by user space.
#[map]
pub static SITE_CLASS: Array<u32> = Array::with_max_entries(wire::MAX_POLL_SITES, 0);

/// What was seen of each poll site. User space lowers the size to the number of sites. One for all CPUs: with their
/// histograms they are too large to have one for each.
#[map]
pub static SITE_TOTALS: Array<wire::PollSiteTotals> =
    Array::with_max_entries(wire::MAX_POLL_SITES, 0);

/// Tasks, by the address of their headers.
#[map]
pub static TASKS: LruHashMap<u64, wire::Task> = LruHashMap::with_max_entries(wire::TASKS, 0);

/// The target's process id in the initial PID namespace, once a probe in it was hit.
#[map]
pub static TARGET: Array<u32> = Array::with_max_entries(1, 0);

/// How many stacks came into `STACKS`, and how many user space has taken out, by the `wire::STACKS_` indices.
#[map]
pub static STACK_COUNTS: Array<u64> = Array::with_max_entries(2, 0);

/// Ticks of each CPU's clock since the last one on the grid.
#[map]
pub static TICKS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Return addresses of polls.
#[map]
pub static RETURN_SITES: HashMap<u64, wire::ReturnSiteState> = HashMap::with_max_entries(4096, 0);

/// Addresses of the `raw::poll` instances of blocking tasks, with a `wire::BLOCKING_` code; set by user space.
#[map]
pub static BLOCKING_POLLS: HashMap<u64, u32> = HashMap::with_max_entries(wire::MAX_POLL_SITES, 0);

/// The counters, indexed by the `COUNTER_` codes.
#[map]
pub static COUNTERS: PerCpuArray<[u64; wire::COUNTERS as usize]> =
    PerCpuArray::with_max_entries(1, 0);
