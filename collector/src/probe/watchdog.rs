//! A process that outlives holdup by a moment. What enters: the end of holdup, however it came. What leaves: every
//! process that holdup held, going on.
//!
//! ```text
//!   holdup    --- a pipe's writing end, which nobody writes to ---x killed
//!   watchdog  --- waits for the pipe's end ------------------------| nobody is held any more; SIGCONT to all that are
//! ```
//!
//! The kernel holds programs as long as holdup's links exist, and it removes those a little later than holdup's
//! end of the pipe. So the watchdog first turns the holding off, which every later program sees.

use std::io;
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use aya_obj::generated::{bpf_attr, bpf_cmd};

use super::syscall;
use super::wire::tree::SWITCH_STOPPING;

/// Where the watchdog has its descriptors; all others are closed.
const PIPE: RawFd = 3;
const STOPPED: RawFd = 4;
const SWITCHES: RawFd = 5;
const FIRST_OTHER: libc::c_uint = 6;

/// A program that saw the switch before it was turned is done with it by then.
static LATE: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// The watchdog's leash: it acts when this is dropped, or its process is gone.
pub struct Watchdog {
    /// None once it was dropped.
    pipe: Option<OwnedFd>,
    pid: libc::pid_t,
}

impl Watchdog {
    /// Starts it. This process must have no other thread, and nothing attached yet: the watchdog would hold it.
    pub fn start(stopped: RawFd, switches: RawFd) -> io::Result<Watchdog> {
        let (reader, writer) = io::pipe()?;
        let reader = reader.into_raw_fd();
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => {
                let error = io::Error::last_os_error();
                // SAFETY: a descriptor of this function's.
                drop(unsafe { OwnedFd::from_raw_fd(reader) });
                Err(error)
            }
            0 => watch(reader, stopped, switches),
            pid => {
                // SAFETY: a descriptor of this function's.
                drop(unsafe { OwnedFd::from_raw_fd(reader) });
                Ok(Watchdog {
                    pipe: Some(writer.into()),
                    pid,
                })
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.pipe = None;
        let mut status = 0;
        // SAFETY: a child of this process that nobody else waits for, which ends now.
        unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
    }
}

/// The watchdog. No allocation and no lock: it is a fork.
fn watch(pipe: RawFd, stopped: RawFd, switches: RawFd) -> ! {
    // SAFETY: system calls with plain arguments, or with pointers to what lives here.
    unsafe {
        // A signal to holdup's process group is not for it.
        libc::setsid();
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        // Nobody may wait for the end of a pipe because the watchdog holds it.
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for standard in 0..3 {
            libc::dup2(null, standard);
        }
        // First out of the way, then to their places.
        let [pipe, stopped, switches] = [pipe, stopped, switches]
            .map(|fd| libc::fcntl(fd, libc::F_DUPFD, FIRST_OTHER as libc::c_int));
        libc::dup2(pipe, PIPE);
        libc::dup2(stopped, STOPPED);
        libc::dup2(switches, SWITCHES);
        libc::syscall(libc::SYS_close_range, FIRST_OTHER, libc::c_uint::MAX, 0);
        let mut byte = 0_u8;
        while libc::read(PIPE, (&raw mut byte).cast(), 1) == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
        update(SWITCHES, SWITCH_STOPPING, 0);
        continue_all();
        libc::nanosleep(&raw const LATE, std::ptr::null_mut());
        continue_all();
        libc::_exit(0);
    }
}

/// Lets all go on.
fn continue_all() {
    // Each is deleted, so that the next one is the first; a bound, should one not let itself be deleted.
    for _ in 0..1 << 16 {
        let Some(pid) = first_key(STOPPED) else {
            return;
        };
        delete(STOPPED, pid);
        // SAFETY: plain arguments.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGCONT) };
    }
}

fn element(map: RawFd, key: &u32) -> bpf_attr {
    // SAFETY: every member of the union is plain integers, for which zero is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing integers to a member of a zeroed union.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map as u32;
    element.key = std::ptr::from_ref(key) as u64;
    attr
}

fn first_key(map: RawFd) -> Option<u32> {
    let mut first = 0_u32;
    let mut attr = element(map, &0);
    // Without a key: the first.
    attr.__bindgen_anon_2.key = 0;
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = (&raw mut first) as u64;
    syscall::call(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &attr)
        .ok()
        .map(|_| first)
}

fn delete(map: RawFd, key: u32) {
    let _ = syscall::call(bpf_cmd::BPF_MAP_DELETE_ELEM, &element(map, &key));
}

fn update(map: RawFd, key: u32, value: u32) {
    let mut attr = element(map, &key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
    let _ = syscall::call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &attr);
}
