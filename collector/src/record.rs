//! One recording: probes on, records into the capture file, probes off, the rest of the capture.
//!
//! ```text
//!   load > attach > warm up |=========== recording ===========| detach > read maps > symbolize
//!                           window start            window stop
//! ```
//!
//! What enters: an opened process and a plan of probes. What leaves: a capture file. Nothing is
//! interpreted here; the report is made from the file, by the same code that reads it on another machine.
#![forbid(unsafe_code)]

mod attach;
mod runtime_threads;
mod stacks;
mod stuck;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::capture::{
    CaptureError, Delays, End, EndReason, Meta, PollSite, ProbeFamily, Rest, ReturnSite,
    UnwindTables, Writer,
};
use crate::event::{CodeAddr, Nanos, SiteClass, Timestamp};
use crate::histogram::Histogram;
use crate::probe::{self, ProbeError, Probed, Probes, Readable, Records, UprobeProgram};
use crate::stuck::StuckNews;
use crate::symbolize::{MappedModule, ProcessSymbolizer, SymbolTable};
use crate::target::handoff::When;
use crate::target::{AttachPlan, DebugSearch, DebugSources, Modules, Process, TargetError};
use crate::unwind::{Kept, KeptBeside, Tables};
use attach::{
    attach, attach_expected_returns, attach_fast_paths, class_code, groups, point, programs,
};
use holdup_probe_ebpf::wire;
use runtime_threads::RuntimeThreads;
use stacks::TakenStacks;
use stuck::StuckThreads;

/// What to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long; None for until interrupted.
    pub duration: Option<Duration>,
    /// The capture file to write.
    pub capture: PathBuf,
    /// What the programs are loaded with.
    pub probes: probe::Config,
    /// Where debug information may be.
    pub debug_sources: DebugSources,
    /// See also locks that nobody waits for: a probe in every fast path that debug information tells of.
    pub uncontended: bool,
    /// A thread that waits for one lock for so long is stuck.
    pub stuck_after: Nanos,
    /// The target is held before its first instruction, and `started` lets it go.
    pub from_first_instruction: bool,
}

/// Polls that return to a place without a probe are seen to end only at the thread's next poll. The
/// places are few and all of them are met soon: the recording begins once no new one has come for this
/// long ...
const WARM_UP_QUIET: Duration = Duration::from_millis(50);
/// ... or after this long at the latest. Places that come later are probed then.
const WARM_UP_LIMIT: Duration = Duration::from_millis(500);

/// A target that was held before its first instruction maps its libraries right after it is let go. So as not to lose
/// the ends of its first stacks, which lead there, its mappings are looked at after these times.
const FIRST_LOOKS: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(15),
    Duration::from_millis(50),
];

/// How often the ring buffer is looked at while nothing in it is urgent: often enough to keep it nearly
/// empty (it holds 100,000 events), and seldom enough to leave the CPUs to the target.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often the records so far are handed to the system.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// How often the threads that sleep are looked at: that often a thread can be told of that became stuck.
pub const LOOK_FOR_STUCK_EVERY: Duration = KEEP_EVERY;

/// Why there is no capture.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The programs could not be loaded or attached.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The target could not be read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The file could not be written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// There is nothing to record.
    #[error("nothing in process {pid} ({name}) can be probed: {why}")]
    NothingToProbe {
        /// The target.
        pid: u32,
        /// Its name.
        name: String,
        /// What is missing and what to do.
        why: String,
    },
    /// The event loop failed.
    #[error("could not wait for {what}: {source}")]
    Wait {
        /// For what.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Records until the time is over, `interrupted` resolves, or the target ends. `tell` is told what a person who
/// waits wants to know at once.
pub async fn record(
    process: &Process,
    options: &Options,
    interrupted: impl Future<Output = ()>,
    mut tell: impl FnMut(News<'_>),
) -> Result<(), RecordError> {
    let search = DebugSearch::new(process, &options.debug_sources);
    let plan = process.plan(&search)?;
    if plan.polls.is_empty() && plan.slow_paths.is_empty() {
        return Err(RecordError::NothingToProbe {
            pid: process.pid().0,
            name: process.name().to_owned(),
            why: plan.why_nothing(),
        });
    }
    let mut recording = Recording::attach(process, &plan, &search, options)?;
    let mut first_looks = &FIRST_LOOKS[..];
    if !options.from_first_instruction {
        recording.warm_up().await?;
        first_looks = &[];
    }
    tell(News::Started(recording.begin()?));
    let reason = recording
        .run(options.duration, first_looks, interrupted, &mut tell)
        .await?;
    recording.finish(reason)
}

/// What the person is told while it is recorded.
pub enum News<'a> {
    /// The recording has begun.
    Started(Started),
    /// Threads are stuck.
    Stuck(StuckNews<'a>),
}

/// What the person is told when the recording begins.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// From the first probe to the last one.
    pub attach: Nanos,
    /// Poll instances attached to.
    pub poll_sites: u32,
}

/// Attached probes, and what has come of them so far.
struct Recording<'a> {
    process: &'a Process,
    plan: &'a AttachPlan,
    probes: Probes,
    records: Records,
    writer: Writer,
    meta: Meta,
    families: Vec<ProbeFamily>,
    return_sites: Vec<ReturnSite>,
    /// Modules' files stay open, so that names are found also when the target is gone by then.
    symbolizer: ProcessSymbolizer<'a>,
    search: &'a DebugSearch,
    /// For the kernel side to walk stacks with.
    tables: Tables,
    /// The same tables, for stacks of threads that sleep.
    kept: Kept,
    /// None where this kernel does not show threads that sleep.
    stuck: Option<StuckThreads>,
    runtime_threads: RuntimeThreads,
    stacks: TakenStacks,
    sought_in_vain: Option<Instant>,
    execed: bool,
}

impl<'a> Recording<'a> {
    fn attach(
        process: &'a Process,
        plan: &'a AttachPlan,
        search: &'a DebugSearch,
        options: &'a Options,
    ) -> Result<Self, RecordError> {
        let config = &options.probes;
        let modules = process.modules()?;
        let mut symbolizer = ProcessSymbolizer::new(&mapped_modules(&modules), search);
        let probed = Probed {
            sites: plan.polls.len() as u32,
            has_task_ids: plan.has_task_ids(),
        };
        let began = Instant::now();
        let mut probes = Probes::load(config, process.pid(), &probed)?;
        let groups = groups(plan, config);
        probes.begin_loading(programs(&groups, options.uncontended));
        let records = probes.records()?;
        // Before any probe can ask for a stack.
        let mut tables = Tables::default();
        let mut kept = Kept::default();
        let mut both = KeptBeside {
            kernel: &mut probes,
            kept: &mut kept,
        };
        tables.update(&mut both, process, &modules)?;
        for (site, poll) in plan.polls.iter().enumerate() {
            probes.set_site_class(site as u32, class_code(poll.class))?;
            if poll.class == SiteClass::Blocking {
                probes.add_blocking_poll(poll.site.address, wire::BLOCKING_TASK)?;
            }
        }
        for handoff in &plan.handoffs {
            if let When::SpawnsTask { polls } = &handoff.when {
                for poll in polls {
                    probes.add_blocking_poll(*poll, wire::BLOCKING_WORKER_LOOP)?;
                }
            }
        }
        let meta = meta(process, plan, config, &probed);
        // Ends before starts.
        let return_sites = attach_expected_returns(&mut probes, plan);
        let mut families = attach(&mut probes, process, plan, &groups, config)?;
        if options.uncontended {
            families.push(attach_fast_paths(&mut probes, plan, &mut symbolizer));
        }
        let (stuck, family) = StuckThreads::look_out(&mut probes, process, options.stuck_after);
        families.push(family);
        let runtime_threads = RuntimeThreads::look_out(&mut probes, process, plan);
        // Only now: an earlier capture of that name is replaced by a recording, not by a failed attempt.
        let writer = Writer::create(&options.capture, &meta)?;
        let mut recording = Recording {
            process,
            plan,
            probes,
            records,
            writer,
            meta,
            families,
            return_sites,
            symbolizer,
            search,
            tables,
            kept,
            stuck,
            runtime_threads,
            stacks: TakenStacks::default(),
            sought_in_vain: None,
            execed: false,
        };
        recording.meta.attach = Nanos(began.elapsed().as_nanos() as u64);
        Ok(recording)
    }

    /// Lets the polls show where they return to.
    async fn warm_up(&mut self) -> Result<(), RecordError> {
        let began = Instant::now();
        while began.elapsed() < WARM_UP_LIMIT {
            let known = self.return_sites.len();
            // A timeout is the quiet that is waited for.
            let _ = tokio::time::timeout(WARM_UP_QUIET, self.records_until_new_site(known)).await;
            self.drain()?;
            if self.return_sites.len() == known {
                break;
            }
        }
        Ok(())
    }

    async fn records_until_new_site(&mut self, known: usize) -> Result<(), RecordError> {
        while self.return_sites.len() == known {
            self.readable().await?;
            self.drain()?;
        }
        Ok(())
    }

    async fn readable(&mut self) -> Result<(), RecordError> {
        self.records
            .readable()
            .await
            .map_err(|source| RecordError::Wait {
                what: "BPF records",
                source,
            })
    }

    fn begin(&mut self) -> Result<Started, RecordError> {
        self.meta.start = probe::now();
        self.meta.started_unix_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        self.probes.set_window(wire::Window {
            start_ns: self.meta.start.0,
            stop_ns: u64::MAX,
        })?;
        Ok(Started {
            attach: self.meta.attach,
            poll_sites: self.plan.polls.len() as u32,
        })
    }

    async fn run(
        &mut self,
        duration: Option<Duration>,
        mut first_looks: &[Duration],
        interrupted: impl Future<Output = ()>,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<EndReason, RecordError> {
        let began = tokio::time::Instant::now();
        let mut target_ended = self
            .process
            .pidfd()
            .try_clone_to_owned()
            .and_then(Readable::new)
            .map_err(|source| RecordError::Wait {
                what: "the target's end",
                source,
            })?;
        // Without a duration: a year, which is longer than a capture file can grow.
        const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let over = tokio::time::sleep(duration.unwrap_or(FOREVER));
        tokio::pin!(over, interrupted);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut keep = tokio::time::interval(KEEP_EVERY);
        keep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let first_look = first_looks.first().copied();
            tokio::select! {
                () = tokio::time::sleep_until(began + first_look.unwrap_or_default()), if first_look.is_some() => {
                    first_looks = &first_looks[1..];
                    self.look_at_mappings();
                    self.look_at_runtime_threads();
                }
                _ = look.tick() => {
                    self.stacks.take(stacks::MANY, &mut self.probes, &mut self.writer)?;
                }
                _ = keep.tick() => {
                    // A killed recorder loses a second at most.
                    self.writer.flush()?;
                    self.stacks.take(1, &mut self.probes, &mut self.writer)?;
                    // A library that took the place of another one is not missed by any stack.
                    self.look_at_mappings();
                    self.look_for_stuck(tell);
                    self.look_at_runtime_threads();
                }
                ready = self.readable() => ready?,
                () = &mut over => return Ok(EndReason::Duration),
                () = &mut interrupted => return Ok(EndReason::Interrupted),
                _ = target_ended.readable() => return Ok(EndReason::TargetExited),
            }
            self.drain()?;
            if self.writer.is_full() {
                return Ok(EndReason::CaptureFull);
            }
            if self.execed {
                return Ok(EndReason::TargetExeced);
            }
        }
    }

    /// Takes what is in the ring buffer.
    fn drain(&mut self) -> Result<(), RecordError> {
        loop {
            let writer = &mut self.writer;
            let taken = self.records.take(|record| {
                let kind = kind(record);
                // A request, not data.
                if kind == Some(wire::EVENT_CODE_UNMAPPED) {
                    return Ok(Some(Notice::CodeUnmapped));
                }
                writer.record(record).map(|()| match kind {
                    Some(wire::EVENT_RETURN_SITE) => wire::ReturnSite::read_from_bytes(record)
                        .ok()
                        .map(Notice::ReturnSite),
                    Some(wire::EVENT_PROCESS_EXEC) => Some(Notice::Exec),
                    _ => None,
                })
            });
            match taken {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(None)) => {}
                Some(Ok(Some(Notice::Exec))) => self.execed = true,
                Some(Ok(Some(Notice::CodeUnmapped))) => self.look_for_code(),
                Some(Ok(Some(Notice::ReturnSite(site)))) => self.attach_return_site(&site),
            }
        }
    }

    /// A stack led to code that is not known. Unless it was just looked for in vain: a stack can lead anywhere.
    fn look_for_code(&mut self) {
        const AGAIN_AFTER: Duration = Duration::from_millis(200);
        let is_hopeless = self
            .sought_in_vain
            .is_some_and(|sought| sought.elapsed() < AGAIN_AFTER);
        if !is_hopeless {
            let found = self.look_at_mappings();
            self.sought_in_vain = (!found).then(Instant::now);
        }
    }

    /// Makes unwind tables for what was loaded since the last look, and returns whether that was anything. A failure
    /// costs the stacks that lead there, which are counted, and not the recording.
    fn look_at_mappings(&mut self) -> bool {
        // A target that is gone has no more stacks to walk.
        let Ok(modules) = self.process.modules() else {
            return false;
        };
        let mut both = KeptBeside {
            kernel: &mut self.probes,
            kept: &mut self.kept,
        };
        let updated = self.tables.update(&mut both, self.process, &modules);
        let is_new = updated.unwrap_or_else(|error| {
            tracing::warn!("no unwind tables for what was loaded meanwhile: {error}");
            false
        });
        if is_new {
            // Its files are opened while they can be: the target may be gone when names are wanted.
            self.symbolizer = ProcessSymbolizer::new(&mapped_modules(&modules), self.search);
        }
        is_new
    }

    /// Puts a probe where polls return to. A failure costs the ends of those polls, not the recording.
    fn attach_return_site(&mut self, site: &wire::ReturnSite) {
        let place = self.plan.return_place(site.return_addr);
        let attached = place.site.as_ref().map_err(Clone::clone).and_then(|probe| {
            let failed = |error: ProbeError| error.to_string();
            let file = self.plan.file().map_err(str::to_owned)?;
            self.probes
                .attach_uprobes(UprobeProgram::PollExit, file, &[point(probe, 0)])
                .map_err(failed)?;
            let at = probe::now();
            let state = wire::ReturnSiteState {
                attached_ns: at.0,
                class: class_code(place.class),
                zero: 0,
            };
            self.probes
                .set_return_site(site.return_addr, state)
                .map_err(failed)?;
            Ok(at)
        });
        self.return_sites.push(ReturnSite {
            return_addr: CodeAddr(site.return_addr),
            function: place.function,
            class: place.class,
            attached: attached.as_ref().ok().copied(),
            why_not: attached.err(),
        });
    }

    /// Everything off, then everything that the maps hold into the file.
    fn finish(mut self, reason: EndReason) -> Result<(), RecordError> {
        // What it finds now is in the report. Another program's threads are nobody's.
        if reason != EndReason::TargetExeced {
            self.look_for_stuck(&mut |_| {});
            self.look_at_runtime_threads();
        }
        let stop = probe::now();
        self.probes.set_window(wire::Window {
            start_ns: self.meta.start.0,
            stop_ns: stop.0,
        })?;
        // In this order: what is still under way is either in its thread's record now, or its end is in
        // the ring buffer afterwards. What is in both is told apart by thread and start.
        let threads = self.probes.threads()?;
        self.drain()?;
        self.record_waiting_tasks(stop)?;
        let detach = Nanos(self.probes.detach().as_nanos() as u64);
        self.drain()?;

        let mut stacks = self.stacks.rest(&mut self.probes)?;
        let stuck = self.stuck.take().map(StuckThreads::into_found);
        let stuck = stuck.unwrap_or_default();
        let mut addresses = std::mem::take(&mut self.stacks).into_addresses();
        for (id, stack) in stuck.stacks {
            addresses.extend(SymbolTable::lookup_addresses(&stack.addresses));
            stacks.insert(id.0, stack);
        }
        let poll_sites = self.poll_sites()?;
        // Libraries may have been loaded meanwhile; of a target that is gone, the files that were opened at
        // the start remain.
        if reason != EndReason::TargetExeced
            && let Ok(modules) = self.process.modules()
            && !self.process.has_exited()
        {
            self.symbolizer = ProcessSymbolizer::new(&mapped_modules(&modules), self.search);
        }
        let of_spawns = poll_sites
            .iter()
            .flat_map(|site| &site.spawn_paths)
            .flat_map(|path| SymbolTable::lookup_addresses(&path.0));
        addresses.extend(of_spawns);
        let mut symbols = self.symbolizer.symbolize(addresses);
        symbols
            .refused
            .splice(0..0, self.plan.binary.refused.clone());
        self.families.push(self.tables.family());
        self.families.extend(self.runtime_threads.family());
        self.meta.unwind_tables = self.tables.summary();
        let rest = Rest {
            probes: self.families,
            poll_sites,
            return_sites: self.return_sites,
            lock_waits: self.probes.lock_waits()?,
            pairs: self.probes.pairs()?,
            holds: self.probes.holds()?,
            stacks,
            counters: self.probes.counters()?,
            threads,
            stuck: stuck.waits,
            runtime_threads: self.runtime_threads.into_seen(),
            symbols,
            end: End {
                at: stop,
                reason,
                detach,
            },
            meta: self.meta,
        };
        self.writer.finish(&rest)?;
        Ok(())
    }

    /// Tasks that wait for a lock of Tokio's when the recording ends. One that gave up left no trace: its `Acquire` says
    /// whether it is still there.
    fn record_waiting_tasks(&mut self, stop: Timestamp) -> Result<(), RecordError> {
        for (acquire, wait) in self.probes.task_waits()? {
            if wait.start_ns < self.meta.start.0
                || stop.since(Timestamp(wait.start_ns)) < self.meta.threshold
                || !self.process.is_waiting(acquire, &wait)
            {
                continue;
            }
            let still_waiting = wire::LockWait {
                header: wire::EventHeader {
                    kind: wire::EVENT_LOCK_WAIT,
                    tid: wait.tid,
                    at_ns: stop.0,
                },
                start_ns: wait.start_ns,
                lock: wait.semaphore,
                poll_start_ns: 0,
                waiter_stack: wait.waiter_stack,
                task: wait.task,
                handover_ns: 0,
                releases: 0,
                operation: wire::LOCK_TOKIO_ACQUIRE,
                outcome: wire::OUTCOME_STILL_WAITING,
                others_us: 0,
                holders: wire::NO_HOLDERS,
            };
            self.writer.record(still_waiting.as_bytes())?;
        }
        Ok(())
    }

    fn poll_sites(&self) -> Result<Vec<PollSite>, RecordError> {
        let mut sites = Vec::with_capacity(self.plan.polls.len());
        for (index, poll) in self.plan.polls.iter().enumerate() {
            let totals = self.probes.site_totals(index as u32)?;
            sites.push(PollSite {
                address: CodeAddr(poll.site.address),
                class: poll.class,
                future: poll.future.clone(),
                polls: totals.polls.count,
                total: Nanos(totals.polls.total_ns),
                max: Nanos(totals.polls.max_ns),
                durations: Histogram::new(&totals.histogram),
                tasks: totals.tasks,
                delays: Delays {
                    count: totals.delays.count,
                    total: Nanos(totals.delays.total_ns),
                    max: Nanos(totals.delays.max_ns),
                    log2_histogram: totals.delay_log2.to_vec(),
                },
                spawn_paths: Vec::new(),
            });
        }
        self.add_spawn_paths(&mut sites);
        Ok(sites)
    }

    /// Of the instances that polled. A failure costs what it would have told, not the recording.
    fn add_spawn_paths(&self, sites: &mut [PollSite]) {
        let has_polled = |index: usize| sites.get(index).is_some_and(|site| site.polls > 0);
        match self.plan.spawn_paths(has_polled) {
            Ok(found) => {
                for (index, paths) in found {
                    if let Some(site) = sites.get_mut(index) {
                        site.spawn_paths = paths;
                    }
                }
            }
            Err(error) => tracing::warn!("nothing tells where tasks are spawned: {error}"),
        }
    }
}

/// What a record asks the recording to do.
enum Notice {
    CodeUnmapped,
    ReturnSite(wire::ReturnSite),
    Exec,
}

fn kind(record: &[u8]) -> Option<u32> {
    record.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn mapped_modules(modules: &Modules) -> Vec<MappedModule> {
    let of_files = modules.iter().flat_map(|module| {
        module.code.iter().map(|mapping| MappedModule {
            start: mapping.start,
            end: mapping.end,
            file_offset: mapping.file_offset,
            name: module.name(),
            path: module.path.clone(),
            path_to_open: module.path_to_open.clone().unwrap_or_default(),
        })
    });
    let others = modules.without_file().iter().map(|mapping| MappedModule {
        start: mapping.start,
        end: mapping.end,
        file_offset: mapping.file_offset,
        name: mapping.path.to_string_lossy().into_owned(),
        path: mapping.path.clone(),
        path_to_open: PathBuf::new(),
    });
    of_files.chain(others).collect()
}

fn meta(process: &Process, plan: &AttachPlan, config: &probe::Config, probed: &Probed) -> Meta {
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Meta {
        holdup_version: env!("CARGO_PKG_VERSION").to_owned(),
        wire_version: wire::WIRE_VERSION,
        pid: process.pid(),
        process_name: process.name().to_owned(),
        executable: process.exe_link().path.display().to_string(),
        build_id: plan.binary.build_id.clone(),
        host: text(system.nodename()),
        kernel: text(system.release()),
        architecture: text(system.machine()),
        started_unix_ns: 0,
        start: Timestamp(0),
        attach: Nanos(0),
        threshold: config.threshold,
        sample_after: config.sample_after,
        frequency_hz: config.frequency_hz,
        grid_ticks: probe::grid_ticks(config.frequency_hz),
        one_task_of: config.one_task_of,
        has_task_ids: probed.has_task_ids,
        unwind_tables: UnwindTables::default(),
    }
}
