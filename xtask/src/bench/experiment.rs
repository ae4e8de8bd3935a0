//! What being observed costs one server. What enters: the server under load, and observers. What leaves: a table of what
//! each of them adds to the server's CPU time for each request.
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
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::bpf_stats::{Cost, Enabled, Programs};
use super::interrupted::Interrupted;
use super::observer::{Kind, Observer, Paths};
use super::server::{Reading, Server};
use super::spread::Spread;

/// After attaching and detaching, caches and queues are as after any change.
pub const SETTLE: Duration = Duration::from_millis(500);

/// CPU time for each request in one window, in nanoseconds.
type NsPerRequest = f64;

/// How to measure.
pub struct Experiment<'a> {
    /// How many times each kind of window is measured.
    pub rounds: u32,
    /// Length of a window.
    pub seconds: u64,
    pub kinds: &'a [Kind],
    pub holdup: &'a Path,
    /// For what the observers write.
    pub dir: &'a Path,
    pub interrupted: &'a Interrupted,
}

/// All windows of one server.
pub struct Windows {
    off: Vec<NsPerRequest>,
    observed: Vec<(Kind, Vec<Observed>)>,
    /// Of holdup's programs, for each request.
    programs: ProgramCost,
}

/// A window with an observer.
struct Observed {
    pair: Pair,
    /// CPU time that the observer's own process took, as a share of the window.
    own_cpu: f64,
    /// CPU samples for each second.
    samples_hz: Option<f64>,
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

impl Experiment<'_> {
    pub fn measure(&self, server: &mut Server) -> Result<Windows> {
        let mut off = vec![self.window(server)?];
        let mut observed: Vec<_> = self.kinds.iter().map(|&kind| (kind, Vec::new())).collect();
        for round in 0..self.rounds as usize {
            for place in 0..self.kinds.len() {
                // Another one is first in each round, so that none has always the same place.
                let (kind, windows) = &mut observed[(round + place) % self.kinds.len()];
                let before = off.last().copied().unwrap_or_default();
                let (with, own_cpu, samples_hz) = self.observed(*kind, server)?;
                self.interrupted.sleep(SETTLE)?;
                let after = self.window(server)?;
                off.push(after);
                windows.push(Observed {
                    pair: Pair {
                        observed: with,
                        off: (before + after) / 2.0,
                    },
                    own_cpu,
                    samples_hz,
                });
            }
        }
        Ok(Windows {
            off,
            observed,
            programs: self.program_cost(server)?,
        })
    }

    /// Clients register and connect, which takes some servers longer than others; then caches warm up.
    pub fn warm_up(&self, server: &mut Server) -> Result<()> {
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

    fn attach(&self, kind: Kind, server: &Server) -> Result<Observer> {
        let paths = Paths {
            target: server.binary(),
            holdup: self.holdup,
            dir: self.dir,
        };
        Observer::attach(kind, server.pid(), &paths)
    }

    /// What the server's requests cost in a window with an observer, the observer's own CPU time as a share of the
    /// window, and how many samples it took each second.
    fn observed(
        &self,
        kind: Kind,
        server: &mut Server,
    ) -> Result<(NsPerRequest, f64, Option<f64>)> {
        let observer = self.attach(kind, server)?;
        self.interrupted.sleep(SETTLE)?;
        let (began, cpu) = (Instant::now(), observer.cpu()?);
        let ns = self.window(server)?;
        let own = observer.cpu()?.saturating_sub(cpu);
        let own_cpu = own.as_secs_f64() / began.elapsed().as_secs_f64();
        let observed = observer.detach()?;
        Ok((ns, own_cpu, observed.samples_hz()))
    }

    fn window(&self, server: &mut Server) -> Result<NsPerRequest> {
        let start = server.read()?;
        self.interrupted.sleep(Duration::from_secs(self.seconds))?;
        let end = server.read()?;
        ns_per_request(start, end)
    }

    /// In a window of its own: the statistics cost something themselves.
    fn program_cost(&self, server: &mut Server) -> Result<ProgramCost> {
        let observer = self.attach(Kind::HOLDUP, server)?;
        let owned = observer.owned()?;
        let statistics = Enabled::new()?;
        let (programs, start) = (Programs::now()?, server.read()?);
        self.interrupted.sleep(Duration::from_secs(self.seconds))?;
        let (cost, end) = (
            Programs::now()?.cost_since(&programs, &owned),
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

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |values: &mut dyn Iterator<Item = f64>| Spread::of(values.map(|ns| ns / 1000.0));
        writeln!(
            f,
            "| attached | us for each request: median (range) | against the windows around it, %: median (range) | samples each second | the observer's own CPU, % of one |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        writeln!(
            f,
            "| off | {:.2} | | | |",
            us(&mut self.off.iter().copied())
        )?;
        for (kind, windows) in &self.observed {
            let differences = windows
                .iter()
                .map(|window| window.pair.difference() * 100.0);
            let samples = Spread::of(windows.iter().filter_map(|window| window.samples_hz));
            let samples = match samples.median.is_nan() {
                true => String::new(),
                false => format!("{:.0}", samples.median),
            };
            let own = Spread::of(windows.iter().map(|window| window.own_cpu * 100.0));
            let own = match kind {
                Kind::Nothing => String::new(),
                _ => format!("{:.1}", own.median),
            };
            writeln!(
                f,
                "| {kind} | {:.2} | {:+.1} | {samples} | {own} |",
                us(&mut windows.iter().map(|window| window.pair.observed)),
                Spread::of(differences),
            )?;
        }
        let ProgramCost { runs, ns } = &self.programs;
        write!(
            f,
            "holdup's programs alone, without the traps: {runs:.2} runs and {ns:.0} ns for each request"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
