//! What looks at a process for a while. What enters: its kind and the process. What leaves: a process that has attached,
//! and that detaches when its handle is gone.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::bpf_stats::Owned;
use super::perf;
use super::recorded::Recorded;
use super::server::cpu_time;

/// bpftrace detaches from 126 poll instances one by one, entry and return: half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// What holdup samples with unless it is told otherwise, so that perf does too.
pub const FREQUENCY_HZ: u32 = 997;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is attached: how much two windows differ all the same.
    Nothing,
    /// With the threshold for a long poll; what is younger than a quarter of it is not sampled.
    Holdup(&'static str),
    /// Copies 8 KiB of the stack for each sample, and unwinds later.
    Perf,
    /// Entry and return of the same functions by the tool that everybody has.
    Bpftrace,
}

impl Kind {
    /// As people start it.
    pub const HOLDUP: Self = Self::Holdup("5ms");
    /// The least threshold that it takes: it samples as good as every poll that a clock of its frequency can hit.
    pub const HOLDUP_EVERY_POLL: Self = Self::Holdup("100us");
    /// No poll is that long: it takes no sample at all.
    pub const HOLDUP_NO_POLL: Self = Self::Holdup("1h");
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nothing => write!(f, "nothing (noise floor)"),
            Self::HOLDUP => write!(f, "holdup"),
            Self::Holdup(threshold) => write!(f, "holdup --threshold {threshold}"),
            Self::Perf => write!(f, "perf record --call-graph dwarf"),
            Self::Bpftrace => write!(f, "bpftrace pair"),
        }
    }
}

/// What an observer needs beside the process.
pub struct Paths<'a> {
    /// The process's binary.
    pub target: &'a Path,
    pub holdup: &'a Path,
    /// Takes what the observer writes.
    pub dir: &'a Path,
}

/// An attached observer.
pub struct Observer {
    kind: Kind,
    child: Option<Child>,
    /// What it says, where it says when it is ready.
    lines: Option<Receiver<String>>,
    since: Instant,
    dir: PathBuf,
}

/// What an observer is known to have done.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// CPU samples; None where it takes none, or does not say.
    pub samples: Option<u64>,
    /// From attached to told to end.
    pub lasted: Duration,
    /// From told to end until it has ended; what it writes is written then.
    pub ending: Duration,
}

impl Observed {
    pub fn samples_hz(&self) -> Option<f64> {
        self.samples
            .map(|samples| samples as f64 / self.lasted.as_secs_f64())
    }
}

impl Observer {
    /// Starts it and waits until it observes.
    pub fn attach(kind: Kind, pid: u32, paths: &Paths<'_>) -> Result<Self> {
        let mut this = Self {
            kind,
            child: None,
            lines: None,
            since: Instant::now(),
            dir: paths.dir.to_owned(),
        };
        match kind {
            Kind::Nothing => {}
            Kind::Holdup(threshold) => {
                let mut command = Command::new(paths.holdup);
                command
                    .args(["record", "--pid", &pid.to_string(), "-d", "1h"])
                    .args(["--threshold", threshold, "-o"])
                    .arg(paths.dir)
                    .stdout(Stdio::null());
                let mut child = start(command.stderr(Stdio::piped()))?;
                let stderr = child.stderr.take();
                this.child = Some(child);
                this.lines = Some(lines(stderr.context("holdup has no stderr")?));
                this.wait_for("recording")?;
            }
            Kind::Perf => {
                let mut command = perf::record_command(pid, "cpu-clock", FREQUENCY_HZ);
                command.arg("--output").arg(this.perf_data());
                let mut child = start(command.stdout(Stdio::null()).stderr(Stdio::piped()))?;
                let stderr = child.stderr.take();
                this.child = Some(child);
                this.lines = Some(lines(stderr.context("perf has no stderr")?));
                this.wait_for_samples()?;
            }
            Kind::Bpftrace => {
                let mut command = Command::new("bpftrace");
                command.stderr(Stdio::null());
                command.args(["-p", &pid.to_string(), "-e", &script(paths.target)]);
                // Tokio alone has more instances of its poll than bpftrace attaches to by default.
                command.env("BPFTRACE_MAX_PROBES", "4096");
                let mut child = start(command.stdout(Stdio::piped()))?;
                let stdout = child.stdout.take();
                this.child = Some(child);
                this.lines = Some(lines(stdout.context("bpftrace has no stdout")?));
                this.wait_for("tick")?;
            }
        }
        this.since = Instant::now();
        Ok(this)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it has in the kernel.
    pub fn owned(&self) -> Result<Owned> {
        self.pid().map_or_else(|| Ok(Owned::default()), Owned::by)
    }

    /// CPU time that its own process took so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.pid().map_or(Ok(Duration::ZERO), cpu_time)
    }

    /// Ends it as a person does, and waits until nothing is attached any more and all is written.
    pub fn detach(mut self) -> Result<Observed> {
        let lasted = self.since.elapsed();
        let told = Instant::now();
        if let Some(child) = &mut self.child {
            interrupt(child)?;
            while child.try_wait()?.is_none() {
                if told.elapsed() > PATIENCE {
                    bail!("the observer did not end within {} s", PATIENCE.as_secs());
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        let ending = told.elapsed();
        self.child = None;
        Ok(Observed {
            samples: self.samples()?,
            lasted,
            ending,
        })
    }

    /// Of one that has ended.
    fn samples(&mut self) -> Result<Option<u64>> {
        match self.kind {
            Kind::Nothing | Kind::Bpftrace => Ok(None),
            Kind::Holdup(_) => Ok(Some(Recorded::read(&self.dir)?.counter("samples")?)),
            Kind::Perf => {
                // Ends with perf's output.
                let said: Vec<String> = self.lines.take().into_iter().flatten().collect();
                let samples = said.iter().find_map(|line| perf::samples_in_message(line));
                samples
                    .with_context(|| format!("perf does not say how many samples: {said:?}"))
                    .map(Some)
            }
        }
    }

    fn wait_for(&self, word: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let lines = self.lines.as_ref().context("it says nothing")?;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match lines.recv_timeout(left) {
                Ok(line) if line.contains(word) => return Ok(()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        bail!("the observer never said {word:?}: it did not attach")
    }

    /// perf does not say when it begins; but what it writes does.
    fn wait_for_samples(&mut self) -> Result<()> {
        /// More than the list of what is mapped, and a few stacks.
        const SOME_SAMPLES: u64 = 128 << 10;
        let end = Instant::now() + PATIENCE;
        let data = self.perf_data();
        while fs::metadata(&data).map_or(0, |data| data.len()) < SOME_SAMPLES {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            ensure!(
                ended.is_none() && Instant::now() < end,
                "perf did not attach"
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn perf_data(&self) -> PathBuf {
        self.dir.join("perf.data")
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail when it is gone, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.kind == Kind::Perf {
            // Tens of megabytes for each second. It may not have begun to write.
            let _ = fs::remove_file(self.perf_data());
        }
    }
}

fn start(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start `{}`", crate::command::display(command)))
}

fn interrupt(child: &Child) -> Result<()> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a child has a pid")?;
    // It may have ended by itself, which the caller sees.
    let _ = kill_process(pid, Signal::INT);
    Ok(())
}

/// Polls and lock waits, timed and put into a histogram: the least that answers anything.
fn script(binary: &Path) -> String {
    const POLL: &str = "_ZN5tokio7runtime4task3raw4poll17h*";
    const LOCK: &str = "_ZN11parking_lot9raw_mutex8RawMutex9lock_slow17h*";
    let pair = |function: &str, name: &str| {
        let target = format!("{}:{function}", binary.display());
        // Polls nest; the inner one wins, as in any script of this length.
        format!(
            "uprobe:{target} {{ @{name}_start[tid] = nsecs; }} \
             uretprobe:{target} /@{name}_start[tid]/ {{ @{name}_ns = hist(nsecs - @{name}_start[tid]); delete(@{name}_start[tid]); }} "
        )
    };
    // The interval's output is read only once every probe is attached.
    let mut script = pair(POLL, "poll");
    if has_symbol(binary, LOCK.trim_end_matches('*')) {
        script.push_str(&pair(LOCK, "lock"));
    }
    script.push_str("interval:s:1 { printf(\"tick\\n\"); }");
    script
}

/// bpftrace gives up when one of its probes has no function.
fn has_symbol(binary: &Path, beginning: &str) -> bool {
    fs::read(binary).is_ok_and(|binary| {
        binary
            .windows(beginning.len())
            .any(|window| window == beginning.as_bytes())
    })
}

/// Reads to the end, so that the observer never waits for a reader.
fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody may listen any more.
            let _ = sender.send(line);
        }
    });
    receiver
}
