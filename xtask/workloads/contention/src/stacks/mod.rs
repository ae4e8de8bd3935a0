//! Places whose stacks are known: each notes its own backtrace, by the C runtime's unwinder, and then does what a
//! profiler takes a stack of. What enters: which of them. What leaves: tasks that pass through them until
//! `pace::stop`, and a line of the truth for each backtrace.
//!
//! ```text
//! thread's start … raw::poll … chain … the place ── note(point)
//!                                                └─ the marker ── burns, sleeps or waits
//! ```
//!
//! The note is taken in the function that calls the marker, in the same breath: a stack that was taken in the
//! marker has below it what the note has. It is not taken in the marker itself, so that somebody can put a
//! return probe on that, which would end the unwinder's walk.

mod chain;
mod places;
mod plugin;
mod signal;

use std::ffi::{CStr, c_void};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::pace::{self, stopping};
use crate::task;

pub use places::return_probe_marker;

/// A place whose stack is known, by what a profiler takes the stack of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Point {
    /// A lock that has to be waited for
    Lock,
    /// The unlock that such a wait ends with, on a thread that is no runtime's
    Unlock,
    /// The CPU is burnt
    Burn,
    /// The thread sleeps
    Sleep,
    /// The same in a function of its own, for others to put a return probe on
    ReturnProbe,
    /// The CPU is burnt under hundreds of frames
    Deep,
    /// Hand-written assembly without unwind information
    Blake3,
    /// The CPU is burnt inside a signal handler
    SignalBurn,
    /// The thread sleeps inside a signal handler
    SignalSleep,
    /// The CPU is burnt in a function that a library calls which was not there at the start
    Plugin,
    /// Below a frame of more than 128 KiB
    LargeFrame,
    /// Below a frame whose stack pointer was aligned
    Realigned,
}

impl Point {
    /// The function that a profiler takes stacks in.
    fn marker(self) -> &'static str {
        match self {
            Self::Lock => places::WAIT_FOR_LOCK,
            Self::Unlock => places::HOLD_LOCK,
            Self::Burn => places::BURN,
            Self::Sleep => places::SLEEP,
            Self::ReturnProbe => places::SLEEP_UNDER_RETURN_PROBE,
            Self::Deep => places::BURN_AT_THE_BOTTOM,
            Self::Blake3 => places::HASH,
            Self::SignalBurn => signal::BURN,
            Self::SignalSleep => signal::SLEEP,
            Self::Plugin => plugin::BURN,
            Self::LargeFrame => places::BURN_BELOW_LARGE_FRAME,
            Self::Realigned => places::BURN_BELOW_REALIGNED_FRAME,
        }
    }
}

/// More frames than any point has; a deeper backtrace is cut, and says so.
const MAX_FRAMES: usize = 1024;
/// A point is reached in more than one way: a task is polled from several places in the runtime.
const MAX_VARIANTS: usize = 64;

struct Backtrace {
    point: Point,
    /// Of [`note`] first, then return addresses, to the thread's start.
    addresses: Vec<usize>,
}

static BACKTRACES: Mutex<Vec<Backtrace>> = Mutex::new(Vec::new());

/// Writes down the stack of the caller.
#[inline(never)]
fn note(point: Point) {
    let mut addresses = Vec::with_capacity(MAX_FRAMES);
    backtrace::trace(|frame| {
        let address = frame.ip() as usize;
        // A thread's first function has no caller.
        if address != 0 {
            addresses.push(address);
        }
        address != 0 && addresses.len() < MAX_FRAMES
    });
    let mut noted = BACKTRACES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = noted
        .iter()
        .filter(|backtrace| backtrace.point == point)
        .collect::<Vec<_>>();
    if known.len() < MAX_VARIANTS && known.iter().all(|it| it.addresses != addresses) {
        noted.push(Backtrace { point, addresses });
    }
}

/// The truth's lines about stacks, with names. Called at the end: reading the debug information takes a while.
pub fn lines() -> Vec<Value> {
    let backtraces = BACKTRACES.lock().unwrap_or_else(PoisonError::into_inner);
    backtraces.iter().map(line).collect()
}

fn line(backtrace: &Backtrace) -> Value {
    let frames: Vec<Vec<Value>> = backtrace.addresses.iter().map(|&it| resolve(it)).collect();
    // What is above the caller of `note` is the unwinder's own.
    let own = frames
        .iter()
        .position(|frames| {
            frames.iter().any(|frame| {
                frame["function"].as_str().is_some_and(|name| {
                    name.contains(concat!(module_path!(), "::note"))
                        && !name.contains("{{closure}}")
                })
            })
        })
        .map_or(0, |at| at + 1);
    json!({
        "kind": "stack",
        "point": crate::value_name(backtrace.point),
        "marker": backtrace.point.marker(),
        "cut": backtrace.addresses.len() == MAX_FRAMES,
        "frames": frames[own..].concat(),
    })
}

/// The source-level frames of a return address, innermost first: the last is the function that has the code, the
/// others were inlined into it.
fn resolve(address: usize) -> Vec<Value> {
    let mut names = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        // The alternate form has no hash.
        names.push(symbol.name().map(|name| format!("{name:#}")));
    });
    if names.is_empty() {
        names.push(None);
    }
    let library = library_of(address);
    let outermost = names.len() - 1;
    names
        .into_iter()
        .enumerate()
        .map(|(at, function)| {
            json!({"function": function, "inlined": at < outermost, "library": library})
        })
        .collect()
}

/// File name of the library that has the code at an address; None for the program itself.
fn library_of(address: usize) -> Option<String> {
    let of = |address: usize| {
        // SAFETY: all-zero is a valid `Dl_info`, which dladdr fills for any address whatever.
        let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a place to write to.
        let found = unsafe { libc::dladdr(address as *const c_void, &mut info) } != 0;
        found.then_some(info)
    };
    let info = of(address - 1);
    let Some(info) = info else {
        return Some("unknown".to_owned());
    };
    if of(note as *const () as usize).is_some_and(|own| own.dli_fbase == info.dli_fbase) {
        return None;
    }
    // SAFETY: dladdr found it, and the library is never unloaded.
    let path = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy();
    Some(path.rsplit('/').next().unwrap_or(&path).to_owned())
}

/// Starts everything: a task for each point, and the thread that one of them waits for.
pub fn start(
    plugin_after: Duration,
    mut rng: fastrand::Rng,
) -> (Vec<JoinHandle<()>>, thread::JoinHandle<()>) {
    signal::install();
    let tasks = [
        ("stack_lock", Point::Lock),
        ("stack_burn", Point::Burn),
        ("stack_sleep", Point::Sleep),
        ("stack_return_probe", Point::ReturnProbe),
        ("stack_deep", Point::Deep),
        ("stack_blake3", Point::Blake3),
        ("stack_signal", Point::SignalBurn),
        ("stack_large_frame", Point::LargeFrame),
        ("stack_realigned", Point::Realigned),
    ];
    let mut tasks: Vec<_> = tasks
        .into_iter()
        .map(|(name, point)| task::spawn(name, pass_through(point, Duration::ZERO, rng.fork())))
        .collect();
    tasks.push(task::spawn(
        "stack_plugin",
        pass_through(Point::Plugin, plugin_after, rng.fork()),
    ));
    let thread = |name: &str, body: fn()| {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .expect("a thread can be started")
    };
    // Ends with the process.
    drop(thread("signaller", signal::send));
    let holder = thread("lock-holder", places::hold_lock_again_and_again);
    (tasks, holder)
}

async fn pass_through(point: Point, after: Duration, mut rng: fastrand::Rng) {
    let begin = tokio::time::Instant::now() + after;
    while !stopping() && tokio::time::Instant::now() < begin {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while !stopping() {
        if point == Point::Lock {
            places::until_lock_is_held().await;
        }
        chain::request(point).await;
        tokio::time::sleep(pace::millis(&mut rng, 120.0..200.0)).await;
    }
}
