//! `holdup doctor`.

use std::fmt::Write as _;

use super::debug::DebugArgs;
use super::report::print;
use super::select::{Select, target_failure};
use super::{Exit, Failure};
use crate::probe;
use crate::render::shown;
use crate::target::doctor::{Host, uretprobes_are_safe};
use crate::target::{AttachPlan, DebugSearch, Process};
use crate::unwind::{NoKernel, Tables};

/// Of which process, if of any.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Select,
    #[command(flatten)]
    debug: DebugArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let host = Host::look();
        // The kernel's part first: it may explain why the process can't be looked at.
        print(&kernel(&host))?;
        let exit = preflight(&host)
            .err()
            .map_or(Exit::Ok, |failure| failure.exit);
        let Some(process) = self.target.open()? else {
            return Ok(exit);
        };
        let search = DebugSearch::new(&process, &self.debug.sources());
        let plan = process.plan(&search).map_err(target_failure)?;
        print(&target(&process, &plan, &host))?;
        if exit == Exit::Ok && plan.polls.is_empty() && plan.slow_paths.is_empty() {
            return Ok(Exit::NothingToProbe);
        }
        Ok(exit)
    }
}

/// Whether recording can work at all here; the error says why not, and what to do.
pub fn preflight(host: &Host) -> Result<(), Failure> {
    let obstacles = host.obstacles();
    let exit = if !host.can_trace() {
        Exit::Kernel
    } else if !host.missing_capabilities.is_empty() {
        Exit::Permission
    } else {
        return Ok(());
    };
    Err(Failure::new(
        exit,
        anyhow::anyhow!("{}", obstacles.join("; ")),
    ))
}

fn kernel(host: &Host) -> String {
    let mut text = format!("kernel {}\n", host.release);
    let obstacles = host.obstacles();
    if obstacles.is_empty() {
        text.push_str("  ok    everything that holdup needs is there and allowed\n");
    }
    for obstacle in obstacles {
        let _ = writeln!(text, "  !     {obstacle}");
    }
    let mark = if host.can_trace() && host.missing_capabilities.is_empty() {
        "ok"
    } else {
        "-"
    };
    let _ = writeln!(
        text,
        "  {mark:<5} cpu             samples of every CPU's clock"
    );
    let _ = writeln!(
        text,
        "  {mark:<5} scheduler       off-CPU intervals, from the tracepoints sched_switch and sched_waking"
    );
    // The version says what should be there, a try says what is.
    match probe::uprobe_multi_is_supported() {
        Ok(true) => text.push_str("  ok    one link attaches many uprobes (tried)\n"),
        Ok(false) => text.push_str(
            "  !     the kernel takes no link for many uprobes (tried): detaching takes 0.1 s for each\n",
        ),
        Err(error) => {
            let _ = writeln!(text, "  ?     loading a BPF program was not possible: {error}");
        }
    }
    text
}

fn target(process: &Process, plan: &AttachPlan, host: &Host) -> String {
    let mut text = format!(
        "\n{} (pid {}), {}\n",
        shown(process.name()),
        process.pid().0,
        shown(&process.exe_link().path.display().to_string())
    );
    let binary = &plan.binary;
    let _ = writeln!(
        text,
        "  build-id {}; symbols: {}; debug information: {}",
        binary.build_id.as_deref().unwrap_or("none"),
        shown(&binary.symbols().to_string()),
        shown(&binary.debug_info().to_string()),
    );
    for why in binary.refused.iter().map(String::as_str) {
        let _ = writeln!(text, "  !     {}", shown(why));
    }
    if let Some(why) = plan.dwarf.gave_up {
        let _ = writeln!(
            text,
            "  !     debug information was not read in full: {why}"
        );
    }
    if process.binary_was_replaced() {
        text.push_str("  the file was replaced on disk since: the running one is looked at\n");
    }
    if process.in_other_mount_namespace() || process.in_other_pid_namespace() {
        text.push_str(
            "  it runs in other namespaces (a container): its files are taken from there\n",
        );
    }
    let mut tables = Tables::default();
    if let Ok(modules) = process.modules() {
        let Ok(_) = tables.update(&mut NoKernel, process, &modules);
    }
    let of_probes = plan.families().into_iter().map(|family| (family, "sites"));
    for (family, unit) in of_probes.chain([(tables.family(), "files")]) {
        let mark = match (family.found, family.missing.is_empty()) {
            (0, _) => "-",
            (_, true) => "ok",
            (_, false) => "part",
        };
        let _ = writeln!(
            text,
            "  {mark:<5} {:<15} {} {unit}",
            family.name, family.found
        );
        for missing in family.missing {
            let _ = writeln!(text, "          {}: {}", missing.what, missing.why);
        }
    }
    match uretprobes_are_safe(host.kernel, process.seccomp()) {
        Ok(()) => text.push_str("  ok    lock waits can be measured without risk to the target\n"),
        Err(why) => {
            let _ = writeln!(text, "  !     no lock waits: {why}");
        }
    }
    text
}
