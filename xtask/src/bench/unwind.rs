//! `cargo xtask bench unwind`. What enters: how many rounds of how long windows. What leaves: what whole stacks cost, and
//! what they are worth: in the kernel, in memory, in the target, beside `perf record --call-graph dwarf`.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::experiment::Experiment;
use super::interrupted::Interrupted;
use super::observer::{FREQUENCY_HZ, Kind};
use super::recorded::Tables;
use super::scratch::Scratch;
use super::server::Server;
use super::{assembly, footprint, walks};
use crate::workloads::{Flavour, Workload, build_one};
use crate::{packages, workspace};

/// What `cargo xtask bench unwind` was asked for.
pub struct Options {
    pub rounds: u32,
    /// Length of a window.
    pub seconds: u64,
}

/// Nobody attaches for the first time in less.
const TABLES_LIMIT_SECONDS: f64 = 1.0;

/// Side by side. perf samples all of the target, holdup only what is in old polls.
const OBSERVERS: [Kind; 4] = [
    Kind::Nothing,
    Kind::HOLDUP,
    Kind::HOLDUP_EVERY_POLL,
    Kind::Perf,
];

/// Measures it all, one after the other, and prints tables.
pub fn run(options: &Options) -> Result<()> {
    let Options { rounds, seconds } = *options;
    ensure!(packages::is_root(), "attaching to the kernel needs root");
    ensure!(
        rounds > 0 && seconds > 0,
        "nothing can be measured in no time"
    );
    packages::install(&["bpftool"], "the kernel's statistics")?;
    packages::install(&["linux-perf"], "the comparison with perf")?;
    let interrupted = Interrupted::new()?;
    let holdup = workspace::build_holdup()?;
    // As people ship: none of them has frame pointers.
    let contention = build_one(Workload::Contention, Flavour::Release)?.binary("contention");
    build_one(Workload::Echo, Flavour::Release)?;
    build_one(Workload::Citadel, Flavour::FatLto)?;
    let scratch = Scratch::new()?;
    print_load()?;

    println!("\n## In the kernel: each frame and each stack\n");
    println!(
        "{rounds} recordings of {seconds} s of each workload (release, no frame pointers); times from kernel.bpf_stats\n"
    );
    let of_contention = walks::run(&walks::Experiment {
        rounds,
        seconds,
        holdup: &holdup,
        contention: contention.clone(),
        dir: scratch.dir(),
        interrupted: &interrupted,
    })?;

    println!("\n## Samples in blake3's assembly, which has no unwind information\n");
    assembly::run(&contention, &holdup, 3 * seconds, scratch.dir())?;

    let experiment = Experiment {
        rounds,
        seconds,
        kinds: &OBSERVERS,
        holdup: &holdup,
        dir: scratch.dir(),
        interrupted: &interrupted,
    };
    let mut citadel = Server::citadel(Flavour::FatLto)?;
    experiment.warm_up(&mut citadel)?;
    print_slowdown(&experiment, "Citadel server (fat LTO)", &mut citadel)?;
    println!(
        "\n## holdup itself, while it records that server for {} s\n",
        footprint::SECONDS
    );
    let of_citadel = footprint::run(&citadel, &holdup, scratch.dir(), &interrupted)?;
    let citadel_binary = citadel.binary().to_owned();
    drop(citadel);

    let mut echo = Server::echo(Flavour::Release)?;
    experiment.warm_up(&mut echo)?;
    print_slowdown(&experiment, "echo server at full rate (release)", &mut echo)?;
    drop(echo);

    println!("\n## Unwind tables\n");
    println!(
        "of all files that the process maps; `.eh_frame` is what they are made from, and `took` is until the kernel has them\n"
    );
    println!(
        "| process | its binary | files | .eh_frame | rows | rules | kernel memory | for each MB of .eh_frame | took | for each MB of .eh_frame |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    print_tables("contention", &contention, &of_contention)?;
    print_tables("Citadel server", &citadel_binary, &of_citadel)?;
    println!(
        "\nlimit for the Citadel server: {TABLES_LIMIT_SECONDS} s, {}",
        if of_citadel.took.as_secs_f64() < TABLES_LIMIT_SECONDS {
            "kept"
        } else {
            "EXCEEDED"
        }
    );
    print_load()
}

/// Whoever else uses this machine is in the figures.
fn print_load() -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let averages: Vec<&str> = load.split(' ').take(3).collect();
    let cpus = std::thread::available_parallelism()?;
    println!(
        "\nload of this machine in the last 1, 5 and 15 minutes: {}; CPUs: {cpus}",
        averages.join(", ")
    );
    Ok(())
}

fn print_slowdown(experiment: &Experiment<'_>, name: &str, server: &mut Server) -> Result<()> {
    println!("\n## What the target pays: {name}\n");
    println!(
        "{} rounds of {} s windows on one server lifetime, each between two unobserved ones; CPU time of the server \
         (user + system) for each request; all sample at {FREQUENCY_HZ} Hz\n",
        experiment.rounds, experiment.seconds
    );
    println!("{}", experiment.measure(server)?);
    Ok(())
}

fn print_tables(name: &str, binary: &Path, tables: &Tables) -> Result<()> {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let Tables {
        files,
        rows,
        rules,
        bytes,
        source_bytes,
        took,
    } = *tables;
    let PerMegabyte { ms, megabytes } = PerMegabyte::of(tables);
    println!(
        "| {name} | {:.1} MB | {files} | {:.3} MB | {rows} | {rules} | {:.3} MB | {megabytes:.2} MB | {:.1} ms | {ms:.1} ms |",
        mb(fs::metadata(binary)?.len()),
        mb(source_bytes),
        mb(bytes),
        took.as_secs_f64() * 1e3,
    );
    Ok(())
}

/// What a megabyte (10^6 bytes) of call frame information costs.
struct PerMegabyte {
    ms: f64,
    megabytes: f64,
}

impl PerMegabyte {
    fn of(tables: &Tables) -> Self {
        let source_megabytes = tables.source_bytes as f64 / 1e6;
        Self {
            ms: tables.took.as_secs_f64() * 1e3 / source_megabytes,
            megabytes: tables.bytes as f64 / 1e6 / source_megabytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Half a megabyte that took 20 ms: 40 ms for each.
    #[test]
    fn tables_are_measured_against_their_source() {
        let each = PerMegabyte::of(&Tables {
            files: 1,
            rows: 1,
            rules: 1,
            bytes: 1_000_000,
            source_bytes: 500_000,
            took: Duration::from_millis(20),
        });
        assert!((each.ms - 40.0).abs() < 1e-9);
        assert!((each.megabytes - 2.0).abs() < 1e-9);
    }
}
