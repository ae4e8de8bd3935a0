//! holdup on the running kernel, attached to programs with known answers. What enters: the programs, whose
//! paths `cargo xtask test` passes in the environment. What leaves: the verdict on the whole way from
//! the probe to the sentence, and on what holdup does to its target.
//!
//! Each test is ignored in a plain `cargo test`, because it needs root, a kernel to itself while it measures,
//! and the programs. One that is run and lacks any of these fails.

mod accounting;
mod audit;
mod behaviour;
mod binaries;
mod captures;
mod citadel;
mod console;
mod debug_files;
mod exit_code;
mod findings;
mod holdup;
mod interruptions;
mod kernel;
mod processes;
mod report;
mod run;
mod runtimes;
mod stacks;
mod stuck;
mod workload;
