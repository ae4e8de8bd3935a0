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
    CodeAddr, CpuSample, Event, Exactness, Hold, HoldEvidence, HoldTotals, LockAddr, LockOperation,
    LockOutcome, LockWait, LockWaitTotals, LongPoll, Nanos, OffCpu, OffCpuCause, PairTotals,
    PollClass, SiteId, StackId, TaskAddr, TaskDelay, TaskId, Tid, Timestamp, WaitHolder,
    WorkerSlice,
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
        wire::EVENT_HOLD => hold(whole(&header, record)?)?,
        wire::EVENT_TASK_DELAY => task_delay(whole(&header, record)?)?,
        wire::EVENT_WORKER_SLICE => {
            let told: wire::WorkerSlice = whole(&header, record)?;
            let (start, end) = in_order(&header, told.slice.start_ns)?;
            Event::WorkerSlice(worker_slice(Tid(header.tid), start, end, &told.slice))
        }
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
        poll_start: (sample.poll_start_ns != 0).then_some(Timestamp(sample.poll_start_ns)),
        class: poll_class(sample.class),
        site: (sample.site != wire::NO_SITE).then_some(SiteId(sample.site)),
        on_grid: sample.flags & wire::SAMPLE_ON_GRID != 0,
        at: Timestamp(sample.header.at_ns),
        stack: stack(sample.stack),
    })
}

fn poll_class(code: u32) -> PollClass {
    match code {
        wire::CLASS_SCHEDULER | wire::CLASS_ROOT => PollClass::Scheduler,
        wire::CLASS_BLOCKING | wire::CLASS_WORKER => PollClass::Blocking,
        _ => PollClass::Unknown,
    }
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
        cause: off_cpu_cause(interval.cause),
    }))
}

fn off_cpu_cause(code: u32) -> OffCpuCause {
    match code {
        wire::CAUSE_PREEMPTED => OffCpuCause::Preempted,
        wire::CAUSE_FAULT => OffCpuCause::Fault,
        wire::CAUSE_CONDVAR => OffCpuCause::Condvar,
        wire::CAUSE_UNKNOWN => OffCpuCause::Unknown,
        number => OffCpuCause::SystemCall(number),
    }
}

fn long_poll(poll: wire::LongPoll) -> Result<Event, DecodeError> {
    let (start, end) = in_order(&poll.header, poll.start_ns)?;
    let has = |flag| poll.flags & flag != 0;
    Ok(Event::LongPoll(LongPoll {
        tid: Tid(poll.header.tid),
        start,
        end,
        task: TaskAddr(poll.task),
        task_id: task_id(poll.task_id),
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
        stolen: Nanos(poll.stolen_ns),
    }))
}

fn lock_wait(wait: wire::LockWait) -> Result<Event, DecodeError> {
    let (start, end) = in_order(&wait.header, wait.start_ns)?;
    Ok(Event::LockWait(LockWait {
        tid: Tid(wait.header.tid),
        start,
        end,
        lock: LockAddr(wait.lock),
        operation: lock_operation(wait.operation)?,
        outcome: outcome(wait.outcome)?,
        poll_start: (wait.poll_start_ns != 0).then_some(Timestamp(wait.poll_start_ns)),
        waiter_stack: stack(wait.waiter_stack),
        task: task(wait.task),
        releases: wait.releases,
        holders: wait_holders(&wait),
        others: Nanos(u64::from(wait.others_us) * 1000),
        handover: Nanos(wait.handover_ns),
    }))
}

/// In the order of their releases.
fn wait_holders(wait: &wire::LockWait) -> [Option<WaitHolder>; wire::WAIT_HOLDERS] {
    let mut holders = wait.holders;
    // Those that are none come last.
    holders.sort_by_key(|holder| (holder.tid == 0, holder.nth));
    holders.map(|holder| wait_holder(&holder))
}

fn wait_holder(holder: &wire::WaitHolder) -> Option<WaitHolder> {
    (holder.tid != 0).then_some(WaitHolder {
        tid: Tid(holder.tid),
        held: Nanos(holder.held_ns),
        stack: stack(holder.stack),
    })
}

fn hold(hold: wire::Hold) -> Result<Event, DecodeError> {
    let since_ns = hold.header.at_ns.checked_sub(hold.at_least_ns);
    if since_ns.is_none() {
        return Err(DecodeError::EndsBeforeStart(hold.header.kind));
    }
    let has = |flag| hold.flags & flag != 0;
    Ok(Event::Hold(Hold {
        tid: Tid(hold.header.tid),
        end: Timestamp(hold.header.at_ns),
        lock: LockAddr(hold.lock),
        operation: lock_operation(hold.operation)?,
        at_least: Nanos(hold.at_least_ns),
        at_most: (hold.at_most_ns != 0).then_some(Nanos(hold.at_most_ns)),
        exact: has(wire::HOLD_EXACT),
        across_await: has(wire::HOLD_ACROSS_AWAIT),
        acquire_stack: stack(hold.acquire_stack),
        release_stack: stack(hold.release_stack),
        task: task(hold.task),
        poll_start: (hold.poll_start_ns != 0).then_some(Timestamp(hold.poll_start_ns)),
    }))
}

fn task_delay(delay: wire::TaskDelay) -> Result<Event, DecodeError> {
    let (woken, end) = in_order(&delay.header, delay.woken_ns)?;
    Ok(Event::TaskDelay(TaskDelay {
        tid: Tid(delay.header.tid),
        woken,
        end,
        task: TaskAddr(delay.task),
        task_id: task_id(delay.task_id),
        site: SiteId(delay.site),
        waker: Tid(delay.waker_tid),
        local: delay.flags & wire::DELAY_LOCAL != 0,
    }))
}

fn worker_slice(tid: Tid, start: Timestamp, end: Timestamp, slice: &wire::Slice) -> WorkerSlice {
    WorkerSlice {
        tid,
        start,
        end,
        polls: slice.polls,
        busy: Nanos(slice.busy_ns),
        longest: Nanos(slice.longest_ns),
        parked: Nanos(slice.parked_ns),
        blocking_polls: slice.blocking_polls,
        blocking: Nanos(slice.blocking_ns),
        stolen: slice.stolen,
        is_worker: slice.is_worker != 0,
    }
}

/// One entry of the lock wait aggregation.
pub fn lock_wait_totals(
    key: &wire::LockWaitKey,
    totals: &wire::LockWaitTotals,
) -> Result<LockWaitTotals, DecodeError> {
    Ok(LockWaitTotals {
        lock: LockAddr(key.lock),
        operation: lock_operation(key.operation)?,
        outcome: outcome(key.outcome)?,
        waiter_stack: stack(key.waiter_stack),
        count: totals.count,
        total: Nanos(totals.total_ns),
        max: Nanos(totals.max_ns),
        long_count: totals.long_count,
        long_total: Nanos(totals.long_total_ns),
        joined: totals.joined_count,
        handover: Nanos(totals.handover_ns),
        log2_histogram: totals.log2_histogram.to_vec(),
    })
}

/// One entry of the map of who waited for whom.
pub fn pair_totals(key: &wire::PairKey, totals: &wire::Totals) -> Result<PairTotals, DecodeError> {
    Ok(PairTotals {
        lock: LockAddr(key.lock),
        operation: lock_operation(key.operation)?,
        waiter_stack: stack(key.waiter_stack),
        holder_stack: stack(key.holder_stack),
        count: totals.count,
        total: Nanos(totals.total_ns),
        max: Nanos(totals.max_ns),
    })
}

/// One entry of the map of holds.
pub fn hold_totals(key: &wire::HoldKey, totals: &wire::Totals) -> Result<HoldTotals, DecodeError> {
    let has = |flag| key.flags & flag != 0;
    Ok(HoldTotals {
        lock: LockAddr(key.lock),
        operation: lock_operation(key.operation)?,
        acquire_stack: stack(key.acquire_stack),
        release_stack: stack(key.release_stack),
        evidence: if has(wire::HOLD_LOCKED_AT_POLL_END) {
            HoldEvidence::LockedAtPollEnd
        } else if has(wire::HOLD_EXACT) {
            HoldEvidence::Exact
        } else {
            HoldEvidence::AtLeast
        },
        across_await: has(wire::HOLD_ACROSS_AWAIT),
        count: totals.count,
        total: Nanos(totals.total_ns),
        max: Nanos(totals.max_ns),
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

fn task_id(number: u64) -> Option<TaskId> {
    (number != 0).then_some(TaskId(number))
}

fn task(header: u64) -> Option<TaskAddr> {
    (header != 0).then_some(TaskAddr(header))
}

fn stack(key: u64) -> Option<StackId> {
    (key != 0).then_some(StackId(key))
}

/// What a `LOCK_` code means.
pub(crate) fn lock_operation(code: u32) -> Result<LockOperation, DecodeError> {
    match code {
        wire::LOCK_MUTEX => Ok(LockOperation::Mutex),
        wire::LOCK_RW_SHARED => Ok(LockOperation::RwShared),
        wire::LOCK_RW_EXCLUSIVE => Ok(LockOperation::RwExclusive),
        wire::LOCK_RW_UPGRADABLE => Ok(LockOperation::RwUpgradable),
        wire::LOCK_RW_UPGRADE => Ok(LockOperation::RwUpgrade),
        wire::LOCK_CONDVAR => Ok(LockOperation::Condvar),
        wire::LOCK_STD_MUTEX => Ok(LockOperation::StdMutex),
        wire::LOCK_STD_READ => Ok(LockOperation::StdRead),
        wire::LOCK_STD_WRITE => Ok(LockOperation::StdWrite),
        wire::LOCK_TOKIO_ACQUIRE => Ok(LockOperation::TokioAcquire),
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
