//! As whom a command runs: holdup needs root, and what it runs mostly should not have it.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Context as _;

use super::{Exit, Failure};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    group: String,
    home: String,
}

impl User {
    /// The one that is named, else the one who called sudo, else None: nobody else.
    pub fn choose(named: Option<&str>) -> Result<Option<User>, Failure> {
        let called_sudo = || {
            let is_root = rustix::process::geteuid().is_root();
            std::env::var("SUDO_USER").ok().filter(|_| is_root)
        };
        let Some(name) = named.map(str::to_owned).or_else(called_sudo) else {
            return Ok(None);
        };
        User::find(&name)
            .map(Some)
            .map_err(|error| Failure::new(Exit::Usage, error))
    }

    /// By the system's own look-up, which knows more places than `/etc/passwd`.
    fn find(name: &str) -> anyhow::Result<User> {
        let found = Command::new("getent")
            .args(["passwd", name])
            .output()
            .context("could not look up users with getent")?;
        let line = String::from_utf8_lossy(&found.stdout);
        User::of_line(line.trim()).with_context(|| format!("there is no user {name:?}"))
    }

    /// `name:password:uid:gid:comment:home:shell`.
    fn of_line(line: &str) -> Option<User> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, _, group, _, home, _] = fields[..] else {
            return None;
        };
        Some(User {
            name: name.to_owned(),
            group: group.to_owned(),
            home: home.to_owned(),
        })
    }

    /// A command that becomes this user's.
    pub fn command(&self, words: &[OsString]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &self.name, "--regid", &self.group])
            .args(["--init-groups", "--inh-caps=-all", "--"])
            .args(words)
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of the users' database.
    #[test]
    fn users_are_found() {
        let user = User::of_line("alice:x:1000:1001:Alice,,,:/home/alice:/bin/sh");
        let alice = User {
            name: "alice".to_owned(),
            group: "1001".to_owned(),
            home: "/home/alice".to_owned(),
        };
        assert_eq!(user, Some(alice));
        assert_eq!(User::of_line(""), None);
        assert!(User::find("root").is_ok());
        assert!(User::find("no-such-user").is_err());
    }
}
