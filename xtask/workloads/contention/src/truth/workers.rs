//! Which worker of which runtime a thread was, as Tokio itself says in a poll.

use serde_json::{Value, json};
use tokio::runtime::{Handle, Id, RuntimeFlavor, worker_index};

use super::{BUFFER, lock, now};

/// A thread polled as a worker.
pub struct Worker {
    runtime: Id,
    index: usize,
    first_ns: u64,
    last_ns: u64,
}

impl Worker {
    pub fn line(&self, tid: i32, thread: &str) -> Value {
        json!({"kind": "worker", "tid": tid, "thread": thread, "runtime": self.runtime.to_string(),
            "index": self.index, "first_ns": self.first_ns, "last_ns": self.last_ns})
    }
}

/// Notes as which worker of a multi-thread runtime this thread polls, if it is one.
pub fn polls_on_worker() {
    let (Some(index), Ok(handle)) = (worker_index(), Handle::try_current()) else {
        return;
    };
    if handle.runtime_flavor() != RuntimeFlavor::MultiThread {
        return;
    }
    let (runtime, at) = (handle.id(), now());
    BUFFER.with(|buffer| {
        let workers = &mut lock(buffer).workers;
        let is_it = |worker: &&mut Worker| (worker.runtime, worker.index) == (runtime, index);
        match workers.iter_mut().find(is_it) {
            Some(worker) => worker.last_ns = at,
            None => workers.push(Worker {
                runtime,
                index,
                first_ns: at,
                last_ns: at,
            }),
        }
    });
}
