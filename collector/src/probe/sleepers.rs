//! The target's threads that are asleep in a futex call, now. What enters: a loaded program and the process. What
//! leaves, each time it is asked: the threads, with registers and time asleep.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use super::iterator::{ThreadIterator, has_iterator_of_process};
use super::wire::sleepers::{Sleeper, TaskOffsets};
use super::{ProbeError, Probes, kernel_types};
use crate::event::Pid;

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

/// Looks at the threads that sleep.
pub struct Sleepers {
    iterator: ThreadIterator<Sleeper>,
}

impl Probes {
    /// Gets ready to look at the threads of the process behind `pidfd`, which is the target.
    pub fn sleepers(&mut self, pidfd: BorrowedFd<'_>) -> Result<Sleepers, ProbeError> {
        let iterator = self.threads_of("sleepers", "look at sleeping threads", pidfd)?;
        Ok(Sleepers { iterator })
    }
}

impl Sleepers {
    /// Those that sleep now.
    pub fn look(&self) -> io::Result<Vec<Sleeper>> {
        self.iterator.read(MOST_SLEEPERS)
    }
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
