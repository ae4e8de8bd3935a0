//! Child processes that must succeed. What enters: a `Command`. What leaves: its output, or an error
//! that says what was run and what it printed.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The command as a person would type it, for messages.
pub fn display(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        let arg = arg.to_string_lossy();
        if arg.is_empty() || arg.contains([' ', '\'', '"', '$', '*', ';', '&', '|']) {
            line.push_str(&format!("'{}'", arg.replace('\'', r"'\''")));
        } else {
            line.push_str(&arg);
        }
    }
    line
}

/// Runs the command with its output visible; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", display(command));
    }
    Ok(())
}

/// Runs the command without showing its output, which is returned (stdout) or put into the error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", display(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}:\n{}{}",
            display(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A cargo of another toolchain must not inherit what the cargo that started xtask told its children:
/// `cargo run` sets RUSTUP_TOOLCHAIN, CARGO and CARGO_PKG_*, and a user's RUSTFLAGS or profile
/// overrides would change the bytes. Where and how to reach the registry stays as the user set it.
pub fn clear_cargo_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if !is_kept(&name) {
            command.env_remove(name);
        }
    }
}

fn is_kept(name: &OsStr) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP",
        "CARGO_NET",
        "CARGO_REGISTR",
        "CARGO_SOURCE",
        "RUSTUP_HOME",
        "RUST_BACKTRACE",
    ];
    let name = name.to_string_lossy();
    let of_cargo = name.starts_with("CARGO") || name.starts_with("RUST");
    !of_cargo || KEPT.iter().any(|kept| name.starts_with(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What would change the bytes is dropped, what reaches the registry is kept.
    #[test]
    fn registry_settings_survive_and_flags_do_not() {
        assert!(is_kept(OsStr::new("CARGO_HTTP_PROXY")));
        assert!(is_kept(OsStr::new("CARGO_REGISTRIES_CRATES_IO_PROTOCOL")));
        assert!(is_kept(OsStr::new("PATH")));
        assert!(!is_kept(OsStr::new("RUSTFLAGS")));
        assert!(!is_kept(OsStr::new("RUSTUP_TOOLCHAIN")));
        assert!(!is_kept(OsStr::new("CARGO_PROFILE_RELEASE_DEBUG")));
    }

    /// A command in a message can be copied into a shell.
    #[test]
    fn displayed_commands_are_quoted() {
        let mut command = Command::new("echo");
        command.args(["a b", "it's", "plain"]);
        assert_eq!(display(&command), r"echo 'a b' 'it'\''s' plain");
    }
}
