//! Stacks with names: ids of stacks go in, frames that a person can read come out, and whose line of code a
//! stack blames.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{CallSite, FlameFrame, FrameKind, NamedFrame, label};
use crate::capture::{Capture, ReturnSite};
use crate::classify::{Origin, Rules};
use crate::event::{CodeAddr, RawStack, StackId, WalkOutcome};
use crate::symbolize::{Frame, SymbolTable};

/// The function in which every poll of a task begins.
const RAW_POLL: &str = "tokio::runtime::task::raw::poll";

/// A stack with names.
#[derive(Clone, Debug)]
pub struct NamedStack {
    /// Innermost first, inlined ones included.
    pub frames: Vec<Rc<NamedFrame>>,
    /// For each address of the stack, where the frames of its caller begin in `frames`.
    ends: Vec<usize>,
    /// Where the frames of the innermost poll end, if an address that polls return to tells.
    innermost_poll: Option<usize>,
    /// The addresses, as the kernel took them.
    addresses: Vec<u64>,
    outcome: WalkOutcome,
}

impl NamedStack {
    /// The frames of the innermost poll in the stack: what is between the task and the code that ran.
    ///
    /// A poll's return address says exactly where it begins, and it is in the stack unless the walk was cut
    /// short. For a lock wait, whose poll is not known, it is the innermost address that any poll returns to.
    /// Without one, the innermost `raw::poll` by name. Where neither is found, all frames.
    pub fn of_poll(&self, return_addr: Option<CodeAddr>) -> &[Rc<NamedFrame>] {
        let end = self.end_of_poll(return_addr).unwrap_or(self.frames.len());
        inside_harness(&self.frames[..end])
    }

    /// Where the frames of the innermost poll end, if the stack reaches so far.
    fn end_of_poll(&self, return_addr: Option<CodeAddr>) -> Option<usize> {
        let is_raw_poll = |frame: &Rc<NamedFrame>| frame.label == RAW_POLL;
        let called_from = match return_addr {
            Some(CodeAddr(wanted)) => frames_inside(&self.addresses, &self.ends, |it| it == wanted),
            None => self.innermost_poll,
        };
        match called_from {
            // `raw::poll` may have jumped to what it calls, and then has no frame of its own.
            Some(end) if end > 0 && is_raw_poll(&self.frames[end - 1]) => Some(end - 1),
            Some(end) => Some(end),
            None => self.frames.iter().position(is_raw_poll),
        }
    }

    /// What cut the stack short, if callers are missing between its frames and the poll's begin, or the thread's
    /// where there is no poll.
    pub fn cut_short(&self, return_addr: Option<CodeAddr>) -> Option<WalkOutcome> {
        let is_whole = self.outcome == WalkOutcome::Complete;
        (!is_whole && self.end_of_poll(return_addr).is_none()).then_some(self.outcome)
    }

    /// How its walk ended.
    pub fn outcome(&self) -> WalkOutcome {
        self.outcome
    }
}

/// What Tokio's harness calls: between `raw::poll` and the task's future stand a dozen frames (state
/// transitions, `catch_unwind`) that are the same for every task. All of them are dropped, or none if the
/// time went to the harness itself.
fn inside_harness(frames: &[Rc<NamedFrame>]) -> &[Rc<NamedFrame>] {
    const HARNESS: [&str; 5] = [
        "tokio::runtime::task::",
        "tokio::loom::",
        "std::panic",
        "core::panic::",
        "<core::panic::",
    ];
    let is_harness =
        |frame: &Rc<NamedFrame>| HARNESS.iter().any(|path| frame.label.starts_with(path));
    match frames.iter().rposition(|frame| !is_harness(frame)) {
        Some(outermost) => &frames[..=outermost],
        None => frames,
    }
}

/// How many frames lie inside the innermost caller whose return address `is_it`.
fn frames_inside(addresses: &[u64], ends: &[usize], is_it: impl Fn(u64) -> bool) -> Option<usize> {
    // The first address is where the thread was, not where it returns to.
    let callee = addresses
        .iter()
        .skip(1)
        .position(|&address| is_it(address))?;
    ends.get(callee).copied()
}

/// The stacks of a capture.
pub struct Stacks {
    named: BTreeMap<StackId, NamedStack>,
}

impl Stacks {
    /// Names and classes all of them; what several have in common is named once.
    pub fn new(capture: &Capture, rules: &Rules) -> Stacks {
        Stacks::of(
            &capture.stacks,
            &capture.symbols,
            &capture.return_sites,
            rules,
        )
    }

    /// The same of parts of one.
    pub fn of(
        stacks: &BTreeMap<StackId, RawStack>,
        symbols: &SymbolTable,
        return_sites: &[ReturnSite],
        rules: &Rules,
    ) -> Stacks {
        let returns: BTreeSet<u64> = return_sites.iter().map(|site| site.return_addr.0).collect();
        let mut by_address: BTreeMap<u64, Vec<Rc<NamedFrame>>> = BTreeMap::new();
        let mut named = BTreeMap::new();
        for (id, RawStack { outcome, addresses }) in stacks {
            let mut frames = Vec::new();
            let mut ends = Vec::with_capacity(addresses.len());
            for address in SymbolTable::lookup_addresses(addresses) {
                let of_address = by_address.entry(address).or_insert_with(|| {
                    match symbols.frames.get(&address) {
                        Some(frames) if !frames.is_empty() => frames
                            .iter()
                            .map(|frame| Rc::new(named_frame(frame, rules)))
                            .collect(),
                        _ => vec![Rc::new(nameless(address))],
                    }
                });
                frames.extend(of_address.iter().cloned());
                ends.push(frames.len());
            }
            let stack = NamedStack {
                innermost_poll: frames_inside(addresses, &ends, |it| returns.contains(&it)),
                frames,
                ends,
                addresses: addresses.clone(),
                outcome: *outcome,
            };
            named.insert(*id, stack);
        }
        Stacks { named }
    }

    /// Those of `wanted` that do not reach the thread's start, with the reason.
    pub fn cut(&self, wanted: &BTreeSet<StackId>) -> BTreeMap<String, String> {
        let cut = wanted.iter().filter_map(|id| {
            let outcome = self.get(Some(*id))?.outcome();
            (outcome != WalkOutcome::Complete).then(|| (hex(id.0), outcome.name().to_owned()))
        });
        cut.collect()
    }

    /// One of them; None if the capture does not have it.
    pub fn get(&self, id: Option<StackId>) -> Option<&NamedStack> {
        self.named
            .get(&id?)
            .filter(|stack| !stack.frames.is_empty())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (StackId, &NamedStack)> {
        self.named.iter().map(|(id, stack)| (*id, stack))
    }

    /// Those in `wanted`, for the report: with indices into a table of their frames.
    pub fn listed(
        &self,
        wanted: &BTreeSet<StackId>,
    ) -> (BTreeMap<String, Vec<usize>>, Vec<NamedFrame>) {
        let mut table = Vec::new();
        let mut places: BTreeMap<Rc<NamedFrame>, usize> = BTreeMap::new();
        let mut listed = BTreeMap::new();
        for id in wanted {
            let Some(stack) = self.get(Some(*id)) else {
                continue;
            };
            let indices = stack.frames.iter().map(|frame| {
                *places.entry(Rc::clone(frame)).or_insert_with(|| {
                    table.push((**frame).clone());
                    table.len() - 1
                })
            });
            listed.insert(hex(id.0), indices.collect());
        }
        (listed, table)
    }
}

/// Addresses and ids in the report.
pub fn hex(value: u64) -> String {
    format!("{value:#x}")
}

/// The number that `hex` wrote.
pub fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The stack that an entry names.
pub fn stack_id(text: &str) -> Option<StackId> {
    parse_hex(text).map(StackId)
}

/// A frame for people, with whose code it is.
pub(super) fn named_frame(frame: &Frame, rules: &Rules) -> NamedFrame {
    let class = rules.classify(frame);
    NamedFrame {
        label: label::function(&frame.function),
        function: frame.function.clone(),
        generics: frame.generics.clone(),
        at: frame
            .file
            .as_deref()
            .map(|file| label::place(file, frame.line)),
        file: frame.file.clone(),
        line: frame.line,
        krate: class.krate,
        origin: class.origin,
        inlined: frame.inlined,
    }
}

fn nameless(address: u64) -> NamedFrame {
    NamedFrame {
        label: hex(address),
        function: hex(address),
        generics: None,
        at: None,
        file: None,
        line: None,
        krate: None,
        origin: Origin::Unknown,
        inlined: false,
    }
}

/// Whose line of code a stack blames: of the innermost frame that is crypto or the user's. Crypto is named
/// together with the innermost frame of the user's that called it. A stack without either is blamed on the
/// innermost library, then on the innermost frame of the runtime, then on the innermost of all.
pub fn call_site(frames: &[Rc<NamedFrame>]) -> Option<CallSite> {
    let is = |origin: Origin| move |frame: &&Rc<NamedFrame>| frame.origin == origin;
    let site = |frame: &Rc<NamedFrame>, called_by: Option<&Rc<NamedFrame>>| CallSite {
        frame: (**frame).clone(),
        called_by: called_by.map(|frame| (**frame).clone()),
    };
    let innermost = frames
        .iter()
        .position(|frame| matches!(frame.origin, Origin::Crypto | Origin::User));
    if let Some(at) = innermost {
        let frame = &frames[at];
        let called_by = match frame.origin {
            Origin::Crypto => frames[at..].iter().find(is(Origin::User)),
            _ => None,
        };
        return Some(site(frame, called_by));
    }
    let frame = frames
        .iter()
        .find(is(Origin::Library))
        .or_else(|| frames.iter().find(is(Origin::Runtime)))
        .or_else(|| frames.first())?;
    Some(site(frame, None))
}

/// What the frame just inside a call site's is: the function that the user's line called.
pub fn called_by_site<'a>(frames: &'a [Rc<NamedFrame>], site: &CallSite) -> Option<&'a NamedFrame> {
    let at = frames.iter().position(|frame| **frame == site.frame)?;
    frames[..at].last().map(|frame| &**frame)
}

/// What call sites are counted by: a function, not a line in it, so that a loop is one place. Crypto is one
/// place for each crate and caller, because its samples fall into many small functions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteKey {
    what: String,
    called_by: Option<String>,
}

impl SiteKey {
    /// Of a call site.
    pub fn new(site: &CallSite) -> SiteKey {
        let frame = &site.frame;
        let what = match (&frame.origin, &frame.krate) {
            (Origin::Crypto, Some(krate)) => krate.clone(),
            _ => frame.label.clone(),
        };
        SiteKey {
            what,
            called_by: site.called_by.as_ref().map(|frame| frame.label.clone()),
        }
    }
}

impl CallSite {
    /// The line that a person of the team that wrote the program looks at.
    pub fn own_frame(&self) -> &NamedFrame {
        self.called_by.as_ref().unwrap_or(&self.frame)
    }
}

impl NamedFrame {
    /// `app::f (src/f.rs:3)`.
    pub fn with_place(&self) -> String {
        match &self.at {
            Some(at) => format!("{} ({at})", self.label),
            None => self.label.clone(),
        }
    }

    /// As a box of a flamegraph.
    pub fn flame_frame(&self) -> FlameFrame {
        FlameFrame {
            label: self.with_place(),
            origin: self.origin,
            kind: if self.inlined {
                FrameKind::Inlined
            } else {
                FrameKind::Code
            },
        }
    }
}
