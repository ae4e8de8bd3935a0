//! holdup's recorders: one process for each process that is recorded. A command line goes in; what became of it comes
//! out, as news, because each is waited for on a thread of its own.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::Pid as RawPid;
use tokio::sync::mpsc::UnboundedSender;

use super::programs::FileId;
use crate::event::Pid;

/// What a recorder writes to its stdout, and nothing else, once the recording has begun.
pub const BEGUN: u8 = b'!';

/// The end of what a recorder said that is kept.
const SAID_BYTES: usize = 4096;

/// A recorder under way.
pub struct Recorder {
    /// Whom it records.
    pub pid: Pid,
    /// The name of that program.
    pub name: String,
    /// That program.
    pub file: FileId,
    /// Where it writes to.
    pub folder: PathBuf,
    /// Itself, once it runs.
    pub recorder: Option<RawPid>,
    /// It records, or did.
    pub has_begun: bool,
    /// It was told to end.
    pub was_told: bool,
}

/// What became of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A report was written.
    Recorded,
    /// There was nothing to probe.
    Nothing,
    /// The process was gone before it could be recorded.
    Gone,
    /// It failed: what it said.
    Failed(String),
}

/// What happens to recorders.
#[derive(Debug)]
pub enum News {
    /// It runs.
    Started {
        /// Which.
        number: u64,
        /// Itself.
        recorder: RawPid,
    },
    /// Its probes are in place.
    Recording {
        /// Which.
        number: u64,
    },
    /// It has ended.
    Ended {
        /// Which.
        number: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

impl Recorder {
    /// Whether its process is gone, so that it ends whatever becomes of others.
    pub fn only_writes(&self) -> bool {
        !std::path::Path::new("/proc")
            .join(self.pid.0.to_string())
            .exists()
    }

    /// Starts one, which is known by its number.
    pub fn start(number: u64, mut command: Command, news: UnboundedSender<News>) -> io::Result<()> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the command.
            .process_group(0);
        thread::Builder::new()
            .name("holdup-recorder".to_owned())
            .spawn(move || {
                // Nobody listens any more when holdup is about to end.
                let tell = |what: News| drop(news.send(what));
                let outcome = match command.spawn() {
                    Ok(child) => watch(child, number, &tell),
                    Err(error) => Outcome::Failed(format!("it could not be started: {error}")),
                };
                tell(News::Ended { number, outcome });
            })?;
        Ok(())
    }
}

fn watch(mut child: Child, number: u64, tell: &dyn Fn(News)) -> Outcome {
    let id = i32::try_from(child.id()).ok().and_then(RawPid::from_raw);
    if let Some(recorder) = id {
        tell(News::Started { number, recorder });
    }
    let mut byte = [0];
    if let Some(stdout) = &mut child.stdout
        && stdout.read_exact(&mut byte).is_ok()
        && byte[0] == BEGUN
    {
        tell(News::Recording { number });
    }
    let mut said = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        let mut chunk = [0; SAID_BYTES];
        while let Ok(length @ 1..) = stderr.read(&mut chunk) {
            said.extend_from_slice(&chunk[..length]);
            let extra = said.len().saturating_sub(SAID_BYTES);
            said.drain(..extra);
        }
    }
    let said = || String::from_utf8_lossy(&said).trim().to_owned();
    match child.wait().map(|status| status.code()) {
        Ok(code) => outcome(code, said),
        Err(error) => Outcome::Failed(format!("it could not be waited for: {error}")),
    }
}

/// What holdup's exit codes mean here.
fn outcome(code: Option<i32>, said: impl Fn() -> String) -> Outcome {
    use crate::cli::Exit;
    let is = |exit: Exit| code == Some(i32::from(exit.code()));
    if is(Exit::Ok) || is(Exit::CaptureTruncated) {
        Outcome::Recorded
    } else if is(Exit::NothingToProbe) {
        Outcome::Nothing
    } else if is(Exit::NoProcess) {
        Outcome::Gone
    } else {
        Outcome::Failed(said())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recorder that ended without a reason of its own is a failure, and says what it said.
    #[test]
    fn outcomes() {
        let said = || "no memory".to_owned();
        assert_eq!(outcome(Some(0), said), Outcome::Recorded);
        assert_eq!(outcome(Some(10), said), Outcome::Recorded);
        assert_eq!(outcome(Some(7), said), Outcome::Nothing);
        assert_eq!(outcome(Some(3), said), Outcome::Gone);
        assert_eq!(outcome(Some(5), said), Outcome::Failed(said()));
        assert_eq!(outcome(None, said), Outcome::Failed(said()));
    }
}
