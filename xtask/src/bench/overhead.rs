//! `cargo xtask bench overhead`. What enters: how many rounds of how long windows. What leaves: what being
//! observed costs a server, in CPU time for each request.

use std::process::Command;

use anyhow::{Result, ensure};

use super::experiment::Experiment;
use super::interrupted::Interrupted;
use super::observer::Kind;
use super::scratch::Scratch;
use super::server::Server;
use crate::workloads::Flavour;
use crate::{command, packages, workspace};

/// What `cargo xtask bench overhead` was asked for.
pub struct Options {
    pub rounds: u32,
    pub seconds: u64,
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
    let mut kinds = vec![Kind::Nothing, Kind::HOLDUP];
    if command::output(Command::new("bpftrace").arg("--version")).is_ok() {
        kinds.push(Kind::Bpftrace);
    } else {
        println!("bpftrace is not installed: measured without it");
    }

    let scratch = Scratch::new()?;
    let experiment = Experiment {
        rounds: options.rounds,
        seconds: options.seconds,
        kinds: &kinds,
        holdup: &holdup,
        dir: scratch.dir(),
        interrupted: &interrupted,
    };
    let measure = |name: &str, mut server: Server| -> Result<()> {
        experiment.warm_up(&mut server)?;
        println!(
            "\n{name}: {} rounds of {} s windows, CPU time of the server (user + system) for each request",
            options.rounds, options.seconds
        );
        println!("{}", experiment.measure(&mut server)?);
        Ok(())
    };
    measure("echo server at full rate", Server::echo(Flavour::Release)?)?;
    measure("Citadel server", Server::citadel(Flavour::FatLto)?)
}
