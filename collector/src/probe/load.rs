//! The programs of one recording: loaded, attached, detached.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};
use aya::programs::{PerfEvent, ProgramError, RawTracePoint, UProbe};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use zerocopy::IntoBytes as _;

use super::kernel_types::{ReturnProbeOffsets, steal_clock};
use super::loading::Loading;
use super::sleepers;
use super::uprobe_multi::{self, MultiPrograms};
use super::{OBJECT, ProbeError, Records, wire};
use crate::event::{Nanos, Pid};

/// What the programs are loaded with.
#[derive(Clone, Debug)]
pub struct Config {
    /// A poll or a lock wait of at least this long gets an event of its own.
    pub threshold: Nanos,
    /// Samples and intervals are kept once a poll is this old.
    pub sample_after: Nanos,
    /// CPU samples for each second and CPU.
    pub frequency_hz: u32,
    /// Size of the ring buffer: a power of two, at least a page.
    pub ring_buffer_bytes: u32,
    /// Attach many uprobes with one link where the kernel has that.
    pub uprobe_multi: bool,
    /// Sample every thread of the target at any time, not only what may be slow.
    pub sample_everything: bool,
    /// Look at the delays of one of so many tasks: a power of two; 0 for none, and then no probe is put on wakes.
    pub one_task_of: u32,
}

/// How many ticks of a clock of this frequency are from one sample of everything to the next: about a hundred samples
/// of each busy CPU in a second, as profilers take by custom.
pub const fn grid_ticks(frequency_hz: u32) -> u32 {
    const GRID_HZ: u32 = 100;
    let ticks = (frequency_hz + GRID_HZ / 2) / GRID_HZ;
    if ticks == 0 { 1 } else { ticks }
}

/// What the programs have to know of the target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probed {
    /// Poll instances.
    pub sites: u32,
    /// Tokio numbers its tasks, where the programs look for it.
    pub has_task_ids: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config::new(Nanos(5_000_000), 997)
    }
}

impl Config {
    /// The usual one with this threshold and frequency.
    pub fn new(threshold: Nanos, frequency_hz: u32) -> Self {
        Config {
            threshold,
            // A quarter: of three quarters of the shortest long poll nothing has to be kept, and polls of ordinary length
            // cause no events.
            sample_after: Nanos(threshold.0 / 4),
            frequency_hz,
            ring_buffer_bytes: 8 << 20,
            uprobe_multi: true,
            sample_everything: false,
            one_task_of: 1,
        }
    }
}

/// A program that runs at uprobes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UprobeProgram {
    /// Entry of a lock's slow path; the cookie is a `wire::lock_cookie`.
    LockEnter,
    /// Return of a lock's slow path.
    LockReturn,
    /// Entry of a lock's slow unlock.
    UnlockEnter,
    /// Entry of a poll; the cookie is the site's index.
    PollEnter,
    /// A place that polls return to.
    PollExit,
    /// The root future of a current-thread runtime may be polled next; the cookie is its site's index.
    RootEnter,
    /// It no longer is.
    RootExit,
    /// `block_in_place` hands the worker's core off.
    PollHandoff,
    /// A `batch_semaphore::Acquire` is polled; the cookie is a `wire::acquire_cookie`.
    AcquireEnter,
    /// It answers.
    AcquireReturn,
    /// It is dropped.
    AcquireDropped,
    /// Permits are given back.
    PermitsReleased,
    /// A task is woken.
    TaskWoken,
    /// A task is spawned.
    TaskSpawned,
    /// Behind the instruction of a lock's fast path; the cookie is a `wire::fast_cookie`.
    FastPath,
}

impl UprobeProgram {
    pub(super) fn name(self) -> &'static str {
        match self {
            UprobeProgram::LockEnter => "lock_enter",
            UprobeProgram::LockReturn => "lock_return",
            UprobeProgram::UnlockEnter => "unlock_enter",
            UprobeProgram::PollEnter => "poll_enter",
            UprobeProgram::PollExit => "poll_exit",
            UprobeProgram::RootEnter => "root_enter",
            UprobeProgram::RootExit => "root_exit",
            UprobeProgram::PollHandoff => "poll_handoff",
            UprobeProgram::AcquireEnter => "acquire_enter",
            UprobeProgram::AcquireReturn => "acquire_return",
            UprobeProgram::AcquireDropped => "acquire_dropped",
            UprobeProgram::PermitsReleased => "permits_released",
            UprobeProgram::TaskWoken => "task_woken",
            UprobeProgram::TaskSpawned => "task_spawned",
            UprobeProgram::FastPath => "fast_path",
        }
    }

    /// What it sees, for people.
    pub fn what(self) -> &'static str {
        match self {
            UprobeProgram::LockEnter | UprobeProgram::LockReturn => "lock waits",
            UprobeProgram::UnlockEnter => "holders",
            UprobeProgram::PollEnter => "polls",
            UprobeProgram::PollExit => "ends of polls",
            UprobeProgram::RootEnter | UprobeProgram::RootExit => "root futures of `block_on`",
            UprobeProgram::PollHandoff => "hand-offs of block_in_place",
            UprobeProgram::AcquireEnter
            | UprobeProgram::AcquireReturn
            | UprobeProgram::AcquireDropped => "tasks' lock waits",
            UprobeProgram::PermitsReleased => "tasks' holds",
            UprobeProgram::TaskWoken => "delays of tasks",
            UprobeProgram::TaskSpawned => "delays of new tasks",
            UprobeProgram::FastPath => "locks that nobody waits for",
        }
    }

    /// Whether it runs when a function returns.
    pub fn is_at_return(self) -> bool {
        matches!(
            self,
            UprobeProgram::LockReturn | UprobeProgram::AcquireReturn
        )
    }
}

/// One place for a uprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UprobePoint {
    /// Offset of the instruction in the file.
    pub file_offset: u64,
    /// What the program is told about the place.
    pub cookie: u64,
}

/// Loaded programs and their links. Dropping it detaches everything.
pub struct Probes {
    pub(super) ebpf: Ebpf,
    /// None where each uprobe needs a link of its own.
    multi: Option<Loading>,
    multi_fds: HashMap<UprobeProgram, OwnedFd>,
    links: Vec<OwnedFd>,
    pid: Pid,
    /// Stacks that were taken out of the maps' room.
    pub(super) stacks_taken: u64,
}

impl Probes {
    /// Makes the maps. Programs are loaded when they are attached, or
    /// [meanwhile](Probes::begin_loading).
    pub fn load(config: &Config, pid: Pid, probed: &Probed) -> Result<Probes, ProbeError> {
        Probes::load_for(config, pid, probed, cfg!(target_arch = "aarch64"))
    }

    fn load_for(
        config: &Config,
        pid: Pid,
        probed: &Probed,
        is_aarch64: bool,
    ) -> Result<Probes, ProbeError> {
        let pid_ns = fs::metadata("/proc/self/ns/pid")
            .map_err(|error| ProbeError::from_io("look at its own PID namespace", error))?;
        let (device, inode) = (kernel_device(pid_ns.st_dev()), pid_ns.st_ino());
        let is_aarch64 = u8::from(is_aarch64);
        let sample = if config.sample_everything {
            wire::SAMPLE_EVERYTHING
        } else {
            wire::SAMPLE_WHAT_IS_SLOW
        };
        // Zeroes where the kernel does not tell: replaced return addresses then stay as they are.
        let return_probes = ReturnProbeOffsets::of_this_kernel().unwrap_or_default();
        let ebpf = EbpfLoader::new()
            // The log is asked for again by whoever meets an error.
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .override_global("THRESHOLD_NS", &config.threshold.0, true)
            .override_global("SAMPLE_AFTER_NS", &config.sample_after.0, true)
            .override_global("SAMPLE", &sample, true)
            .override_global("GRID_TICKS", &grid_ticks(config.frequency_hz), true)
            .override_global("TASK_MASK", &config.one_task_of.saturating_sub(1), true)
            .override_global("HAS_TASK_IDS", &u8::from(probed.has_task_ids), true)
            .override_global("TARGET_TGID", &pid.0, true)
            .override_global("PID_NS_DEV", &device, true)
            .override_global("PID_NS_INO", &inode, true)
            .override_global("IS_AARCH64", &is_aarch64, true)
            .override_global("TASK_UTASK", &return_probes.task_utask, true)
            .override_global(
                "UTASK_RETURN_INSTANCES",
                &return_probes.utask_return_instances,
                true,
            )
            .override_global("RETURN_INSTANCE_STACK", &return_probes.instance_stack, true)
            .override_global(
                "RETURN_INSTANCE_ORIGINAL",
                &return_probes.instance_original,
                true,
            )
            .override_global("RETURN_INSTANCE_NEXT", &return_probes.instance_next, true)
            .override_global("TASK_OFFSETS", sleepers::offsets(pid).as_bytes(), true)
            .override_global("STEAL_CLOCK", steal_clock().as_bytes(), true)
            .map_max_entries("EVENTS", config.ring_buffer_bytes)
            .map_max_entries("SITE_TOTALS", probed.sites.max(1))
            .load(OBJECT)
            .map_err(|error| ProbeError::from_aya("make BPF maps", &error))?;
        let multi_is_there = config.uprobe_multi
            && uprobe_multi::is_supported()
                .map_err(|error| ProbeError::from_io("load a BPF program", error))?;
        let multi = if multi_is_there {
            let fds = ebpf
                .maps()
                .filter_map(|(name, map)| Some((name.to_owned(), map_fd(map)?)))
                .collect();
            Some(Loading::new(MultiPrograms::relocate(OBJECT, &fds)?))
        } else {
            None
        };
        Ok(Probes {
            ebpf,
            multi,
            multi_fds: HashMap::new(),
            links: Vec::new(),
            pid,
            stacks_taken: 0,
        })
    }

    /// Whether many uprobes can share one link; where not, each one costs 0.1 s to detach.
    pub fn has_uprobe_multi(&self) -> bool {
        self.multi.is_some()
    }

    /// Begins to load what will be attached, in this order, while other things are done. Called once.
    pub fn begin_loading(&mut self, wanted: Vec<UprobeProgram>) {
        // Elsewhere aya loads them, one after the other.
        if let Some(loading) = &mut self.multi {
            loading.begin(wanted);
        }
    }

    /// The ring buffer. Can be taken once, inside a Tokio runtime.
    pub fn records(&mut self) -> Result<Records, ProbeError> {
        let missing = || ProbeError::Object("has no ring buffer".to_owned());
        let map = self.ebpf.take_map("EVENTS").ok_or_else(missing)?;
        let ring = RingBuf::try_from(map)
            .map_err(|error| ProbeError::from_aya("map its ring buffer", &error))?;
        Records::new(ring).map_err(|error| ProbeError::from_io("wait for BPF records", error))
    }

    /// Attaches a program to places in a file that the target has mapped, as that file is found under
    /// `file` from here. All or nothing.
    pub fn attach_uprobes(
        &mut self,
        program: UprobeProgram,
        file: &Path,
        points: &[UprobePoint],
    ) -> Result<(), ProbeError> {
        if points.is_empty() {
            return Ok(());
        }
        let attempted = || {
            format!(
                "attach {} uprobes ({}) to {}",
                points.len(),
                program.name(),
                file.display()
            )
        };
        let at_return = program.is_at_return();
        if let Some(loading) = &mut self.multi {
            let fd = match self.multi_fds.entry(program) {
                Entry::Occupied(loaded) => loaded.into_mut(),
                Entry::Vacant(empty) => empty.insert(loading.take(program)?),
            };
            let began = Instant::now();
            let link = uprobe_multi::attach(fd.as_fd(), file, points, self.pid.0, at_return)
                .map_err(|error| ProbeError::from_io(attempted(), error))?;
            tracing::debug!(
                program = program.name(), points = points.len(), took = ?began.elapsed(), "attached"
            );
            self.links.push(link);
            return Ok(());
        }
        let Some(pid) = NonZeroU32::new(self.pid.0) else {
            return Err(ProbeError::Object("was given process 0".to_owned()));
        };
        let uprobe: &mut UProbe = program_of(&mut self.ebpf, program.name())?;
        if uprobe.fd().is_err() {
            uprobe
                .load()
                .map_err(|error| ProbeError::from_aya(program.name(), &error))?;
        }
        for point in points {
            let at = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(point.file_offset),
                cookie: Some(point.cookie),
            };
            uprobe
                .attach(at, file, UProbeScope::OneProcess(pid))
                .map_err(|error| ProbeError::from_aya(attempted(), &error))?;
        }
        Ok(())
    }

    /// Follows the scheduler: off-CPU intervals, and threads and programs that end.
    pub fn attach_scheduler(&mut self) -> Result<(), ProbeError> {
        attach_tracepoints(
            &mut self.ebpf,
            &[
                ("thread_exit", "sched_process_exit"),
                ("process_exec", "sched_process_exec"),
                ("sched_switch", "sched_switch"),
                ("sched_waking", "sched_waking"),
            ],
        )
    }

    /// Samples every CPU. Returns how many there are.
    pub fn attach_cpu_clock(&mut self, frequency_hz: u32) -> Result<u32, ProbeError> {
        let cpus = aya::util::online_cpus()
            .map_err(|(file, error)| ProbeError::from_io(format!("read {file}"), error))?;
        let program: &mut PerfEvent = program_of(&mut self.ebpf, "cpu_sample")?;
        program
            .load()
            .map_err(|error| ProbeError::from_aya("cpu_sample", &error))?;
        let count = cpus.len() as u32;
        for cpu in cpus {
            program
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::CpuClock),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    // Not a frequency: the kernel would adapt the period to the load of each CPU.
                    SamplePolicy::Period(1_000_000_000 / u64::from(frequency_hz.max(1))),
                    false,
                )
                .map_err(|error| {
                    ProbeError::from_aya(format!("sample the clock of CPU {cpu}"), &error)
                })?;
        }
        Ok(count)
    }

    /// Detaches everything; the maps can still be read. Returns how long it took.
    pub fn detach(&mut self) -> Duration {
        let start = Instant::now();
        // The scheduler's tracepoints go first: they cost every context switch of the host.
        let names: Vec<String> = self
            .ebpf
            .programs()
            .map(|(name, _)| name.to_owned())
            .collect();
        for name in &names {
            let unloaded = match self.ebpf.program_mut(name) {
                Some(aya::programs::Program::RawTracePoint(program)) => program.unload(),
                Some(aya::programs::Program::PerfEvent(program)) => program.unload(),
                _ => Ok(()),
            };
            if let Err(error) = unloaded
                && !matches!(error, ProgramError::NotLoaded)
            {
                tracing::warn!(program = %name, %error, "could not be unloaded");
            }
        }
        tracing::debug!(took = ?start.elapsed(), "detached from the scheduler and the CPU clocks");
        // Closing a link waits until no CPU runs its program, 30 to 200 ms; together they wait once.
        std::thread::scope(|scope| {
            for link in self.links.drain(..) {
                scope.spawn(move || drop(link));
            }
        });
        self.multi_fds.clear();
        for name in &names {
            if let Some(aya::programs::Program::UProbe(program)) = self.ebpf.program_mut(name)
                && let Err(error) = program.unload()
                && !matches!(error, ProgramError::NotLoaded)
            {
                tracing::warn!(program = %name, %error, "could not be unloaded");
            }
        }
        start.elapsed()
    }
}

pub(super) fn program_of<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, ProbeError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| ProbeError::Object(format!("has no program {name}")))
}

/// Loads programs and attaches them, each with its tracepoint, in this order.
pub(super) fn attach_tracepoints(
    ebpf: &mut Ebpf,
    programs: &[(&str, &str)],
) -> Result<(), ProbeError> {
    for &(name, tracepoint) in programs {
        let program: &mut RawTracePoint = program_of(ebpf, name)?;
        program
            .load()
            .map_err(|error| ProbeError::from_aya(name, &error))?;
        program.attach(tracepoint).map_err(|error| {
            ProbeError::from_aya(format!("attach to the tracepoint {tracepoint}"), &error)
        })?;
    }
    Ok(())
}

pub(super) fn map_fd(map: &Map) -> Option<RawFd> {
    let data: &MapData = match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::ArrayOfMaps(data)
        | Map::HashOfMaps(data)
        | Map::RingBuf(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}

/// A device number as the kernel has it (`MKDEV` of include/linux/kdev_t.h), which is what
/// `bpf_get_ns_current_pid_tgid` compares with; stat gives it in another encoding.
pub(super) fn kernel_device(stat_device: u64) -> u64 {
    u64::from(libc::major(stat_device)) << 20 | u64::from(libc::minor(stat_device))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attached to a function of this very test, so that the whole way is gone: load, relocate, attach,
    /// detach, by either kind of link.
    fn every_program_loads_and_attaches(uprobe_multi: bool) {
        let config = Config {
            uprobe_multi,
            ..Config::default()
        };
        let mut probes = Probes::load(&config, Pid(std::process::id()), &Probed::default())
            .expect("maps can be made as root");
        assert_eq!(probes.has_uprobe_multi(), uprobe_multi);
        let bytes = fs::read("/proc/self/exe").expect("this test is readable");
        let elf = crate::target::Elf::parse(&bytes).expect("this test is an ELF file");
        let function = elf
            .symbols()
            .find(|symbol| symbol.demangled().ends_with("load::map_fd"))
            .expect("the function is in the binary");
        let point = UprobePoint {
            file_offset: elf
                .file_offset(function.vaddr)
                .expect("code is in the file"),
            cookie: 1,
        };
        for program in [
            UprobeProgram::LockEnter,
            UprobeProgram::LockReturn,
            UprobeProgram::UnlockEnter,
            UprobeProgram::PollEnter,
            UprobeProgram::PollExit,
            UprobeProgram::RootEnter,
            UprobeProgram::RootExit,
            UprobeProgram::PollHandoff,
            UprobeProgram::AcquireEnter,
            UprobeProgram::AcquireReturn,
            UprobeProgram::AcquireDropped,
            UprobeProgram::PermitsReleased,
            UprobeProgram::TaskWoken,
            UprobeProgram::TaskSpawned,
            UprobeProgram::FastPath,
        ] {
            if let Err(error) =
                probes.attach_uprobes(program, Path::new("/proc/self/exe"), &[point])
            {
                panic!("{program:?}: {error}");
            }
        }
        if let Err(error) = probes.attach_scheduler() {
            panic!("{error}");
        }
        let cpus = probes
            .attach_cpu_clock(997)
            .expect("CPU clocks can be sampled as root");
        assert!(cpus >= 1);
        eprintln!("detached in {:?}", probes.detach());
        assert_eq!(
            probes.lock_waits().expect("the map can be read"),
            Vec::new()
        );
    }

    /// The kernel that runs here verifies every program.
    #[test]
    #[ignore = "live: loads programs into the running kernel, as root"]
    fn every_program_loads_behind_one_link() {
        every_program_loads_and_attaches(true);
    }

    /// The same on the way that kernels before 6.6 need.
    #[test]
    #[ignore = "live: loads programs into the running kernel, as root"]
    fn every_program_loads_behind_perf_events() {
        every_program_loads_and_attaches(false);
    }

    /// The branches for the other architecture pass this kernel's verifier as well, in those programs that don't
    /// look at the architecture's registers in their context. (The verifier knows how large those are here.)
    #[test]
    #[ignore = "live: loads programs into the running kernel, as root"]
    fn programs_load_for_either_architecture() {
        let pid = Pid(std::process::id());
        let process = crate::target::Process::open(pid).expect("it is this one");
        for is_aarch64 in [false, true] {
            let mut probes =
                Probes::load_for(&Config::default(), pid, &Probed::default(), is_aarch64)
                    .expect("maps can be made as root");
            if let Err(error) = probes
                .attach_scheduler()
                .and_then(|()| probes.attach_cpu_clock(997))
                .and_then(|_| probes.sleepers(process.pidfd()))
                .and_then(|_| probes.thread_pointers(process.pidfd()))
            {
                panic!("aarch64 {is_aarch64}: {error}");
            }
        }
    }
}
