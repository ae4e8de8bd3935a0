//! Reads a capture file back. The file is untrusted: each length is checked against what is left of it
//! before anything is allocated, and damage ends the reading where it is met instead of failing it.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use holdup_probe_ebpf::wire;
use serde::de::DeserializeOwned;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{
    Capture, CaptureError, Counters, Cut, End, EndReason, FormatError, Meta, PollSite, ProbeFamily,
    ReturnSite, RuntimeThread, section,
};
use crate::decode;
use crate::event::{
    CodeAddr, Event, HoldTotals, LockOperation, LockOutcome, LockWaitTotals, Nanos, PairTotals,
    RawStack, StackId, Tid, Timestamp, WalkOutcome,
};
use crate::stuck::{MOST_WAITS, StuckWait};
use crate::symbolize::SymbolTable;

/// Reads the capture at `path`. One that is cut off or damaged in the middle gives everything before that
/// place, with `EndReason::Truncated`.
pub fn read(path: &Path) -> Result<Capture, CaptureError> {
    let unreadable = |source| CaptureError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(CaptureError::Format {
            path: path.to_owned(),
            source: FormatError::NotACapture,
        });
    }
    parse(BufReader::new(file), about.len()).map_err(|error| match error {
        FormatError::Io(source) => unreadable(source),
        source => CaptureError::Format {
            path: path.to_owned(),
            source,
        },
    })
}

/// Reads a capture of `length` bytes.
pub fn parse(source: impl Read, length: u64) -> Result<Capture, FormatError> {
    if length > section::MOST_FILE_BYTES {
        return Err(FormatError::TooLarge {
            bytes: length,
            most: section::MOST_FILE_BYTES,
        });
    }
    let mut sections = Sections::open(source, length)?;
    let meta = first_meta(&mut sections)?;
    let mut contents = Contents::new(meta);
    let cut = loop {
        let offset = sections.offset;
        let damaged = match sections.next()? {
            Next::Section(section::END, payload) => match json(&payload) {
                Ok(end) => {
                    contents.end = Some(end);
                    break None;
                }
                Err(why) => why,
            },
            Next::Section(kind, payload) => match contents.add(kind, &payload) {
                Ok(()) => continue,
                Err(why) => why,
            },
            Next::Damaged(why) => why.to_owned(),
        };
        break Some(Cut {
            offset,
            why: damaged,
        });
    };
    let capture = contents.into_capture(cut);
    match impossible(&capture) {
        Some(why) => Err(FormatError::Impossible {
            why: why.to_owned(),
        }),
        None => Ok(capture),
    }
}

/// No duration or sum is longer: 104 days, above which a flamegraph's numbers are not exact.
const MOST_NS: u64 = 1 << 53;

/// Events may lie this far outside of the recording. Attaching and detaching take less.
const SLACK_NS: u64 = 3_600_000_000_000;

/// A checksum keeps nobody from writing nonsense. What is made of a capture relies on times that can be
/// added up; here is said what in this one can't.
fn impossible(capture: &Capture) -> Option<&'static str> {
    let (meta, end) = (&capture.meta, &capture.end);
    if end.at < meta.start || end.at.since(meta.start).0 > MOST_NS {
        return Some("its end does not fit its start");
    }
    let durations = [meta.attach, meta.threshold, meta.sample_after, end.detach];
    if durations.iter().any(|duration| duration.0 > MOST_NS) {
        return Some("a duration of more than 104 days");
    }
    let first = Timestamp(meta.start.0.saturating_sub(SLACK_NS));
    let last = Timestamp(end.at.0.saturating_add(SLACK_NS));
    let (mut polled, mut waited) = (Nanos::ZERO, Nanos::ZERO);
    for event in &capture.events {
        let Some((from, to)) = extent(event) else {
            continue;
        };
        match event {
            Event::LongPoll(_) => polled += to.since(from),
            Event::LockWait(wait) if wait.outcome == LockOutcome::StillWaiting => {
                waited += to.since(from);
            }
            _ => {}
        }
        if from < first || to > last {
            return Some("an event far outside of the recording");
        }
    }
    for totals in &capture.lock_waits {
        // All threads can wait for a condition all the time.
        if totals.operation != LockOperation::Condvar {
            waited += totals.total;
        }
        if totals.max.0 > MOST_NS {
            return Some("a lock wait of more than 104 days");
        }
    }
    let holds = capture.holds.iter().map(|holds| holds.max);
    let pairs = capture.pairs.iter().map(|pairs| pairs.max);
    let handovers = capture.events.iter().filter_map(|event| match event {
        Event::LockWait(wait) => Some(wait.handover),
        Event::Hold(hold) => Some(hold.at_least),
        _ => None,
    });
    if holds
        .chain(pairs)
        .chain(handovers)
        .any(|time| time.0 > MOST_NS)
    {
        return Some("a hold of more than 104 days");
    }
    let too_much = polled.0 > MOST_NS || waited.0 > MOST_NS;
    too_much.then_some("more than 104 days of long polls or lock waits")
}

fn first_meta(sections: &mut Sections<impl Read>) -> Result<Meta, FormatError> {
    let offset = sections.offset;
    let unusable = |why: String| FormatError::Unusable { offset, why };
    let meta: Meta = match sections.next()? {
        Next::Section(section::META, payload) => json(&payload).map_err(unusable)?,
        Next::Section(kind, _) => {
            return Err(unusable(format!(
                "section {kind} where the meta data belongs"
            )));
        }
        Next::Damaged(why) => return Err(unusable(why.to_owned())),
    };
    check_version("wire version", meta.wire_version, wire::WIRE_VERSION)?;
    Ok(meta)
}

fn check_version(what: &'static str, found: u32, known: u32) -> Result<(), FormatError> {
    match found.cmp(&known) {
        std::cmp::Ordering::Less => Err(FormatError::Older { what, found, known }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(FormatError::Newer { what, found, known }),
    }
}

/// The sections of a file, one after the other.
struct Sections<R> {
    source: R,
    offset: u64,
    length: u64,
}

enum Next {
    Section(u32, Vec<u8>),
    Damaged(&'static str),
}

impl<R: Read> Sections<R> {
    fn open(mut source: R, length: u64) -> Result<Sections<R>, FormatError> {
        let mut header = [0; section::FILE_HEADER];
        match source.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(FormatError::NotACapture);
            }
            Err(error) => return Err(error.into()),
        }
        let (magic, version) = header.split_at(section::MAGIC.len());
        if magic != section::MAGIC {
            return Err(FormatError::NotACapture);
        }
        check_version("file version", word(version, 0), section::VERSION)?;
        Ok(Sections {
            source,
            offset: section::FILE_HEADER as u64,
            length,
        })
    }

    fn next(&mut self) -> Result<Next, FormatError> {
        let left = self.length.saturating_sub(self.offset);
        if left == 0 {
            return Ok(Next::Damaged("the file ends before its end mark"));
        }
        let mut header = [0; section::SECTION_HEADER];
        if !self.fill(&mut header)? {
            return Ok(Next::Damaged("the file ends in a section's header"));
        }
        let (kind, length, checksum) = (word(&header, 0), word(&header, 4), word(&header, 8));
        if length > section::MOST_SECTION_BYTES {
            return Ok(Next::Damaged("a section longer than any holdup writes"));
        }
        if u64::from(length) > left {
            return Ok(Next::Damaged("the file ends in the middle of a section"));
        }
        let mut payload = vec![0; length as usize];
        if !self.fill(&mut payload)? {
            return Ok(Next::Damaged("the file ends in the middle of a section"));
        }
        if section::checksum(kind, &payload) != checksum {
            return Ok(Next::Damaged("a section whose checksum is wrong"));
        }
        Ok(Next::Section(kind, payload))
    }

    /// False when the file ends first: it can have been cut since its length was asked.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, FormatError> {
        match self.source.read_exact(buffer) {
            Ok(()) => {
                self.offset += buffer.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The little-endian number at `at`, which the caller knows to be there.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload)
        .map_err(|error| format!("a section that is not understood: {error}"))
}

/// What was read so far.
struct Contents {
    meta: Meta,
    probes: Vec<ProbeFamily>,
    poll_sites: Vec<PollSite>,
    return_sites: Vec<ReturnSite>,
    events: Vec<Event>,
    lock_waits: Vec<LockWaitTotals>,
    pairs: Vec<PairTotals>,
    holds: Vec<HoldTotals>,
    stacks: BTreeMap<StackId, RawStack>,
    counters: Counters,
    threads: Vec<wire::Thread>,
    stuck: Vec<StuckWait>,
    runtime_threads: BTreeMap<Tid, RuntimeThread>,
    symbols: SymbolTable,
    end: Option<End>,
    undecoded: BTreeMap<String, u64>,
}

impl Contents {
    fn new(meta: Meta) -> Contents {
        Contents {
            meta,
            probes: Vec::new(),
            poll_sites: Vec::new(),
            return_sites: Vec::new(),
            events: Vec::new(),
            lock_waits: Vec::new(),
            pairs: Vec::new(),
            holds: Vec::new(),
            stacks: BTreeMap::new(),
            counters: Counters::default(),
            threads: Vec::new(),
            stuck: Vec::new(),
            runtime_threads: BTreeMap::new(),
            symbols: SymbolTable::default(),
            end: None,
            undecoded: BTreeMap::new(),
        }
    }

    fn add(&mut self, kind: u32, payload: &[u8]) -> Result<(), String> {
        match kind {
            section::META => self.meta = json(payload)?,
            section::RECORDS => self.records(payload)?,
            section::PROBES => self.probes.extend(json::<Vec<_>>(payload)?),
            section::POLL_SITES => self.poll_sites.extend(json::<Vec<_>>(payload)?),
            section::RETURN_SITES => self.return_sites.extend(json::<Vec<_>>(payload)?),
            section::LOCK_WAITS => {
                self.map(payload, decode::lock_wait_totals, |it| &mut it.lock_waits)?;
            }
            section::PAIRS => self.map(payload, decode::pair_totals, |it| &mut it.pairs)?,
            section::HOLDS => self.map(payload, decode::hold_totals, |it| &mut it.holds)?,
            section::STACKS => self.stacks(payload)?,
            section::COUNTERS => {
                self.counters = Counters::new(entries::<u64>(payload)?);
            }
            section::THREADS => self.threads.extend(entries::<wire::Thread>(payload)?),
            section::STUCK => {
                self.stuck.extend(json::<Vec<_>>(payload)?);
                // No recording has more.
                self.stuck.truncate(MOST_WAITS);
            }
            section::RUNTIME_THREADS => {
                let threads = json::<Vec<RuntimeThread>>(payload)?;
                let by_tid = threads.into_iter().map(|thread| (thread.tid, thread));
                self.runtime_threads.extend(by_tid);
            }
            section::SYMBOLS => {
                let table: SymbolTable = json(payload)?;
                self.symbols.frames.extend(table.frames);
                self.symbols.refused.extend(table.refused);
            }
            _ => self.skip(format!("unknown section {kind}")),
        }
        Ok(())
    }

    fn skip(&mut self, why: String) {
        *self.undecoded.entry(why).or_default() += 1;
    }

    fn records(&mut self, mut payload: &[u8]) -> Result<(), String> {
        while !payload.is_empty() {
            let (length, rest) = payload
                .split_at_checked(4)
                .ok_or("a record without a length")?;
            let (record, rest) = rest
                .split_at_checked(word(length, 0) as usize)
                .ok_or("a record longer than its section")?;
            match decode::event(record) {
                Ok(event) => self.events.push(event),
                Err(error) => self.skip(error.to_string()),
            }
            payload = rest;
        }
        Ok(())
    }

    /// The entries of a map of the kernel side.
    fn map<K, V, T>(
        &mut self,
        payload: &[u8],
        decode: impl Fn(&K, &V) -> Result<T, decode::DecodeError>,
        list: impl Fn(&mut Contents) -> &mut Vec<T>,
    ) -> Result<(), String>
    where
        K: FromBytes + KnownLayout + Immutable,
        V: FromBytes + KnownLayout + Immutable,
    {
        for entry in whole_chunks(payload, size_of::<K>() + size_of::<V>())? {
            let (key, value) = entry.split_at(size_of::<K>());
            let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) else {
                continue; // Both lengths are right by construction.
            };
            match decode(&key, &value) {
                Ok(entry) => list(self).push(entry),
                Err(error) => self.skip(error.to_string()),
            }
        }
        Ok(())
    }

    fn stacks(&mut self, payload: &[u8]) -> Result<(), String> {
        let words = entries::<u64>(payload)?;
        let mut words = words.as_slice();
        while let [key, header, rest @ ..] = words {
            let (frames, outcome) = (*header as u32 as usize, (header >> 32) as u32);
            let (addresses, rest) = rest
                .split_at_checked(frames)
                .ok_or("a stack longer than its section")?;
            let stack = RawStack {
                outcome: WalkOutcome::from_code(outcome),
                addresses: addresses.to_vec(),
            };
            self.stacks.insert(StackId(*key), stack);
            words = rest;
        }
        if words.is_empty() {
            Ok(())
        } else {
            Err("a stack without a length".to_owned())
        }
    }

    fn into_capture(mut self, cut: Option<Cut>) -> Capture {
        self.mend_start();
        let end = match self.end.take() {
            Some(end) if cut.is_none() => end,
            _ => End {
                at: self.last_event(),
                reason: EndReason::Truncated,
                detach: Nanos(0),
            },
        };
        let unwatched_at_end = self.add_unfinished(end.at);
        // Names are written last. Without any, a function would be as many places as it has addresses.
        if cut.is_some() && self.symbols.frames.is_empty() {
            self.stacks.clear();
        }
        Capture {
            meta: self.meta,
            probes: self.probes,
            poll_sites: self.poll_sites,
            return_sites: self.return_sites,
            events: self.events,
            lock_waits: self.lock_waits,
            pairs: self.pairs,
            holds: self.holds,
            stacks: self.stacks,
            counters: self.counters,
            stuck: self.stuck,
            runtime_threads: self.runtime_threads.into_values().collect(),
            symbols: self.symbols,
            end,
            undecoded: self.undecoded,
            unwatched_at_end,
            cut,
        }
    }

    /// How far a file without an end mark is known to reach.
    fn last_event(&self) -> Timestamp {
        let ends = self.events.iter().filter_map(extent).map(|(_, end)| end);
        ends.fold(self.meta.start, Timestamp::max)
    }

    /// The start is written at the end. Without it the recording is known to be as long as its events reach.
    fn mend_start(&mut self) {
        if self.meta.start == Timestamp(0) {
            let starts = self.events.iter().filter_map(extent);
            self.meta.start = starts.map(|(start, _)| start).min().unwrap_or(Timestamp(0));
        }
    }

    /// What the threads' records say was under way at the end. The ring buffer can hold the same polls, waits
    /// and intervals, cut at the end as well, if they ended while the probes were taken off. The record's
    /// version is kept: it was read while all probes were there.
    fn add_unfinished(&mut self, end: Timestamp) -> u64 {
        let window = decode::Window {
            start: self.meta.start,
            end,
            threshold: self.meta.threshold,
        };
        let watched: BTreeMap<CodeAddr, Timestamp> = self
            .return_sites
            .iter()
            .filter_map(|site| Some((site.return_addr, site.attached?)))
            .collect();
        let (mut under_way, mut unwatched) = (Vec::new(), HashSet::new());
        for thread in &self.threads {
            let unfinished =
                decode::unfinished(thread, window, |address| watched.get(&address).copied());
            under_way.extend(unfinished.events);
            unwatched.extend(unfinished.unwatched.into_iter().map(|start| Stretch {
                what: What::Poll,
                tid: Tid(thread.tid),
                start,
            }));
        }
        let known: HashSet<Stretch> = under_way.iter().filter_map(Stretch::of).collect();
        self.events.retain(|event| {
            let twice = Stretch::of(event).is_some_and(|stretch| known.contains(&stretch));
            // What began behind the end is in the sums of the ring buffer's version only.
            let behind = matches!(event, Event::OffCpu(interval) if interval.start > end
            && known.contains(&Stretch {
                what: What::Poll,
                tid: interval.tid,
                start: interval.poll_start,
            }));
            !(twice || behind)
        });
        // A probe that came after a poll's start may have seen its end nevertheless.
        for seen in self.events.iter().filter_map(Stretch::of) {
            unwatched.remove(&seen);
        }
        self.events.extend(under_way);
        unwatched.len() as u64
    }
}

/// When an event began and ended; None without a time.
fn extent(event: &Event) -> Option<(Timestamp, Timestamp)> {
    match event {
        Event::ThreadSeen { .. } => None,
        Event::ReturnSite { at, .. } | Event::ProcessExec { at } => Some((*at, *at)),
        Event::CpuSample(sample) => Some((sample.at, sample.at)),
        Event::OffCpu(interval) => Some((interval.start, interval.end)),
        Event::LongPoll(poll) => Some((poll.start, poll.end)),
        Event::LockWait(wait) => Some((wait.start, wait.end)),
        // It may have begun long before the recording.
        Event::Hold(hold) => Some((hold.end, hold.end)),
        Event::TaskDelay(delay) => Some((delay.woken, delay.end)),
        Event::WorkerSlice(slice) => Some((slice.start, slice.end)),
    }
}

/// A stretch of a thread's time: by its thread and start it is told apart from all others.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Stretch {
    what: What,
    tid: Tid,
    start: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Poll,
    LockWait,
    OffCpu,
}

impl Stretch {
    fn of(event: &Event) -> Option<Stretch> {
        let (what, tid, start) = match event {
            Event::LongPoll(poll) => (What::Poll, poll.tid, poll.start),
            Event::LockWait(wait) => (What::LockWait, wait.tid, wait.start),
            Event::OffCpu(interval) => (What::OffCpu, interval.tid, interval.start),
            _ => return None,
        };
        Some(Stretch { what, tid, start })
    }
}

/// The entries of a list of plain data.
fn entries<T: FromBytes + KnownLayout + Immutable>(payload: &[u8]) -> Result<Vec<T>, String> {
    Ok(whole_chunks(payload, size_of::<T>())?
        .filter_map(|entry| T::read_from_bytes(entry).ok())
        .collect())
}

fn whole_chunks(payload: &[u8], size: usize) -> Result<std::slice::ChunksExact<'_, u8>, String> {
    let chunks = payload.chunks_exact(size);
    if chunks.remainder().is_empty() {
        Ok(chunks)
    } else {
        Err(format!(
            "a list of {size}-byte entries with {} bytes",
            payload.len()
        ))
    }
}
