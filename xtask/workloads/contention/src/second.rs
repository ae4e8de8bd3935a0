//! A second runtime in the same process, whose workers have the same numbers as the first one's.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::{pace, task};

/// Starts it, with tasks that keep both of its workers at it.
pub fn start() -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let runtime = task::runtime(builder.worker_threads(2).thread_name("second-runtime"))?;
    let entered = runtime.enter();
    for _ in 0..4 {
        task::spawn_here("second_heartbeat", async {
            while !pace::stopping() {
                std::thread::sleep(Duration::from_millis(1));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    drop(entered);
    Ok(runtime)
}
