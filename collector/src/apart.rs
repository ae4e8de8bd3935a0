//! Work on somebody else's data goes in; what it comes to, or that it was not survived, comes out.
//!
//! The work is done in a child process. Parsers of debug information are not written for hostile files: one may
//! recurse until the stack is used up, take memory without end, or read a mapping whose file is being
//! cut short, and no language catches that. A child may die of it; the recording does not.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Serialize, de::DeserializeOwned};

/// Memory that the work may take beside what is mapped already: ten times what a Citadel server's names take.
const MEMORY_BYTES: u64 = 2 << 30;
/// CPU time that it may take: twenty times what these take.
const CPU_SECONDS: u64 = 30;
/// What it comes to may not be larger than this.
const RESULT_BYTES: u64 = 512 << 20;

/// Does `work` in a child process. The error says in half a sentence what became of it.
///
/// What `work` changes in memory is changed in the child alone. To be called while no other thread of this process
/// holds a lock that `work` needs; the allocator's are taken care of by the C library.
pub fn run<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> T) -> Result<T, String> {
    let cannot = |error: io::Error| format!("no process could be started for it: {error}");
    let (reader, writer) = io::pipe().map_err(cannot)?;
    // SAFETY: the child runs `child`, which never returns into what its parent was doing.
    match unsafe { libc::fork() } {
        -1 => Err(cannot(io::Error::last_os_error())),
        0 => {
            drop(reader);
            child(writer, work)
        }
        pid => {
            drop(writer);
            parent(reader, pid)
        }
    }
}

fn parent<T: DeserializeOwned>(reader: PipeReader, pid: libc::pid_t) -> Result<T, String> {
    let mut bytes = Vec::new();
    let read = reader.take(RESULT_BYTES).read_to_end(&mut bytes);
    // The pipe is closed by now: a child that goes on writing ends.
    let mut status = 0;
    // SAFETY: a child of this process that nobody else waits for.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(format!("it could not be waited for: {error}"));
        }
    }
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return Err(format!("reading it ended with signal {signal}"));
    }
    if libc::WEXITSTATUS(status) != 0 {
        return Err("the parser gave up on it".to_owned());
    }
    read.map_err(|error| format!("what was read could not be handed over: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("what was read is cut short: {error}"))
}

fn child<T: Serialize>(mut writer: PipeWriter, work: impl FnOnce() -> T) -> ! {
    limit();
    let done = catch_unwind(AssertUnwindSafe(|| {
        let bytes = serde_json::to_vec(&work()).map_err(io::Error::other)?;
        writer.write_all(&bytes)
    }));
    let code = i32::from(!matches!(done, Ok(Ok(()))));
    // SAFETY: ends the process without running what its parent has registered for its own end.
    unsafe { libc::_exit(code) }
}

/// Bounds what the child can do, and what it can say.
fn limit() {
    let mapped = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = mapped.and_then(|statm| statm.split(' ').next()?.parse::<u64>().ok());
    let mapped_bytes = pages
        .unwrap_or(0)
        .saturating_mul(rustix::param::page_size() as u64);
    let set = |resource, most: u64| {
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: a valid limit. Where it can't be set the work goes on without.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    };
    set(libc::RLIMIT_AS, mapped_bytes.saturating_add(MEMORY_BYTES));
    set(libc::RLIMIT_CPU, CPU_SECONDS);
    // A dump of the recorder's memory is of no use to anybody.
    set(libc::RLIMIT_CORE, 0);
    // SAFETY: plain arguments; the child ends with its parent.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // What Rust's runtime says of a stack overflow is for the parent to say.
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        // SAFETY: both are open descriptors.
        unsafe { libc::dup2(null.as_raw_fd(), libc::STDERR_FILENO) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the work comes to comes back.
    #[test]
    fn results_come_back() {
        assert_eq!(run(|| vec![1_u64, 2, 3]), Ok(vec![1, 2, 3]));
        let much = "x".repeat(1 << 20);
        assert_eq!(
            run(|| much.clone()),
            Ok(much.clone()),
            "more than a pipe holds"
        );
    }

    #[inline(never)]
    fn recurse(depth: u64) -> u64 {
        let frame = std::hint::black_box([depth; 64]);
        match depth {
            0 => frame[0],
            _ => recurse(depth - 1) + frame[1],
        }
    }

    /// A child that dies, of whatever, is an error that says so, and nothing else happens.
    #[test]
    fn deaths_are_survived() {
        let overflow = run(|| recurse(u64::MAX));
        assert_eq!(overflow, Err("reading it ended with signal 6".to_owned()));
        let panic = run(|| -> u64 { panic!("on purpose") });
        assert_eq!(panic, Err("the parser gave up on it".to_owned()));
        let memory = run(|| {
            let too_much = vec![1_u8; 3 << 30];
            u64::from(std::hint::black_box(&too_much)[1 << 20])
        });
        assert_eq!(memory, Err("reading it ended with signal 6".to_owned()));
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(1 << 16).expect("it can grow");
        let mapped = crate::target::MappedFile::new(&file).expect("it can be mapped");
        file.set_len(0).expect("it can shrink");
        let cut_short = run(|| u64::from(mapped[1 << 15]));
        assert_eq!(cut_short, Err("reading it ended with signal 7".to_owned()));
    }
}
