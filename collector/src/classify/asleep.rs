//! What a thread sleeps for: the kernel's word for it in, a kind that a person can act on out.

use serde::{Deserialize, Serialize};
use syscalls::{aarch64, x86_64};

use crate::event::OffCpuCause;

/// What a thread sleeps for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SleepKind {
    /// A file, a socket, a pipe: it is read, written, opened, synced.
    Io,
    /// Until one of several files is ready.
    Readiness,
    /// Until some time: `thread::sleep`.
    Timer,
    /// A futex that belongs to no lock whose slow path is probed: another lock, a thread that is joined or parked.
    Futex,
    /// A condvar of parking_lot.
    Condvar,
    /// A page that is not in memory, or another exception.
    PageFault,
    /// The kernel's work on the process's memory, and who else works on it: `mmap`, `mlock`, `madvise`.
    Memory,
    /// Another process, or a thread that is made.
    Process,
    /// A system call of another kind.
    Other,
    /// Not told.
    Unknown,
}

/// What a thread sleeps for, and in which system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asleep {
    /// What for.
    pub kind: SleepKind,
    /// In which system call; None outside of any.
    pub call: Option<&'static str>,
}

impl Asleep {
    /// On `architecture`, as `uname -m` has it.
    pub fn new(cause: Option<OffCpuCause>, architecture: &str) -> Asleep {
        let kind = match cause {
            Some(OffCpuCause::SystemCall(number)) => {
                let call = name(number, architecture);
                let kind = call.map_or(SleepKind::Other, kind_of_call);
                return Asleep { kind, call };
            }
            Some(OffCpuCause::Fault) => SleepKind::PageFault,
            Some(OffCpuCause::Condvar) => SleepKind::Condvar,
            Some(OffCpuCause::Preempted | OffCpuCause::Unknown) | None => SleepKind::Unknown,
        };
        Asleep { kind, call: None }
    }
}

impl SleepKind {
    /// Goes on after "asleep".
    pub fn in_words(self) -> &'static str {
        match self {
            SleepKind::Io => "in file or socket I/O",
            SleepKind::Readiness => "until a file is ready",
            SleepKind::Timer => "on a timer",
            SleepKind::Futex => "at a futex of no lock that is probed",
            SleepKind::Condvar => "at a condvar",
            SleepKind::PageFault => "for a page of memory",
            SleepKind::Memory => "in memory management",
            SleepKind::Process => "for another process",
            SleepKind::Other => "in a system call",
            SleepKind::Unknown => "for an unknown reason",
        }
    }
}

fn name(number: u32, architecture: &str) -> Option<&'static str> {
    let number = number as usize;
    match architecture {
        "x86_64" => x86_64::Sysno::new(number).map(|call| call.name()),
        "aarch64" => aarch64::Sysno::new(number).map(|call| call.name()),
        _ => None,
    }
}

fn kind_of_call(call: &str) -> SleepKind {
    match call {
        "poll" | "ppoll" | "select" | "pselect6" | "epoll_wait" | "epoll_pwait"
        | "epoll_pwait2" => SleepKind::Readiness,
        "nanosleep" | "clock_nanosleep" => SleepKind::Timer,
        "futex" | "futex_wait" | "futex_waitv" => SleepKind::Futex,
        "mmap" | "munmap" | "mremap" | "madvise" | "mprotect" | "mlock" | "mlock2" | "munlock"
        | "mlockall" | "munlockall" | "brk" | "membarrier" => SleepKind::Memory,
        "wait4" | "waitid" | "clone" | "clone3" | "fork" | "vfork" | "execve" | "execveat" => {
            SleepKind::Process
        }
        "accept" | "accept4" | "connect" | "close" | "copy_file_range" | "creat" | "fallocate"
        | "fcntl" | "flock" | "fsync" | "fdatasync" | "io_getevents" | "io_uring_enter"
        | "ioctl" | "msync" | "open" | "openat" | "openat2" | "sendfile" | "splice" | "sync"
        | "sync_file_range" | "syncfs" | "tee" | "vmsplice" => SleepKind::Io,
        // Families with several members each: of files, of their names, of messages.
        _ if [
            "read",
            "write",
            "pread",
            "pwrite",
            "preadv",
            "pwritev",
            "recv",
            "send",
            "stat",
            "lstat",
            "fstat",
            "newfstat",
            "statx",
            "statfs",
            "access",
            "faccess",
            "getdents",
            "rename",
            "unlink",
            "mkdir",
            "rmdir",
            "link",
            "symlink",
            "truncate",
            "ftruncate",
            "chmod",
            "fchmod",
            "chown",
            "fchown",
            "utime",
            "lseek",
        ]
        .iter()
        .any(|family| call.starts_with(family)) =>
        {
            SleepKind::Io
        }
        _ => SleepKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_call(number: u32, architecture: &str) -> (SleepKind, Option<&'static str>) {
        let asleep = Asleep::new(Some(OffCpuCause::SystemCall(number)), architecture);
        (asleep.kind, asleep.call)
    }

    /// Numbers of arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
    #[test]
    fn system_calls_of_both_architectures() {
        for (x86_64, aarch64, call, kind) in [
            (0, 63, "read", SleepKind::Io),
            (17, 67, "pread64", SleepKind::Io),
            (45, 207, "recvfrom", SleepKind::Io),
            (230, 115, "clock_nanosleep", SleepKind::Timer),
            (202, 98, "futex", SleepKind::Futex),
            (149, 228, "mlock", SleepKind::Memory),
            (61, 260, "wait4", SleepKind::Process),
            (281, 22, "epoll_pwait", SleepKind::Readiness),
            (34, 0, "pause", SleepKind::Other),
        ] {
            assert_eq!(of_call(x86_64, "x86_64"), (kind, Some(call)));
            // Has no `pause`.
            if call != "pause" {
                assert_eq!(of_call(aarch64, "aarch64"), (kind, Some(call)));
            }
        }
    }

    #[test]
    fn what_is_no_system_call_has_no_name() {
        let of = |cause| Asleep::new(cause, "x86_64");
        assert_eq!(of(Some(OffCpuCause::Fault)).kind, SleepKind::PageFault);
        assert_eq!(of(Some(OffCpuCause::Condvar)).kind, SleepKind::Condvar);
        assert_eq!(of(None).kind, SleepKind::Unknown);
        assert_eq!(of_call(u32::MAX - 9, "x86_64"), (SleepKind::Other, None));
        assert_eq!(of_call(0, "riscv64"), (SleepKind::Other, None));
    }
}
