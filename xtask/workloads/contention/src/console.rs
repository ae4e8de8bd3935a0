//! Being watched by console-subscriber. What enters: a socket that it is to be asked through, and the tasks. What leaves:
//! tasks that bear the name of their type, which is what holdup knows them by.

use std::any::type_name;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use console_subscriber::ConsoleLayer;
use tokio::task::{Builder, JoinHandle};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

/// From one update to the next: whoever waits for the last one waits no longer.
const UPDATES: Duration = Duration::from_millis(200);

/// Watches every task that is spawned from now on.
///
/// Tasks and their wakers alone. console-subscriber would trace each timer and each use of a lock, too, and its aggregator
/// takes no more than 128 events each time that it runs (the budget that Tokio gives a task's poll, spent by
/// `recv_now_or_never`), once for each update: of a task behind thousands of timers nobody would be told.
pub fn listen(socket: &Path) {
    let tasks = filter_fn(|metadata| {
        metadata.name() == "runtime.spawn" || metadata.target() == "tokio::task::waker"
    });
    let console = ConsoleLayer::builder()
        .server_addr(socket.to_owned())
        .publish_interval(UPDATES)
        .spawn()
        .with_filter(tasks);
    tracing_subscriber::registry().with(console).init();
}

#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    named_after(&future)
        .spawn(future)
        .expect("this thread has a runtime")
}

#[track_caller]
pub fn spawn_local<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: 'static> + 'static,
{
    named_after(&future)
        .spawn_local(future)
        .expect("this thread has a LocalSet")
}

#[track_caller]
pub fn spawn_blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> JoinHandle<R> {
    named_after(&work)
        .spawn_blocking(work)
        .expect("a thread can be started")
}

fn named_after<T>(_: &T) -> Builder<'static> {
    Builder::new().name(type_name::<T>())
}
