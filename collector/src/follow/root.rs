//! The command itself: a child goes in; its end, and what is asked of it meanwhile.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{
    Pid as RawPid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal,
};

use crate::probe::Readable;

/// A command that was asked to end has this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was asked of a command from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The terminal asks, and asks the command too.
    Interrupted,
    /// The command is to be told.
    Forward(i32),
}

/// The command itself.
pub struct Root {
    child: Child,
    pid: Option<RawPid>,
    ended: Readable<OwnedFd>,
}

impl Root {
    /// Of a child.
    pub fn new(child: Child) -> io::Result<Root> {
        let pid = i32::try_from(child.id()).ok().and_then(RawPid::from_raw);
        let no_pid = || io::Error::other("it has no process id");
        let pidfd = pidfd_open(pid.ok_or_else(no_pid)?, PidfdFlags::empty())?;
        Ok(Root {
            child,
            pid,
            ended: Readable::new(pidfd)?,
        })
    }

    /// Waits until it has ended, or may have.
    pub async fn ended(&mut self) -> io::Result<()> {
        self.ended.readable().await
    }

    /// How it ended, once it has.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Passes on what is asked of it.
    pub fn ask(&self, request: Request) {
        if let (Request::Forward(signal), Some(pid)) = (request, self.pid)
            && let Some(signal) = Signal::from_named_raw(signal)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it and all that descends from it to end, and makes them end.
    pub async fn end(&mut self) {
        // By descriptor: an id can be given to another process meanwhile.
        let all: Vec<OwnedFd> = self
            .pid
            .into_iter()
            .flat_map(with_descendants)
            .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .collect();
        for process in &all {
            let _ = pidfd_send_signal(process, Signal::TERM);
        }
        // Those that go on are in the way of whoever waits for the command's output.
        let _ = tokio::time::timeout(PATIENCE, self.ended.readable()).await;
        for process in &all {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

/// A process, and its children's children. One whose parent has ended belongs to another one by now and is not among them.
fn with_descendants(pid: RawPid) -> Vec<RawPid> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            let children = children.split_whitespace();
            all.extend(children.filter_map(|pid| RawPid::from_raw(pid.parse().ok()?)));
        }
    }
    all
}
