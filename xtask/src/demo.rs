//! `cargo xtask demo`. What enters: a machine with Rust. What leaves: `holdup-demo/`, with the flamegraphs and the
//! report of a program that holds its runtime up.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{command, packages, workloads, workspace};

const SECONDS: u32 = 10;

/// Builds, starts, attaches, records, and says where to look.
pub fn run() -> Result<()> {
    println!(
        "building holdup and the contention workload (minutes the first time, seconds after that)"
    );
    let holdup = workspace::build_holdup()?;
    let contention = workloads::contention()?;
    let dir = workspace::root().join("holdup-demo");
    // Made by the user, so that the user can remove what root writes into it.
    fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;

    let target = Target::start(Command::new(&contention).args(["--seconds", "120"]))?;
    println!("started {} with pid {}", contention.display(), target.pid());
    // Ctrl-C reaches holdup too, which ends the recording early and writes everything; then it is our turn.
    signal_hook::flag::register(
        signal_hook::consts::SIGINT,
        Arc::new(AtomicBool::new(false)),
    )
    .context("could not catch Ctrl-C")?;
    if !packages::is_root() {
        println!(
            "attaching loads programs into the kernel, which needs root: sudo may ask for your password"
        );
    }
    let mut record = packages::as_root(holdup.to_str().context("the path of holdup is not UTF-8")?);
    record
        .args([
            "record",
            "--pid",
            &target.pid().to_string(),
            "-d",
            &format!("{SECONDS}s"),
            "-o",
        ])
        .arg(&dir);
    println!("+ {}\n", command::display(&record));
    // sudo reads the password from the terminal itself.
    let status = record
        .stdin(Stdio::null())
        .status()
        .context("could not start holdup")?;
    drop(target);
    ensure!(status.success(), "holdup ended with {status}");

    println!("\nin {}:", dir.display());
    let descriptions = [
        (
            "blocking.svg",
            "what blocked the runtime; open it in a browser",
        ),
        ("lockwait.svg", "who waited for which lock"),
        ("lockholder.svg", "who held it meanwhile"),
        ("lockpairs.svg", "both"),
        ("oncpu.svg", "what all CPU time went into"),
        ("timeline.svg", "what each thread did when"),
        ("report.json", "all of it, for programs"),
        (
            "capture.holdup",
            "all that was recorded; `holdup report` makes the others from it",
        ),
    ];
    for (name, what) in descriptions {
        println!("  {name:<15} {what}");
    }
    Ok(())
}

/// The program that gets profiled; it runs as the user, and ends with its handle.
pub struct Target {
    child: Child,
    /// Kept open: what it says later is read by nobody, and must not fail.
    stdout: BufReader<ChildStdout>,
}

impl Target {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start `{}`", command::display(command)))?;
        let stdout = child.stdout.take().context("a child has no stdout")?;
        let mut target = Self {
            child,
            stdout: BufReader::new(stdout),
        };
        for line in target.stdout.by_ref().lines() {
            let line = line.context("could not read what the workload says")?;
            if line.starts_with("ready") {
                return Ok(target);
            }
        }
        bail!("the workload did not start")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Both fail when it has ended by itself, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
