//! A command and its descendants, recorded one by one. What enters: the command, and what to record of each. What
//! leaves: how the command ended, and a folder with a report for each process that had something to probe.
//!
//! ```text
//!   command    exec|held ------------ |runs ................................ ends
//!   kernel         |ProgramStarted    ^SIGCONT
//!   here           |starts a recorder |                                      waits for the recorders, that is all
//!   recorder             attaches     |records ............................. writes
//! ```
//!
//! Each recording is a process of its own, holdup again: several side by side share nothing, one that fails costs
//! itself alone, and the names of one are looked up while the next one begins.
//!
//! A fork that starts no program is not recorded: its probes are its parent's, which look at the parent alone. Such
//! forks are counted.
#![forbid(unsafe_code)]

mod programs;
mod recorder;
mod root;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use thiserror::Error;
use tokio::sync::mpsc;

use crate::event::Pid;
use crate::probe::{ProbeError, Tree, TreeCounts};
use programs::{Programs, Verdict};
use recorder::{News, Recorder};
use root::Root;

pub use recorder::{BEGUN, Outcome};
pub use root::Request;

/// Recorders side by side. Each has a ring buffer, its maps and a process. What starts beyond them is held until one
/// of those that only write by now has ended. Where none does, it runs unseen and is counted: held, it could keep the
/// very process waiting whose end would make room.
const MOST_AT_ONCE: usize = 32;

/// A terminal's signal reaches the command and holdup at about the same time.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Why a command could not be followed.
#[derive(Debug, Error)]
pub enum FollowError {
    /// The kernel side.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The command could not be started.
    #[error("can't start {command}: {source}")]
    Start {
        /// Its name.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("could not wait for {what}: {source}")]
    Wait {
        /// For what.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What to do with the programs that are met.
pub struct Options {
    /// A folder for each recorded process goes in here.
    pub output: PathBuf,
    /// Starts a recorder, but for the process and its folder.
    pub recorder: fn() -> Command,
    /// Arguments that each recorder gets.
    pub arguments: Vec<std::ffi::OsString>,
    /// When to end a command that does not end.
    pub timeout: Option<Duration>,
}

/// One process that had something to probe.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its id.
    pub pid: Pid,
    /// The file name of its program.
    pub name: String,
    /// Its report's folder.
    pub folder: PathBuf,
    /// What came of it.
    pub outcome: Outcome,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Followed {
    /// How.
    pub status: ExitStatus,
    /// It did not end by itself in time.
    pub timed_out: bool,
    /// In the order of their starts.
    pub recorded: Vec<Recorded>,
    /// Programs that ran unseen, because too many were recorded already.
    pub too_many: u64,
    /// What the kernel side counted.
    pub counts: TreeCounts,
}

/// Starts the command and follows it until it has ended and every report is written. The tree is to be watched already,
/// see [`Tree::watch`].
pub async fn follow(
    mut tree: Tree,
    command: &mut Command,
    options: &Options,
    mut requests: mpsc::UnboundedReceiver<Request>,
) -> Result<Followed, FollowError> {
    let failed = |what| move |source| FollowError::Wait { what, source };
    let child = tree.launch(command)?.map_err(|source| FollowError::Start {
        command: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    let (sender, mut news) = mpsc::unbounded_channel();
    let mut follower = Follower {
        tree,
        options,
        programs: Programs::default(),
        recorders: HashMap::new(),
        waiting: VecDeque::new(),
        recorded: Vec::new(),
        too_many: 0,
        news: sender,
    };
    let mut command = Root::new(child).map_err(failed("the command"))?;
    let timeout = options.timeout.map(|timeout| Instant::now() + timeout);
    let mut timed_out = false;
    let status = loop {
        let deadline = timeout.filter(|_| !timed_out);
        tokio::select! {
            ready = follower.tree.readable() => ready.map_err(failed("programs that start"))?,
            Some(news) = news.recv() => follower.learn(news)?,
            Some(request) = requests.recv() => command.ask(request),
            ended = command.ended() => ended.map_err(failed("the command"))?,
            () = sleep_until(deadline), if deadline.is_some() => {
                timed_out = true;
                // First the evidence, then the end.
                follower.end_recordings(&mut news).await?;
                command.end().await;
            }
        }
        follower.look_at_started()?;
        if let Some(status) = command.status().map_err(failed("the command"))? {
            break status;
        }
    };
    let ended = Instant::now();
    follower.tree.stop_holding()?;
    follower.look_at_started()?;
    loop {
        tokio::select! {
            done = follower.end_recordings(&mut news) => {
                done?;
                break;
            }
            // Whoever asks once more does not want to wait; the signal that ended the command is not meant.
            Some(_) = requests.recv() => if ended.elapsed() > SAME_SIGNAL {
                follower.give_up();
                break;
            },
        }
    }
    let counts = follower.tree.counts()?;
    Ok(Followed {
        status,
        timed_out,
        recorded: follower.recorded,
        too_many: follower.too_many,
        counts,
    })
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What is recorded now, and what was.
struct Follower<'a> {
    tree: Tree,
    options: &'a Options,
    programs: Programs,
    /// By number: the same process can become several programs one after the other, and the earlier one's recorder
    /// is writing then.
    recorders: HashMap<u64, Recorder>,
    /// Held until there is room for them.
    waiting: VecDeque<Pid>,
    recorded: Vec<Recorded>,
    too_many: u64,
    news: mpsc::UnboundedSender<News>,
}

impl Follower<'_> {
    /// Every program that is held gets a recorder, waits for one, or is let go.
    fn look_at_started(&mut self) -> Result<(), FollowError> {
        while let Some(pid) = self.tree.take() {
            self.waiting.push_back(pid);
        }
        while let Some(pid) = self.waiting.pop_front() {
            match self.programs.look(pid) {
                Verdict::Nothing => self.tree.let_go(pid)?,
                Verdict::Probe { name, file } if self.recorders.len() < MOST_AT_ONCE => {
                    self.record(pid, name, file)?;
                }
                Verdict::Probe { .. } if self.recorders.values().any(Recorder::only_writes) => {
                    self.waiting.push_front(pid);
                    break;
                }
                Verdict::Probe { .. } => {
                    self.too_many += 1;
                    self.tree.let_go(pid)?;
                }
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        pid: Pid,
        name: String,
        file: programs::FileId,
    ) -> Result<(), FollowError> {
        let taken = |folder: &PathBuf| {
            self.recorded.iter().any(|other| other.folder == *folder)
                || self.recorders.values().any(|other| other.folder == *folder)
        };
        // A process can run the same program twice.
        let base = format!("{name}.{}", pid.0);
        let folder = (1..)
            .map(|n| match n {
                1 => base.clone(),
                n => format!("{base}-{n}"),
            })
            .map(|name| self.options.output.join(name))
            .find(|folder| !taken(folder))
            .unwrap_or_default();
        let mut command = (self.options.recorder)();
        command
            .args(&self.options.arguments)
            .arg("--pid")
            .arg(pid.0.to_string())
            .arg("--output")
            .arg(&folder);
        let number = self.programs.count();
        match Recorder::start(number, command, self.news.clone()) {
            Ok(()) => {
                self.recorders.insert(
                    number,
                    Recorder {
                        pid,
                        name,
                        file,
                        folder,
                        recorder: None,
                        has_begun: false,
                        was_told: false,
                    },
                );
            }
            Err(error) => {
                self.recorded.push(Recorded {
                    pid,
                    name,
                    folder,
                    outcome: Outcome::Failed(format!("no recorder could be started: {error}")),
                });
                self.tree.let_go(pid)?;
            }
        }
        Ok(())
    }

    fn learn(&mut self, news: News) -> Result<(), FollowError> {
        match news {
            News::Started { number, recorder } => {
                if let Some(entry) = self.recorders.get_mut(&number) {
                    entry.recorder = Some(recorder);
                }
            }
            News::Recording { number } => {
                if let Some(entry) = self.recorders.get_mut(&number) {
                    entry.has_begun = true;
                    let pid = entry.pid;
                    self.tree.is_recorded(pid)?;
                    self.tree.let_go(pid)?;
                }
            }
            News::Ended { number, outcome } => {
                let Some(entry) = self.recorders.remove(&number) else {
                    return Ok(());
                };
                // It may have ended without recording.
                self.tree.let_go(entry.pid)?;
                if outcome == Outcome::Nothing {
                    self.programs.has_nothing(entry.file);
                }
                if outcome != Outcome::Recorded {
                    // Empty, or not made at all.
                    let _ = std::fs::remove_dir(&entry.folder);
                }
                if outcome != Outcome::Nothing && outcome != Outcome::Gone {
                    self.recorded.push(Recorded {
                        pid: entry.pid,
                        name: entry.name,
                        folder: entry.folder,
                        outcome,
                    });
                }
            }
        }
        Ok(())
    }

    /// Ends all recorders at once: what they recorded is not reported.
    fn give_up(&mut self) {
        for (_, entry) in self.recorders.drain() {
            if let Some(recorder) = entry.recorder {
                let _ = kill_process(recorder, Signal::KILL);
            }
            self.recorded.push(Recorded {
                pid: entry.pid,
                name: entry.name,
                folder: entry.folder,
                outcome: Outcome::Failed("its report was not waited for".to_owned()),
            });
        }
    }

    /// Waits for all recorders. Those of processes that still run are told to end.
    async fn end_recordings(
        &mut self,
        news: &mut mpsc::UnboundedReceiver<News>,
    ) -> Result<(), FollowError> {
        loop {
            for entry in self.recorders.values_mut() {
                // Before it has begun, a signal would end it at once.
                if let (Some(recorder), true, false) =
                    (entry.recorder, entry.has_begun, entry.was_told)
                {
                    entry.was_told = true;
                    let _ = kill_process(recorder, Signal::INT);
                }
            }
            if self.recorders.is_empty() {
                return Ok(());
            }
            let Some(news) = news.recv().await else {
                return Ok(());
            };
            self.learn(news)?;
            self.look_at_started()?;
        }
    }
}
