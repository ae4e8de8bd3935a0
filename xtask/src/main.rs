//! The project's own commands. What enters: the command line. What leaves: a call to the file of the
//! same name, which does the work.
#![forbid(unsafe_code)]

mod cache;
mod command;
mod ebpf;
mod packages;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Ebpf { check, install } => ebpf::run(&ebpf::Options { check, install }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
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
