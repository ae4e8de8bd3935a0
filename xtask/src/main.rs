//! The project's own commands. What enters: the command line. What leaves: a call to the file of the
//! same name, which does the work.
#![forbid(unsafe_code)]

mod bench;
mod cache;
mod citadel;
mod command;
mod compare;
mod demo;
mod ebpf;
mod fuzz;
mod golden;
mod packages;
mod reported;
mod task_types;
mod test;
mod toolchain;
mod truth;
mod workloads;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::workloads::{Flavour, Workload};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Rebuild the eBPF object that is checked in beside the code that loads it
    Ebpf {
        /// Change nothing; fail if the checked-in object is not what the sources build
        #[arg(long)]
        check: bool,
        /// Install what is missing even when not root (through sudo)
        #[arg(long)]
        install: bool,
    },
    /// Run the tests; installs what they need
    Test {
        /// Run this suite and no other (may be repeated)
        #[arg(long, value_name = "SUITE")]
        only: Vec<test::Suite>,
        /// Leave this suite out (may be repeated)
        #[arg(long, value_name = "SUITE")]
        skip: Vec<test::Suite>,
    },
    /// Feed what parses the target's files with what no compiler writes
    Fuzz {
        /// Which parsers; all when not given
        target: Vec<String>,
        /// How long each of them is tried
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Attach holdup to a program that holds its runtime up, and see what it finds
    Demo,
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
    /// Compare what a workload did with what holdup reported, and print the figures
    Compare {
        /// The truth that the workload wrote
        truth: PathBuf,
        /// The folder that holdup recorded into
        dir: PathBuf,
        /// Leave out what can't be seen as well on a machine with more to do than CPUs: compare long polls, what they are made of,
        /// and who is charged with lock waits
        #[arg(long)]
        overcommitted: bool,
    },
    /// Compare what console-subscriber said of the contention workload with what holdup reported, and print the figures
    CompareConsole {
        /// What console-reader wrote
        file: PathBuf,
        /// The folder that holdup recorded into
        dir: PathBuf,
    },
    /// Record the scenarios of the contention workload anew for the replay tests; needs root
    Golden {
        /// These alone; all, where none is named
        names: Vec<String>,
    },
    /// Build the Citadel server and its load driver, once, and say where they are
    Citadel {
        #[arg(long, value_enum, default_value_t = Flavour::Shipped)]
        flavour: Flavour,
        /// Run the server under load for so many seconds
        #[arg(long, value_name = "SECONDS")]
        run: Option<u64>,
        #[arg(long, default_value_t = 4)]
        clients: u64,
    },
    /// Build one of the programs that get profiled, once, and print the paths of its binaries
    Workload {
        workload: Workload,
        #[arg(long, value_enum, default_value_t = Flavour::Release)]
        flavour: Flavour,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// What being attached to costs a server, in CPU time for each request; needs root
    Overhead {
        /// How many times each kind of window is measured
        #[arg(long, default_value_t = 7)]
        rounds: u32,
        /// Length of a window
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// What whole stacks cost in the kernel, in memory and in the target, beside perf's; needs root
    Unwind {
        /// How many times each kind of window is measured
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Length of a window
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Ebpf { check, install } => {
            ebpf::run(&ebpf::Options { check, install }).map(|()| ExitCode::SUCCESS)
        }
        Command::Test { only, skip } => test::run(&test::Options { only, skip }),
        Command::Fuzz { target, seconds } => {
            let options = fuzz::Options {
                targets: target,
                each: Duration::from_secs(seconds),
            };
            fuzz::run(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Demo => demo::run().map(|()| ExitCode::SUCCESS),
        Command::Bench(Bench::Overhead { rounds, seconds }) => {
            let options = bench::overhead::Options { rounds, seconds };
            bench::overhead::run(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Bench(Bench::Unwind { rounds, seconds }) => {
            let options = bench::unwind::Options { rounds, seconds };
            bench::unwind::run(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Golden { names } => golden::run(&names).map(|()| ExitCode::SUCCESS),
        Command::Compare {
            truth,
            dir,
            overcommitted,
        } => compare::run(&truth, &dir, overcommitted),
        Command::CompareConsole { file, dir } => compare::console::run(&file, &dir),
        Command::Citadel {
            flavour,
            run,
            clients,
        } => {
            let options = citadel::Options {
                flavour,
                run_seconds: run,
                clients,
            };
            citadel::run(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Workload { workload, flavour } => {
            workloads::run(workload, flavour).map(|()| ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // Not anyhow's Debug form: whoever reads this needs the causes, not xtask's backtrace.
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
