//! What symbolization leaves: frames with names, files and lines, for each code address.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One source-level frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Demangled, without the hash; for an address without a name, the module with the offset in it
    /// (`libfoo.so+0x1234`) .
    pub function: String,
    /// Its type arguments as debug information has them, whole: `parking_lot::raw_mutex::RawMutex,
    /// app::Sessions`. With those of the type that it is a method of, in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generics: Option<String>,
    /// Source file as the debug info has it, with the folders it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in it: of the call for a caller, of the instruction for the innermost frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// File name of the binary or library it is in.
    pub module: String,
    /// The compiler inlined it into the frame that follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
    /// Why it has no name, where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unresolved: Option<Unresolved>,
}

/// Why an address has no function name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unresolved {
    /// No mapping of the target covers the address.
    NotMapped,
    /// The mapping has no file behind it (JIT, anonymous memory).
    NoFile,
    /// The file has no symbol for the address.
    NoSymbol,
    /// The file could not be read or parsed.
    BadFile,
}

/// Names for code addresses. An entry's frames are innermost first: inlined ones, then the function
/// itself. Keys are *lookup addresses*: the instruction pointer itself for an innermost frame, the
/// return address minus one for a caller, so that the call's own line is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolTable {
    /// Lookup address to frames.
    pub frames: BTreeMap<u64, Vec<Frame>>,
    /// Files that looked like debug files of the target's, and debug information, that were not used: one
    /// sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

impl SymbolTable {
    /// Lookup addresses for a stack as the kernel took it (instruction pointer, then return
    /// addresses), innermost first.
    pub fn lookup_addresses(stack: &[u64]) -> impl Iterator<Item = u64> + '_ {
        stack.iter().enumerate().map(|(depth, &addr)| {
            if depth == 0 {
                addr
            } else {
                addr.wrapping_sub(1)
            }
        })
    }
}
