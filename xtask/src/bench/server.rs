//! A server under load. What enters: the two programs. What leaves: how many requests were served and how
//! much CPU time the server took, at any moment.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::command;
use crate::workloads::{Flavour, Workload, build_one};

const PATIENCE: Duration = Duration::from_secs(60);

/// Servers and loads are ended after the measurement, and end by themselves if nobody does.
const BOUND: [&str; 2] = ["--seconds", "7200"];

/// Both processes, which end when this does.
pub struct Server {
    server: Child,
    load: Option<Child>,
    binary: PathBuf,
    requests: Arc<AtomicU64>,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub requests: u64,
    /// User and system time.
    pub cpu: Duration,
}

impl Server {
    /// Starts the server, and the load on it once it says `ready ... address=`.
    fn start(server: &mut Command, load: &mut Command) -> Result<Self> {
        let binary = PathBuf::from(server.get_program());
        let (child, lines) = spawn(server)?;
        let mut this = Self {
            server: child,
            load: None,
            binary,
            requests: Arc::default(),
        };
        let ready = lines
            .recv_timeout(PATIENCE)
            .context("the server did not get ready")?;
        let address = ready
            .split("address=")
            .nth(1)
            .context("the server does not say its address")?;

        let (child, lines) =
            spawn(load.args([OsStr::new("--server"), OsStr::new(address.trim())]))?;
        this.load = Some(child);
        let requests = Arc::clone(&this.requests);
        // Ends when the load does.
        thread::spawn(move || {
            for line in lines {
                if let Some(count) = line
                    .strip_prefix("requests=")
                    .and_then(|count| count.parse().ok())
                {
                    requests.store(count, Ordering::Relaxed);
                }
            }
        });
        Ok(this)
    }

    /// Small requests at full rate.
    pub fn echo(flavour: Flavour) -> Result<Self> {
        let echo = build_one(Workload::Echo, flavour)?.binary("echo");
        Self::start(
            Command::new(&echo).arg("serve").args(BOUND),
            Command::new(&echo).arg("ask").args(BOUND).arg("--progress"),
        )
    }

    /// Clients that send messages and re-key as fast as they get answers.
    pub fn citadel(flavour: Flavour) -> Result<Self> {
        let built = build_one(Workload::Citadel, flavour)?;
        Self::start(
            Command::new(built.binary("citadel-server")).args(BOUND),
            Command::new(built.binary("citadel-load"))
                .args(["--clients", "8", "--pause", "0", "--progress"])
                .args(BOUND),
        )
    }

    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn read(&mut self) -> Result<Reading> {
        ensure!(self.server.try_wait()?.is_none(), "the server has ended");
        if let Some(load) = &mut self.load {
            ensure!(load.try_wait()?.is_none(), "the load has ended");
        }
        Ok(Reading {
            requests: self.requests.load(Ordering::Relaxed),
            cpu: cpu_time(self.server.id())?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.load.iter_mut().chain([&mut self.server]) {
            // Both fail when it is gone, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(command: &mut Command) -> Result<(Child, mpsc::Receiver<String>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start `{}`", command::display(command)))?;
    let stdout = child.stdout.take().context("a child has no stdout")?;
    let (sender, lines) = mpsc::channel();
    // Reads to the end, so that the program never waits for a reader.
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody may be interested any more.
            let _ = sender.send(line);
        }
    });
    Ok((child, lines))
}

/// User and system time of a process so far.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    let ticks = cpu_ticks(&stat).context("/proc/PID/stat is unreadable")?;
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// Fields 14 and 15, utime and stime, counted after the name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split(' ').skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process can be named to fool a parser.
    #[test]
    fn cpu_time_is_counted_after_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 5 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a"), None);
    }
}
