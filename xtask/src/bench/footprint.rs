//! What holdup itself takes while it records a server, and until its report is written. What enters: a server under
//! load. What leaves: its memory at most, and the time that a person waits at the end.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::interrupted::Interrupted;
use super::observer::{Kind, Observer, Paths};
use super::recorded::{Recorded, Tables};
use super::server::{Server, cpu_time};

/// What it may take, symbolization included and without mapped files.
const MEMORY_LIMIT_BYTES: u64 = 250 << 20;
/// How long the report of half a minute may be waited for.
const REPORT_LIMIT: Duration = Duration::from_secs(3);
/// How often its memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the recording is that the limits are about.
pub const SECONDS: u64 = 30;

/// The most that was seen, in bytes, as `/proc/PID/smaps_rollup` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    /// Resident and not of a file: heap, stacks, what was written to.
    anonymous: u64,
    /// Resident, pages of mapped files included, which the kernel takes back when it needs them.
    resident: u64,
}

impl Memory {
    fn parse(rollup: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
            let kib = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
            Some(kib * 1024)
        };
        Some(Self {
            anonymous: bytes("Anonymous:")?,
            resident: bytes("Rss:")?,
        })
    }

    fn most(self, other: Self) -> Self {
        Self {
            anonymous: self.anonymous.max(other.anonymous),
            resident: self.resident.max(other.resident),
        }
    }
}

/// What was seen of a process until it ended.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    memory: Memory,
    /// CPU time that it took in all, but for what it took after the last look.
    cpu: Duration,
    /// Time that it was ready to run and had no CPU, likewise.
    run_queue: Duration,
    looks: u64,
}

/// Records the server and prints the figures. Gives back what its stacks were walked with.
pub fn run(
    server: &Server,
    holdup: &Path,
    dir: &Path,
    interrupted: &Interrupted,
) -> Result<Tables> {
    let paths = Paths {
        target: server.binary(),
        holdup,
        dir,
    };
    let observer = Observer::attach(Kind::HOLDUP, server.pid(), &paths)?;
    let ended = Arc::new(AtomicBool::new(false));
    let pid = observer.pid().context("holdup has a pid")?;
    let looking = {
        let ended = Arc::clone(&ended);
        thread::spawn(move || look(pid, &ended))
    };
    let recorded = interrupted
        .sleep(Duration::from_secs(SECONDS))
        .and_then(|()| {
            let map_bytes = observer.owned()?.map_bytes()?;
            let (cpu, run_queue) = (observer.cpu()?, run_queue(pid)?);
            Ok((map_bytes, cpu, run_queue, observer.detach()?))
        });
    ended.store(true, Ordering::Relaxed);
    let seen = looking.join();
    let (map_bytes, cpu, waited, observed) = recorded?;
    let Seen {
        memory,
        cpu: cpu_at_end,
        run_queue: waited_at_end,
        looks,
    } = seen.ok().context("the look at holdup's memory failed")?;
    ensure!(looks > 0, "holdup's memory was never seen");

    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    println!("| holdup's own | measured | limit |");
    println!("| --- | --- | --- |");
    println!(
        "| memory without mapped files, at most, symbolization included (Anonymous of smaps_rollup, {looks} looks, {} ms apart) | {} | {} |",
        LOOK_EVERY.as_millis(),
        mib(memory.anonymous),
        verdict(
            memory.anonymous <= MEMORY_LIMIT_BYTES,
            &mib(MEMORY_LIMIT_BYTES)
        ),
    );
    println!(
        "| the same with mapped files (Rss) | {} | |",
        mib(memory.resident)
    );
    println!(
        "| kernel memory of its maps: ring, stacks, tables | {} | |",
        mib(map_bytes)
    );
    println!(
        "| from the end of the recording until all is detached and written | {:.2} s | {} |",
        observed.ending.as_secs_f64(),
        verdict(
            observed.ending <= REPORT_LIMIT,
            &format!("{} s", REPORT_LIMIT.as_secs())
        ),
    );
    println!(
        "| of that, it computed (CPU time of the process) | {:.2} s | |",
        cpu_at_end.saturating_sub(cpu).as_secs_f64()
    );
    println!(
        "| of that, it was ready to run and others had the CPUs (its main thread) | {:.2} s | |",
        waited_at_end.saturating_sub(waited).as_secs_f64()
    );
    println!(
        "| CPU time while recording, attaching included | {:.2} s | |",
        cpu.as_secs_f64()
    );
    let recorded = Recorded::read(dir)?;
    println!(
        "\nwhat was recorded in {:.0} s: {} long polls, {} samples, {} stacks off the CPU",
        observed.lasted.as_secs_f64(),
        recorded.counter("long_polls")?,
        recorded.walks("sample")?,
        recorded.walks("off_cpu")?,
    );
    recorded.tables()
}

fn verdict(kept: bool, limit: &str) -> String {
    format!("{limit}: {}", if kept { "kept" } else { "EXCEEDED" })
}

/// Looks at a process until it has ended.
fn look(pid: u32, ended: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !ended.load(Ordering::Relaxed) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        // Empty once the process is a zombie.
        if let Some(memory) = rollup.ok().as_deref().and_then(Memory::parse) {
            seen.memory = seen.memory.most(memory);
            seen.looks += 1;
        }
        if let Ok(cpu) = cpu_time(pid) {
            seen.cpu = cpu;
        }
        if let Ok(waited) = run_queue(pid) {
            seen.run_queue = waited;
        }
        thread::sleep(LOOK_EVERY);
    }
    seen
}

/// Time that a process's main thread was ready to run and did not.
fn run_queue(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    run_queue_in(&text).with_context(|| format!("{path} is unreadable"))
}

/// The second of three fields: nanoseconds on a CPU, nanoseconds waiting for one, time slices.
fn run_queue_in(schedstat: &str) -> Option<Duration> {
    let ns = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel prints it.
    #[test]
    fn memory_is_read_from_a_rollup() {
        let rollup = "55d7f6f3b000-7ffd8fbfe000 ---p 00000000 00:00 0    [rollup]\n\
                      Rss:                2108 kB\nPss:                 500 kB\n\
                      Pss_Anon:             80 kB\nAnonymous:           100 kB\n";
        let memory = Memory::parse(rollup).expect("it has both");
        let expected = Memory {
            anonymous: 100 << 10,
            resident: 2108 << 10,
        };
        assert_eq!(memory, expected);
        assert_eq!(Memory::parse(""), None);
    }

    /// The wait for a CPU is the second field.
    #[test]
    fn waiting_is_read_from_schedstat() {
        let waited = run_queue_in("5000 1500 12\n");
        assert_eq!(waited, Some(Duration::from_nanos(1500)));
        assert_eq!(run_queue_in("5000"), None);
    }

    /// Both have their own maximum: they need not be seen at the same time.
    #[test]
    fn each_figure_has_its_own_maximum() {
        let (one, other) = (
            Memory {
                anonymous: 5,
                resident: 10,
            },
            Memory {
                anonymous: 1,
                resident: 20,
            },
        );
        let most = Memory {
            anonymous: 5,
            resident: 20,
        };
        assert_eq!(one.most(other), most);
    }
}
