//! The program under test, as a person calls it. What enters: its arguments. What leaves: its exit code, what
//! it printed, and what it wrote.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::report::Report;

/// All that `holdup record` writes.
pub const OUTPUTS: [&str; 8] = [
    "blocking.svg",
    "lockwait.svg",
    "lockholder.svg",
    "lockpairs.svg",
    "oncpu.svg",
    "timeline.svg",
    "report.json",
    "capture.holdup",
];

/// No call of holdup in these tests takes longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary that cargo built for these tests.
pub const BINARY: &str = env!("CARGO_BIN_EXE_holdup");

/// holdup with these arguments, not started.
pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(args: I) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args);
    command
}

/// The same as a user without any right. The target folder may be out of that user's reach, so the
/// binary is copied to `place`.
pub fn command_as_nobody<I: IntoIterator<Item: AsRef<OsStr>>>(place: &Path, args: I) -> Command {
    let copy = place.join("holdup");
    fs::copy(BINARY, &copy).expect("the binary can be copied");
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ])
        .arg(copy)
        .args(args)
        .current_dir("/");
    command
}

/// A new folder that everybody can read and write.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    folder
}

/// A call that has ended.
#[derive(Debug)]
pub struct Run {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    /// Fails unless it ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails unless it said all of these, in whatever case, on stderr: where people look when it went wrong.
    #[track_caller]
    pub fn expect_error(self, words: &[&str]) -> Self {
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "{word:?} is missing in:\n{}",
                self.stderr
            );
        }
        // A sentence, not a dump of what Rust thinks of the error.
        assert!(
            !said.contains("panicked at") && !said.contains("stack backtrace"),
            "{}",
            self.stderr
        );
        self
    }

    /// Everything it said.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A call that is under way.
pub struct Running {
    child: Child,
    since: Instant,
    stdout: Stream,
    stderr: Stream,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let since = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {:?}: {error}", command.get_program()));
        let stdout = Stream::read(child.stdout.take().expect("it was asked for"));
        let stderr = Stream::read(child.stderr.take().expect("it was asked for"));
        Self {
            child,
            since,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until holdup says that it records: all probes are in place then.
    pub fn wait_until_attached(&mut self) {
        self.wait_until_said("recording");
    }

    /// Waits until holdup, which goes on, has said this on stderr.
    #[track_caller]
    pub fn wait_until_said(&mut self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.stderr.so_far().contains(words) {
            let ended = self.child.try_wait().expect("a child can be asked for");
            let said = self.stderr.so_far();
            assert!(
                ended.is_none(),
                "holdup ended with {ended:?} before it said {words:?}: {said}"
            );
            assert!(
                Instant::now() < deadline,
                "holdup does not say {words:?}: {said}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until there is such a word on stdout: of a command that holdup runs.
    pub fn wait_until_printed(&self, word: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.stdout.so_far().contains(word) {
            assert!(
                Instant::now() < deadline,
                "{word:?} was never printed, but: {}{}",
                self.stdout.so_far(),
                self.stderr.so_far()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn wait(mut self) -> Run {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked for") {
                break status;
            }
            if self.since.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("holdup hangs, having said: {}", self.stderr.so_far());
            }
            thread::sleep(Duration::from_millis(10));
        };
        let took = self.since.elapsed();
        Run {
            code: status.code(),
            stdout: self.stdout.whole(),
            stderr: self.stderr.whole(),
            took,
        }
    }
}

/// What a process writes, read as it comes, so that it never waits for a reader.
struct Stream {
    text: Arc<Mutex<String>>,
    reader: thread::JoinHandle<()>,
}

impl Stream {
    fn read(from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let reader = thread::spawn({
            let text = Arc::clone(&text);
            move || {
                for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                    let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                    text.push_str(&String::from_utf8_lossy(&line));
                    text.push('\n');
                }
            }
        });
        Self { text, reader }
    }

    fn so_far(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn whole(self) -> String {
        self.reader.join().expect("reading does not panic");
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Run {
    Running::start(command).wait()
}

/// A recording that went well.
pub struct Recorded {
    pub run: Run,
    pub report: Report,
    dir: TempDir,
}

impl Recorded {
    /// The path of one of the [`OUTPUTS`].
    pub fn output(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The text of a picture.
    pub fn svg(&self, name: &str) -> String {
        fs::read_to_string(self.output(name)).expect("holdup wrote it")
    }

    /// Reads what a finished call left in the folder. All of it must be there.
    #[track_caller]
    pub fn read(run: Run, dir: TempDir) -> Self {
        for name in OUTPUTS {
            let length = fs::metadata(dir.path().join(name))
                .map(|file| file.len())
                .unwrap_or(0);
            assert!(
                length > 0,
                "{name} is missing or empty; holdup said:\n{}",
                run.said()
            );
        }
        let report = Report::read(&dir.path().join("report.json"));
        Self { run, report, dir }
    }
}

/// The arguments of a recording into `dir`.
pub fn record_args(pid: u32, duration: &str, dir: &Path) -> Vec<String> {
    let dir = dir.to_str().expect("a temporary folder's name is UTF-8");
    [
        "record",
        "--pid",
        &pid.to_string(),
        "-d",
        duration,
        "-o",
        dir,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Records a process for so long; all must go well.
#[track_caller]
pub fn record(pid: u32, duration: &str) -> Recorded {
    record_with(pid, duration, &[])
}

/// The same with more arguments.
#[track_caller]
pub fn record_with(pid: u32, duration: &str, more: &[&str]) -> Recorded {
    let dir = folder();
    let run = run(command(record_args(pid, duration, dir.path())).args(more)).expect_code(0);
    Recorded::read(run, dir)
}

/// How long something took, as holdup said: `detached in 35 ms`, `attached to ..., in 160 ms; recording`.
#[track_caller]
pub fn said_duration(run: &Run, what: &str) -> Duration {
    run.stderr
        .lines()
        .find(|line| line.starts_with(&format!("holdup: {what} ")))
        .and_then(|line| line.split(" ms").next())
        .and_then(|rest| rest.rsplit(" in ").next())
        .and_then(|number| number.parse::<f64>().ok())
        .map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .unwrap_or_else(|| {
            panic!(
                "how long it took until {what} was not said:\n{}",
                run.stderr
            )
        })
}
