//! A symbol table goes in; for each address the name of the function that has it comes out.

use std::cmp::Reverse;

use crate::target::Elf;

/// Symbols that are kept: a 100 MB Tokio program has some 200,000.
const SYMBOLS_LIMIT: usize = 4 << 20;

/// Function symbols in the order of their addresses, one for each address.
pub(super) struct FunctionSymbols<'data>(Vec<FunctionSymbol<'data>>);

struct FunctionSymbol<'data> {
    start: u64,
    /// 0 where the table does not tell, as for much of hand-written assembly.
    size: u64,
    name: &'data str,
}

impl<'data> FunctionSymbols<'data> {
    pub(super) fn of(elf: &Elf<'data>) -> FunctionSymbols<'data> {
        let symbols = elf.symbols().chain(elf.labels()).take(SYMBOLS_LIMIT);
        let mut symbols: Vec<FunctionSymbol<'data>> = symbols
            .filter(|symbol| !symbol.mangled.is_empty())
            .map(|symbol| FunctionSymbol {
                start: symbol.vaddr,
                size: symbol.size,
                name: symbol.mangled,
            })
            .collect();
        // Of several names for one address the one that people know: `getpid`, not `__getpid`.
        let is_internal = |name: &str| name.starts_with("__");
        symbols.sort_unstable_by_key(|symbol| {
            let FunctionSymbol { start, size, name } = *symbol;
            (start, Reverse(size), is_internal(name), name.len(), name)
        });
        symbols.dedup_by_key(|symbol| symbol.start);
        FunctionSymbols(symbols)
    }

    /// The mangled name of the function at an address.
    pub(super) fn name(&self, vaddr: u64) -> Option<&'data str> {
        let after = self.0.partition_point(|symbol| symbol.start <= vaddr);
        let before = &self.0[..after];
        // A function can have entries and labels of its own inside, with sizes that end before it does or none.
        const NESTED: usize = 8;
        let covering = before
            .iter()
            .rev()
            .take(NESTED)
            .find(|symbol| vaddr - symbol.start < symbol.size);
        let nearest = before.last().filter(|symbol| symbol.size == 0);
        covering.or(nearest).map(|symbol| symbol.name)
    }
}
