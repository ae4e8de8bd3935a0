//! Where each of the target's threads has its thread-local variables. What enters: a loaded program and the process. What
//! leaves, each time it is asked: the thread pointers.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use super::iterator::ThreadIterator;
use super::{ProbeError, Probes, kernel_types, wire::thread_pointers::ThreadPointer};

/// Threads that are looked at; a process with more has its first ones looked at.
const MOST_THREADS: usize = 16 << 10;

/// Looks at the thread pointers.
pub struct ThreadPointers {
    iterator: ThreadIterator<ThreadPointer>,
}

impl Probes {
    /// Gets ready to look at the threads of the process behind `pidfd`, which is the target.
    pub fn thread_pointers(&mut self, pidfd: BorrowedFd<'_>) -> Result<ThreadPointers, ProbeError> {
        if kernel_types::task_offsets().is_some_and(|offsets| offsets.thread_pointer == 0) {
            return Err(ProbeError::Kernel {
                attempted: "tell where it keeps a thread's pointer to its own variables".to_owned(),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        let iterator = self.threads_of("thread_pointers", "look at thread pointers", pidfd)?;
        Ok(ThreadPointers { iterator })
    }
}

impl ThreadPointers {
    /// Those of the threads that there are now.
    pub fn look(&self) -> io::Result<Vec<ThreadPointer>> {
        self.iterator.read(MOST_THREADS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;
    use crate::probe::{Config, Probed};
    use crate::target::Process;

    /// Every thread of this process is there, each with a pointer of its own: the C library keeps the address itself at
    /// its beginning.
    #[test]
    #[ignore = "live: loads programs into the running kernel, as root"]
    fn of_this_process() {
        let pid = Pid(std::process::id());
        let process = Process::open(pid).expect("it is this one");
        let mut probes =
            Probes::load(&Config::default(), pid, &Probed::default()).expect("maps can be made");
        let pointers = match probes.thread_pointers(process.pidfd()) {
            Ok(pointers) => pointers,
            Err(error) => panic!("{error}"),
        };
        let found = pointers.look().expect("it can be read");
        let me = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        assert!(found.len() > 1 && found.iter().any(|thread| thread.tid == me));
        for thread in found {
            let stored = process.memory(thread.address, 8).expect("it is mapped");
            if cfg!(target_arch = "x86_64") {
                assert_eq!(stored, thread.address.to_ne_bytes(), "{thread:?}");
            }
        }
    }
}
