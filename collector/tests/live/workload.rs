//! The programs that get profiled. What enters: which, and its arguments. What leaves: a running process
//! whose lines can be read, and which is gone when its handle is.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A program has this long to say a line that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The path of a program that `cargo xtask test` built.
pub fn program(name: &str) -> PathBuf {
    let variable = format!("HOLDUP_TEST_{name}");
    std::env::var_os(&variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            panic!(
                "{variable} is not set: `cargo xtask test` builds the programs and runs this test"
            )
        })
}

/// The contention workload with these arguments, not started.
pub fn contention<I: IntoIterator<Item: AsRef<OsStr>>>(args: I) -> Command {
    let mut command = Command::new(program("CONTENTION"));
    command.args(args);
    command
}

/// A running process.
pub struct Workload {
    child: Child,
    /// As holdup sees it, from outside of any PID namespace.
    pub pid: u32,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Workload {
    /// Starts the contention workload and waits until it does what it was told to.
    pub fn start<I: IntoIterator<Item: AsRef<OsStr>>>(args: I) -> Self {
        let workload = Self::spawn(&mut contention(args));
        workload.wait_for("ready");
        workload
    }

    /// Starts any program.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {:?}: {error}", command.get_program()));
        let stdout = child.stdout.take().expect("it was asked for");
        let lines = Arc::new(Mutex::new(Vec::new()));
        // Ends when the program does. Without a reader, its output would block it.
        thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(line);
                }
            }
        });
        Self {
            pid: child.id(),
            child,
            lines,
        }
    }

    /// What the program has said so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the program says a line that begins so.
    pub fn wait_for(&self, beginning: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.lines().iter().any(|line| line.starts_with(beginning)) {
            assert!(
                Instant::now() < deadline,
                "the program never said {beginning:?}, but {:?}",
                self.lines()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child can be asked for")
            .is_none()
    }

    /// Asks it to end (SIGTERM), and gives back all that it said.
    pub fn stop(mut self) -> Vec<String> {
        signal(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(
                Instant::now() < deadline,
                "the program does not end when asked to"
            );
            thread::sleep(Duration::from_millis(20));
        }
        let status = self.child.wait().expect("it has ended");
        assert!(
            status.success(),
            "the program ended with {status}, having said {:?}",
            self.lines()
        );
        self.lines()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Both fail when it is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that one of these tests started.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("it is the id of a process");
    // It may have ended meanwhile.
    let _ = kill_process(pid, signal);
}
