//! What can be going on. What enters: the scenarios that were asked for. What leaves: threads and tasks
//! that do them until `pace::stop`.

use std::backtrace::Backtrace;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tokio::task::JoinHandle;

use crate::deadlock::{self, Kind};
use crate::handshake::{Suite, derive_session_key};
use crate::locks::lock;
use crate::pace::{self, stopping};
use crate::{
    accounts, across_await, callbacks, parts, queue, routes, sessions, stacks, stock, task,
};

/// Each does one thing, so that each can be looked at alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A mutex, by threads and tasks
    Mutex,
    /// A reader-writer lock, by threads and tasks
    Rwlock,
    /// Upgradable reads and upgrades
    Upgrade,
    /// Lock waits that time out
    Timed,
    /// One of std's mutexes, by threads and tasks
    StdMutex,
    /// One of std's reader-writer locks, by threads and tasks
    StdRwlock,
    /// tokio's mutexes, by tasks
    TokioMutex,
    /// tokio's reader-writer locks, by tasks
    TokioRwlock,
    /// tokio's semaphores, by tasks
    TokioSemaphore,
    /// One of tokio's mutexes, held across an await while other tasks wait; only when asked for
    TokioAcrossAwait,
    /// parking_lot's locks, held across an await while threads wait; only when asked for
    ParkingLotAcrossAwait,
    /// std's locks, held across an await while threads wait; only when asked for
    StdAcrossAwait,
    /// Waiting for a condition, which is never contention
    Condvar,
    /// Polls that burn crypto
    Crypto,
    /// Polls that sleep
    Sleep,
    /// Polls with crypto, a lock wait and a sleep in them
    Mixed,
    /// Many short polls
    Short,
    /// Blocking-pool tasks that run for long, which block no runtime
    SpawnBlocking,
    /// block_in_place that runs for long, which blocks its runtime only until it begins (multi_thread only)
    BlockInPlace,
    /// A runtime inside a blocking-pool task and inside block_in_place: its polls block it
    Nested,
    /// Polls that compute, sleep, read, wait for a thread and for a lock, each measured; only when asked for
    Anatomy,
    /// Tasks that are ready behind one that keeps their worker, each with its delay; only when asked for
    Queue,
    /// Tasks that are spawned behind one that keeps their worker, each with its delay; only when asked for
    Newcomers,
    /// Polls that are long by what is dropped in them, and by whom they wake; only when asked for
    Callbacks,
    /// A main future, no task, whose polls block a current-thread runtime; only when asked for
    Root,
    /// Places whose stacks are in the truth; only when asked for (multi_thread only)
    Stacks,
    /// Two threads that wait for each other for ever, for mutexes on the heap; this one and those below only when asked for
    Deadlock,
    /// The same with reader-writer locks: each reads one and wants to write to the other
    RwDeadlock,
    /// The same with std's mutexes
    StdDeadlock,
    /// The same with std's reader-writer locks: each writes to one and wants to read the other
    StdRwDeadlock,
    /// The same with mutexes in statics
    StaticDeadlock,
}

impl Scenario {
    /// block_in_place panics where there is no other thread to hand the runtime to; a lock whose holder a task
    /// waits for, and a plugin, hold up the other places.
    pub fn needs_multi_thread(self) -> bool {
        matches!(self, Self::BlockInPlace | Self::Stacks)
    }

    /// Part of what runs when no scenario was chosen.
    pub fn is_usual(self) -> bool {
        !matches!(
            self,
            Self::Anatomy
                | Self::Queue
                | Self::Newcomers
                | Self::Callbacks
                | Self::Root
                | Self::Stacks
                | Self::TokioAcrossAwait
                | Self::ParkingLotAcrossAwait
                | Self::StdAcrossAwait
                | Self::Deadlock
                | Self::RwDeadlock
                | Self::StdDeadlock
                | Self::StdRwDeadlock
                | Self::StaticDeadlock
        )
    }
}

/// Everything that was started and must end before the truth is written.
pub struct Started {
    threads: Vec<thread::JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    seed: u64,
    plugin_after: Duration,
    deadlock_after: Duration,
    deadlocks: u32,
}

impl Started {
    pub fn new(seed: u64, plugin_after: Duration, deadlock_after: Duration) -> Self {
        Self {
            threads: Vec::new(),
            tasks: Vec::new(),
            seed,
            plugin_after,
            deadlock_after,
            deadlocks: 0,
        }
    }

    /// Each thread and task has its own numbers, the same for the same seed.
    fn rng(&mut self) -> fastrand::Rng {
        self.seed = self.seed.wrapping_add(1);
        fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn thread(&mut self, name: &str, body: fn(fastrand::Rng)) {
        let rng = self.rng();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(rng))
            .expect("a thread can be started");
        self.threads.push(thread);
    }

    #[track_caller]
    fn task<F>(&mut self, name: &'static str, body: impl FnOnce(fastrand::Rng) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let future = body(self.rng());
        self.tasks.push(task::spawn(name, future));
    }

    pub fn start(&mut self, scenario: Scenario) {
        match scenario {
            Scenario::Mutex => {
                self.thread("auditor", accounts::audit);
                self.thread("teller-0", accounts::serve_counter);
                self.thread("teller-1", accounts::serve_counter);
                self.task("transfer", accounts::transfer);
                self.task("transfer", accounts::transfer);
            }
            Scenario::Rwlock => {
                self.thread("route-builder", routes::rebuild);
                self.thread("route-walker-0", routes::walk);
                self.thread("route-walker-1", routes::walk);
                self.task("look_up", routes::look_up);
                self.task("look_up", routes::look_up);
                self.task("withdraw", routes::withdraw);
            }
            Scenario::Upgrade => {
                self.thread("editor", routes::amend);
                self.thread("browser", routes::browse);
                self.task("order", routes::order);
            }
            Scenario::Timed => {
                self.thread("bookkeeper", accounts::close_books);
                self.task("peek", accounts::peek);
            }
            Scenario::StdMutex => {
                self.thread("stock-taker", stock::take_stock);
                self.thread("picker-0", stock::pick_items);
                self.thread("picker-1", stock::pick_items);
                self.task("reserve_items", stock::reserve_items);
                self.task("reserve_items", stock::reserve_items);
            }
            Scenario::StdRwlock => {
                self.thread("price-importer", stock::import_prices);
                self.thread("price-printer-0", stock::print_catalog);
                self.thread("price-printer-1", stock::print_catalog);
                self.task("quote_price", stock::quote_price);
                self.task("quote_price", stock::quote_price);
                self.task("change_price", stock::change_price);
            }
            Scenario::TokioMutex => {
                self.task("renew_session", sessions::renew_session);
                self.task("renew_session", sessions::renew_session);
                self.task("renew_session", sessions::renew_session);
                self.task("count_sessions", sessions::count_sessions);
                self.thread("visit-summer", sessions::sum_visits_apart);
                self.task("count_visit", sessions::count_visit);
                self.task("count_visit", sessions::count_visit);
            }
            Scenario::TokioRwlock => {
                self.task("refresh_directory", sessions::refresh_directory);
                self.task("browse_directory", sessions::browse_directory);
                self.task("browse_directory", sessions::browse_directory);
                self.task("resolve_name", sessions::resolve_name);
                self.thread("settings-loader", sessions::reload_settings_apart);
                self.task("read_settings", sessions::read_settings);
                self.task("read_settings", sessions::read_settings);
            }
            Scenario::TokioSemaphore => {
                for _ in 0..5 {
                    self.task("upload", sessions::upload);
                }
                self.thread("encoder-0", sessions::encode_movies_apart);
                self.thread("encoder-1", sessions::encode_movies_apart);
                self.task("encode_preview", sessions::encode_preview);
                self.task("encode_preview", sessions::encode_preview);
            }
            Scenario::TokioAcrossAwait => {
                self.task("drain_connections", across_await::drain_connections);
                self.task("open_connection", across_await::open_connection);
                self.task("open_connection", across_await::open_connection);
                self.thread("limit-setter", across_await::set_limits_apart);
                self.task("check_limit", across_await::check_limit);
                self.task("check_limit", across_await::check_limit);
            }
            Scenario::ParkingLotAcrossAwait => {
                self.thread("snapshot-host", across_await::host_snapshots);
                self.thread("archivist-0", across_await::read_archive);
                self.thread("archivist-1", across_await::read_archive);
            }
            Scenario::StdAcrossAwait => {
                self.thread("replica-host", across_await::host_replicas);
                self.thread("reporter-0", across_await::read_replica);
                self.thread("reporter-1", across_await::read_replica);
            }
            Scenario::Condvar => {
                self.thread("mail-reader", accounts::collect_mail);
                self.thread("mail-carrier", accounts::deliver_mail);
            }
            Scenario::Crypto => {
                self.task("handshake", handshake_task);
                self.task("handshake", handshake_task);
            }
            Scenario::Sleep => self.task("flush_journal", flush_journal_task),
            Scenario::Mixed => {
                self.thread("auditor-of-settlements", accounts::audit);
                self.task("settle", accounts::settle);
            }
            Scenario::Short => {
                for _ in 0..4 {
                    self.task("heartbeat", heartbeat_task);
                }
            }
            Scenario::SpawnBlocking => self.task("archive", archive_task),
            Scenario::BlockInPlace => self.task("export", export_task),
            Scenario::Nested => self.task("nested", nested_task),
            Scenario::Anatomy => {
                self.thread("ledger-clerk", parts::keep_ledger);
                self.task("close_day", parts::close_day);
            }
            Scenario::Queue => {
                let bells: Vec<_> = (0..queue::CLERKS).map(|_| queue::Bell::new()).collect();
                for bell in bells.clone() {
                    self.task("attend_counter", |_| queue::attend_counter(bell));
                }
                self.task("keep_counter", |rng| queue::keep_counter(bells, rng));
            }
            Scenario::Newcomers => self.task("open_doors", queue::open_doors),
            Scenario::Callbacks => self.task("hang_up", callbacks::hang_up),
            // The main future does it.
            Scenario::Root => {}
            Scenario::Stacks => {
                let rng = self.rng();
                let (tasks, thread) = stacks::start(self.plugin_after, rng);
                self.tasks.extend(tasks);
                self.threads.push(thread);
            }
            Scenario::Deadlock => self.start_deadlock(Kind::Mutexes),
            Scenario::RwDeadlock => self.start_deadlock(Kind::RwLocks),
            Scenario::StdDeadlock => self.start_deadlock(Kind::StdMutexes),
            Scenario::StdRwDeadlock => self.start_deadlock(Kind::StdRwLocks),
            Scenario::StaticDeadlock => self.start_deadlock(Kind::Statics),
        }
    }

    /// The first one after the time that was asked for, each further one so much later.
    fn start_deadlock(&mut self, kind: Kind) {
        self.deadlocks += 1;
        deadlock::start(kind, self.deadlock_after * self.deadlocks);
    }

    /// A light load: short polls and locks that nobody has to wait for.
    pub fn start_quiet(&mut self) {
        for _ in 0..4 {
            self.task("quiet_request", quiet_request_task);
        }
    }

    pub fn start_panics(&mut self) {
        std::panic::set_hook(Box::new(|_| {}));
        self.task("panic_watcher", panic_watcher_task);
    }

    pub fn start_backtraces(&mut self, file: PathBuf) {
        self.task("backtrace", |_| backtrace_task(file));
    }

    /// Waits for all of it to end.
    pub async fn finish(self) {
        for task in self.tasks {
            // A task of ours doesn't panic but in `panic_watcher`, which catches it.
            let _ = task.await;
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

async fn handshake_task(mut rng: fastrand::Rng) {
    while !stopping() {
        derive_session_key(Suite::any(&mut rng), pace::around_threshold(&mut rng));
        tokio::time::sleep(pace::millis(&mut rng, 40.0..120.0)).await;
    }
}

async fn flush_journal_task(mut rng: fastrand::Rng) {
    while !stopping() {
        wait_for_disk(pace::around_threshold(&mut rng));
        tokio::time::sleep(pace::millis(&mut rng, 60.0..160.0)).await;
    }
}

/// What fsync on a slow disk looks like to the runtime.
fn wait_for_disk(duration: Duration) {
    thread::sleep(duration);
}

async fn heartbeat_task(mut rng: fastrand::Rng) {
    while !stopping() {
        derive_session_key(Suite::Sha2, pace::millis(&mut rng, 0.01..0.3));
        tokio::time::sleep(pace::millis(&mut rng, 1.0..10.0)).await;
    }
}

async fn archive_task(mut rng: fastrand::Rng) {
    while !stopping() {
        let duration = pace::millis(&mut rng, 50.0..120.0);
        let archived = task::spawn_blocking("compress_archive", move || {
            derive_session_key(Suite::Blake3, duration);
        });
        let _ = archived.await;
        tokio::time::sleep(pace::millis(&mut rng, 150.0..250.0)).await;
    }
}

async fn export_task(mut rng: fastrand::Rng) {
    while !stopping() {
        derive_session_key(Suite::Sha2, pace::around_threshold(&mut rng));
        let duration = pace::millis(&mut rng, 30.0..80.0);
        task::block_in_place("write_export", || thread::sleep(duration));
        tokio::time::sleep(pace::millis(&mut rng, 100.0..250.0)).await;
    }
}

/// Two ways to run a runtime on a thread that is no worker (any more). `block_in_place` needs a runtime with other
/// threads, so the second way is tried where this task's has them.
async fn nested_task(mut rng: fastrand::Rng) {
    let multi_thread = matches!(
        tokio::runtime::Handle::current().runtime_flavor(),
        tokio::runtime::RuntimeFlavor::MultiThread
    );
    while !stopping() {
        let inner = rng.fork();
        let _ = task::spawn_blocking("plugin_host", move || run_plugins(inner)).await;
        tokio::time::sleep(pace::millis(&mut rng, 100.0..200.0)).await;
        if multi_thread {
            let inner = rng.fork();
            task::block_in_place("plugin_host_in_place", || run_plugins(inner));
            tokio::time::sleep(pace::millis(&mut rng, 100.0..200.0)).await;
        }
    }
}

fn run_plugins(mut rng: fastrand::Rng) {
    let runtime = task::runtime(&mut tokio::runtime::Builder::new_current_thread())
        .expect("a runtime can be built");
    runtime.block_on(async {
        let (burn, sleep) = (
            pace::around_threshold(&mut rng),
            pace::around_threshold(&mut rng),
        );
        let suite = Suite::any(&mut rng);
        let burning = task::spawn_here("plugin_burns", async move {
            derive_session_key(suite, burn);
        });
        let sleeping = task::spawn_here("plugin_sleeps", async move { wait_for_disk(sleep) });
        let _ = burning.await;
        let _ = sleeping.await;
    });
}

async fn quiet_request_task(mut rng: fastrand::Rng) {
    static VISITS: parking_lot::Mutex<u64> = parking_lot::Mutex::new(0);
    let visits = crate::locks::Named {
        name: "own",
        lock: parking_lot::Mutex::new(0u64),
    };
    while !stopping() {
        derive_session_key(Suite::any(&mut rng), pace::millis(&mut rng, 0.02..0.2));
        *lock!(visits) += 1;
        // Free nearly always, and held for nanoseconds.
        *VISITS.lock() += 1;
        tokio::time::sleep(pace::millis(&mut rng, 5.0..20.0)).await;
    }
}

/// Prints a line for each task that panicked, after a short poll and after a long one by turns.
async fn panic_watcher_task(mut rng: fastrand::Rng) {
    let mut caught = 0u64;
    while !stopping() {
        let burn = if caught.is_multiple_of(2) {
            0.1..0.5
        } else {
            6.0..9.0
        };
        let burn = pace::millis(&mut rng, burn);
        let result = task::spawn("panicking", async move {
            derive_session_key(Suite::Sha2, burn);
            fail_handshake();
        })
        .await;
        caught += 1;
        let is_panic = result.is_err_and(|error| error.is_panic());
        println!("panic number={caught} is_panic={is_panic}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn fail_handshake() {
    panic!("the handshake failed");
}

/// Prints a line for each backtrace it takes of itself, and leaves the last one in the file.
async fn backtrace_task(file: PathBuf) {
    while !stopping() {
        print_backtrace(&file);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn print_backtrace(file: &Path) {
    let text = Backtrace::force_capture().to_string();
    let frames = text
        .lines()
        .filter(|line| {
            line.split_once(": ")
                .is_some_and(|(number, _)| number.trim().parse::<u32>().is_ok())
        })
        .count();
    // The outermost function of std on a thread of its own, and on the main thread.
    let reaches_start = text.contains("thread_start") || text.contains("lang_start");
    println!(
        "backtrace frames={frames} lines={} reaches_thread_start={reaches_start}",
        text.lines().count()
    );
    if let Err(error) = std::fs::write(file, text) {
        eprintln!("could not write {}: {error}", file.display());
    }
}
