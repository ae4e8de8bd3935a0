//! A command and all that descends from it: started, and each program that one of them starts held before its first
//! instruction until it is let go. What enters: the command. What leaves: the processes that are held.
//!
//! Nothing stays held when holdup ends, however it ends: see [`Watchdog`].

use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::process::{Child, Command};

use aya::maps::{Array, HashMap, RingBuf};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use rustix::process::{Pid as RawPid, Signal, kill_process};
use zerocopy::FromBytes as _;

use super::load::{attach_tracepoints, kernel_device, map_fd};
use super::maps::{WRITE, failed};
use super::watchdog::Watchdog;
use super::{OBJECT, ProbeError, Records, wire};
use crate::event::Pid;
use wire::tree::{
    EVENT_PROGRAM_STARTED, ProgramStarted, SWITCH_LAUNCHING, SWITCH_STOPPING, TREE_COUNTERS,
    TREE_FORKS_OF_RECORDED, TREE_NO_ROOM, TREE_NOT_STOPPED, TREE_OTHER_NAMESPACE, TREE_STOPPED,
};

/// Threads of a tree, and processes: a kernel's usual limit of process ids.
const MOST_MEMBERS: u32 = 1 << 15;
/// An event has 24 bytes and is taken at once.
const RING_BUFFER_BYTES: u32 = 256 << 10;

/// What happened in a tree, as the kernel side counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCounts {
    /// Programs that were held before their first instruction.
    pub held: u64,
    /// Programs that ran unseen, because they could not be held.
    pub not_held: u64,
    /// Programs that ran unseen, because they have no id in holdup's PID namespace.
    pub other_namespace: u64,
    /// Processes and threads whose descendants ran unseen, because there were too many.
    pub no_room: u64,
    /// Children of recorded processes that ran their parent's program, unseen, and started none.
    pub forks_of_recorded: u64,
}

/// A command's tree of processes, from before its start on.
pub struct Tree {
    ebpf: Ebpf,
    records: Records,
    // Dropped last: it looks after what is held until then.
    _watchdog: Watchdog,
}

impl Tree {
    /// Watches for the command that is launched next. To be called inside a Tokio runtime, while this process has no
    /// other thread: a part of it is forked off.
    pub fn watch() -> Result<Tree, ProbeError> {
        let pid_ns = fs::metadata("/proc/self/ns/pid")
            .map_err(|error| ProbeError::from_io("look at its own PID namespace", error))?;
        let (device, inode) = (kernel_device(pid_ns.st_dev()), pid_ns.st_ino());
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .override_global("TARGET_TGID", &std::process::id(), true)
            .override_global("PID_NS_DEV", &device, true)
            .override_global("PID_NS_INO", &inode, true)
            .map_max_entries("TREE", MOST_MEMBERS)
            .map_max_entries("STOPPED", MOST_MEMBERS)
            .map_max_entries("RECORDED", MOST_MEMBERS)
            .map_max_entries("EVENTS", RING_BUFFER_BYTES)
            // Those of a recording are of no use here.
            .map_max_entries("THREADS", 1)
            .map_max_entries("STACKS", 1)
            .map_max_entries("DEEP_STACKS", 1)
            .map_max_entries("LOCK_WAITS", 1)
            .map_max_entries("PAIRS", 1)
            .map_max_entries("HOLDS", 1)
            .map_max_entries("SITE_TOTALS", 1)
            .load(OBJECT)
            .map_err(|error| ProbeError::from_aya("make BPF maps", &error))?;
        // Before anything is attached: the watchdog may hold no link.
        let fd = |name: &'static str| {
            let map = ebpf.map(name).and_then(map_fd);
            map.ok_or_else(|| failed(WRITE, name)(&"no such map"))
        };
        let watchdog = Watchdog::start(fd("STOPPED")?, fd("TREE_SWITCHES")?)
            .map_err(|error| ProbeError::from_io("start a process of its own", error))?;
        let missing = || ProbeError::Object("has no ring buffer".to_owned());
        let ring = RingBuf::try_from(ebpf.take_map("EVENTS").ok_or_else(missing)?)
            .map_err(|error| ProbeError::from_aya("map its ring buffer", &error))?;
        let records = Records::new(ring)
            .map_err(|error| ProbeError::from_io("wait for BPF records", error))?;
        attach_tracepoints(
            &mut ebpf,
            &[
                ("tree_exit", "sched_process_exit"),
                ("tree_exec", "sched_process_exec"),
                ("tree_fork", "sched_process_fork"),
            ],
        )?;
        Ok(Tree {
            ebpf,
            records,
            _watchdog: watchdog,
        })
    }

    /// Starts the command, which is held like everything that it starts. The inner error is the system's.
    pub fn launch(&mut self, command: &mut Command) -> Result<io::Result<Child>, ProbeError> {
        self.switch(SWITCH_STOPPING, true)?;
        self.switch(SWITCH_LAUNCHING, true)?;
        let started = command.spawn();
        self.switch(SWITCH_LAUNCHING, false)?;
        Ok(started)
    }

    /// Waits until there is something to take.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.records.readable().await
    }

    /// The next process that is held.
    pub fn take(&mut self) -> Option<Pid> {
        loop {
            let taken = self.records.take(|record| {
                let (started, _) = ProgramStarted::read_from_prefix(record).ok()?;
                (started.header.kind == EVENT_PROGRAM_STARTED).then_some(Pid(started.pid))
            })?;
            if taken.is_some() {
                return taken;
            }
        }
    }

    /// Lets a process go on; one that is not held goes on as before.
    pub fn let_go(&mut self, pid: Pid) -> Result<(), ProbeError> {
        let mut held: HashMap<_, u32, u64> = self.map("STOPPED")?;
        if held.remove(&pid.0).is_ok() {
            go_on(pid);
        }
        Ok(())
    }

    /// What forks off this process from now on runs a recorded program.
    pub fn is_recorded(&mut self, pid: Pid) -> Result<(), ProbeError> {
        let mut recorded: HashMap<_, u32, u32> = self.map("RECORDED")?;
        // Without room its forks are not counted, which is all that this is for.
        let _ = recorded.insert(pid.0, 1, 0);
        Ok(())
    }

    /// Nothing is held any more.
    pub fn stop_holding(&mut self) -> Result<(), ProbeError> {
        self.switch(SWITCH_STOPPING, false)?;
        let held: HashMap<_, u32, u64> = self.map("STOPPED")?;
        let pids: Vec<u32> = held.keys().filter_map(Result::ok).collect();
        for pid in pids {
            self.let_go(Pid(pid))?;
        }
        Ok(())
    }

    /// What the kernel side counted so far.
    pub fn counts(&self) -> Result<TreeCounts, ProbeError> {
        const MAP: &str = "TREE_COUNTS";
        let map = self
            .ebpf
            .map(MAP)
            .ok_or_else(|| failed("read", MAP)(&"no such map"))?;
        let counts: Array<_, u64> =
            Array::try_from(map).map_err(|error| failed("read", MAP)(&error))?;
        let mut all = [0; TREE_COUNTERS as usize];
        for (index, count) in (0..).zip(&mut all) {
            *count = counts
                .get(&index, 0)
                .map_err(|error| failed("read", MAP)(&error))?;
        }
        let of = |counter: u32| all[counter as usize];
        Ok(TreeCounts {
            held: of(TREE_STOPPED),
            not_held: of(TREE_NOT_STOPPED),
            other_namespace: of(TREE_OTHER_NAMESPACE),
            no_room: of(TREE_NO_ROOM),
            forks_of_recorded: of(TREE_FORKS_OF_RECORDED),
        })
    }

    fn switch(&mut self, which: u32, on: bool) -> Result<(), ProbeError> {
        let mut switches: Array<_, u32> = self.map("TREE_SWITCHES")?;
        switches
            .set(which, u32::from(on), 0)
            .map_err(|error| failed(WRITE, "TREE_SWITCHES")(&error))
    }

    fn map<'a, M>(&'a mut self, name: &'static str) -> Result<M, ProbeError>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or_else(|| failed(WRITE, name)(&"no such map"))?;
        M::try_from(map).map_err(|error| failed(WRITE, name)(&error))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Should it fail, the watchdog does it.
        let _ = self.stop_holding();
    }
}

fn go_on(pid: Pid) {
    let pid = i32::try_from(pid.0).ok().and_then(RawPid::from_raw);
    // One that is gone needs nothing.
    let _ = pid.map(|pid| kill_process(pid, Signal::CONT));
}
