//! `cargo xtask bench`. What enters: which measurement. What leaves: tables of medians with their ranges.

mod assembly;
mod bpf_stats;
mod experiment;
mod footprint;
mod interrupted;
mod line;
mod observer;
pub mod overhead;
mod perf;
mod recorded;
mod scratch;
mod server;
mod spread;
pub mod unwind;
mod walks;
