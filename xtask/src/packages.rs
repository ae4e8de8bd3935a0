//! System packages. What enters: names of Debian packages. What leaves: the same, installed, or an
//! error that says what to type.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::command;

/// Whether xtask runs with root's rights.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command with root's rights: itself when root, else through sudo.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Whether `as_root` works without asking anybody: root, or a sudo that needs no password.
pub fn root_is_reachable() -> bool {
    is_root()
        || Command::new("sudo")
            .args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// Which of these packages dpkg does not have.
fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages
        .iter()
        .copied()
        .filter(|package| {
            let query = command::output(Command::new("dpkg-query").args([
                "--show",
                "--showformat=${Status}",
                package,
            ]));
            !query.is_ok_and(|status| status == "install ok installed")
        })
        .collect()
}

/// Installs those of the packages that are missing; does nothing, and needs nothing, when none is.
pub fn install(packages: &[&str], what_for: &str) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "{what_for} needs these Debian packages or their like, and this system has no apt to install them: {}",
            packages.join(" ")
        );
    }
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    if !root_is_reachable() {
        bail!(
            "{what_for} needs packages that only root can install:\n  sudo apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    eprintln!("installing for {what_for}: {}", missing.join(" "));
    command::output(as_root("apt-get").args(["update", "--quiet"]))?;
    command::output(
        as_root("env")
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install"])
            .args(["--yes", "--quiet", "--no-install-recommends"])
            .args(&missing),
    )?;
    Ok(())
}
