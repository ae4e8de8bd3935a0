//! `cargo xtask bench`. What enters: which measurement. What leaves: a table of medians with their ranges.

mod bpf_stats;
mod observer;
pub mod overhead;
mod perf;
mod server;
pub mod unwind;
