//! A workload with known answers: see README.md for its scenarios and for the truth it writes.

mod accounts;
mod across_await;
mod callbacks;
#[cfg(feature = "console")]
mod console;
mod cues;
mod deadlock;
mod handshake;
mod locks;
mod pace;
mod parts;
mod queue;
mod root;
mod routes;
mod scenarios;
mod seccomp;
mod second;
mod sessions;
mod stacks;
mod stock;
mod task;
mod truth;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::task::LocalSet;

use cues::Cues;
use scenarios::{Scenario, Started};
use truth::TruthFile;

#[derive(Parser)]
#[command(about = "Holds its runtime up in known ways and writes down what it did")]
struct Args {
    /// Which scenarios; when not given, all that the runtime can do, but for `stacks` and the deadlocks
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// A light load instead of the scenarios: nothing to be found
    #[arg(long, conflicts_with = "scenario")]
    quiet: bool,
    #[arg(long, value_enum, default_value_t = RuntimeKind::MultiThread)]
    runtime: RuntimeKind,
    /// Worker threads of the multi_thread runtime
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Ends after so many seconds at the latest
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write what really happened, as JSON lines
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Also let tasks panic, and print whether tokio caught it
    #[arg(long)]
    panic: bool,
    /// Also take backtraces inside a poll: prints how far each one reaches, leaves the last one in the file
    #[arg(long, value_name = "FILE")]
    backtrace: Option<PathBuf>,
    /// Run under a seccomp filter (that forbids nothing of use)
    #[arg(long)]
    seccomp: bool,
    /// Exit abruptly after so many seconds, polls and lock waits under way or not
    #[arg(long, value_name = "SECONDS")]
    exit_after: Option<f64>,
    /// Replace itself by its quiet self after so many seconds (exec)
    #[arg(long, value_name = "SECONDS")]
    exec_after: Option<f64>,
    /// A second multi_thread runtime beside, with two workers
    #[arg(long)]
    second_runtime: bool,
    /// When the scenario `stacks` loads its library
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    plugin_after: f64,
    /// When the threads of a deadlock scenario take their locks; of several, each so much later than the one before
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    deadlock_after: f64,
    /// Starts at a first SIGUSR1, stops at a second one, and stays until it is ended: whoever attaches before the first
    /// and leaves after `finished` sees every poll of every task
    #[arg(long)]
    by_signal: bool,
    /// Let console-subscriber watch, and answer at this socket; there is no truth then
    #[cfg(feature = "console")]
    #[arg(long, value_name = "SOCKET", conflicts_with = "truth")]
    console: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum RuntimeKind {
    MultiThread,
    CurrentThread,
    LocalSet,
}

impl Args {
    fn scenarios(&self) -> Vec<Scenario> {
        let usual: Vec<Scenario>;
        let asked = if self.scenario.is_empty() {
            usual = Scenario::value_variants()
                .iter()
                .copied()
                .filter(|scenario| scenario.is_usual())
                .collect();
            &usual
        } else {
            &self.scenario
        };
        let possible = |scenario: &Scenario| {
            !scenario.needs_multi_thread() || self.runtime == RuntimeKind::MultiThread
        };
        if self.quiet {
            Vec::new()
        } else {
            asked.iter().copied().filter(possible).collect()
        }
    }

    fn create_truth(&self, scenarios: &[Scenario]) -> std::io::Result<Option<TruthFile>> {
        let Some(path) = &self.truth else {
            return Ok(None);
        };
        let meta = json!({
            "kind": "meta", "version": 1, "pid": std::process::id(), "clock": "CLOCK_MONOTONIC", "start_ns": truth::now(),
            "runtime": value_name(self.runtime), "workers": self.workers, "seed": self.seed, "quiet": self.quiet,
            "scenarios": scenarios.iter().map(|scenario| value_name(*scenario)).collect::<Vec<_>>(),
            "poll_floor_ns": truth::POLL_FLOOR_NS, "wait_floor_ns": truth::WAIT_FLOOR_NS,
            "hold_floor_ns": truth::HOLD_FLOOR_NS,
        });
        let mut locks = accounts::lines().to_vec();
        locks.extend(routes::lines());
        locks.extend(stock::lines());
        locks.extend(sessions::lines());
        locks.extend(across_await::lines());
        locks.extend(parts::lines());
        TruthFile::create(path, &meta, &locks).map(Some)
    }
}

fn value_name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// Why the process ends.
enum Ending {
    /// Time is up, SIGTERM or SIGINT: let everything finish.
    Graceful(&'static str),
    Exit,
    Exec {
        remaining: Duration,
    },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    truth::reserve(args.seconds.ceil() as u64);
    // Before any other thread exists: each thread inherits the filter.
    if args.seccomp {
        seccomp::install()?;
    }
    #[cfg(feature = "console")]
    if let Some(socket) = &args.console {
        console::listen(socket);
    }
    let scenarios = args.scenarios();
    let truth = args.create_truth(&scenarios)?;

    let cues = Arc::new(Cues::new(args.by_signal));
    let ended = thread::Builder::new().name("control".to_owned()).spawn({
        let (cues, deadlines) = (Arc::clone(&cues), Deadlines::new(&args));
        let signals = cues::Signals::register(args.by_signal)?;
        let runtime = args.runtime;
        move || control(&signals, &deadlines, runtime, truth, &cues)
    })?;

    if args.runtime == RuntimeKind::LocalSet {
        task::use_local_set();
    }
    let workers = args.workers;
    let runtime = match args.runtime {
        RuntimeKind::MultiThread => {
            task::runtime(tokio::runtime::Builder::new_multi_thread().worker_threads(workers))?
        }
        RuntimeKind::CurrentThread | RuntimeKind::LocalSet => {
            register_thread();
            task::runtime(&mut tokio::runtime::Builder::new_current_thread())?
        }
    };
    let local = (args.runtime == RuntimeKind::LocalSet).then(LocalSet::new);
    let second = args.second_runtime.then(second::start).transpose()?;
    let program = run(args, scenarios, cues);
    match &local {
        Some(local) => local.block_on(&runtime, program),
        None => runtime.block_on(program),
    }
    drop(local);
    drop(runtime);
    drop(second);
    let (truth, reason) = ended.join().map_err(|_| "the control thread panicked")?;
    if let Some(truth) = truth {
        truth.finish(reason)?;
    }
    println!("ended reason={reason}");
    Ok(())
}

/// Whatever is to be there before a thread's first poll.
fn register_thread() {
    truth::register_thread();
    parts::register_thread();
}

/// The main future, which is no task: it starts everything and waits for the end.
async fn run(args: Args, scenarios: Vec<Scenario>, cues: Arc<Cues>) {
    if args.by_signal {
        println!("waiting pid={}", std::process::id());
    }
    cues.start.notified().await;
    let mut started = Started::new(
        args.seed,
        Duration::from_secs_f64(args.plugin_after),
        Duration::from_secs_f64(args.deadlock_after),
    );
    if scenarios.contains(&Scenario::Stacks) {
        println!(
            "return-probe-marker addr={:#x}",
            stacks::return_probe_marker()
        );
    }
    let is_at_work = scenarios.contains(&Scenario::Root);
    for scenario in scenarios {
        started.start(scenario);
    }
    if args.quiet {
        started.start_quiet();
    }
    if args.panic {
        started.start_panics();
    }
    if let Some(file) = args.backtrace {
        started.start_backtraces(file);
    }
    println!("ready pid={}", std::process::id());
    if !is_at_work {
        cues.stop.notified().await;
    } else if args.runtime == RuntimeKind::MultiThread {
        // Its thread is none of the runtime's.
        root::serve(&cues.stop, fastrand::Rng::with_seed(args.seed)).await;
    } else {
        task::measured(
            "serve",
            root::serve(&cues.stop, fastrand::Rng::with_seed(args.seed)),
        )
        .await;
    }
    pace::stop();
    started.finish().await;
    if args.by_signal {
        println!("finished");
    }
    cues.leave.notified().await;
}

struct Deadlines {
    end: Instant,
    exit: Option<Instant>,
    exec: Option<Instant>,
}

impl Deadlines {
    fn new(args: &Args) -> Self {
        let now = Instant::now();
        let after = |seconds: f64| now + Duration::from_secs_f64(seconds);
        Self {
            end: after(args.seconds),
            exit: args.exit_after.map(after),
            exec: args.exec_after.map(after),
        }
    }

    /// What is to be done at this moment.
    fn due(&self) -> Option<Ending> {
        let now = Instant::now();
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
        if passed(self.exec) {
            Some(Ending::Exec {
                remaining: self.end.saturating_duration_since(now),
            })
        } else if passed(self.exit) {
            Some(Ending::Exit)
        } else if passed(Some(self.end)) {
            Some(Ending::Graceful("seconds"))
        } else {
            None
        }
    }
}

/// The thread that decides when to end. Gives the truth file back for a graceful end; the others never return.
fn control(
    signals: &cues::Signals,
    deadlines: &Deadlines,
    runtime: RuntimeKind,
    truth: Option<TruthFile>,
    cues: &Cues,
) -> (Option<TruthFile>, &'static str) {
    let ending = loop {
        if signals.end() {
            break Ending::Graceful("signal");
        }
        if let Some(ending) = deadlines.due() {
            break ending;
        }
        if signals.next() {
            cues.next();
        }
        thread::sleep(Duration::from_millis(10));
    };
    let (reason, status) = match ending {
        Ending::Graceful(reason) => {
            cues.end();
            return (truth, reason);
        }
        Ending::Exit => {
            let status = write_early(truth, "exit");
            ("exit", status)
        }
        Ending::Exec { remaining } => {
            write_early(truth, "exec");
            println!("exec pid={}", std::process::id());
            let error = std::process::Command::new("/proc/self/exe")
                .args(["--quiet", "--runtime", &value_name(runtime)])
                .args(["--seconds", &remaining.as_secs_f64().max(1.0).to_string()])
                .exec();
            eprintln!("could not exec itself: {error}");
            ("exec", 1)
        }
    };
    println!("ended reason={reason}");
    std::process::exit(status)
}

/// Writes the truth while everything goes on; spans that have not ended are not in it.
fn write_early(truth: Option<TruthFile>, reason: &str) -> i32 {
    match truth.map(|truth| truth.finish(reason)) {
        Some(Err(error)) => {
            eprintln!("could not write the truth: {error}");
            1
        }
        _ => 0,
    }
}
