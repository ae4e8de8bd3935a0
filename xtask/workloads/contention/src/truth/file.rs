//! The truth's file. What enters: what the threads recorded. What leaves: JSON lines, as README.md describes them.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::locks::Released;
use super::{BUFFERS, Buffer, Event, MeasuredPoll, PollEnd, Total, lock, now, spawns};

/// The file, of which `meta` and the locks are written at once and everything else at the end.
pub struct TruthFile(BufWriter<File>);

impl TruthFile {
    pub fn create(path: &Path, meta: &Value, locks: &[Value]) -> std::io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{meta}")?;
        for lock in locks {
            writeln!(file, "{lock}")?;
        }
        file.flush()?;
        Ok(Self(file))
    }

    /// Writes what every thread recorded, then the totals, the spawns and the stacks, then an `end` line: a file without one is
    /// incomplete.
    pub fn finish(mut self, reason: &str) -> std::io::Result<()> {
        let buffers = lock(&BUFFERS).clone();
        let mut dropped = 0;
        for buffer in &buffers {
            let buffer = lock(buffer);
            let last_poll = buffer.last_poll.map(Event::Poll);
            for event in buffer.events.iter().chain(&last_poll) {
                writeln!(self.0, "{}", event_line(&buffer, event))?;
            }
            dropped += buffer.dropped;
        }
        for buffer in &buffers {
            let buffer = lock(buffer);
            for Total {
                kind,
                name,
                op,
                count,
                ns,
            } in &buffer.totals
            {
                let line = json!({"kind": "total", "of": kind, "name": name, "op": op, "tid": buffer.tid,
                    "thread": buffer.thread, "count": count, "ns": ns});
                writeln!(self.0, "{line}")?;
            }
        }
        for buffer in &buffers {
            let buffer = lock(buffer);
            for worker in &buffer.workers {
                writeln!(self.0, "{}", worker.line(buffer.tid, &buffer.thread))?;
            }
        }
        for line in spawns::lines().into_iter().chain(crate::stacks::lines()) {
            writeln!(self.0, "{line}")?;
        }
        let end = json!({"kind": "end", "reason": reason, "end_ns": now(), "dropped": dropped});
        writeln!(self.0, "{end}")?;
        self.0.flush()
    }
}

fn event_line(buffer: &Buffer, event: &Event) -> Value {
    let mut line = match *event {
        Event::Poll(MeasuredPoll {
            name,
            span,
            end,
            earliest_ns,
            latest_ns,
        }) => {
            let mut line = json!({"kind": "poll", "name": name, "start_ns": span.start_ns, "ns": span.ns, "blocking": true,
                "earliest_ns": earliest_ns, "latest_ns": latest_ns});
            match end {
                PollEnd::Returned => line["end"] = "returned".into(),
                PollEnd::Panicked => line["end"] = "panicked".into(),
                PollEnd::HandedOff { called_ns } => {
                    line["end"] = "handed_off".into();
                    line["handoff_called_ns"] = called_ns.into();
                }
            }
            line
        }
        Event::LockWait {
            lock,
            op,
            addr,
            span,
            acquired,
        } => json!({"kind": "lock_wait", "lock": lock, "op": op,
            "addr": format!("{addr:#x}"), "start_ns": span.start_ns, "ns": span.ns,
            "outcome": if acquired { "acquired" } else { "timed_out" }}),
        Event::Hold(Released {
            lock,
            op,
            addr,
            span,
            upgradable_since_ns,
            acquired_tid,
            task,
            poll_start_ns,
            across_await,
            contended,
        }) => json!({"kind": "hold", "lock": lock, "op": op, "addr": format!("{addr:#x}"),
            "start_ns": span.start_ns, "ns": span.ns, "upgradable_since_ns": upgradable_since_ns,
            "acquired_tid": acquired_tid, "task": task, "poll_start_ns": poll_start_ns,
            "across_await": across_await, "contended": contended}),
        Event::CondvarWait { name, addr, span } => json!({"kind": "condvar_wait", "name": name,
            "addr": format!("{addr:#x}"), "start_ns": span.start_ns, "ns": span.ns}),
        Event::NotBlocking { name, span } => {
            json!({"kind": "not_blocking", "name": name, "start_ns": span.start_ns, "ns": span.ns})
        }
        Event::Delay { name, span } => {
            json!({"kind": "delay", "name": name, "start_ns": span.start_ns, "ns": span.ns})
        }
        Event::Part { poll, part, ns } => {
            json!({"kind": "part", "name": poll.task, "part": part, "poll_start_ns": poll.start_ns, "ns": ns})
        }
    };
    line["tid"] = buffer.tid.into();
    line["thread"] = buffer.thread.as_str().into();
    line
}
