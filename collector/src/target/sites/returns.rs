//! Where polls return to: from an address, or from the code before any poll has shown one, to a place for a
//! probe.

use std::collections::BTreeSet;

use super::{AttachPlan, CODE_LIMIT, Site, site};
use crate::event::SiteClass;
use crate::target::elf::{Elf, Symbol};
use crate::target::insn;
use crate::target::names::class_of_caller;

/// Places that polls are expected to return to. A Citadel server has a few dozen.
const EXPECTED_RETURNS_LIMIT: usize = 256;

/// Where polls return to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnPlace {
    /// The function that holds the return address.
    pub function: Option<String>,
    /// What polls that return there are, when the function tells.
    pub class: SiteClass,
    /// Where a probe sees the return, or why none does.
    pub site: Result<Site, String>,
}

impl AttachPlan {
    /// Addresses in the target that polls can be expected to return to, before any poll has shown it: what
    /// follows each call of a table's first function in the schedulers' and the blocking pool's code.
    ///
    /// Errs both ways, and neither harms: some of these calls are no polls, and a probe behind them finds no
    /// poll to end; and where the compiler put a scheduler's loop into a function of another name, a poll has to
    /// show where it returns to, and its own end is missed.
    pub fn expected_returns(&self) -> Vec<u64> {
        let (Ok(code), Ok(named)) = (self.binary.code(), self.binary.named()) else {
            return Vec::new();
        };
        if !code.is_x86_64() {
            return Vec::new();
        }
        let mut addresses = BTreeSet::new();
        for symbol in named.symbols() {
            // Demangling is dear; both ways to mangle keep this.
            let worth_a_look = symbol.mangled.contains("5tokio");
            if !worth_a_look || class_of_caller(&symbol.demangled()) == SiteClass::Unknown {
                continue;
            }
            let size = usize::try_from(symbol.size)
                .unwrap_or(CODE_LIMIT)
                .min(CODE_LIMIT);
            let body = code.bytes_at(symbol.vaddr, size);
            addresses.extend(
                insn::returns_of_first_entry_calls(body, symbol.vaddr)
                    .filter_map(|vaddr| self.binary.module.address(code.file_offset(vaddr)?)),
            );
            if addresses.len() >= EXPECTED_RETURNS_LIMIT {
                break;
            }
        }
        addresses.into_iter().take(EXPECTED_RETURNS_LIMIT).collect()
    }

    /// Where polls that return to `return_addr` are seen to end, and what they are.
    pub fn return_place(&self, return_addr: u64) -> ReturnPlace {
        let nothing = |why: String| ReturnPlace {
            function: None,
            class: SiteClass::Unknown,
            site: Err(why),
        };
        let Some(file_offset) = self.binary.module.file_offset(return_addr) else {
            return nothing(match self.modules.find(return_addr) {
                Some(module) => format!("polls return into {}, which is not probed", module.name()),
                None => "polls return into code without a file".to_owned(),
            });
        };
        let (code, named) = match (self.binary.code(), self.binary.named()) {
            (Ok(code), Ok(named)) => (code, named),
            (Err(error), _) | (_, Err(error)) => return nothing(error.to_string()),
        };
        let Some(vaddr) = code.vaddr(file_offset) else {
            return nothing("polls return to an address that the file does not have".to_owned());
        };
        let function = containing(&named, vaddr).map(|symbol| symbol.demangled());
        let class = function
            .as_deref()
            .map_or(SiteClass::Unknown, class_of_caller);
        let offset = if code.is_x86_64() {
            insn::return_site_probe(code.bytes_at(vaddr, 256), vaddr).map(|probe| probe.offset)
        } else {
            Some(0)
        };
        let at = offset.and_then(|offset| site(&code, &self.binary, vaddr + offset));
        ReturnPlace {
            function,
            class,
            site: at.ok_or_else(|| {
                "no instruction behind the call takes a probe: their ends are seen at the thread's next \
                 poll only"
                    .to_owned()
            }),
        }
    }
}

/// The function symbol that covers an address.
pub fn containing<'data>(named: &Elf<'data>, vaddr: u64) -> Option<Symbol<'data>> {
    named
        .symbols()
        .filter(|symbol| {
            vaddr
                .checked_sub(symbol.vaddr)
                .is_some_and(|into| into < symbol.size)
        })
        // Several names for one body: the same one every time.
        .min_by_key(|symbol| (symbol.size, symbol.mangled))
}
