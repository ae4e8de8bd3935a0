//! What this kernel allows, and what a target's seccomp filter forbids: `/proc` and `/sys` go in, facts with
//! a sentence for each that stands in the way come out. Nothing is tried here: whether the kernel takes a
//! program or a uprobe_multi link is found out by `probe`, which tries.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::path::Path;

use super::process::Seccomp;

/// Version of a kernel, as far as features depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 of 6.18.4.
    pub major: u32,
    /// 18 of 6.18.4.
    pub minor: u32,
}

impl KernelVersion {
    /// The first with each part of BPF that holdup can't do without: attach cookies (5.15), `bpf_loop`
    /// (5.17), and the previous task's state as an argument of `sched_switch` (5.18).
    pub const OLDEST: KernelVersion = KernelVersion::new(5, 18);
    /// The first with one link for many uprobes.
    pub const UPROBE_MULTI: KernelVersion = KernelVersion::new(6, 6);
    /// The first that passes an iterator the threads of one process alone.
    pub const ITERATOR_OF_PROCESS: KernelVersion = KernelVersion::new(6, 1);

    const fn new(major: u32, minor: u32) -> KernelVersion {
        KernelVersion { major, minor }
    }

    /// Of a release such as `6.18.4-generic`.
    pub fn parse(release: &str) -> Option<KernelVersion> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(KernelVersion {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A capability that holdup uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// As `capabilities(7)` names it.
    pub name: &'static str,
    /// What for.
    pub purpose: &'static str,
    number: u32,
    /// Having this one is as good.
    or: Option<u32>,
}

const SYS_ADMIN: u32 = 21;

const CAPABILITIES: [Capability; 4] = [
    Capability {
        name: "CAP_BPF",
        purpose: "load BPF programs",
        number: 39,
        or: Some(SYS_ADMIN),
    },
    Capability {
        name: "CAP_PERFMON",
        purpose: "attach them to another process and to the scheduler",
        number: 38,
        or: Some(SYS_ADMIN),
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        purpose: "read /proc of processes of other users",
        number: 19,
        or: None,
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        purpose: "open libraries of the target that were replaced on disk, or lie in its container",
        number: SYS_ADMIN,
        or: Some(40), // CAP_CHECKPOINT_RESTORE
    },
];

/// What the kernel that runs here offers and what this process may use of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `6.18.4-generic`.
    pub release: String,
    /// Its version, if the release has one.
    pub kernel: Option<KernelVersion>,
    /// The kernel describes its own types (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// It has uprobes.
    pub uprobes: bool,
    /// By version, it has one link for many uprobes.
    pub uprobe_multi: bool,
    /// Capabilities that are missing.
    pub missing_capabilities: Vec<Capability>,
    /// We are in a user namespace, where capabilities don't reach the kernel's tracing.
    pub in_user_namespace: bool,
    /// Our own seccomp mode: a container's filter often forbids bpf() and perf_event_open().
    pub seccomp: Seccomp,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i32>,
    /// The lockdown mode in force; `confidentiality` forbids BPF to read memory.
    pub lockdown: Option<String>,
}

impl Host {
    /// As it is now.
    pub fn look() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Host::from_texts(&Texts {
            release: &text("/proc/sys/kernel/osrelease"),
            status: &text("/proc/self/status"),
            uid_map: &text("/proc/self/uid_map"),
            perf_event_paranoid: &text("/proc/sys/kernel/perf_event_paranoid"),
            lockdown: &text("/sys/kernel/security/lockdown"),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            uprobes: Path::new("/sys/bus/event_source/devices/uprobe").exists(),
        })
    }

    fn from_texts(texts: &Texts<'_>) -> Host {
        let release = texts.release.trim().to_owned();
        let kernel = KernelVersion::parse(&release);
        let effective = texts
            .status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(0);
        let has = |number: u32| effective & (1 << number) != 0;
        Host {
            kernel,
            btf: texts.btf,
            uprobes: texts.uprobes,
            uprobe_multi: kernel.is_some_and(|kernel| kernel >= KernelVersion::UPROBE_MULTI),
            missing_capabilities: CAPABILITIES
                .into_iter()
                .filter(|wanted| !has(wanted.number) && !wanted.or.is_some_and(has))
                .collect(),
            // The initial namespace maps every id to itself.
            in_user_namespace: !texts.uid_map.is_empty()
                && texts.uid_map.split_ascii_whitespace().collect::<Vec<_>>()
                    != ["0", "0", "4294967295"],
            seccomp: super::process::Status::parse(texts.status).seccomp,
            perf_event_paranoid: texts.perf_event_paranoid.trim().parse().ok(),
            // `none [integrity] confidentiality`: the brackets tell.
            lockdown: texts
                .lockdown
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once(']'))
                .map(|(mode, _)| mode.to_owned())
                .filter(|mode| mode != "none"),
            release,
        }
    }

    /// The kernel has what tracing takes, whatever this process is allowed.
    pub fn can_trace(&self) -> bool {
        self.uprobes
            && self.btf
            && self
                .kernel
                .is_none_or(|kernel| kernel >= KernelVersion::OLDEST)
    }

    /// What stands in the way, most important first: a sentence each, with what to do. Empty when nothing
    /// does.
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        if let Some(kernel) = self.kernel
            && kernel < KernelVersion::OLDEST
        {
            obstacles.push(format!(
                "kernel {} is too old: holdup needs {} or newer (bpf_loop, and the sched_switch tracepoint's state argument)",
                self.release,
                KernelVersion::OLDEST
            ));
        }
        if !self.uprobes {
            obstacles.push(
                "this kernel has no uprobes (/sys/bus/event_source/devices/uprobe is missing): it has to be \
                 built with CONFIG_UPROBE_EVENTS=y, or /sys has to be mounted"
                    .to_owned(),
            );
        }
        if !self.btf {
            obstacles.push(
                "this kernel does not describe its types (/sys/kernel/btf/vmlinux is missing): it has to be \
                 built with CONFIG_DEBUG_INFO_BTF=y, or /sys has to be mounted"
                    .to_owned(),
            );
        }
        for missing in &self.missing_capabilities {
            obstacles.push(format!(
                "{} is missing, which it takes to {}: run holdup as root, or add the capability",
                missing.name, missing.purpose
            ));
        }
        if self.in_user_namespace {
            obstacles.push(
                "holdup runs in a user namespace (a rootless container, say), where capabilities do not \
                 reach the kernel's tracing: run it on the host, or in a container with the host's users"
                    .to_owned(),
            );
        }
        if self.seccomp == Seccomp::Filter {
            obstacles.push(
                "holdup itself runs under a seccomp filter: if attaching fails, allow bpf and \
                 perf_event_open (Docker: --security-opt seccomp=unconfined)"
                    .to_owned(),
            );
        }
        if self.lockdown.as_deref() == Some("confidentiality") {
            obstacles.push(
                "the kernel is locked down (confidentiality), which forbids BPF programs to read memory: \
                 boot with lockdown=integrity or none"
                    .to_owned(),
            );
        }
        if !self.uprobe_multi {
            obstacles.push(format!(
                "kernel {} has no uprobe_multi links ({} has): each probe is attached by itself, and \
                 detaching takes about 0.1 s for each",
                self.release,
                KernelVersion::UPROBE_MULTI
            ));
        }
        obstacles
    }
}

/// What a [`Host`] is made of.
struct Texts<'a> {
    release: &'a str,
    status: &'a str,
    uid_map: &'a str,
    perf_event_paranoid: &'a str,
    lockdown: &'a str,
    btf: bool,
    uprobes: bool,
}

/// Whether uretprobes do no harm to a target.
///
/// On x86-64 a uretprobe ends in a system call since 6.11 (`uretprobe`, number 335), made by the target's
/// own thread on a trampoline. A seccomp filter that does not know it kills the thread or fails the call,
/// which ends in SIGILL; since 6.14 seccomp lets it through. Stable kernels have that too from some point
/// on, which their version does not tell, so 6.11 to 6.13 count as harmful.
pub fn uretprobes_are_safe(kernel: Option<KernelVersion>, target: Seccomp) -> Result<(), String> {
    const WITH_SYSTEM_CALL: KernelVersion = KernelVersion::new(6, 11);
    const LET_THROUGH: KernelVersion = KernelVersion::new(6, 14);
    let has_system_call = std::env::consts::ARCH == "x86_64"
        && kernel.is_none_or(|kernel| (WITH_SYSTEM_CALL..LET_THROUGH).contains(&kernel));
    match (target, has_system_call) {
        (Seccomp::Off, _) | (_, false) => Ok(()),
        (Seccomp::Strict | Seccomp::Filter | Seccomp::Unknown, true) => Err(format!(
            "the target runs under a seccomp filter, and on kernel {} a probe at a function's return makes \
             a system call that such a filter does not let through and that would kill it: update the \
             kernel to {LET_THROUGH} or newer",
            kernel.map_or_else(
                || "of unknown version".to_owned(),
                |kernel| kernel.to_string()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "CapEff:\t000001ffffffffff\nSeccomp:\t0\n";

    fn host(release: &str, status: &str) -> Host {
        Host::from_texts(&Texts {
            release,
            status,
            uid_map: "         0          0 4294967295\n",
            perf_event_paranoid: "2\n",
            lockdown: "[none] integrity confidentiality\n",
            btf: true,
            uprobes: true,
        })
    }

    /// With everything there nothing stands in the way.
    #[test]
    fn nothing_in_the_way() {
        let host = host("6.18.4-generic\n", ALL);
        assert_eq!(host.obstacles(), Vec::<String>::new());
        assert_eq!(host.perf_event_paranoid, Some(2));
        assert_eq!(host.kernel, Some(KernelVersion::new(6, 18)));
        assert!(host.uprobe_multi);
        assert_eq!(host.lockdown, None);
    }

    /// Capabilities one by one: CAP_SYS_ADMIN stands for BPF and PERFMON, but not for PTRACE.
    #[test]
    fn missing_capabilities() {
        let missing = |mask: u64| -> Vec<&str> {
            let status = format!("CapEff:\t{mask:016x}\nSeccomp:\t0\n");
            let host = host("6.18.4", &status);
            host.missing_capabilities
                .iter()
                .map(|one| one.name)
                .collect()
        };
        assert_eq!(
            missing(0),
            ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]
        );
        assert_eq!(missing(1 << 21), ["CAP_SYS_PTRACE"]);
        assert_eq!(missing(1 << 39 | 1 << 38 | 1 << 19), ["CAP_SYS_ADMIN"]);
        assert_eq!(
            missing(1 << 39 | 1 << 38 | 1 << 19 | 1 << 40),
            Vec::<&str>::new()
        );
    }

    /// Each obstacle has a sentence of its own that says what to do.
    #[test]
    fn obstacles() {
        let host = Host::from_texts(&Texts {
            release: "5.10.0-28",
            status: "CapEff:\t0\nSeccomp:\t2\n",
            uid_map: "0 100000 65536",
            perf_event_paranoid: "",
            lockdown: "none integrity [confidentiality]",
            btf: false,
            uprobes: false,
        });
        let obstacles = host.obstacles();
        assert_eq!(obstacles.len(), 11, "{obstacles:#?}");
        for (n, word) in [
            (0, "5.10.0-28"),
            (1, "CONFIG_UPROBE_EVENTS"),
            (2, "CONFIG_DEBUG_INFO_BTF"),
            (3, "CAP_BPF"),
            (7, "user namespace"),
            (8, "seccomp"),
            (9, "lockdown=integrity"),
            (10, "uprobe_multi"),
        ] {
            assert!(obstacles[n].contains(word), "{n}: {}", obstacles[n]);
        }
    }

    /// Unreadable files leave the cautious answer.
    #[test]
    fn empty_files() {
        let host = host("", "");
        assert_eq!(host.kernel, None);
        assert!(!host.uprobe_multi);
        assert_eq!(host.missing_capabilities.len(), 4);
        for odd in ["6", "x.y", "..", "99999999999.1", "6.x"] {
            assert_eq!(KernelVersion::parse(odd), None, "{odd}");
        }
    }

    /// Only the kernels between the system call and its way through seccomp are harmful, and only to
    /// targets under a filter.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn uretprobes_under_seccomp() {
        let safe = |major, minor, mode| {
            uretprobes_are_safe(Some(KernelVersion::new(major, minor)), mode).is_ok()
        };
        for (minor, expected) in [(10, true), (11, false), (13, false), (14, true), (18, true)] {
            assert_eq!(safe(6, minor, Seccomp::Filter), expected, "6.{minor}");
            assert_eq!(safe(6, minor, Seccomp::Unknown), expected, "6.{minor}");
            assert!(safe(6, minor, Seccomp::Off));
        }
        assert!(uretprobes_are_safe(None, Seccomp::Filter).is_err());
        assert!(uretprobes_are_safe(None, Seccomp::Off).is_ok());
    }
}
