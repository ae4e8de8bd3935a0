//! Where this checkout and its builds are.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command;

/// The root of the checkout that `cargo xtask` was called in.
///
/// Read when run, not when compiled: checkouts may share one target folder, and with it one xtask
/// binary.
pub fn root() -> PathBuf {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest_dir
        .parent()
        .map_or_else(|| manifest_dir.clone(), PathBuf::from)
}

/// The folder that cargo builds the workspace into.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        // Cargo reads a relative one against the folder it is called in.
        Some(dir) => env::current_dir().map_or_else(|_| PathBuf::from(&dir), |cwd| cwd.join(&dir)),
        None => root().join("target"),
    }
}

/// The cargo that started xtask, in this checkout, with what Cargo.lock says.
pub fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).arg(subcommand);
    // fmt resolves nothing.
    if subcommand != "fmt" {
        cargo.arg("--locked");
    }
    cargo
}

/// Builds holdup as users run it: optimized. Gives back its path.
pub fn build_holdup() -> Result<PathBuf> {
    command::run(cargo("build").args(["--release", "--package", "holdup", "--bin", "holdup"]))?;
    Ok(target_dir().join("release/holdup"))
}
