//! Tasks whose every poll is in the truth. Nothing in this program is spawned but through here.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::runtime::{Builder, Runtime};
#[cfg(not(feature = "console"))]
use tokio::task as start;
use tokio::task::{JoinHandle, LocalSet};

#[cfg(feature = "console")]
use crate::console as start;
use crate::truth;

/// Whether tasks belong to a LocalSet.
static LOCAL: AtomicBool = AtomicBool::new(false);

pub fn use_local_set() {
    LOCAL.store(true, Ordering::Relaxed);
}

pin_project! {
    /// The outermost future of a task. Only `raw::poll` and tokio's harness are above its `poll`, so what it
    /// measures is the poll but for a microsecond.
    struct Measured<F> {
        name: &'static str,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Measured<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _poll = truth::Poll::begin(this.name);
        // Inside of what is measured, where what takes time is in the truth.
        truth::polls_on_worker();
        this.future.poll(context)
    }
}

/// Measures a future that is no task.
pub fn measured<F: Future>(name: &'static str, future: F) -> impl Future<Output = F::Output> {
    Measured { name, future }
}

/// Spawns onto whatever the process was started with: the runtime or its LocalSet.
#[track_caller]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    truth::spawned::<F>();
    if LOCAL.load(Ordering::Relaxed) {
        start::spawn_local(Measured { name, future })
    } else {
        start::spawn(Measured { name, future })
    }
}

/// Spawns onto the runtime of this thread, e.g. one inside a blocking-pool task.
#[track_caller]
pub fn spawn_here<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    truth::spawned::<F>();
    start::spawn(Measured { name, future })
}

/// Builds a runtime whose threads note where they are between polls.
pub fn runtime(builder: &mut Builder) -> std::io::Result<Runtime> {
    builder
        .enable_time()
        .on_thread_start(crate::register_thread)
        .on_thread_park(truth::between_polls)
        .on_thread_unpark(truth::between_polls)
        .build()
}

/// Runs tasks to their end on a runtime and a `LocalSet` of this thread's own: they need not be `Send`.
pub fn run_alone<const N: usize>(start: impl FnOnce() -> [JoinHandle<()>; N]) {
    let runtime = runtime(&mut Builder::new_current_thread()).expect("a runtime can be built");
    LocalSet::new().block_on(&runtime, async {
        for task in start() {
            // A task of ours doesn't panic.
            let _ = task.await;
        }
    });
}

/// Spawns onto this thread's own `LocalSet`.
#[track_caller]
pub fn spawn_alone<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + 'static,
{
    truth::spawned::<F>();
    start::spawn_local(Measured { name, future })
}

/// A blocking-pool task. It passes through `raw::poll` too, and blocks no runtime.
pub fn spawn_blocking<R: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> R + Send + 'static,
) -> JoinHandle<R> {
    start::spawn_blocking(move || {
        truth::between_polls();
        let start_ns = truth::now();
        let result = work();
        truth::not_blocking(name, start_ns);
        truth::between_polls();
        result
    })
}

/// The poll that calls this blocks its runtime until the closure begins, and no longer.
pub fn block_in_place<R>(name: &'static str, work: impl FnOnce() -> R) -> R {
    let called_ns = truth::now();
    tokio::task::block_in_place(|| {
        truth::handed_off(called_ns);
        let start_ns = truth::now();
        let result = work();
        truth::not_blocking(name, start_ns);
        result
    })
}
