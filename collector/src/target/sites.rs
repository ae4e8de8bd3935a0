//! An opened process goes in; the [`AttachPlan`] comes out: which function at which file offset gets
//! which probe, what each will cost, and what can't be seen and why. Nothing is attached here.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use holdup_probe_ebpf::wire;

pub(super) mod returns;
mod wanted;

pub use returns::ReturnPlace;
pub(super) use wanted::Found;
pub(super) use wanted::Role;
pub(crate) use wanted::slow_path_operation;
use wanted::{UNLOCK_SHARED_SLOW, WANTED, Wanted, find};

use super::binary::Binary;
use super::debuginfo::{DebugSearch, place_for};
use super::doctor::{self, Host};
use super::dwarf;
use super::elf::{Elf, ElfError};
use super::handoff::Handoff;
use super::image::Whereabouts;
use super::insn::{self, FirstInstruction};
use super::maps::Modules;
use super::names::PollArguments;
use super::process::{Process, TargetError};
use super::roots::Roots;
use super::vtables;
use crate::capture::{MissingProbe, ProbeFamily};
use crate::event::SiteClass;

/// Bytes of a function's code that are looked at.
const CODE_LIMIT: usize = 16 << 10;
/// Names of types folded into one poll instance that are kept.
const FOLDED_LIMIT: usize = 16;

/// One place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Offset in the file, which is what the kernel takes.
    pub file_offset: u64,
    /// Address in the running target.
    pub address: u64,
    /// What a probe there costs.
    pub price: FirstInstruction,
}

/// One `tokio::runtime::task::raw::poll` instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollSite {
    /// Where.
    pub site: Site,
    /// What it runs.
    pub class: SiteClass,
    /// The future's type; None when neither DWARF nor the symbol tells.
    pub future: Option<String>,
    /// Other futures whose instances the linker or LLVM folded into this one, because their code is the
    /// same: at most 16.
    pub folded: Vec<String>,
    /// It is the worker loop that `block_in_place` starts on another thread.
    pub takes_over_core: bool,
}

impl PollSite {
    /// Whether it is an instance of `raw::poll`, which polls tasks.
    pub fn is_of_a_task(&self) -> bool {
        self.class != SiteClass::BlockOn
    }
}

/// A lock's slow path: a probe at its entry and one at its return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowPath {
    /// `RawMutex::lock_slow`, for people.
    pub function: &'static str,
    /// A `wire::LOCK_` code.
    pub operation: u32,
    /// Which argument is the first half of its `Option<Instant>` deadline: 1 or 2, 0 for none.
    pub deadline_argument: u32,
    /// Where.
    pub site: Site,
}

impl SlowPath {
    /// Which family it belongs to.
    pub fn family(&self) -> Family {
        Family::of_operation(self.operation)
    }

    /// What both its probes are told.
    pub fn cookie(&self) -> u64 {
        wire::lock_cookie(self.operation, self.deadline_argument)
    }
}

/// A lock's slow unlock: a probe at its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowUnlock {
    /// `RawMutex::unlock_slow`, for people.
    pub function: &'static str,
    /// A `wire::LOCK_` code: what kind of lock it releases.
    pub operation: u32,
    /// Where.
    pub site: Site,
}

impl SlowUnlock {
    /// Which family it belongs to.
    pub fn family(&self) -> Family {
        Family::of_operation(self.operation)
    }
}

/// `batch_semaphore::Acquire::poll`: a probe at its entry and one at its return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Where.
    pub site: Site,
    /// A `wire::acquire_cookie`.
    pub cookie: u64,
}

/// Which probes go where in one process.
#[derive(Debug)]
pub struct AttachPlan {
    /// The file that all of them go into.
    pub binary: Binary,
    /// Poll instances; a site id is an index in here.
    pub polls: Vec<PollSite>,
    /// Slow paths; several copies when the program links two versions of parking_lot.
    pub slow_paths: Vec<SlowPath>,
    /// Slow unlocks.
    pub slow_unlocks: Vec<SlowUnlock>,
    /// Where tasks wait for Tokio's locks.
    pub acquires: Vec<Acquire>,
    /// Where they give up.
    pub acquire_drops: Vec<Site>,
    /// Where Tokio's locks are released.
    pub permit_releases: Vec<Site>,
    /// Where tasks are woken.
    pub wakes: Vec<Site>,
    /// Where new tasks come into their runtime's list.
    pub spawns: Vec<Site>,
    /// Where root futures are seen to be polled.
    pub roots: Roots,
    /// Where `block_in_place` is seen to hand a worker's core off.
    pub handoffs: Vec<Handoff>,
    /// What debug information told, and what it could not.
    pub dwarf: dwarf::Outcome,
    missing: Vec<(Family, MissingProbe)>,
    modules: Modules,
}

/// A family of probes, as coverage names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Polls.
    Polls,
    /// `parking_lot::Mutex`.
    Mutex,
    /// `parking_lot::RwLock`.
    Rwlock,
    /// `parking_lot::Condvar`.
    Condvar,
    /// `std::sync::Mutex`.
    StdMutex,
    /// `std::sync::RwLock`.
    StdRwlock,
    /// `tokio::sync::{Mutex, RwLock, Semaphore}`.
    TokioSync,
    /// Root futures of current-thread runtimes.
    BlockOn,
    /// `tokio::task::block_in_place`.
    BlockInPlace,
    /// Wakes of tasks.
    Wakes,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 10] = [
        Family::Polls,
        Family::Mutex,
        Family::Rwlock,
        Family::Condvar,
        Family::StdMutex,
        Family::StdRwlock,
        Family::TokioSync,
        Family::BlockOn,
        Family::BlockInPlace,
        Family::Wakes,
    ];

    /// As the capture and the report name it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Polls => "polls",
            Family::Mutex => "mutex",
            Family::Rwlock => "rwlock",
            Family::Condvar => "condvar",
            Family::StdMutex => "std_mutex",
            Family::StdRwlock => "std_rwlock",
            Family::TokioSync => "tokio_sync",
            Family::BlockOn => "block_on",
            Family::BlockInPlace => "block_in_place",
            Family::Wakes => "wakes",
        }
    }

    /// The crate whose functions it probes.
    fn krate(self) -> &'static str {
        match self {
            Family::Polls
            | Family::BlockOn
            | Family::BlockInPlace
            | Family::TokioSync
            | Family::Wakes => "tokio",
            Family::Mutex | Family::Rwlock | Family::Condvar => "parking_lot",
            Family::StdMutex | Family::StdRwlock => "std",
        }
    }

    fn of_operation(operation: u32) -> Family {
        match operation {
            wire::LOCK_MUTEX => Family::Mutex,
            wire::LOCK_CONDVAR => Family::Condvar,
            wire::LOCK_STD_MUTEX => Family::StdMutex,
            wire::LOCK_STD_READ | wire::LOCK_STD_WRITE => Family::StdRwlock,
            wire::LOCK_TOKIO_ACQUIRE => Family::TokioSync,
            _ => Family::Rwlock,
        }
    }
}

impl AttachPlan {
    /// For a process: the main program if Tokio or parking_lot is in it, else the first library with
    /// either (a Python or Node extension, say), else the first with std's locks alone.
    pub fn of(process: &Process, search: &DebugSearch) -> Result<AttachPlan, TargetError> {
        let mut plan = AttachPlan::of_code(process, search)?;
        if let Err(why) = doctor::uretprobes_are_safe(Host::look().kernel, process.seccomp()) {
            plan.drop_slow_paths(&why);
        }
        Ok(plan)
    }

    fn of_code(process: &Process, search: &DebugSearch) -> Result<AttachPlan, TargetError> {
        let modules = process.modules()?;
        let (first, others): (Vec<_>, Vec<_>) = modules.iter().partition(|module| module.is_main);
        let (mut with_std, mut without_any) = (None, None);
        for module in first.into_iter().chain(others) {
            let fails = |source| TargetError::Binary {
                pid: process.pid().0,
                path: module.path.clone(),
                source,
            };
            let binary = match Binary::open(module, search) {
                Ok(binary) => binary,
                Err(source) if module.is_main => return Err(fails(source)),
                Err(_) => continue,
            };
            let found = find(&binary).map_err(fails)?;
            if found
                .iter()
                .any(|found| found.wanted.role.family().krate() != "std")
            {
                return AttachPlan::with(binary, &found, modules.clone(), search).map_err(fails);
            }
            if found.is_empty() {
                without_any.get_or_insert(binary);
            } else if with_std.is_none() {
                with_std = Some((binary, found));
            }
        }
        if let Some((binary, found)) = with_std {
            let path = binary.module.path.clone();
            return AttachPlan::with(binary, &found, modules.clone(), search).map_err(|source| {
                TargetError::Binary {
                    pid: process.pid().0,
                    path,
                    source,
                }
            });
        }
        let binary = without_any.ok_or(TargetError::NoProgram(process.pid().0))?;
        let path = binary.module.path.clone();
        AttachPlan::with(binary, &[], modules, search).map_err(|source| TargetError::Binary {
            pid: process.pid().0,
            path,
            source,
        })
    }

    fn with(
        binary: Binary,
        found: &[Found],
        modules: Modules,
        search: &DebugSearch,
    ) -> Result<AttachPlan, ElfError> {
        let described = dwarf::poll_instances(&binary, search)?;
        let mut plan = AttachPlan {
            polls: Vec::new(),
            slow_paths: Vec::new(),
            slow_unlocks: Vec::new(),
            acquires: Vec::new(),
            acquire_drops: Vec::new(),
            permit_releases: Vec::new(),
            wakes: Vec::new(),
            spawns: Vec::new(),
            roots: Roots::default(),
            handoffs: Vec::new(),
            dwarf: described,
            missing: Vec::new(),
            modules,
            binary,
        };
        plan.add_polls(found)?;
        plan.add_locks(found)?;
        plan.add_handoffs(found)?;
        plan.add_roots(found, search)?;
        plan.explain_missing(found)?;
        Ok(plan)
    }

    fn add_polls(&mut self, found: &[Found]) -> Result<(), ElfError> {
        let code = self.binary.code()?;
        let mut instances: BTreeMap<u64, Vec<PollArguments>> = BTreeMap::new();
        for instance in &self.dwarf.instances {
            let arguments = PollArguments::parse(&instance.arguments);
            instances.insert(instance.vaddr, arguments.into_iter().collect());
        }
        for found in found {
            if found.wanted.role != Role::Poll {
                continue;
            }
            // Symbols write types in another way than debug information: they would look like other types.
            let known = instances.entry(found.vaddr).or_default();
            if let Some(arguments) = found.arguments.as_deref().and_then(PollArguments::parse)
                && !self.dwarf.describes(found.vaddr)
                && !known.contains(&arguments)
            {
                known.push(arguments);
            }
        }
        let unnamed = instances.iter().filter(|(_, known)| known.is_empty());
        let unnamed: HashSet<u64> = unnamed.map(|(vaddr, _)| *vaddr).collect();
        let by_code = if unnamed.is_empty() || !code.is_x86_64() {
            BTreeMap::new()
        } else {
            vtables::poll_classes(&code, &self.binary.named()?, &unnamed)
        };
        for (vaddr, known) in instances {
            // Debug information keeps functions that the linker dropped, at addresses where no code is.
            let Some(site) = site(&code, &self.binary, vaddr) else {
                continue;
            };
            if site.price == FirstInstruction::Refused {
                self.missing
                    .push((Family::Polls, refused("task::raw::poll", site)));
                continue;
            }
            if self.polls.len() >= wire::MAX_POLL_SITES as usize {
                self.missing.push((
                    Family::Polls,
                    MissingProbe {
                        what: "task::raw::poll".to_owned(),
                        why: format!(
                            "the program has more than {} instances; those behind are not probed",
                            wire::MAX_POLL_SITES
                        ),
                    },
                ));
                break;
            }
            let mut poll = poll_site(site, known);
            if let Some(class) = by_code.get(&vaddr) {
                poll.class = *class;
            }
            self.polls.push(poll);
        }
        Ok(())
    }

    fn add_locks(&mut self, found: &[Found]) -> Result<(), ElfError> {
        let code = self.binary.code()?;
        let mut done = BTreeMap::new();
        for found in found {
            let Wanted { short, role, .. } = *found.wanted;
            if matches!(
                role,
                Role::Poll | Role::Handoff | Role::Park | Role::LeaveLoop
            ) {
                continue;
            }
            let family = role.family();
            // A symbol can be in two tables, and then it is the same one.
            match done.insert(found.vaddr, short) {
                Some(other) if other == short => continue,
                Some(other) => {
                    done.insert(found.vaddr, other);
                    self.missing.push((
                        family,
                        MissingProbe {
                            what: short.to_owned(),
                            why: format!("it shares its code with {other} and is counted as that"),
                        },
                    ));
                    continue;
                }
                None => {}
            }
            let Some(site) = site(&code, &self.binary, found.vaddr) else {
                continue;
            };
            if site.price == FirstInstruction::Refused {
                self.missing.push((family, refused(short, site)));
                continue;
            }
            let (argument, sites) = match role {
                Role::Wake => (0, Some(&mut self.wakes)),
                Role::Spawn => (1, Some(&mut self.spawns)),
                _ => (0, None),
            };
            if let Some(sites) = sites {
                match cheap_entry(&code, site, found, argument) {
                    Some(site) => sites.push(site),
                    None => self.missing.push((
                        family,
                        MissingProbe {
                            what: short.to_owned(),
                            why: "no instruction at its beginning takes a probe that is cheap enough: what it wakes or \
                                  spawns has no delay"
                                .to_owned(),
                        },
                    )),
                }
                continue;
            }
            if !takes_lock(&code, found) {
                self.missing.push((
                    family,
                    MissingProbe {
                        what: short.to_owned(),
                        why: "the compiler made it for the only lock of its kind in the program, so that it \
                              is not told which lock: what happens to that one is not seen"
                            .to_owned(),
                    },
                ));
                continue;
            }
            match role {
                Role::SlowPath { operation } => self.slow_paths.push(SlowPath {
                    function: short,
                    operation,
                    deadline_argument: deadline_argument(&code, found),
                    site,
                }),
                Role::SlowUnlock { operation } => self.slow_unlocks.push(SlowUnlock {
                    function: short,
                    operation,
                    site,
                }),
                Role::Acquire => match acquire_cookie(&code, found) {
                    Some(cookie) => self.acquires.push(Acquire { site, cookie }),
                    None => self.missing.push((
                        family,
                        MissingProbe {
                            what: short.to_owned(),
                            why: "its code does not show where it keeps its semaphore: tasks' waits for Tokio's \
                                  locks are not seen"
                                .to_owned(),
                        },
                    )),
                },
                Role::DropAcquire => self.acquire_drops.push(site),
                Role::ReleasePermits => self.permit_releases.push(site),
                Role::Poll
                | Role::Handoff
                | Role::Park
                | Role::LeaveLoop
                | Role::Wake
                | Role::Spawn => {}
            }
        }
        Ok(())
    }

    /// Gives up what takes a uretprobe.
    fn drop_slow_paths(&mut self, why: &str) {
        if !std::mem::take(&mut self.acquires).is_empty() {
            self.missing.push((
                Family::TokioSync,
                MissingProbe {
                    what: "Acquire::poll".to_owned(),
                    why: why.to_owned(),
                },
            ));
        }
        for path in std::mem::take(&mut self.slow_paths) {
            self.missing.push((
                Family::of_operation(path.operation),
                MissingProbe {
                    what: path.function.to_owned(),
                    why: why.to_owned(),
                },
            ));
        }
    }

    /// Every family with what was found of it, nothing attached yet.
    pub fn families(&self) -> Vec<ProbeFamily> {
        Family::ALL
            .iter()
            .map(|&family| ProbeFamily {
                name: family.name().to_owned(),
                attached: 0,
                found: u32::try_from(self.found(family)).unwrap_or(u32::MAX),
                missing: self
                    .missing
                    .iter()
                    .filter(|(of, _)| *of == family)
                    .map(|(_, missing)| missing.clone())
                    .collect(),
            })
            .collect()
    }

    /// Sites of one family.
    pub fn found(&self, family: Family) -> usize {
        let slow_paths = self
            .slow_paths
            .iter()
            .filter(|path| Family::of_operation(path.operation) == family)
            .count();
        let unlocks = self
            .slow_unlocks
            .iter()
            .filter(|unlock| unlock.family() == family)
            .count();
        match family {
            Family::Polls => self.polls.iter().filter(|poll| poll.is_of_a_task()).count(),
            Family::BlockOn => self.roots.begins.len() + self.roots.ends.len(),
            Family::BlockInPlace => self.handoffs.len(),
            Family::Wakes => self.wakes.len() + self.spawns.len(),
            Family::TokioSync => {
                self.acquires.len() + self.acquire_drops.len() + self.permit_releases.len()
            }
            Family::Mutex
            | Family::Rwlock
            | Family::Condvar
            | Family::StdMutex
            | Family::StdRwlock => slow_paths + unlocks,
        }
    }

    /// Where the kernel finds the file that all sites are in, or why it can't.
    pub fn file(&self) -> Result<&Path, &str> {
        self.binary
            .module
            .path_to_open
            .as_deref()
            .map_err(String::as_str)
    }

    /// Adds something that can't be seen.
    pub(super) fn explain(&mut self, family: Family, missing: MissingProbe) {
        self.missing.push((family, missing));
    }

    /// Why the plan is empty: one sentence for each family.
    pub fn why_nothing(&self) -> String {
        let mut reasons: Vec<&str> = Vec::new();
        for (_, missing) in &self.missing {
            if !reasons.contains(&missing.why.as_str()) {
                reasons.push(&missing.why);
            }
        }
        reasons.extend(self.binary.refused.iter().map(String::as_str));
        reasons.join("; ")
    }

    /// Whether Tokio numbers its tasks, and says in their vtables where: since 1.23. A program whose paths don't tell
    /// its version is taken for an older one.
    pub fn has_task_ids(&self) -> bool {
        const SINCE: (u64, u64) = (1, 23);
        let Ok(code) = self.binary.code() else {
            return false;
        };
        let versions = code.crate_versions(&["tokio"]);
        let of_tokio = versions.get("tokio").into_iter().flatten();
        let mut parsed = of_tokio.map(|version| {
            let mut parts = version.split('.').map_while(|part| part.parse().ok());
            Some((parts.next()?, parts.next()?))
        });
        versions.contains_key("tokio")
            && parsed.all(|version| version.is_some_and(|version| version >= SINCE))
    }

    /// For each family that lacks something: what, why, and what to do about it.
    fn explain_missing(&mut self, found: &[Found]) -> Result<(), ElfError> {
        // One function can have several paths, in several versions.
        let has = |short: &str| found.iter().any(|found| found.wanted.short == short);
        let mut absent: Vec<&'static Wanted> =
            WANTED.iter().filter(|wanted| !has(wanted.short)).collect();
        absent.dedup_by_key(|wanted| wanted.short);
        if !self.polls.is_empty() {
            absent.retain(|wanted| wanted.role != Role::Poll);
        }
        if absent.is_empty() {
            return Ok(());
        }
        let versions = self
            .binary
            .code()?
            .crate_versions(&["tokio", "parking_lot"]);
        let linked = |name: &str| {
            let versions: Vec<&str> = versions.get(name)?.iter().map(String::as_str).collect();
            Some(format!("{name} {}", versions.join(" and ")))
        };
        if self.binary.symbols() == Whereabouts::Missing {
            let linked: Vec<String> = ["tokio", "parking_lot"]
                .into_iter()
                .filter_map(linked)
                .collect();
            let why = self.no_symbols(&linked);
            for family in Family::ALL {
                if self.found(family) == 0 {
                    let what = family.name().to_owned();
                    let why = why.clone();
                    self.explain(family, MissingProbe { what, why });
                }
            }
            return Ok(());
        }
        for wanted in absent {
            // Explained by who knows more about it: `add_handoffs`, `add_roots`.
            if matches!(wanted.role, Role::Handoff | Role::Park | Role::LeaveLoop) {
                continue;
            }
            let family = wanted.role.family();
            let krate = family.krate();
            let why = match linked(krate) {
                None if krate == "std" => {
                    "nothing calls it, or the compiler inlined it, or this is no Rust program"
                        .to_owned()
                }
                Some(linked) => format!(
                    "{linked} is in the program without it: nothing calls it, or the compiler inlined it"
                ),
                None if krate == "tokio" => {
                    "no trace of tokio in the program: not a Tokio program, or \
                     one that links it as a shared library"
                        .to_owned()
                }
                None => format!(
                    "no trace of {krate} in the program: there are no such locks to wait for"
                ),
            };
            self.missing.push((
                family,
                MissingProbe {
                    what: wanted.short.to_owned(),
                    why,
                },
            ));
        }
        Ok(())
    }

    /// What to tell about a stripped binary: one sentence.
    fn no_symbols(&self, linked: &[String]) -> String {
        let inside = match linked {
            [] => "no trace of tokio or parking_lot in it".to_owned(),
            linked => format!("{} in it", linked.join(", ")),
        };
        match self.binary.build_id.as_deref() {
            Some(id) => format!(
                "the program is stripped ({inside}): provide its debug file or its unstripped twin, of build-id \
                 {id}, in a folder that `--debug-dir` names{}",
                place_for(id)
                    .map_or_else(String::new, |place| format!(" or as {}", place.display()))
            ),
            None => format!(
                "the program is stripped ({inside}) and has no build-id to know its debug file by: build it with \
                 `strip = false`, or add a debug link (objcopy --add-gnu-debuglink)"
            ),
        }
    }
}

/// One poll site for all instances that share its code.
fn poll_site(site: Site, known: Vec<PollArguments>) -> PollSite {
    let mut classes = known.iter().map(|poll| poll.class);
    let first = classes.next().unwrap_or(SiteClass::Unknown);
    let on_pool = |class| matches!(class, SiteClass::Blocking | SiteClass::Worker);
    let class = if classes.clone().all(|class| class == first) {
        first
    } else if on_pool(first) && classes.all(on_pool) {
        // One code for a worker's loop and another blocking task: either way on the pool.
        SiteClass::Blocking
    } else {
        SiteClass::Unknown
    };
    let takes_over_core = known.iter().any(|poll| poll.takes_over_core);
    let mut futures = known.into_iter().map(|poll| poll.future);
    PollSite {
        site,
        class,
        future: futures.next(),
        folded: futures.take(FOLDED_LIMIT).collect(),
        takes_over_core,
    }
}

/// The place of the code at a virtual address; None when the file or the process has no code there.
pub(super) fn site(code: &Elf<'_>, binary: &Binary, vaddr: u64) -> Option<Site> {
    let file_offset = code.file_offset(vaddr)?;
    Some(Site {
        file_offset,
        address: binary.module.address(file_offset)?,
        // Elsewhere than on x86 there is no cheap kind of first instruction.
        price: if code.is_x86_64() {
            FirstInstruction::of(code.bytes_at(vaddr, 16))
        } else {
            FirstInstruction::SingleStepped
        },
    })
}

fn refused(what: &str, site: Site) -> MissingProbe {
    MissingProbe {
        what: what.to_owned(),
        why: format!(
            "the kernel takes no uprobe on its first instruction (file offset {:#x})",
            site.file_offset
        ),
    }
}

/// Where a function takes a cheap probe, while this argument, the first or the second one, is still in place.
fn cheap_entry(code: &Elf<'_>, site: Site, found: &Found, argument: usize) -> Option<Site> {
    if !code.is_x86_64() {
        return Some(site);
    }
    let place = insn::entry_probe(body(code, found), found.vaddr, argument)?;
    (place.price == FirstInstruction::Emulated).then_some(Site {
        file_offset: site.file_offset + place.offset,
        address: site.address + place.offset,
        price: place.price,
    })
}

/// The code of a function, as far as it is looked at.
fn body<'data>(code: &Elf<'data>, found: &Found) -> &'data [u8] {
    let size = usize::try_from(found.size).unwrap_or(CODE_LIMIT);
    code.bytes_at(found.vaddr, size.min(CODE_LIMIT))
}

/// Whether a function gets its lock as the first argument, as it is written. See
/// `insn::dereferences_first_argument` for when it does not.
fn takes_lock(code: &Elf<'_>, found: &Found) -> bool {
    if !code.is_x86_64() {
        return true;
    }
    // It only computes with the address, but has no other argument to be mistaken for it.
    if found.wanted.path == UNLOCK_SHARED_SLOW {
        return insn::reads_first_argument(body(code, found));
    }
    with_tail(code, found, |bytes| {
        insn::dereferences_first_argument(bytes).then_some(())
    })
    .is_some()
}

/// Where an `Acquire` keeps the pointer to its semaphore and its flag, by the code of its `poll`.
fn acquire_cookie(code: &Elf<'_>, found: &Found) -> Option<u64> {
    /// It has seven words and a flag.
    const MOST: u64 = 256;
    if !code.is_x86_64() {
        return None;
    }
    let semaphore = insn::field_whose_target_is_locked(body(code, found))?;
    let queued = insn::flag_of_first_argument(body(code, found))?;
    let fits = semaphore < MOST && queued < MOST && semaphore % 8 == 0;
    fits.then(|| wire::acquire_cookie(semaphore as u16, queued as u16))
}

/// Which argument of a slow path is the first half of its deadline: the one before the nanoseconds, which
/// are compared with the niche that stands for "no deadline".
fn deadline_argument(code: &Elf<'_>, found: &Found) -> u32 {
    const NO_DEADLINE: u32 = 1_000_000_000;
    if !code.is_x86_64() {
        return 0;
    }
    match with_tail(code, found, |bytes| {
        insn::argument_compared_with(bytes, NO_DEADLINE)
    }) {
        Some(2) => 1,
        Some(3) => 2,
        _ => 0,
    }
}

/// Asks about a function's code, and where it has no answer about the code that it jumps to with the same
/// arguments: `upgrade_slow` hands them on to `wait_for_readers`.
fn with_tail<T>(code: &Elf<'_>, found: &Found, ask: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let bytes = body(code, found);
    ask(bytes).or_else(|| {
        let target = insn::tail_jump(bytes, found.vaddr)?;
        ask(code.bytes_at(target, CODE_LIMIT))
    })
}

#[cfg(test)]
mod tests;
