//! `cargo xtask golden`. What enters: the contention workload and a kernel to record it on. What leaves: a capture of each
//! scenario in the replay tests' folder, and the reports that they give now.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::demo::Target;
use crate::{command, packages, workloads, workspace};

/// Name, the workload's arguments, and holdup's.
const RECORDINGS: [(&str, &[&str], &[&str]); 23] = [
    ("mutex", &["--scenario", "mutex"], &[]),
    ("rwlock", &["--scenario", "rwlock"], &[]),
    ("upgrade", &["--scenario", "upgrade"], &[]),
    ("timed", &["--scenario", "timed"], &[]),
    ("std-mutex", &["--scenario", "std-mutex"], &[]),
    ("std-rwlock", &["--scenario", "std-rwlock"], &[]),
    ("tokio-mutex", &["--scenario", "tokio-mutex"], &[]),
    ("tokio-rwlock", &["--scenario", "tokio-rwlock"], &[]),
    ("tokio-semaphore", &["--scenario", "tokio-semaphore"], &[]),
    (
        "tokio-across-await",
        &["--scenario", "tokio-across-await"],
        &[],
    ),
    (
        "parking-lot-across-await",
        &["--scenario", "parking-lot-across-await"],
        &[],
    ),
    ("std-across-await", &["--scenario", "std-across-await"], &[]),
    (
        "uncontended",
        &["--scenario", "parking-lot-across-await,std-rwlock"],
        &["--uncontended"],
    ),
    (
        "deadlock",
        &["--scenario", "deadlock"],
        &["--stuck-after", "1s"],
    ),
    (
        "std-deadlock",
        &["--scenario", "std-deadlock"],
        &["--stuck-after", "1s"],
    ),
    ("mixed", &["--scenario", "mixed"], &[]),
    ("crypto", &["--scenario", "crypto"], &[]),
    ("sleep", &["--scenario", "sleep"], &[]),
    ("anatomy", &["--scenario", "anatomy"], &[]),
    ("queue", &["--scenario", "queue"], &[]),
    ("callbacks", &["--scenario", "callbacks"], &[]),
    (
        "root",
        &["--scenario", "root,crypto", "--runtime", "current_thread"],
        &[],
    ),
    (
        "spawn-blocking",
        &["--scenario", "spawn-blocking,short"],
        &[],
    ),
];

/// Long enough for each scenario to show itself and for a thread to be stuck, short enough for a capture to be small.
const DURATION: &str = "2500ms";

/// Records those with these names, or all of them.
pub fn run(names: &[String]) -> Result<()> {
    ensure!(packages::is_root(), "recording needs root");
    let is_known = |name: &String| RECORDINGS.iter().any(|(known, ..)| name == known);
    if let Some(name) = names.iter().find(|name| !is_known(name)) {
        bail!("no scenario is called {name}");
    }
    let holdup = workspace::build_holdup()?;
    let contention = workloads::contention()?;
    let dir = workspace::root().join("target/golden");
    // What an earlier run left would be taken over again.
    let _ = std::fs::remove_dir_all(&dir);
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    for (name, scenario, options) in RECORDINGS.into_iter().filter(|(name, ..)| is_wanted(name)) {
        record(&holdup, &contention, &dir, name, scenario, options)
            .with_context(|| format!("could not record {name}"))?;
    }
    command::run(
        workspace::cargo("test")
            .args(["-p", "holdup", "--test", "replay"])
            .env("HOLDUP_GOLDEN_CAPTURES", &dir)
            .env("HOLDUP_WRITE_GOLDEN", "1"),
    )
    .context("the captures could not be taken over")
}

fn record(
    holdup: &Path,
    contention: &Path,
    dir: &Path,
    name: &str,
    scenario: &[&str],
    options: &[&str],
) -> Result<()> {
    let began = Instant::now();
    let mut workload = Command::new(contention);
    workload.args(["--seconds", "30"]).args(scenario);
    let target = Target::start(&mut workload)?;
    // Past the first polls, which build things.
    std::thread::sleep(Duration::from_millis(300));
    let output = dir.join(name);
    command::run(
        Command::new(holdup)
            .args(["record", "--pid", &target.pid().to_string()])
            .args(["-d", DURATION])
            .args(options)
            .arg("-o")
            .arg(&output),
    )?;
    drop(target);
    std::fs::rename(
        output.join("capture.holdup"),
        dir.join(format!("{name}.holdup")),
    )
    .context("there is no capture")?;
    println!("{name}: recorded in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}
