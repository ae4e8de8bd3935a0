//! The `holdup` command.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use holdup::cli::{Cli, Exit, say};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    start_log();
    match Cli::parse().run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // One sentence for the person on call, the causes under it; no backtrace of holdup's own.
            let sentence = failure.error.to_string();
            say(&sentence);
            for cause in failure.error.chain().skip(1) {
                let cause = cause.to_string();
                // Many errors say their cause in their own sentence.
                if !sentence.contains(&cause) {
                    say(&format!("  because: {cause}"));
                }
            }
            debug_assert!(failure.exit != Exit::Ok);
            failure.exit.into()
        }
    }
}

/// Warnings to stderr, more with `HOLDUP_LOG=debug`. With the feature `console`, tokio-console can look
/// at holdup itself instead.
fn start_log() {
    #[cfg(feature = "console")]
    if std::env::var_os("HOLDUP_CONSOLE").is_some() {
        console_subscriber::init();
        return;
    }
    let filter = EnvFilter::try_from_env("HOLDUP_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
