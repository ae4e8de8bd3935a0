//! Bytes of the wire in, [`Event`]s out. Stateless: each record is looked at alone, and one that this
//! version doesn't understand is an error with a reason that can be counted.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;
mod unfinished;

use holdup_probe_ebpf::wire;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout};

pub use unfinished::{Unfinished, Window, unfinished};

use crate::event::{
    CodeAddr, CpuSample, Event, Exactness, LockAddr, LockOperation, LockOutcome, LockWait,
    LockWaitTotals, LongPoll, Nanos, OffCpu, SiteId, StackId, TaskAddr, Tid, Timestamp,
};

/// Why a record is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not even a header.
    #[error("shorter than a header")]
    NoHeader,
    /// A kind that this version doesn't know.
    #[error("unknown kind {0}")]
    UnknownKind(u32),
    /// The kind is known, its length is not.
    #[error("kind {kind} with {length} bytes instead of {expected}")]
    WrongLength {
        /// The record's kind.
        kind: u32,
        /// Its length.
        length: usize,
        /// The length of that kind.
        expected: usize,
    },
    /// An operation that this version doesn't know.
    #[error("unknown lock operation {0}")]
    UnknownOperation(u32),
    /// An outcome that this version doesn't know.
    #[error("unknown lock wait outcome {0}")]
    UnknownOutcome(u32),
    /// An interval that ends before it begins.
    #[error("kind {0} ends before it begins")]
    EndsBeforeStart(u32),
}

/// One record of the ring buffer.
pub fn event(record: &[u8]) -> Result<Event, DecodeError> {
    let (header, _) =
        wire::EventHeader::read_from_prefix(record).map_err(|_| DecodeError::NoHeader)?;
    let event = match header.kind {
        wire::EVENT_THREAD_SEEN => thread_seen(whole(&header, record)?),
        wire::EVENT_RETURN_SITE => return_site(whole(&header, record)?),
        wire::EVENT_CPU_SAMPLE => cpu_sample(whole(&header, record)?),
        wire::EVENT_OFF_CPU => off_cpu(whole(&header, record)?)?,
        wire::EVENT_LONG_POLL => long_poll(whole(&header, record)?)?,
        wire::EVENT_LOCK_WAIT => lock_wait(whole(&header, record)?)?,
        wire::EVENT_PROCESS_EXEC => {
            let exec: wire::ProcessExec = whole(&header, record)?;
            Event::ProcessExec {
                at: Timestamp(exec.header.at_ns),
            }
        }
        kind => return Err(DecodeError::UnknownKind(kind)),
    };
    Ok(event)
}

fn whole<T: FromBytes + KnownLayout + Immutable>(
    header: &wire::EventHeader,
    record: &[u8],
) -> Result<T, DecodeError> {
    T::read_from_bytes(record).map_err(|_| DecodeError::WrongLength {
        kind: header.kind,
        length: record.len(),
        expected: size_of::<T>(),
    })
}

fn thread_seen(seen: wire::ThreadSeen) -> Event {
    let length = seen
        .comm
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(seen.comm.len());
    Event::ThreadSeen {
        tid: Tid(seen.header.tid),
        name: String::from_utf8_lossy(&seen.comm[..length]).into_owned(),
    }
}

fn return_site(site: wire::ReturnSite) -> Event {
    Event::ReturnSite {
        at: Timestamp(site.header.at_ns),
        return_addr: CodeAddr(site.return_addr),
        site: SiteId(site.site),
    }
}

fn cpu_sample(sample: wire::CpuSample) -> Event {
    Event::CpuSample(CpuSample {
        tid: Tid(sample.header.tid),
        poll_start: Timestamp(sample.poll_start_ns),
        at: Timestamp(sample.header.at_ns),
        stack: stack(sample.stack),
    })
}

fn off_cpu(interval: wire::OffCpu) -> Result<Event, DecodeError> {
    let (start, end) = in_order(&interval.header, interval.start_ns)?;
    Ok(Event::OffCpu(OffCpu {
        tid: Tid(interval.header.tid),
        poll_start: Timestamp(interval.poll_start_ns),
        start,
        end,
        runnable: Nanos(interval.runnable_ns).min(end.since(start)),
        stack: stack(interval.stack),
    }))
}

fn long_poll(poll: wire::LongPoll) -> Result<Event, DecodeError> {
    let (start, end) = in_order(&poll.header, poll.start_ns)?;
    let has = |flag| poll.flags & flag != 0;
    Ok(Event::LongPoll(LongPoll {
        tid: Tid(poll.header.tid),
        start,
        end,
        task: TaskAddr(poll.task),
        site: SiteId(poll.site),
        return_addr: CodeAddr(poll.return_addr),
        exactness: if has(wire::POLL_STILL_RUNNING) {
            Exactness::LowerBound
        } else if has(wire::POLL_END_UNSEEN) {
            Exactness::UpperBound
        } else {
            Exactness::Exact
        },
        handed_off: has(wire::POLL_HANDED_OFF),
        unclassified: has(wire::POLL_UNCLASSIFIED),
        run_queue: Nanos(poll.run_queue_ns),
        sleep: Nanos(poll.sleep_ns),
        lock_wait: Nanos(poll.lock_wait_ns),
    }))
}

fn lock_wait(wait: wire::LockWait) -> Result<Event, DecodeError> {
    let (start, end) = in_order(&wait.header, wait.start_ns)?;
    Ok(Event::LockWait(LockWait {
        tid: Tid(wait.header.tid),
        start,
        end,
        lock: LockAddr(wait.lock),
        operation: operation(wait.operation)?,
        outcome: outcome(wait.outcome)?,
        poll_start: (wait.poll_start_ns != 0).then_some(Timestamp(wait.poll_start_ns)),
        waiter_stack: stack(wait.waiter_stack),
        holder_stack: stack(wait.holder_stack),
        holder: (wait.holder_tid != 0).then_some(Tid(wait.holder_tid)),
    }))
}

/// One entry of the lock wait aggregation.
pub fn lock_wait_totals(
    key: &wire::LockWaitKey,
    totals: &wire::LockWaitTotals,
) -> Result<LockWaitTotals, DecodeError> {
    Ok(LockWaitTotals {
        lock: LockAddr(key.lock),
        operation: operation(key.operation)?,
        outcome: outcome(key.outcome)?,
        waiter_stack: stack(key.waiter_stack),
        holder_stack: stack(key.holder_stack),
        count: totals.count,
        total: Nanos(totals.total_ns),
        max: Nanos(totals.max_ns),
        long_count: totals.long_count,
        long_total: Nanos(totals.long_total_ns),
        log2_histogram: totals.log2_histogram.to_vec(),
    })
}

fn in_order(
    header: &wire::EventHeader,
    start_ns: u64,
) -> Result<(Timestamp, Timestamp), DecodeError> {
    if header.at_ns < start_ns {
        return Err(DecodeError::EndsBeforeStart(header.kind));
    }
    Ok((Timestamp(start_ns), Timestamp(header.at_ns)))
}

fn stack(key: u64) -> Option<StackId> {
    (key != 0).then_some(StackId(key))
}

fn operation(code: u32) -> Result<LockOperation, DecodeError> {
    match code {
        wire::LOCK_MUTEX => Ok(LockOperation::Mutex),
        wire::LOCK_RW_SHARED => Ok(LockOperation::RwShared),
        wire::LOCK_RW_EXCLUSIVE => Ok(LockOperation::RwExclusive),
        wire::LOCK_RW_UPGRADABLE => Ok(LockOperation::RwUpgradable),
        wire::LOCK_RW_UPGRADE => Ok(LockOperation::RwUpgrade),
        wire::LOCK_CONDVAR => Ok(LockOperation::Condvar),
        other => Err(DecodeError::UnknownOperation(other)),
    }
}

fn outcome(code: u32) -> Result<LockOutcome, DecodeError> {
    match code {
        wire::OUTCOME_ACQUIRED => Ok(LockOutcome::Acquired),
        wire::OUTCOME_TIMED_OUT => Ok(LockOutcome::TimedOut),
        wire::OUTCOME_STILL_WAITING => Ok(LockOutcome::StillWaiting),
        other => Err(DecodeError::UnknownOutcome(other)),
    }
}
