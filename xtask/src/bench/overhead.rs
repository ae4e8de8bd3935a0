//! `cargo xtask bench overhead`. What enters: how many rounds of how long windows. What leaves: what being
//! observed costs a server, in CPU time for each request.
//!
//! Machines drift: two runs of the same thing differ by 20 to 30 percent. So one server lives through all of it,
//! and each observed window stands between two that are not:
//!
//! ```text
//! off  nothing  off  holdup  off  bpftrace  off        one round
//!  '------+------'
//!     difference = observed / mean of its two neighbours - 1
//! ```
//!
//! The window with nothing attached is treated like the others: its differences are the noise floor.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::bpf_stats::{Cost, Enabled, Programs};
use super::observer::{Kind, Observer};
use super::server::{Reading, Server};
use crate::{cache, command, packages, workloads, workspace};

/// What `cargo xtask bench overhead` was asked for.
pub struct Options {
    pub rounds: u32,
    pub seconds: u64,
}

/// After attaching and detaching, caches and queues are as after any change.
const SETTLE: Duration = Duration::from_millis(500);

/// CPU time for each request in one window, in nanoseconds.
type NsPerRequest = f64;

/// All windows of one server.
struct Windows {
    off: Vec<NsPerRequest>,
    observed: Vec<(Kind, Vec<Pair>)>,
    /// Of holdup's programs, for each request.
    programs: Option<ProgramCost>,
}

/// An observed window and the mean of its neighbours.
#[derive(Clone, Copy)]
struct Pair {
    observed: NsPerRequest,
    off: NsPerRequest,
}

impl Pair {
    fn difference(self) -> f64 {
        self.observed / self.off - 1.0
    }
}

struct ProgramCost {
    runs: f64,
    ns: f64,
}

/// Measures every server, and prints a table for each.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        packages::is_root(),
        "measuring attaches probes again and again: run it as root"
    );
    ensure!(
        options.rounds > 0 && options.seconds > 0,
        "nothing can be measured in no time"
    );
    packages::install(&["bpftool"], "the kernel's statistics")?;
    let interrupted = Interrupted::new()?;
    let holdup = workspace::build_holdup()?;
    let mut kinds = vec![Kind::Nothing, Kind::Holdup];
    if command::output(Command::new("bpftrace").arg("--version")).is_ok() {
        kinds.push(Kind::Bpftrace);
    } else {
        println!("bpftrace is not installed: measured without it");
    }

    let dir = cache::dir()?.join("bench");
    let experiment = Experiment {
        options,
        kinds: &kinds,
        holdup: &holdup,
        dir: &dir,
        interrupted,
    };
    for (name, server, load) in servers()? {
        let mut server = Server::start(&mut command_of(&server), &mut command_of(&load))?;
        experiment.warm_up(&mut server)?;
        println!(
            "\n{name}: {} rounds of {} s windows, CPU time of the server (user + system) for each request",
            options.rounds, options.seconds
        );
        println!("{}", experiment.measure(&mut server)?);
    }
    Ok(())
}

/// A program and its arguments.
type Call = (PathBuf, Vec<&'static str>);

fn servers() -> Result<Vec<(&'static str, Call, Call)>> {
    // They are ended after the measurement, and end by themselves if nobody does.
    const BOUND: [&str; 2] = ["--seconds", "7200"];
    let (echo, citadel) = (workloads::build()?, workloads::build_citadel()?);
    let path = |of: &std::collections::BTreeMap<&str, PathBuf>, name: &str| {
        of.get(name)
            .cloned()
            .with_context(|| format!("no workload {name}"))
    };
    let with = |first: &[&'static str]| [first, &BOUND, &["--progress"]].concat();
    Ok(vec![
        (
            "echo server at full rate",
            (path(&echo, "ECHO")?, vec!["serve", "--seconds", "7200"]),
            (path(&echo, "ECHO")?, with(&["ask"])),
        ),
        (
            "Citadel server",
            (path(&citadel, "CITADEL_SERVER")?, BOUND.to_vec()),
            (
                path(&citadel, "CITADEL_LOAD")?,
                with(&["--clients", "8", "--pause", "0"]),
            ),
        ),
    ])
}

fn command_of((program, args): &Call) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

struct Experiment<'a> {
    options: &'a Options,
    kinds: &'a [Kind],
    holdup: &'a Path,
    dir: &'a Path,
    interrupted: Interrupted,
}

impl Experiment<'_> {
    fn measure(&self, server: &mut Server) -> Result<Windows> {
        let mut windows = Windows {
            off: vec![self.window(server)?],
            observed: self.kinds.iter().map(|&kind| (kind, Vec::new())).collect(),
            programs: None,
        };
        for round in 0..self.options.rounds as usize {
            for place in 0..self.kinds.len() {
                // Another one is first in each round, so that none has always the same place.
                let (kind, pairs) = &mut windows.observed[(round + place) % self.kinds.len()];
                let before = windows.off.last().copied().unwrap_or_default();
                let observer = Observer::attach(*kind, server, self.holdup, self.dir)?;
                self.interrupted.sleep(SETTLE)?;
                let observed = self.window(server)?;
                observer.detach()?;
                self.interrupted.sleep(SETTLE)?;
                let after = self.window(server)?;
                windows.off.push(after);
                pairs.push(Pair {
                    observed,
                    off: (before + after) / 2.0,
                });
            }
        }
        windows.programs = Some(self.program_cost(server)?);
        Ok(windows)
    }

    /// Clients register and connect, which takes some servers longer than others; then caches warm up.
    fn warm_up(&self, server: &mut Server) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(120);
        let deadline = Instant::now() + LIMIT;
        while server.read()?.requests == 0 {
            ensure!(
                Instant::now() < deadline,
                "no request was served in {} s",
                LIMIT.as_secs()
            );
            self.interrupted.sleep(Duration::from_millis(200))?;
        }
        self.interrupted.sleep(Duration::from_secs(3))
    }

    fn window(&self, server: &mut Server) -> Result<NsPerRequest> {
        let start = server.read()?;
        self.interrupted
            .sleep(Duration::from_secs(self.options.seconds))?;
        let end = server.read()?;
        ns_per_request(start, end)
    }

    /// In a window of its own: the statistics cost something themselves.
    fn program_cost(&self, server: &mut Server) -> Result<ProgramCost> {
        let others = Programs::now()?;
        let observer = Observer::attach(Kind::Holdup, server, self.holdup, self.dir)?;
        let statistics = Enabled::new()?;
        let (programs, start) = (Programs::now()?, server.read()?);
        self.interrupted
            .sleep(Duration::from_secs(self.options.seconds))?;
        let (cost, end) = (
            Programs::now()?.cost_since(&programs, &others),
            server.read()?,
        );
        drop(statistics);
        observer.detach()?;
        let requests = (end.requests - start.requests).max(1) as f64;
        let Cost { runs, ns } = cost;
        Ok(ProgramCost {
            runs: runs as f64 / requests,
            ns: ns as f64 / requests,
        })
    }
}

fn ns_per_request(start: Reading, end: Reading) -> Result<NsPerRequest> {
    let requests = end.requests.saturating_sub(start.requests);
    ensure!(requests > 0, "no request was served in a whole window");
    Ok((end.cpu.saturating_sub(start.cpu)).as_nanos() as f64 / requests as f64)
}

/// Ctrl-C ends the measurement where the statistics can still be switched back and the servers ended.
struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    fn new() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .context("could not catch a signal")?;
        }
        Ok(Self(flag))
    }

    fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            if self.0.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

/// Middle and both ends.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (at(middle.wrapping_sub(1)) + at(middle)) / 2.0
        } else {
            at(middle)
        };
        Self {
            median,
            least: at(0),
            most: at(values.len().wrapping_sub(1)),
        }
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |values: &mut dyn Iterator<Item = f64>| {
            let Spread {
                median,
                least,
                most,
            } = Spread::of(values.map(|ns| ns / 1000.0));
            format!("{median:.2} ({least:.2} to {most:.2}) us")
        };
        writeln!(
            f,
            "| attached | for each request: median (range) | against the windows around it: median (range) |"
        )?;
        writeln!(f, "| --- | --- | --- |")?;
        writeln!(f, "| off | {} | |", us(&mut self.off.iter().copied()))?;
        for (kind, pairs) in &self.observed {
            let Spread {
                median,
                least,
                most,
            } = Spread::of(pairs.iter().map(|pair| pair.difference() * 100.0));
            let observed = us(&mut pairs.iter().map(|pair| pair.observed));
            writeln!(
                f,
                "| {} | {observed} | {median:+.1} % ({least:+.1} to {most:+.1}) |",
                kind.name()
            )?;
        }
        if let Some(ProgramCost { runs, ns }) = &self.programs {
            write!(
                f,
                "holdup's programs alone, without the traps: {runs:.2} runs and {ns:.0} ns for each request"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The median of an even number of values is between the two in the middle.
    #[test]
    fn spread_is_median_and_ends() {
        let Spread {
            median,
            least,
            most,
        } = Spread::of([4.0, 1.0, 3.0, 2.0]);
        assert_eq!((median, least, most), (2.5, 1.0, 4.0));
        let Spread {
            median,
            least,
            most,
        } = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((median, least, most), (2.0, 1.0, 3.0));
    }

    /// A difference is against the windows around, not against all.
    #[test]
    fn pairs_compare_with_their_neighbours() {
        let pair = Pair {
            observed: 150.0,
            off: 100.0,
        };
        assert!((pair.difference() - 0.5).abs() < 1e-9);
    }

    /// CPU time is shared out over the requests of the window alone.
    #[test]
    fn cpu_time_for_each_request() {
        let start = Reading {
            requests: 100,
            cpu: Duration::from_millis(50),
        };
        let end = Reading {
            requests: 300,
            cpu: Duration::from_millis(51),
        };
        assert_eq!(ns_per_request(start, end).ok(), Some(5_000.0));
        assert!(ns_per_request(end, end).is_err());
    }
}
