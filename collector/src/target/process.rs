//! A pid, a name or a path goes in; a [`Process`] comes out that is known to be that very process
//! for as long as it lives. Separate from `maps`, which asks what is in its memory.
//!
//! Everything is read from `/proc/PID`, and a pid can be reused while we read. So a pidfd is opened
//! first, and whatever was read counts only if the pidfd says afterwards that its process is still
//! alive: then nobody else can have had the pid in between.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdup_probe_ebpf::wire;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::PidfdFlags;
use thiserror::Error;

use super::debuginfo::DebugSearch;
use super::elf::ElfError;
use super::maps::Modules;
use super::sites::AttachPlan;
use crate::event::Pid;

/// Bytes of one `/proc` file that are read at most. The longest is `maps`: 100 bytes for each
/// mapping, of which a process has 65,530 by default.
const PROC_FILE_LIMIT: u64 = 64 << 20;
/// Characters of a command line that are shown.
const COMMAND_LINE_SHOWN: usize = 120;

/// Why a target can't be used.
#[derive(Debug, Error)]
pub enum TargetError {
    /// Nobody has this pid.
    #[error("no process has pid {0}; `ps -e` lists those there are")]
    NoSuchProcess(u32),
    /// No process has this name, or runs this file.
    #[error("no process {wanted}; {hint}")]
    NoneFound {
        /// What it should be.
        wanted: String,
        /// What was looked at.
        hint: &'static str,
    },
    /// The path given for the executable can't be looked at.
    #[error("can't look at {}: {source}", .path.display())]
    NoSuchFile {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// More than one fits.
    #[error("{} processes fit; choose one with --pid:{}", .0.len(), list(.0))]
    Several(Vec<Candidate>),
    /// It has no executable.
    #[error(
        "process {0} has no executable: it is a kernel thread, which holdup does not look into"
    )]
    KernelThread(u32),
    /// It has ended.
    #[error("process {0} has ended")]
    Exited(u32),
    /// Not allowed.
    #[error(
        "not allowed to read {what} of process {pid}: run holdup as root, or give it {capability} \
         (`setcap` on the binary, or the container's securityContext)"
    )]
    Permission {
        /// The process.
        pid: u32,
        /// What was read.
        what: String,
        /// The capability that allows it.
        capability: &'static str,
    },
    /// A 32-bit program.
    #[error("process {0} is a 32-bit program; holdup looks into 64-bit ones only")]
    ThirtyTwoBit(u32),
    /// Not an ELF file for this machine.
    #[error(
        "the executable of process {pid} is no {} program: it is {found}",
        std::env::consts::ARCH
    )]
    ForeignArchitecture {
        /// The process.
        pid: u32,
        /// What it is.
        found: String,
    },
    /// One of its binaries can't be used.
    #[error("can't use {} of process {pid}: {source}", .path.display())]
    Binary {
        /// The process.
        pid: u32,
        /// The binary, as the target's mount namespace has it.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// Nothing of its code has a file.
    #[error("process {0} runs no code that has a file behind it: there is nothing to probe")]
    NoProgram(u32),
    /// Anything else that can go wrong with a file of `/proc`.
    #[error("can't read {what} of process {pid}: {source}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// What was read.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn list(candidates: &[Candidate]) -> String {
    candidates.iter().map(|one| format!("\n  {one}")).collect()
}

/// One of several processes that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its pid.
    pub pid: Pid,
    /// Its command line, for people: cut, and without control characters.
    pub command_line: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7}  {}", self.pid.0, self.command_line)
    }
}

/// The seccomp mode of a thread, in the order of caution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seccomp {
    /// None.
    Off,
    /// The kernel does not say.
    Unknown,
    /// Strict mode.
    Strict,
    /// A filter decides about each system call.
    Filter,
}

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The thread group, in our PID namespace.
    pub tgid: u32,
    /// Z or X: it has ended.
    pub ended: bool,
    /// The thread group id in each PID namespace, ours first, its own last.
    pub namespace_pids: Vec<u32>,
    /// Its seccomp mode.
    pub seccomp: Seccomp,
    /// Threads.
    pub threads: u32,
}

impl Status {
    /// Of the file's text. Lines that are not there or make no sense leave the cautious value.
    pub fn parse(text: &str) -> Status {
        let field = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key == name).then(|| value.trim())
            })
        };
        let number = |name: &str| field(name).and_then(|value| value.parse().ok());
        Status {
            tgid: number("Tgid").unwrap_or(0),
            ended: matches!(
                field("State").and_then(|s| s.chars().next()),
                Some('Z' | 'X')
            ),
            namespace_pids: field("NStgid")
                .unwrap_or("")
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect(),
            seccomp: match field("Seccomp") {
                Some("0") => Seccomp::Off,
                Some("1") => Seccomp::Strict,
                Some("2") => Seccomp::Filter,
                _ => Seccomp::Unknown,
            },
            threads: number("Threads").unwrap_or(0),
        }
    }
}

/// What `/proc/PID/exe` points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExeLink {
    /// Path in the target's own mount namespace.
    pub path: PathBuf,
    /// The file was removed or replaced since it was started.
    pub deleted: bool,
}

impl ExeLink {
    fn of_link(link: &OsStr) -> ExeLink {
        let bytes = link.as_bytes();
        let path = bytes.strip_suffix(b" (deleted)");
        ExeLink {
            path: PathBuf::from(OsStr::from_bytes(path.unwrap_or(bytes))),
            deleted: path.is_some(),
        }
    }

    /// Its last component, for people.
    pub fn file_name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or(self.path.as_os_str())
            .to_string_lossy()
            .into_owned()
    }
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    name: String,
    exe_link: ExeLink,
    exe: File,
    start_ticks: u64,
    status: Status,
}

impl Process {
    /// The process with this id; a thread's id gives the process it belongs to.
    pub fn open(pid: Pid) -> Result<Process, TargetError> {
        let given = pid.0;
        let status = Status::parse(&text(given, "status").map_err(|error| match error {
            // /proc/PID of somebody else is there even when nothing in it may be read.
            TargetError::Unreadable { .. } if !proc_path(given, "").exists() => {
                TargetError::NoSuchProcess(given)
            }
            other => other,
        })?);
        if status.ended {
            return Err(TargetError::Exited(given));
        }
        let pid = if status.tgid == 0 { given } else { status.tgid };
        let pidfd = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .ok_or(TargetError::NoSuchProcess(given))
            .and_then(|raw| {
                rustix::process::pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| match errno {
                    Errno::SRCH => TargetError::NoSuchProcess(given),
                    errno => TargetError::Unreadable {
                        pid,
                        what: "the pidfd".to_owned(),
                        source: errno.into(),
                    },
                })
            })?;
        // From here on read everything anew: only what is read while the pidfd lives counts.
        let status = Status::parse(&text(pid, "status")?);
        let name = text(pid, "comm")?.trim_end_matches('\n').to_owned();
        let start_ticks = start_ticks(&text(pid, "stat")?).unwrap_or(0);
        let link = match fs::read_link(proc_path(pid, "exe")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(if status.ended {
                    TargetError::Exited(pid)
                } else {
                    TargetError::KernelThread(pid)
                });
            }
            link => link.map_err(|source| unreadable(pid, "exe", source))?,
        };
        let exe = File::open(proc_path(pid, "exe")).map_err(|e| unreadable(pid, "exe", e))?;
        check_machine(pid, &exe)?;
        let process = Process {
            pid: Pid(pid),
            pidfd,
            name,
            exe_link: ExeLink::of_link(link.as_os_str()),
            exe,
            start_ticks,
            status,
        };
        if process.has_exited() {
            return Err(TargetError::Exited(pid));
        }
        Ok(process)
    }

    /// The one process that is named so: by its kernel name, by its main thread's, or by the file name
    /// of its executable.
    pub fn find_by_name(name: &str) -> Result<Process, TargetError> {
        let found = candidates(|pid| {
            let comm = text(pid, "comm").ok();
            // The kernel keeps 15 bytes.
            let by_comm = comm.is_some_and(|comm| comm.trim_end_matches('\n') == name);
            by_comm
                || fs::read_link(proc_path(pid, "exe"))
                    .is_ok_and(|link| ExeLink::of_link(link.as_os_str()).file_name() == name)
        });
        only(found, || TargetError::NoneFound {
            wanted: format!("is named {name:?}"),
            hint: "looked at the names of processes and of their executables' files",
        })
    }

    /// The one process that runs this file. By inode, so that a path through a symbolic link or from
    /// inside a container's root works, and a process that runs what was there before does not count.
    pub fn find_by_exe(path: &Path) -> Result<Process, TargetError> {
        let wanted = fs::metadata(path).map_err(|source| TargetError::NoSuchFile {
            path: path.to_owned(),
            source,
        })?;
        let found = candidates(|pid| {
            fs::metadata(proc_path(pid, "exe"))
                .is_ok_and(|exe| (exe.dev(), exe.ino()) == (wanted.dev(), wanted.ino()))
        });
        only(found, || TargetError::NoneFound {
            wanted: format!("runs {}", path.display()),
            hint: "compared by inode: one that was started before the file was replaced runs another \
                   file, use --pid",
        })
    }

    /// Its id in our PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its kernel name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `/proc/PID/exe` pointed to when it was opened.
    pub fn exe_link(&self) -> &ExeLink {
        &self.exe_link
    }

    /// The running executable: the inode that is mapped, whatever lies at its path by now.
    pub fn exe(&self) -> &File {
        &self.exe
    }

    /// When it was started, in clock ticks since boot: with the pid it names the process for good.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// The strictest seccomp mode of its threads: each has its own.
    pub fn seccomp(&self) -> Seccomp {
        let tasks = fs::read_dir(self.proc_path("task"))
            .into_iter()
            .flatten()
            .flatten();
        tasks
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .map(|status| Status::parse(&status).seccomp)
            .fold(self.status.seccomp, Seccomp::max)
    }

    /// What `/proc/PID/status` said when it was opened.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Path of a file in `/proc/PID`.
    pub fn proc_path(&self, file: &str) -> PathBuf {
        proc_path(self.pid.0, file)
    }

    /// Whether it has ended.
    pub fn has_exited(&self) -> bool {
        self.wait_for_exit(Duration::ZERO)
    }

    /// Waits until the process ends, at most `timeout`. True when it has ended.
    pub fn wait_for_exit(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // Interrupted counts as not ended: the caller asks again.
        matches!(rustix::event::poll(&mut fds, timeout.as_ref()), Ok(n) if n > 0)
    }

    /// Whether the target's path to its executable now leads to another file than the one it runs.
    /// Probes go to the running one all the same; a person who looks at the new one is misled.
    pub fn binary_was_replaced(&self) -> bool {
        let Ok(running) = self.exe.metadata() else {
            return false;
        };
        let on_disk = self
            .exe_link
            .path
            .strip_prefix("/")
            .map(|path| self.proc_path("root").join(path))
            .map(fs::metadata);
        match on_disk {
            Ok(Ok(file)) => (file.dev(), file.ino()) != (running.dev(), running.ino()),
            _ => self.exe_link.deleted,
        }
    }

    /// Whether it lives in another mount namespace: paths of its files then mean nothing outside.
    pub fn in_other_mount_namespace(&self) -> bool {
        self.namespace_differs("ns/mnt")
    }

    /// Whether it lives in another PID namespace: it knows itself by another pid.
    pub fn in_other_pid_namespace(&self) -> bool {
        self.namespace_differs("ns/pid")
    }

    fn namespace_differs(&self, which: &str) -> bool {
        let theirs = fs::metadata(self.proc_path(which));
        let ours = fs::metadata(Path::new("/proc/self").join(which));
        matches!((theirs, ours), (Ok(a), Ok(b)) if (a.dev(), a.ino()) != (b.dev(), b.ino()))
    }

    /// Whether a task's `Acquire` that began to wait still does: it points to its semaphore and says that it is in the
    /// queue. What took its memory since would have to say the same.
    pub fn is_waiting(&self, acquire: u64, wait: &wire::TaskWait) -> bool {
        let Ok(memory) = File::open(self.proc_path("mem")) else {
            return false;
        };
        let (mut semaphore, mut queued) = ([0; 8], [0]);
        let place = acquire.wrapping_add(wire::acquire_cookie_semaphore(wait.cookie));
        let flag = acquire.wrapping_add(wire::acquire_cookie_queued(wait.cookie));
        memory.read_exact_at(&mut semaphore, place).is_ok()
            && memory.read_exact_at(&mut queued, flag).is_ok()
            && u64::from_le_bytes(semaphore) == wait.semaphore
            && queued == [1]
    }

    /// Its executable mappings, as they are now.
    pub fn modules(&self) -> Result<Modules, TargetError> {
        Modules::of(self)
    }

    /// Which probes go where.
    pub fn plan(&self, search: &DebugSearch) -> Result<AttachPlan, TargetError> {
        AttachPlan::of(self, search)
    }

    /// Bytes of its memory.
    pub(crate) fn memory(&self, addr: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        File::open(self.proc_path("mem"))?.read_exact_at(&mut bytes, addr)?;
        Ok(bytes)
    }

    /// Bytes of a file in `/proc/PID`, known to be of this process.
    pub(crate) fn read(&self, file: &str) -> Result<Vec<u8>, TargetError> {
        let bytes = read(self.pid.0, file)?;
        if self.has_exited() {
            return Err(TargetError::Exited(self.pid.0));
        }
        Ok(bytes)
    }
}

/// Pids for which `fits` says yes. Those that vanish or can't be read meanwhile don't fit.
fn candidates(fits: impl Fn(u32) -> bool) -> Vec<Pid> {
    let me = std::process::id();
    let mut found: Vec<Pid> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != me && fits(pid))
        .map(Pid)
        .collect();
    found.sort_unstable();
    found
}

fn only(found: Vec<Pid>, none: impl FnOnce() -> TargetError) -> Result<Process, TargetError> {
    match found[..] {
        [] => Err(none()),
        [pid] => Process::open(pid),
        _ => Err(TargetError::Several(
            found
                .into_iter()
                .map(|pid| Candidate {
                    pid,
                    command_line: command_line(pid.0),
                })
                .collect(),
        )),
    }
}

fn command_line(pid: u32) -> String {
    let Ok(bytes) = read(pid, "cmdline") else {
        return "?".to_owned();
    };
    shown(&bytes)
}

/// A command line for people: another process chose its bytes, so nothing of it reaches a terminal as
/// a control character.
fn shown(command_line: &[u8]) -> String {
    let text = String::from_utf8_lossy(command_line);
    let text = text.trim_end_matches('\0');
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(COMMAND_LINE_SHOWN)
        .collect();
    if text.chars().nth(COMMAND_LINE_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Field 22 of `/proc/PID/stat`. Field 2, the name in parentheses, may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// A 64-bit little-endian ELF file for this machine?
fn check_machine(pid: u32, exe: &File) -> Result<(), TargetError> {
    use std::os::unix::fs::FileExt as _;
    let mut ident = [0u8; 20];
    exe.read_exact_at(&mut ident, 0)
        .map_err(|source| unreadable(pid, "exe", source))?;
    let foreign = |found: String| TargetError::ForeignArchitecture { pid, found };
    if ident[..4] != *b"\x7fELF" {
        return Err(foreign("not an ELF file".to_owned()));
    }
    if ident[4] == object::elf::ELFCLASS32 {
        return Err(TargetError::ThirtyTwoBit(pid));
    }
    let machine = u16::from_le_bytes([ident[18], ident[19]]);
    let ours = match std::env::consts::ARCH {
        "x86_64" => object::elf::EM_X86_64,
        "aarch64" => object::elf::EM_AARCH64,
        _ => return Ok(()),
    };
    if ident[5] != object::elf::ELFDATA2LSB || machine != ours {
        return Err(foreign(format!("ELF machine {machine}")));
    }
    Ok(())
}

fn proc_path(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

fn read(pid: u32, file: &str) -> Result<Vec<u8>, TargetError> {
    let mut bytes = Vec::new();
    File::open(proc_path(pid, file))
        .and_then(|open| open.take(PROC_FILE_LIMIT).read_to_end(&mut bytes))
        .map_err(|source| unreadable(pid, file, source))?;
    Ok(bytes)
}

fn text(pid: u32, file: &str) -> Result<String, TargetError> {
    let bytes = read(pid, file)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An error of a file in `/proc/PID`: ESRCH means that the process went away.
pub(crate) fn unreadable(pid: u32, what: &str, source: io::Error) -> TargetError {
    let what = what.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => TargetError::Permission {
            pid,
            what,
            capability: "CAP_SYS_PTRACE",
        },
        _ if source.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => TargetError::Exited(pid),
        _ => TargetError::Unreadable { pid, what, source },
    }
}

/// A path as `/proc/PID/maps` and links show it.
pub(crate) fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests;
