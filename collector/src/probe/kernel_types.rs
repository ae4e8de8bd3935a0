//! Where the running kernel keeps what a program reads of it: its type information (BTF) goes in, offsets of
//! members come out. Compilers of C programs for BPF leave that to the loader; Rust's don't.

use std::fs;
use std::sync::OnceLock;

use super::wire::sleepers::TaskOffsets;
use super::wire::stolen::StealClock;

/// The running kernel's types.
const PATH: &str = "/sys/kernel/btf/vmlinux";

/// Offsets, in bytes, on the way to the return addresses that return probes have replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReturnProbeOffsets {
    /// `task_struct.utask`.
    pub task_utask: u64,
    /// `uprobe_task.return_instances`.
    pub utask_return_instances: u64,
    /// `return_instance.stack`.
    pub instance_stack: u64,
    /// `return_instance.orig_ret_vaddr`.
    pub instance_original: u64,
    /// `return_instance.next`.
    pub instance_next: u64,
}

impl ReturnProbeOffsets {
    /// Of the running kernel; None when it does not tell.
    pub fn of_this_kernel() -> Option<ReturnProbeOffsets> {
        ReturnProbeOffsets::find(&fs::read(PATH).ok()?)
    }

    fn find(btf: &[u8]) -> Option<ReturnProbeOffsets> {
        let types = Types::parse(btf)?;
        let wanted = [
            ("task_struct", "utask"),
            ("uprobe_task", "return_instances"),
            ("return_instance", "stack"),
            ("return_instance", "orig_ret_vaddr"),
            ("return_instance", "next"),
        ];
        let [
            task_utask,
            utask_return_instances,
            instance_stack,
            instance_original,
            instance_next,
        ] = types.member_offsets(wanted);
        Some(ReturnProbeOffsets {
            task_utask: task_utask?,
            utask_return_instances: utask_return_instances?,
            instance_stack: instance_stack?,
            instance_original: instance_original?,
            instance_next: instance_next?,
        })
    }
}

/// Where the running kernel keeps what the programs read of a thread; None when it does not tell. Some kernels
/// don't keep since when a thread runs and how long it waited for that (`CONFIG_SCHED_INFO`).
pub fn task_offsets() -> Option<TaskOffsets> {
    // Whoever loads the programs and whoever starts the iterator ask; the answer takes milliseconds.
    static OFFSETS: OnceLock<Option<TaskOffsets>> = OnceLock::new();
    *OFFSETS.get_or_init(|| find_task_offsets(&fs::read(PATH).ok()?))
}

fn find_task_offsets(btf: &[u8]) -> Option<TaskOffsets> {
    let types = Types::parse(btf)?;
    let wanted = [
        ("task_struct", "tgid"),
        ("task_struct", "pid"),
        ("task_struct", "__state"),
        ("task_struct", "comm"),
        ("task_struct", "nvcsw"),
        ("task_struct", "nivcsw"),
        ("task_struct", "se"),
        ("sched_entity", "sum_exec_runtime"),
        ("sched_entity", "prev_sum_exec_runtime"),
        ("task_struct", "sched_info"),
        ("sched_info", "last_arrival"),
        ("sched_info", "run_delay"),
        ("sched_info", "last_queued"),
        ("sched_entity", "cfs_rq"),
        ("cfs_rq", "rq"),
        ("rq", "clock"),
    ];
    let [
        tgid,
        pid,
        state,
        comm,
        voluntary_switches,
        involuntary_switches,
        entity,
        run_time,
        run_time_at_arrival,
        info,
        last_arrival,
        run_delay,
        last_queued,
        cfs_rq,
        run_queue,
        run_queue_clock,
    ] = types.member_offsets(wanted);
    let entity = entity?;
    // Without groups of threads (`CONFIG_FAIR_GROUP_SCHED`) a queue does not say on which CPU it is.
    let way_to_clock = cfs_rq.zip(run_queue).zip(run_queue_clock);
    let (cfs_rq, run_queue, run_queue_clock) = way_to_clock
        .map_or((0, 0, 0), |((cfs_rq, run_queue), clock)| {
            (entity + cfs_rq, run_queue, clock)
        });
    let of_info = |member: Option<u64>| info.zip(member).map_or(0, |(info, member)| info + member);
    Some(TaskOffsets {
        only_tgid: 0,
        tgid: tgid?,
        pid: pid?,
        state: state?,
        comm: comm?,
        voluntary_switches: voluntary_switches?,
        involuntary_switches: involuntary_switches?,
        last_arrival: of_info(last_arrival),
        run_delay: of_info(run_delay),
        last_queued: of_info(last_queued),
        run_time: entity + run_time?,
        run_time_at_arrival: entity + run_time_at_arrival?,
        cfs_rq,
        run_queue,
        run_queue_clock,
        thread_pointer: thread_pointer_offset(&types).unwrap_or(0),
    })
}

/// From a `task_struct` to the thread's pointer to its thread-local variables.
fn thread_pointer_offset(types: &Types<'_>) -> Option<u64> {
    let wanted = [
        ("task_struct", "thread"),
        ("thread_struct", "fsbase"),
        ("thread_struct", "uw"),
        // The type of `uw` has no name.
        ("", "tp_value"),
    ];
    match types.member_offsets(wanted) {
        [Some(thread), Some(fs_base), ..] => Some(thread + fs_base),
        [Some(thread), None, Some(user), Some(pointer)] => Some(thread + user + pointer),
        _ => None,
    }
}

/// How a program finds what KVM took of the CPU that it runs on; all zero where the running kernel has no such clock, or
/// does not tell: one without types of its variables (pahole's `--skip_encoding_btf_vars`), or of another architecture than
/// x86-64.
pub fn steal_clock() -> StealClock {
    let is_on_the_way = task_offsets().is_some_and(|offsets| offsets.cfs_rq != 0);
    let clock = || find_steal_clock(&fs::read(PATH).ok()?);
    is_on_the_way.then(clock).flatten().unwrap_or_default()
}

fn find_steal_clock(btf: &[u8]) -> Option<StealClock> {
    let types = Types::parse(btf)?;
    let [steal] = types.member_offsets([("kvm_steal_time", "steal")]);
    let [run_queue, clock] = types.per_cpu_offsets(["runqueues", "steal_time"]);
    Some(StealClock {
        is_there: 1,
        from_rq: (clock? + steal?).wrapping_sub(run_queue?),
    })
}

/// A member of a struct, or a variable of a section.
const MEMBER_BYTES: usize = 12;

/// One type, or another thing that has a number among the types.
struct Type<'a> {
    kind: u32,
    /// Offset of its name among the strings.
    name: u32,
    /// Members.
    count: usize,
    /// The upper byte of a member's offset is a width.
    has_bit_fields: bool,
    /// What follows the twelve bytes that all have, and all other types.
    body: &'a [u8],
}

impl Type<'_> {
    const STRUCT: u32 = 4;
    const VARIABLE: u32 = 14;
    const SECTION: u32 = 15;
}

/// BTF, as Documentation/bpf/btf.rst of the kernel lays it out.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Option<Types<'a>> {
        const MAGIC: u16 = 0xeb9f;
        if btf.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let header = word(btf, 4)? as usize;
        let part = |at: usize| {
            let (offset, length) = (word(btf, at)? as usize, word(btf, at + 4)? as usize);
            btf.get(header..)?.get(offset..)?.get(..length)
        };
        Some(Types {
            types: part(8)?,
            strings: part(16)?,
        })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or(&[]);
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(0);
        &rest[..end]
    }

    /// All of them, in the order of their ids, which begin at 1.
    fn each(&self) -> impl Iterator<Item = Type<'a>> {
        let mut rest = self.types;
        std::iter::from_fn(move || {
            let (name, info) = (word(rest, 0)?, word(rest, 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let body = &rest[12.min(rest.len())..];
            // What follows the common twelve bytes.
            let length = match kind {
                1 | Type::VARIABLE | 17 => 4,
                3 => 12,
                Type::STRUCT | 5 | Type::SECTION | 19 => MEMBER_BYTES * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
            // Of one that was cut off, nothing follows.
            rest = body.get(length..).unwrap_or(&[]);
            Some(Type {
                kind,
                name,
                count,
                has_bit_fields: info >> 31 != 0,
                body,
            })
        })
    }

    /// Byte offsets of members of structs, in one pass.
    fn member_offsets<const N: usize>(&self, wanted: [(&str, &str); N]) -> [Option<u64>; N] {
        let mut found = [None; N];
        for it in self.each().filter(|it| it.kind == Type::STRUCT) {
            let name = self.name(it.name);
            for (n, (container, member)) in wanted.iter().enumerate() {
                if name == container.as_bytes() && found[n].is_none() {
                    found[n] = self.member(it.body, it.count, it.has_bit_fields, member);
                }
            }
        }
        found
    }

    /// Byte offsets of per-CPU variables in their section.
    fn per_cpu_offsets<const N: usize>(&self, wanted: [&str; N]) -> [Option<u64>; N] {
        let (mut ids, mut found) = ([None; N], [None; N]);
        for (it, id) in self.each().zip(1..) {
            if it.kind == Type::VARIABLE {
                let name = self.name(it.name);
                for (n, wanted) in wanted.iter().enumerate() {
                    if name == wanted.as_bytes() {
                        ids[n] = Some(id);
                    }
                }
            }
            // Sections come behind the variables that are in them.
            if it.kind == Type::SECTION && self.name(it.name) == b".data..percpu" {
                for variable in it.body.chunks_exact(MEMBER_BYTES).take(it.count) {
                    for n in 0..N {
                        if ids[n].is_some() && word(variable, 0) == ids[n] {
                            found[n] = word(variable, 4).map(u64::from);
                        }
                    }
                }
            }
        }
        found
    }

    fn member(&self, body: &[u8], count: usize, has_bit_fields: bool, wanted: &str) -> Option<u64> {
        body.chunks_exact(MEMBER_BYTES)
            .take(count)
            .find_map(|member| {
                (self.name(word(member, 0)?) == wanted.as_bytes()).then_some(())?;
                let bits = word(member, 8)?;
                // With bit fields in the struct the upper byte is a width.
                let bits = if has_bit_fields {
                    bits & 0x00ff_ffff
                } else {
                    bits
                };
                Some(u64::from(bits / 8))
            })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct `s { a; b }` between types of other kinds, by hand.
    #[test]
    fn members_are_found() {
        let strings = b"\0s\0a\0b\0.data..percpu\0";
        let mut types: Vec<u8> = Vec::new();
        let mut add = |words: &[u32]| types.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
        add(&[0, 1 << 24, 4, 32]); // int
        add(&[0, 2 << 24, 1]); // pointer to it
        add(&[1, 4 << 24 | 2, 16, 3, 1, 0, 5, 1, 64]); // struct
        add(&[3, 14 << 24, 1, 1]); // variable `a`
        add(&[5, 14 << 24, 1, 1]); // variable `b`
        add(&[7, 15 << 24 | 2, 0, 5, 32, 4, 4, 8, 4]); // section with both
        let mut btf = Vec::new();
        btf.extend(0xeb9f_u16.to_ne_bytes());
        btf.extend([1, 0]);
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            btf.extend(u32::to_ne_bytes(word));
        }
        btf.extend(&types);
        btf.extend(strings);
        let types = Types::parse(&btf).expect("well formed");
        assert_eq!(
            types.member_offsets([("s", "a"), ("s", "b"), ("s", "c"), ("t", "a")]),
            [Some(0), Some(8), None, None]
        );
        assert_eq!(
            types.per_cpu_offsets(["a", "b", "s"]),
            [Some(8), Some(32), None]
        );
        for cut in 0..btf.len() {
            let _ = ReturnProbeOffsets::find(&btf[..cut]);
            let _ = find_task_offsets(&btf[..cut]);
            let _ = find_steal_clock(&btf[..cut]);
        }
    }

    /// This kernel tells.
    #[test]
    fn of_this_kernel() {
        let offsets = ReturnProbeOffsets::of_this_kernel().expect("BTF has the types");
        assert!(offsets.task_utask > 0 && offsets.instance_next > offsets.instance_stack);
        let offsets = task_offsets().expect("BTF has the types");
        assert!(offsets.tgid == offsets.pid + 4 && offsets.run_time < offsets.last_arrival);
        assert!(offsets.thread_pointer > offsets.last_arrival);
        assert!(offsets.cfs_rq > offsets.run_time && offsets.run_queue_clock > 0);
    }
}
