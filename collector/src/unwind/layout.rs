//! An address space with the tables of its files goes in, the ranges for the kernel side come out.

use holdup_probe_ebpf::wire::unwind::{
    CHUNK_ROWS, MAX_RANGES, NO_CHUNK_NO_TABLE, NO_CHUNK_UNMAPPED, NO_CHUNK_UPROBES, Range,
};

/// A table whose rows lie in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunked {
    /// Virtual address that places count from.
    pub base: u64,
    /// Chunk by chunk: its index in the kernel's map, the place of its first row, and how many rows it has.
    pub chunks: Vec<(u32, u32, u32)>,
}

/// What is known of the code in a mapping.
#[derive(Clone, Copy, Debug)]
pub enum Code<'a> {
    /// A table; the difference between a runtime address and the file's virtual address, modulo 2^64.
    Table(&'a Chunked, u64),
    /// No table.
    NoTable,
    /// The kernel's own page for uprobes.
    Uprobes,
}

/// An executable mapping.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'a> {
    /// First address.
    pub start: u64,
    /// Behind its last address.
    pub end: u64,
    /// What is known of its code.
    pub code: Code<'a>,
}

/// Addresses of a process are below this on every 64-bit Linux. The kernel side compares by the sign of a
/// difference, which a page beyond it (`[vsyscall]`, where nobody's stack leads) would break.
const ADDRESS_LIMIT: u64 = 1 << 62;

/// The ranges of an address space, whose mappings are sorted and disjoint. Mappings that do not fit into the
/// kernel's map, and all behind them, count as unmapped.
pub fn ranges(mappings: &[Mapped<'_>]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let special = |start, chunk| Range {
        start,
        base: 0,
        chunk,
        rows: 0,
    };
    let of_process = |mapping: &&Mapped<'_>| mapping.end <= ADDRESS_LIMIT;
    for mapping in mappings.iter().filter(of_process) {
        let mut own: Vec<Range> = Vec::new();
        match mapping.code {
            Code::NoTable => own.push(special(mapping.start, NO_CHUNK_NO_TABLE)),
            Code::Uprobes => own.push(special(mapping.start, NO_CHUNK_UPROBES)),
            Code::Table(table, bias) => {
                let base = table.base.wrapping_add(bias);
                for (n, (chunk, first, rows)) in table.chunks.iter().enumerate() {
                    let begins = base.wrapping_add(u64::from(*first));
                    let ends = match table.chunks.get(n + 1) {
                        Some((_, next, _)) => base.wrapping_add(u64::from(*next)),
                        None => mapping.end,
                    };
                    if ends <= mapping.start || begins >= mapping.end {
                        continue;
                    }
                    own.push(Range {
                        // Code in front of the first row is the first chunk's, which then has no row for it.
                        start: if n == 0 {
                            mapping.start
                        } else {
                            begins.max(mapping.start)
                        },
                        base,
                        chunk: *chunk,
                        rows: (*rows).min(CHUNK_ROWS as u32),
                    });
                }
                if own.is_empty() {
                    own.push(special(mapping.start, NO_CHUNK_NO_TABLE));
                }
            }
        }
        // And one for the end of the last.
        if ranges.len() + own.len() + 1 > MAX_RANGES {
            break;
        }
        if ranges
            .last()
            .is_some_and(|last| last.start == mapping.start)
        {
            ranges.pop();
        }
        ranges.extend(own);
        ranges.push(special(mapping.end, NO_CHUNK_UNMAPPED));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(ranges: &[Range]) -> Vec<(u64, u32)> {
        ranges
            .iter()
            .map(|range| (range.start, range.chunk))
            .collect()
    }

    /// A file's chunks where it is mapped, gaps between mappings, and code without a table.
    #[test]
    fn an_address_space() {
        let table = Chunked {
            base: 0x1000,
            chunks: vec![(7, 0x100, 8192), (8, 0x5000, 10)],
        };
        let mappings = [
            Mapped {
                start: 0x40_1000,
                end: 0x40_9000,
                code: Code::Table(&table, 0x40_0000),
            },
            Mapped {
                start: 0x40_9000,
                end: 0x40_a000,
                code: Code::NoTable,
            },
            Mapped {
                start: 0x50_0000,
                end: 0x50_1000,
                code: Code::Uprobes,
            },
        ];
        let ranges = ranges(&mappings);
        assert_eq!(
            shape(&ranges),
            [
                (0x40_1000, 7),
                (0x40_6000, 8),
                (0x40_9000, NO_CHUNK_NO_TABLE),
                (0x40_a000, NO_CHUNK_UNMAPPED),
                (0x50_0000, NO_CHUNK_UPROBES),
                (0x50_1000, NO_CHUNK_UNMAPPED),
            ]
        );
        assert_eq!((ranges[0].base, ranges[0].rows), (0x40_1000, 8192));
    }

    /// The kernel's legacy page at the end of the address space is left out.
    #[test]
    fn vsyscall() {
        let vsyscall = Mapped {
            start: 0xffff_ffff_ff60_0000,
            end: 0xffff_ffff_ff60_1000,
            code: Code::NoTable,
        };
        assert_eq!(ranges(&[vsyscall]), []);
    }

    /// Of a file that is mapped in two parts each has the chunks that it needs.
    #[test]
    fn a_part_of_a_file() {
        let table = Chunked {
            base: 0,
            chunks: vec![(1, 0, 8192), (2, 0x1000, 8192), (3, 0x2000, 5)],
        };
        let part = Mapped {
            start: 0x11_800,
            end: 0x12_000,
            code: Code::Table(&table, 0x10_000),
        };
        assert_eq!(
            shape(&ranges(&[part])),
            [(0x11_800, 2), (0x12_000, NO_CHUNK_UNMAPPED)]
        );
    }

    /// More mappings than the kernel's map has room for: those that fit, and nothing half.
    #[test]
    fn too_many_mappings() {
        let mappings: Vec<Mapped<'_>> = (0..3000)
            .map(|n| Mapped {
                start: n * 0x2000,
                end: n * 0x2000 + 0x1000,
                code: Code::NoTable,
            })
            .collect();
        let ranges = ranges(&mappings);
        assert_eq!(ranges.len(), MAX_RANGES);
        assert_eq!(
            ranges.last().map(|range| range.chunk),
            Some(NO_CHUNK_UNMAPPED)
        );
    }
}
