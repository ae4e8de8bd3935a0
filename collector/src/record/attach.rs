//! The plan goes in, probes in the target come out; what could not be attached is said, family by family.

use holdup_probe_ebpf::wire;

use super::RecordError;
use crate::capture::{MissingProbe, ProbeFamily, ReturnSite};
use crate::classify::{Origin, Rules};
use crate::event::{CodeAddr, SiteClass};
use crate::probe::{self, ProbeError, Probes, UprobePoint, UprobeProgram};
use crate::symbolize::ProcessSymbolizer;
use crate::target::handoff::When;
use crate::target::{AttachPlan, Family, FastPath, Process, Site, fast_paths};

/// The kernel side's word for what a poll runs.
pub(super) fn class_code(class: SiteClass) -> u32 {
    match class {
        SiteClass::MultiThread | SiteClass::CurrentThread | SiteClass::LocalSet => {
            wire::CLASS_SCHEDULER
        }
        SiteClass::Blocking => wire::CLASS_BLOCKING,
        SiteClass::Worker => wire::CLASS_WORKER,
        SiteClass::BlockOn => wire::CLASS_ROOT,
        SiteClass::Unknown => wire::CLASS_UNKNOWN,
    }
}

/// One program, and where it goes.
pub(super) struct Group {
    family: Family,
    program: UprobeProgram,
    points: Vec<UprobePoint>,
}

/// What the plan asks for, in the order in which it is to be attached: unlocks before locks, ends before starts, so
/// that a wait that is seen has its holder seen.
pub(super) fn groups(plan: &AttachPlan, config: &probe::Config) -> Vec<Group> {
    let looks_at_wakes = config.one_task_of != 0;
    let mut groups = Vec::new();
    for family in Family::ALL {
        let mut add = |program, points: Vec<UprobePoint>| {
            if !points.is_empty() {
                groups.push(Group {
                    family,
                    program,
                    points,
                });
            }
        };
        let unlocks = || {
            let of_family = plan.slow_unlocks.iter();
            let of_family = of_family.filter(|unlock| unlock.family() == family);
            of_family
                .map(|unlock| point(&unlock.site, u64::from(unlock.operation)))
                .collect()
        };
        let waits = || -> Vec<UprobePoint> {
            let of_family = plan.slow_paths.iter();
            let of_family = of_family.filter(|path| path.family() == family);
            of_family
                .map(|path| point(&path.site, path.cookie()))
                .collect()
        };
        let acquires = || -> Vec<UprobePoint> {
            let acquires = plan.acquires.iter();
            acquires
                .map(|acquire| point(&acquire.site, acquire.cookie))
                .collect()
        };
        let at = |sites: &[Site]| sites.iter().map(|site| point(site, 0)).collect();
        match family {
            Family::Polls => add(
                UprobeProgram::PollEnter,
                (0_u64..)
                    .zip(&plan.polls)
                    .filter(|(_, poll)| poll.is_of_a_task())
                    .map(|(site, poll)| point(&poll.site, site))
                    .collect(),
            ),
            Family::BlockOn => {
                add(UprobeProgram::RootExit, at(&plan.roots.ends));
                let begins = plan.roots.begins.iter();
                add(
                    UprobeProgram::RootEnter,
                    begins.map(|(site, poll)| point(site, *poll)).collect(),
                );
            }
            Family::BlockInPlace => add(
                UprobeProgram::PollHandoff,
                plan.handoffs
                    .iter()
                    .map(|handoff| point(&handoff.site, handoff_cookie(&handoff.when)))
                    .collect(),
            ),
            Family::Mutex
            | Family::Rwlock
            | Family::Condvar
            | Family::StdMutex
            | Family::StdRwlock => {
                add(UprobeProgram::UnlockEnter, unlocks());
                add(UprobeProgram::LockReturn, waits());
                add(UprobeProgram::LockEnter, waits());
            }
            Family::Wakes if looks_at_wakes => {
                add(UprobeProgram::TaskWoken, at(&plan.wakes));
                add(UprobeProgram::TaskSpawned, at(&plan.spawns));
            }
            Family::Wakes => {}
            Family::TokioSync => {
                add(UprobeProgram::PermitsReleased, at(&plan.permit_releases));
                add(UprobeProgram::AcquireDropped, at(&plan.acquire_drops));
                add(UprobeProgram::AcquireReturn, acquires());
                add(UprobeProgram::AcquireEnter, acquires());
            }
        }
    }
    groups
}

/// The programs of these groups, and of what is attached beside them, each once, in the order of attaching.
pub(super) fn programs(groups: &[Group], uncontended: bool) -> Vec<UprobeProgram> {
    // Whatever polls return to is attached first, and what they show later on with it.
    let mut programs = vec![UprobeProgram::PollExit];
    for group in groups {
        if !programs.contains(&group.program) {
            programs.push(group.program);
        }
    }
    if uncontended {
        programs.push(UprobeProgram::FastPath);
    }
    programs
}

/// Attaches everything in the plan. What can't be attached is said in its family; only where nothing at
/// all could be is it an error.
pub(super) fn attach(
    probes: &mut Probes,
    process: &Process,
    plan: &AttachPlan,
    groups: &[Group],
    config: &probe::Config,
) -> Result<Vec<ProbeFamily>, RecordError> {
    let mut families = plan.families();
    let wakes = |family: &&mut ProbeFamily| family.name == Family::Wakes.name();
    if config.one_task_of == 0
        && let Some(wakes) = families.iter_mut().find(wakes)
    {
        wakes.missing.push(MissingProbe {
            what: UprobeProgram::TaskWoken.what().to_owned(),
            why: "`--one-task-of 0` leaves them out".to_owned(),
        });
    }
    probes.attach_scheduler()?;
    let cpus = probes.attach_cpu_clock(config.frequency_hz)?;
    let attached = |name: &str, attached: u32| ProbeFamily {
        name: name.to_owned(),
        attached,
        found: attached,
        missing: Vec::new(),
    };
    families.push(attached("cpu", cpus));
    families.push(attached("scheduler", 4));

    let file = plan.file().map_err(|why| RecordError::NothingToProbe {
        pid: process.pid().0,
        name: process.name().to_owned(),
        why: why.to_owned(),
    })?;
    for group in groups {
        let result = probes.attach_uprobes(group.program, file, &group.points);
        let Some(family) = families.iter_mut().find(|f| f.name == group.family.name()) else {
            continue;
        };
        match result {
            // A function counts once, not for its entry and its return.
            Ok(()) if group.program.is_at_return() => {}
            Ok(()) => family.attached += group.points.len() as u32,
            Err(error @ (ProbeError::Permission { .. } | ProbeError::Verifier { .. })) => {
                return Err(error.into());
            }
            Err(error) => family.missing.push(MissingProbe {
                what: group.program.what().to_owned(),
                why: error.to_string(),
            }),
        }
    }
    Ok(families)
}

/// Puts probes into the fast paths of locks, but for those of the runtime's own, which are taken for every task. A failure
/// costs these, not the recording.
pub(super) fn attach_fast_paths(
    probes: &mut Probes,
    plan: &AttachPlan,
    symbolizer: &mut ProcessSymbolizer<'_>,
) -> ProbeFamily {
    let mut family = ProbeFamily {
        name: "uncontended".to_owned(),
        attached: 0,
        found: 0,
        missing: Vec::new(),
    };
    let mut miss = |what: &str, why: String| {
        family.missing.push(MissingProbe {
            what: what.to_owned(),
            why,
        });
    };
    let found = match fast_paths::find(&plan.binary) {
        Ok(found) => found,
        Err(error) => {
            miss("fast paths of locks", error.to_string());
            return family;
        }
    };
    if found.places.is_empty() {
        let why = "no debug information tells where they were inlined to (x86-64 only)".to_owned();
        miss("fast paths of locks", why);
        return family;
    }
    if found.is_cut {
        let why = "reading all debug information takes too long".to_owned();
        miss("some fast paths of locks", why);
    }
    if found.not_understood > 0 {
        let what = format!("{} fast paths of locks", found.not_understood);
        miss(&what, "their instructions are not understood".to_owned());
    }
    let rules = Rules::embedded();
    let names = symbolizer.symbolize(found.places.iter().map(|path| path.site.address));
    let is_wanted = |path: &FastPath| {
        let frames = names.frames.get(&path.site.address);
        let frames = || frames.into_iter().flatten();
        // What a condvar does with its mutex is seen at its own probes.
        if frames().any(|frame| frame.function.contains("parking_lot::condvar::")) {
            return false;
        }
        let origins = frames().map(|frame| rules.classify(frame).origin);
        let mut users = origins.filter(|origin| !matches!(origin, Origin::Lock | Origin::Std));
        users.next() != Some(Origin::Runtime)
    };
    let wanted = found.places.iter().filter(|path| is_wanted(path));
    let points: Vec<UprobePoint> = wanted.map(|path| point(&path.site, path.cookie)).collect();
    family.found = points.len() as u32;
    let result = match plan.file() {
        _ if !probes.has_uprobe_multi() => {
            Err("each of so many probes takes 0.1 s to remove on this kernel".to_owned())
        }
        Ok(file) => probes
            .attach_uprobes(UprobeProgram::FastPath, file, &points)
            .map_err(|error| error.to_string()),
        Err(why) => Err(why.to_owned()),
    };
    match result {
        Ok(()) => family.attached = family.found,
        Err(why) => family.missing.push(MissingProbe {
            what: UprobeProgram::FastPath.what().to_owned(),
            why,
        }),
    }
    family
}

/// Puts probes where polls can be expected to return to. A failure costs the ends of the first polls from
/// each of these places: the polls show the places, too.
pub(super) fn attach_expected_returns(probes: &mut Probes, plan: &AttachPlan) -> Vec<ReturnSite> {
    // Each for itself would take 0.1 s to detach.
    let (true, Ok(file)) = (probes.has_uprobe_multi(), plan.file()) else {
        return Vec::new();
    };
    let (places, mut points): (Vec<_>, Vec<_>) = plan
        .expected_returns()
        .into_iter()
        .filter_map(|return_addr| {
            let place = plan.return_place(return_addr);
            let point = point(place.site.as_ref().ok()?, 0);
            Some(((return_addr, place), point))
        })
        .unzip();
    // Two calls can go on in one place.
    points.sort_by_key(|point| point.file_offset);
    points.dedup_by_key(|point| point.file_offset);
    let attached = probes.attach_uprobes(UprobeProgram::PollExit, file, &points);
    if let Err(error) = attached {
        tracing::warn!("polls have to show where they return to: {error}");
        return Vec::new();
    }
    let at = probe::now();
    places
        .into_iter()
        .filter_map(|(return_addr, place)| {
            let state = wire::ReturnSiteState {
                attached_ns: at.0,
                class: class_code(place.class),
                zero: 0,
            };
            let known = probes.set_return_site(return_addr, state);
            known.is_ok().then_some(ReturnSite {
                return_addr: CodeAddr(return_addr),
                function: place.function,
                class: place.class,
                attached: Some(at),
                why_not: None,
            })
        })
        .collect()
}

pub(super) fn point(site: &Site, cookie: u64) -> UprobePoint {
    UprobePoint {
        file_offset: site.file_offset,
        cookie,
    }
}

fn handoff_cookie(when: &When) -> u64 {
    match when {
        When::Always => wire::HANDOFF_ALWAYS,
        When::SpawnsTask { .. } => wire::HANDOFF_IF_WORKER_LOOP,
    }
}
