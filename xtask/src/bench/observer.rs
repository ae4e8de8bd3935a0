//! What looks at the server in a window. What enters: its kind and the server's pid. What leaves: a process
//! that has attached, and that detaches when its handle is gone.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::server::Server;

/// bpftrace detaches from 126 poll instances one by one, entry and return: half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is attached: how much two windows differ all the same.
    Nothing,
    Holdup,
    /// Entry and return of the same functions by the tool that everybody has.
    Bpftrace,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing (noise floor)",
            Self::Holdup => "holdup",
            Self::Bpftrace => "bpftrace pair",
        }
    }
}

/// An attached observer.
pub struct Observer(Option<Child>);

impl Observer {
    /// Starts it and waits until it observes. `holdup` is the binary, `dir` takes what it writes.
    pub fn attach(kind: Kind, server: &Server, holdup: &Path, dir: &Path) -> Result<Self> {
        let pid = server.pid();
        match kind {
            Kind::Nothing => Ok(Self(None)),
            Kind::Holdup => {
                let mut command = Command::new(holdup);
                command.stdout(Stdio::null());
                command
                    .args(["record", "--pid", &pid.to_string(), "-d", "1h", "-o"])
                    .arg(dir);
                let mut observer = Self(Some(start(command.stderr(Stdio::piped()))?));
                let stderr = observer.0.as_mut().and_then(|child| child.stderr.take());
                wait_for("recording", stderr.context("holdup has no stderr")?)?;
                Ok(observer)
            }
            Kind::Bpftrace => {
                let mut command = Command::new("bpftrace");
                command.stderr(Stdio::null());
                command.args(["-p", &pid.to_string(), "-e", &script(server.binary())]);
                // Tokio alone has more instances of its poll than bpftrace attaches to by default.
                command.env("BPFTRACE_MAX_PROBES", "4096");
                let mut observer = Self(Some(start(command.stdout(Stdio::piped()))?));
                let stdout = observer.0.as_mut().and_then(|child| child.stdout.take());
                wait_for("tick", stdout.context("bpftrace has no stdout")?)?;
                Ok(observer)
            }
        }
    }

    /// Ends it as a person does, and waits until nothing is attached any more.
    pub fn detach(mut self) -> Result<()> {
        let Some(child) = &mut self.0 else {
            return Ok(());
        };
        interrupt(child)?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the observer did not end within {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Both fail when it is gone, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
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

/// Waits until a line holds the word.
fn wait_for(word: &'static str, output: impl Read + Send + 'static) -> Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    // Reads on to the end, so that the observer never waits for a reader.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains(word) {
                // Nobody listens any more after the first.
                let _ = sender.send(());
            }
        }
    });
    receiver
        .recv_timeout(PATIENCE)
        .with_context(|| format!("the observer never said {word:?}: it did not attach"))
}
