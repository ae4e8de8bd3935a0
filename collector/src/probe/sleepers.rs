//! The target's threads that are asleep in a futex call, now. What enters: a loaded program and the process. What
//! leaves, each time it is asked: the threads, with registers and time asleep.
//!
//! An iterator's program runs when user space reads, and at no other time: the target does not notice.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use aya::programs::Iter;
use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_attr, bpf_cmd};
use zerocopy::FromBytes as _;

use super::load::program_of;
use super::syscall::bpf;
use super::wire::sleepers::{Sleeper, TaskOffsets};
use super::{ProbeError, Probes, kernel_types};
use crate::event::Pid;
use crate::target::{Host, KernelVersion};

/// Threads that are looked at; a process with more has its first ones looked at.
const MOST_SLEEPERS: usize = 16 << 10;

/// Where the program finds what it reads. Before kernel 6.1 it is passed the threads of all processes.
pub(super) fn offsets(pid: Pid) -> TaskOffsets {
    // Zeroes where the kernel does not tell: the program then finds nobody.
    let offsets = kernel_types::task_offsets().unwrap_or_default();
    let only_tgid = if has_iterator_of_process() { 0 } else { pid.0 };
    TaskOffsets {
        only_tgid: u64::from(only_tgid),
        ..offsets
    }
}

fn has_iterator_of_process() -> bool {
    Host::look().kernel >= Some(KernelVersion::ITERATOR_OF_PROCESS)
}

/// Looks at the threads that sleep.
pub struct Sleepers {
    link: OwnedFd,
}

impl Probes {
    /// Gets ready to look at the threads of the process behind `pidfd`, which is the target.
    pub fn sleepers(&mut self, pidfd: BorrowedFd<'_>) -> Result<Sleepers, ProbeError> {
        const NAME: &str = "sleepers";
        let failed = |error: &(dyn std::error::Error + 'static)| {
            ProbeError::from_aya("look at sleeping threads", error)
        };
        if kernel_types::task_offsets().is_none() {
            return Err(ProbeError::Kernel {
                attempted: "tell where it keeps what is known of a thread".to_owned(),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        let began = Instant::now();
        let program: &mut Iter = program_of(&mut self.ebpf, NAME)?;
        let types = aya::Btf::from_sys_fs().map_err(|error| failed(&error))?;
        program
            .load("task", &types)
            .map_err(|error| failed(&error))?;
        let program = program.fd().map_err(|error| failed(&error))?;
        let link = attach(program.as_fd(), has_iterator_of_process().then_some(pidfd))
            .map_err(|error| ProbeError::from_io("look at sleeping threads", error))?;
        tracing::debug!(program = NAME, took = ?began.elapsed(), "loaded and attached");
        Ok(Sleepers { link })
    }
}

impl Sleepers {
    /// Those that sleep now.
    pub fn look(&self) -> io::Result<Vec<Sleeper>> {
        // SAFETY: every member of the union is plain integers, for which zero is valid.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.iter_create.link_fd = self.link.as_raw_fd() as u32;
        let iterator = File::from(bpf(bpf_cmd::BPF_ITER_CREATE, &attr)?);
        let mut bytes = Vec::new();
        iterator
            .take((MOST_SLEEPERS * size_of::<Sleeper>()) as u64)
            .read_to_end(&mut bytes)?;
        let whole = bytes.chunks_exact(size_of::<Sleeper>());
        Ok(whole
            .filter_map(|bytes| Sleeper::read_from_bytes(bytes).ok())
            .collect())
    }
}

/// `union bpf_iter_link_info` of include/uapi/linux/bpf.h, its member `task`; as long as the longest member.
#[repr(C)]
struct TaskLinkInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    rest: u32,
}

fn attach(program: BorrowedFd<'_>, process: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let info = process.map(|pidfd| TaskLinkInfo {
        tid: 0,
        pid: 0,
        pid_fd: pidfd.as_raw_fd() as u32,
        rest: 0,
    });
    // SAFETY: as in `look`.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: as in `look`; `info` lives until the call returns.
    unsafe {
        let link = &mut attr.link_create;
        link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        link.attach_type = BPF_TRACE_ITER as u32;
        if let Some(info) = &info {
            let of_process = &mut link.__bindgen_anon_3.__bindgen_anon_1;
            of_process.iter_info = std::ptr::from_ref(info) as u64;
            of_process.iter_info_len = size_of::<TaskLinkInfo>() as u32;
        }
    }
    bpf(bpf_cmd::BPF_LINK_CREATE, &attr)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::probe::{Config, Probed};
    use crate::target::Process;

    /// A thread that has waited for a message for a while is there, with its time asleep to within the scheduler's
    /// tick and some; none of another process is.
    #[test]
    #[ignore = "live: loads programs into the running kernel, as root"]
    fn a_sleeping_thread_of_this_process() {
        let (tells, told) = mpsc::channel();
        let (send, receive) = mpsc::channel::<()>();
        let sleeper = thread::Builder::new()
            .name("asleep".to_owned())
            .spawn(move || {
                let tid = rustix::thread::gettid().as_raw_nonzero().get();
                tells.send(tid as u32).expect("the test waits for it");
                receive.recv()
            })
            .expect("a thread can be started");
        let tid = told.recv().expect("it tells");
        let pid = Pid(std::process::id());
        let process = Process::open(pid).expect("it is this one");
        let mut probes =
            Probes::load(&Config::default(), pid, &Probed::default()).expect("maps can be made");
        let sleepers = match probes.sleepers(process.pidfd()) {
            Ok(sleepers) => sleepers,
            Err(error) => panic!("{error}"),
        };
        let asleep_before = thread_in(&sleepers, tid).head.asleep_ns;
        thread::sleep(Duration::from_millis(500));
        let seen = thread_in(&sleepers, tid);
        assert!(seen.head.comm.starts_with(b"asleep\0"), "{:?}", seen.head);
        let slept = seen.head.asleep_ns - asleep_before;
        assert!((450_000_000..600_000_000).contains(&slept), "{slept} ns");
        let ours = std::fs::read_dir("/proc/self/task").expect("it is there");
        let ours: Vec<u32> = ours
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        for sleeper in sleepers.look().expect("it can be read") {
            assert!(ours.contains(&sleeper.head.tid), "{:?}", sleeper.head);
        }
        drop(send);
        let _ = sleeper.join();
    }

    fn thread_in(sleepers: &Sleepers, tid: u32) -> Sleeper {
        let all = sleepers.look().expect("it can be read");
        let found = all.into_iter().find(|sleeper| sleeper.head.tid == tid);
        found.expect("the thread sleeps")
    }
}
