//! Tests of the plan of a process.

use super::wanted::wanted_symbol;
use super::*;
use crate::event::Pid;
use crate::target::elf::Symbol;

/// A task of this test binary, so that it has poll instances.
fn run_a_task() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::spawn(async { std::hint::black_box(1) })
            .await
            .expect("ends");
        tokio::task::spawn_local(async { std::hint::black_box(2) })
            .await
            .expect("ends");
        tokio::task::spawn_blocking(|| std::hint::black_box(3))
            .await
            .expect("ends");
    });
}

/// The plan for this very process, made once: its debug information is big.
fn own_plan() -> &'static AttachPlan {
    static PLAN: std::sync::OnceLock<AttachPlan> = std::sync::OnceLock::new();
    PLAN.get_or_init(|| {
        run_a_task();
        let process = Process::open(Pid(std::process::id())).expect("we run");
        process
            .plan(&DebugSearch::default())
            .expect("our own binary can be read")
    })
}

/// Classes of the instances for a task of `run_a_task`. There are several: spawning a task compiles it
/// for each scheduler that the runtime may turn out to have.
fn classes_of(plan: &AttachPlan, task: &str) -> Vec<SiteClass> {
    let name = format!("sites::tests::run_a_task::{{async_block#0}}::{task}");
    let named = |poll: &&PollSite| poll.future.as_deref().is_some_and(|f| f.contains(&name));
    plan.polls
        .iter()
        .filter(named)
        .map(|poll| poll.class)
        .collect()
}

/// Each kind of task of this very process has a site of its class, where its code is.
#[test]
fn plan_of_this_process() {
    let plan = own_plan();
    assert!(plan.binary.module.is_main);
    assert_eq!(
        classes_of(plan, "{async_block_env#0}"),
        [SiteClass::CurrentThread]
    );
    assert!(classes_of(plan, "{async_block_env#1}").contains(&SiteClass::LocalSet));
    assert_eq!(classes_of(plan, "{closure_env#2}"), [SiteClass::Blocking]);
    for poll in &plan.polls {
        assert_eq!(
            plan.binary.module.file_offset(poll.site.address),
            Some(poll.site.file_offset)
        );
    }
    let polls = &plan.families()[0];
    assert_eq!(polls.name, "polls");
    assert_eq!(polls.found as usize, plan.polls.len());
    assert_eq!(polls.missing, []);
}

/// The classes that the vtables give are those that debug information gives.
#[test]
fn classes_without_debug_information() {
    let plan = own_plan();
    let code = plan.binary.code().expect("read before");
    let vaddr = |poll: &PollSite| code.vaddr(poll.site.file_offset).expect("code");
    let polls = plan.polls.iter().map(vaddr).collect();
    let classes = vtables::poll_classes(&code, &code, &polls);
    for poll in &plan.polls {
        assert_eq!(classes.get(&vaddr(poll)), Some(&poll.class), "{poll:?}");
    }
}

/// A program of another kind has nothing to probe, and is told so for each family.
#[test]
fn not_a_tokio_program() {
    let mut child = std::process::Command::new("/bin/sleep")
        .arg("60")
        .spawn()
        .expect("sleep starts");
    // The child is a copy of this process until it has become the other program.
    let mut plan = None;
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let process = Process::open(Pid(child.id())).expect("it sleeps");
        if process.name() == "sleep" {
            plan = Some(
                process
                    .plan(&DebugSearch::default())
                    .expect("it can be read"),
            );
            break;
        }
    }
    child.kill().expect("it still sleeps");
    child.wait().expect("it was killed");
    let plan = plan.expect("it has become sleep");
    assert!(plan.polls.is_empty() && plan.slow_paths.is_empty() && plan.handoffs.is_empty());
    for family in plan.families() {
        assert_eq!(family.found, 0);
        if family.name != "block_in_place" {
            assert!(!family.missing.is_empty(), "{}", family.name);
        }
    }
    let why = plan.why_nothing();
    assert!(
        why.contains("no trace of tokio or parking_lot") && why.contains("--debug-dir"),
        "{why}"
    );
    // One sentence for all families.
    assert_eq!(why.matches("is stripped").count(), 1, "{why}");
}

/// An address in this binary's code is in its function; one elsewhere is told apart.
#[test]
fn return_places() {
    let plan = own_plan();
    let here = run_a_task as fn() as usize as u64 + 1;
    let place = plan.return_place(here);
    assert!(
        place
            .function
            .as_deref()
            .is_some_and(|name| name.ends_with("run_a_task")),
        "{place:?}"
    );
    assert_eq!(place.class, SiteClass::Unknown);
    let nowhere = plan.return_place(0x10);
    assert!(nowhere.site.is_err());
    let libc = libc::getpid as *const () as usize as u64;
    let elsewhere = plan.return_place(libc).site.expect_err("not in our binary");
    assert!(elsewhere.contains("libc"), "{elsewhere}");
}

/// Two versions of a function are two sites; a name that only looks similar is none.
#[test]
fn wanted_names() {
    let found = |mangled: &str| {
        wanted_symbol(&Symbol {
            mangled,
            vaddr: 0x1000,
            size: 10,
        })
        .map(|found| found.wanted.short)
    };
    let lock_slow = "_ZN11parking_lot9raw_mutex8RawMutex9lock_slow17h0123456789abcdefE";
    assert_eq!(found(lock_slow), Some("RawMutex::lock_slow"));
    assert_eq!(
        found("_ZN11parking_lot9raw_mutex8RawMutex9lock_slow17hfedcba9876543210E"),
        Some("RawMutex::lock_slow")
    );
    assert_eq!(
        found("_RNvMNtCs123_11parking_lot9raw_mutexNtB2_8RawMutex9lock_slow"),
        Some("RawMutex::lock_slow")
    );
    assert_eq!(found(&format!("{lock_slow}.cold")), None);
    assert_eq!(
        found("_ZN16parking_lot_core9word_lock8WordLock9lock_slow17h0123456789abcdefE"),
        None
    );
    assert_eq!(found("lock_slow"), None);
}

/// Instances that share one body keep every name, and a class only if they agree on it.
#[test]
fn folded_instances() {
    let site = Site {
        file_offset: 0x10,
        address: 0x1010,
        price: FirstInstruction::Emulated,
    };
    let poll = |future: &str, class| PollArguments {
        future: future.to_owned(),
        class,
        takes_over_core: class == SiteClass::Worker,
    };
    let folded = poll_site(
        site,
        vec![
            poll("a", SiteClass::MultiThread),
            poll("b", SiteClass::MultiThread),
        ],
    );
    assert_eq!(folded.class, SiteClass::MultiThread);
    assert_eq!(folded.future.as_deref(), Some("a"));
    assert_eq!(folded.folded, ["b"]);
    let mixed = |a, b| poll_site(site, vec![poll("a", a), poll("b", b)]).class;
    assert_eq!(
        mixed(SiteClass::MultiThread, SiteClass::Blocking),
        SiteClass::Unknown
    );
    assert_eq!(
        mixed(SiteClass::Worker, SiteClass::Blocking),
        SiteClass::Blocking
    );
    assert!(poll_site(site, vec![poll("a", SiteClass::Worker)]).takes_over_core);
    assert_eq!(poll_site(site, Vec::new()).class, SiteClass::Unknown);
}
