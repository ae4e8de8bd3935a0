//! `holdup run`.
//!
//! stdin, stdout and stderr are the command's; what holdup has to say comes on stderr, after the command's end.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::debug::DebugArgs;
use super::doctor::preflight;
use super::output::OutputFolder;
use super::record::{SHORTEST_THRESHOLD, threshold};
use super::report::load_rules;
use super::select::duration;
use super::user::User;
use super::{Exit, Failure, say};
use crate::event::Nanos;
use crate::follow::{self, FollowError, Followed, Options, Outcome, Request};
use crate::gate::{Breach, Limit, breaches};
use crate::probe::{Config, ProbeError, Tree};
use crate::report::{Report, words};
use crate::target::doctor::Host;

/// What to run, and what it may not do.
#[derive(clap::Args)]
pub struct Args {
    /// End with code 11 if this happens in any recorded process; can be given several times. poll>5ms: a poll takes
    /// longer, its time in the run queue not counted. wait>5ms: one wait for a lock takes longer. hold>5ms: a lock is held for
    /// longer. held-across-await: a parking_lot or std lock is; held-across-await=any: Tokio's, too. lock-wait-total>1s: all
    /// lock waits of the threads of a process take longer together. stuck: a thread waits for a lock for ten seconds, or a poll
    /// or a lock wait of a second or more had not ended when the recording did (see --timeout)
    #[arg(long, value_name = "LIMIT")]
    fail_on: Vec<Limit>,
    /// End the command after this time, and report on what it was doing then
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Run the command as this user; by default as who called sudo, or as who runs holdup
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Folder for summary.json and for a folder NAME.PID for each recorded process
    #[arg(long, short, value_name = "DIR", default_value = "holdup-out")]
    output: PathBuf,
    /// A poll of at least this long is a long poll; by default 5ms, or less if a limit is
    #[arg(long, value_parser = threshold)]
    threshold: Option<Duration>,
    /// CPU samples for each second; they cost nothing while no poll is long
    #[arg(long, default_value_t = Config::default().frequency_hz, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// See also locks that nobody waits for, and exactly how long each is held: a probe in every fast path of parking_lot's
    /// and std's locks that debug information tells of, at half a microsecond for each use of a lock
    #[arg(long)]
    uncontended: bool,
    /// Rules (TOML) that class crates, in place of holdup's own
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    debug: DebugArgs,
    /// The command and its arguments, after `--`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What a run comes to, for programs.
#[derive(Serialize)]
struct Summary<'a> {
    schema_version: u32,
    command: Vec<String>,
    /// As a shell has it: 128 and the signal, where one ended it.
    exit_code: u8,
    timed_out: bool,
    limits: Vec<String>,
    breaches: &'a [Breach],
    processes: Vec<ProcessEntry>,
    unseen: Unseen,
}

#[derive(Serialize)]
struct ProcessEntry {
    pid: u32,
    name: String,
    /// In the output folder; None for one that could not be recorded.
    folder: Option<String>,
    /// Why it could not.
    failure: Option<String>,
    /// Events and polls that were lost, and so can't have broken a limit.
    lost_events: u64,
}

/// Programs that ran and could not be seen.
#[derive(Serialize)]
struct Unseen {
    too_many_at_once: u64,
    not_held: u64,
    in_another_pid_namespace: u64,
    descendants_of_unknown: u64,
    forks_of_recorded: u64,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let threshold = self.threshold()?;
        load_rules(self.rules.as_deref())?;
        preflight(&Host::look())?;
        let user = User::choose(self.user.as_deref())?;
        let output = OutputFolder::prepare(&self.output)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("could not start holdup's own event loop")
            .map_err(|error| Failure::new(Exit::Other, error))?;
        let options = Options {
            output: self.output.clone(),
            recorder,
            arguments: self.recorder_arguments(threshold),
            timeout: self.timeout,
        };
        let mut command = match &user {
            Some(user) => user.command(&self.command),
            None => plain_command(&self.command),
        };
        let followed = runtime.block_on(async {
            let requests = requests()
                .context("could not catch signals")
                .map_err(|error| Failure::new(Exit::Other, error))?;
            let tree = Tree::watch().map_err(|error| follow_failure(error.into()))?;
            follow::follow(tree, &mut command, &options, requests)
                .await
                .map_err(follow_failure)
        })?;
        self.conclude(&followed, &output)
    }

    /// What breaks a limit must be long enough to be kept.
    fn threshold(&self) -> Result<Nanos, Failure> {
        let usage = |sentence: String| Failure::new(Exit::Usage, anyhow::anyhow!(sentence));
        let shortest = self.fail_on.iter().filter_map(|limit| limit.shortest());
        let shortest = shortest.min().unwrap_or(Config::default().threshold);
        let fits = Nanos(SHORTEST_THRESHOLD.as_nanos() as u64);
        if shortest < fits {
            return Err(usage(format!(
                "a limit is at least {SHORTEST_THRESHOLD:?}: below it a long poll is an ordinary one"
            )));
        }
        match self.threshold {
            Some(threshold) if threshold.as_nanos() > u128::from(shortest.0) => {
                Err(usage(format!(
                    "with --threshold {threshold:?} nothing as short as a limit of {} is seen",
                    words::duration(shortest)
                )))
            }
            Some(threshold) => Ok(Nanos(threshold.as_nanos() as u64)),
            None => Ok(shortest.min(Config::default().threshold)),
        }
    }

    fn recorder_arguments(&self, threshold: Nanos) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "--threshold".into(),
            format!("{}ns", threshold.0).into(),
            "--frequency".into(),
            self.frequency.to_string().into(),
        ];
        if self.uncontended {
            arguments.push("--uncontended".into());
        }
        if let Some(rules) = &self.rules {
            arguments.extend(["--rules".into(), rules.into()]);
        }
        for dir in self.debug.dirs() {
            arguments.extend(["--debug-dir".into(), dir.into()]);
        }
        arguments
    }

    /// Holds what was recorded against the limits, and says so.
    fn conclude(&self, followed: &Followed, output: &OutputFolder) -> Result<Exit, Failure> {
        let mut broken = Vec::new();
        let mut processes = Vec::new();
        for recorded in &followed.recorded {
            let report = match &recorded.outcome {
                Outcome::Failed(why) => Err(why.clone()),
                _ => read_report(&recorded.folder).map_err(|error| format!("{error:#}")),
            };
            let lost_events = report.as_ref().map_or(0, |report| {
                let coverage = &report.coverage;
                let lost = &coverage.lost;
                lost.long_polls
                    + lost.lock_waits
                    + lost.holds
                    + coverage.lock_waits_not_aggregated
                    + coverage.holds_not_stored
            });
            if let Ok(report) = &report {
                broken.extend(breaches(&self.fail_on, report));
            }
            let folder = recorded.folder.file_name();
            processes.push(ProcessEntry {
                pid: recorded.pid.0,
                name: recorded.name.clone(),
                folder: report
                    .is_ok()
                    .then(|| folder.map(|name| name.to_string_lossy().into_owned()))
                    .flatten(),
                failure: report.err(),
                lost_events,
            });
        }
        let code = exit_code(followed.status);
        let counts = followed.counts;
        let unseen = Unseen {
            too_many_at_once: followed.too_many,
            not_held: counts.not_held,
            in_another_pid_namespace: counts.other_namespace,
            descendants_of_unknown: counts.no_room,
            forks_of_recorded: counts.forks_of_recorded,
        };
        let summary = Summary {
            schema_version: 1,
            command: self
                .command
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            exit_code: code,
            timed_out: followed.timed_out,
            limits: self.fail_on.iter().map(Limit::to_string).collect(),
            breaches: &broken,
            processes,
            unseen,
        };
        self.tell(followed, &summary);
        let mut json = serde_json::to_vec_pretty(&summary)
            .context("can't write the summary")
            .map_err(|error| Failure::new(Exit::Other, error))?;
        json.push(b'\n');
        output.replace("summary.json", &json)?;
        Ok(self.verdict(&summary))
    }

    fn verdict(&self, summary: &Summary) -> Exit {
        let failed = summary.processes.iter().any(|one| one.failure.is_some());
        let recorded = summary.processes.iter().any(|one| one.folder.is_some());
        match summary.exit_code {
            _ if !summary.breaches.is_empty() => Exit::LimitBroken,
            0 if summary.timed_out => Exit::Other,
            // A gate that saw nothing must not let anything pass.
            0 if !self.fail_on.is_empty() && failed => Exit::Other,
            0 if !self.fail_on.is_empty() && !recorded => Exit::NothingToProbe,
            code => Exit::Command(code),
        }
    }

    fn tell(&self, followed: &Followed, summary: &Summary) {
        let program = self.command.first().map(|word| word.to_string_lossy());
        let program = program.unwrap_or_default();
        if followed.timed_out {
            say(&format!("{program} did not end in time and was ended"));
        }
        let recorded = summary
            .processes
            .iter()
            .filter(|one| one.folder.is_some())
            .count();
        say(&format!(
            "{program} ended with code {}; of {} that it started, {} recorded: {}",
            summary.exit_code,
            words::count(followed.counts.held, "program"),
            match recorded {
                0 => "none was".to_owned(),
                1 => "1 was".to_owned(),
                n => format!("{n} were"),
            },
            self.output.display()
        ));
        for one in &summary.processes {
            if let Some(why) = &one.failure {
                say(&format!(
                    "{} (pid {}) could not be recorded: {why}",
                    one.name, one.pid
                ));
            }
            if one.lost_events > 0 {
                say(&format!(
                    "{} (pid {}): {} lost, which can hide a broken limit",
                    one.name,
                    one.pid,
                    words::count(one.lost_events, "event")
                ));
            }
        }
        let unseen = &summary.unseen;
        for (count, why) in [
            (unseen.too_many_at_once, "because too many ran at once"),
            (unseen.not_held, "because they could not be held"),
            (
                unseen.in_another_pid_namespace,
                "because they are in another PID namespace",
            ),
            (
                unseen.descendants_of_unknown,
                "because the tree of processes has no room for them",
            ),
            (
                unseen.forks_of_recorded,
                "because they were forked off a recorded one and run its program",
            ),
        ] {
            if count > 0 {
                say(&format!(
                    "{} ran unseen, {why}",
                    words::count(count, "process")
                ));
            }
        }
        for breach in summary.breaches {
            say(&format!(
                "LIMIT BROKEN {}: {} (pid {}): {}",
                breach.limit, breach.process, breach.pid, breach.sentence
            ));
            if let Some(place) = &breach.place {
                say(&format!("    at {place}"));
            }
        }
        if !self.fail_on.is_empty() && summary.breaches.is_empty() {
            if recorded == 0 {
                say("no process had anything to probe: the limits were held against nothing");
            } else {
                say(&format!("no limit broken: {}", summary.limits.join(", ")));
            }
        }
    }
}

/// holdup again, whatever lies at its path by now.
fn recorder() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("record-followed");
    command
}

fn plain_command(words: &[OsString]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or_else(OsString::new, OsString::clone));
    command.args(words);
    command
}

/// Signals from now on. What the terminal sends goes to the command as well; the others are passed on.
fn requests() -> std::io::Result<mpsc::UnboundedReceiver<Request>> {
    let (sender, requests) = mpsc::unbounded_channel();
    for (kind, request) in [
        (SignalKind::interrupt(), Request::Interrupted),
        (SignalKind::quit(), Request::Interrupted),
        (SignalKind::hangup(), Request::Forward(libc::SIGHUP)),
        (SignalKind::terminate(), Request::Forward(libc::SIGTERM)),
    ] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() && sender.send(request).is_ok() {}
        });
    }
    Ok(requests)
}

fn read_report(folder: &Path) -> anyhow::Result<Report> {
    let path = folder.join("report.json");
    let file = File::open(&path).with_context(|| format!("can't read {}", path.display()))?;
    serde_json::from_reader(std::io::BufReader::new(file))
        .with_context(|| format!("can't understand {}", path.display()))
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn follow_failure(error: FollowError) -> Failure {
    let exit = match &error {
        FollowError::Probe(ProbeError::Permission { .. }) => Exit::Permission,
        FollowError::Probe(ProbeError::Kernel { .. } | ProbeError::Verifier { .. }) => Exit::Kernel,
        // As shells have it.
        FollowError::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Exit::Command(127)
        }
        FollowError::Start { .. } => Exit::Command(126),
        _ => Exit::Other,
    };
    Failure::new(exit, error)
}
