//! The bytes of an ELF file go in; its symbols, address arithmetic and identity come out. No
//! policy: what the symbols are good for is decided in `sites`.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, elf};
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

/// Most bytes of one section that are looked at in search of version strings.
const VERSION_SCAN_LIMIT: usize = 64 << 20;
/// Most bytes of code that are looked at: a 1 GB binary has about 200 MB, and segments of a hostile one may all be the same bytes.
const CODE_LIMIT: usize = 1 << 30;
/// Most bytes that one compressed section may inflate to. Real ones stay below: a 1 GB binary has
/// about 500 MB of `.debug_info`; a hostile one may claim any size.
const SECTION_LIMIT: u64 = 1 << 30;
/// A compressed section may not inflate to more than this many times its size. Debug information inflates three to
/// ten times; a few kilobytes that zstd makes a gigabyte of were made to fill our memory.
const INFLATION_LIMIT: u64 = 100;
/// Longer mangled names are left as they are: the longest in a 100 MB Tokio program has 6 KiB.
const NAME_LIMIT: usize = 64 << 10;

/// Why a file can't be used.
#[derive(Debug, Error)]
pub enum ElfError {
    /// The file can't be opened or mapped.
    #[error("{0}")]
    Open(std::io::Error),
    /// Not a 64-bit ELF file.
    #[error("not a 64-bit little-endian ELF file: {0}")]
    NotElf(object::Error),
    /// Its headers contradict themselves or the file's length.
    #[error("malformed ELF file: {0}")]
    Malformed(object::Error),
    /// A section is compressed and would not fit.
    #[error("section {section} would inflate to {size} bytes, more than holdup reads")]
    TooLarge {
        /// The section.
        section: String,
        /// What it claims.
        size: u64,
    },
    /// A section is compressed and does not inflate to what it claims.
    #[error("section {0} is compressed and broken")]
    BadCompression(String),
}

/// A `PT_LOAD` segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Virtual address of its first byte.
    pub vaddr: u64,
    /// Its offset in the file.
    pub file_offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Holds code.
    pub executable: bool,
}

impl Segment {
    /// Which virtual address the byte at `file_offset` is loaded to. Where pages are shared between
    /// two segments, the executable one answers: all askers are after code.
    pub fn vaddr(segments: &[Segment], file_offset: u64) -> Option<u64> {
        let in_segment = |segment: &Segment| {
            let into = file_offset.checked_sub(segment.file_offset)?;
            (into < segment.file_size)
                .then(|| segment.vaddr.checked_add(into))
                .flatten()
        };
        let (code, data): (Vec<_>, Vec<_>) = segments.iter().partition(|s| s.executable);
        code.into_iter().chain(data).find_map(in_segment)
    }
}

/// What each thread has a copy of: the `PT_TLS` segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadLocalSegment {
    /// Virtual address of its first byte.
    pub vaddr: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// What its address is a multiple of, but for what `vaddr` is beyond one.
    pub align: u64,
}

/// A symbol, of a function unless it is said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'data> {
    /// As the symbol table has it.
    pub mangled: &'data str,
    /// Entry, as a virtual address of the file. Of a thread-local variable the offset in its segment.
    pub vaddr: u64,
    /// Size in bytes; 0 when the table does not tell.
    pub size: u64,
}

impl<'data> Symbol<'data> {
    /// None where its name is no text.
    fn of(symbol: &impl object::ObjectSymbol<'data>) -> Option<Symbol<'data>> {
        Some(Symbol {
            mangled: symbol.name().ok()?,
            vaddr: symbol.address(),
            size: symbol.size(),
        })
    }

    /// The name for people, without hash.
    pub fn demangled(&self) -> String {
        demangle(self.mangled).into_owned()
    }
}

/// Demangles a Rust name of either scheme, without its hash; others stay as they are.
pub fn demangle(mangled: &str) -> Cow<'_, str> {
    if mangled.len() > NAME_LIMIT {
        return Cow::Borrowed(mangled);
    }
    match rustc_demangle::try_demangle(mangled) {
        Ok(name) => Cow::Owned(format!("{name:#}")),
        Err(_) => Cow::Borrowed(mangled),
    }
}

/// An ELF file.
pub struct Elf<'data> {
    file: ElfFile64<'data, Endianness>,
    data: &'data [u8],
    segments: Vec<Segment>,
    build_id: Option<String>,
}

impl<'data> Elf<'data> {
    /// Reads the headers of `data`.
    pub fn parse(data: &'data [u8]) -> Result<Elf<'data>, ElfError> {
        let file = ElfFile64::<Endianness>::parse(data).map_err(ElfError::NotElf)?;
        let endian = file.endian();
        let segments = file
            .elf_program_headers()
            .iter()
            .filter(|header| header.p_type(endian) == elf::PT_LOAD)
            .map(|header| Segment {
                vaddr: header.p_vaddr(endian),
                file_offset: header.p_offset(endian),
                file_size: header.p_filesz(endian),
                executable: header.p_flags(endian) & elf::PF_X != 0,
            })
            .collect();
        let build_id = file.build_id().ok().flatten().map(hex);
        Ok(Elf {
            file,
            data,
            segments,
            build_id,
        })
    }

    /// GNU build-id, hex.
    pub fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// Whether the code is x86-64.
    pub fn is_x86_64(&self) -> bool {
        self.file.architecture() == object::Architecture::X86_64
    }

    /// Whether the code is aarch64.
    pub fn is_aarch64(&self) -> bool {
        self.file.architecture() == object::Architecture::Aarch64
    }

    /// The `PT_LOAD` segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What is loaded to be executed: virtual addresses and bytes.
    pub fn executable(&self) -> impl Iterator<Item = (u64, &'data [u8])> + '_ {
        let mut left = CODE_LIMIT;
        let executable = self.segments.iter().filter(|segment| segment.executable);
        executable.map(move |segment| {
            let length = usize::try_from(segment.file_size).unwrap_or(usize::MAX);
            let bytes = self.bytes_at(segment.vaddr, length.min(left));
            left -= bytes.len();
            (segment.vaddr, bytes)
        })
    }

    /// Has no `.symtab`: only exported functions have names.
    pub fn is_stripped(&self) -> bool {
        self.file.symbol_table().is_none()
    }

    /// Has `.debug_info`.
    pub fn has_dwarf(&self) -> bool {
        ["__debug_info", ".debug_info", ".zdebug_info"]
            .iter()
            .any(|name| self.file.section_by_name(name).is_some())
    }

    /// Every function symbol of `.symtab`, then of `.dynsym`. The same function can appear in both.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol<'data>> + '_ {
        self.file
            .symbols()
            .chain(self.file.dynamic_symbols())
            .filter(|symbol| symbol.is_definition() && symbol.kind() == object::SymbolKind::Text)
            .filter_map(|symbol| Symbol::of(&symbol))
    }

    /// Global names in the code that nobody declared to be functions: hand-written assembly is often so.
    pub fn labels(&self) -> impl Iterator<Item = Symbol<'data>> + '_ {
        // By the section and not by the segment: a debug file has the code's sections without their contents.
        let is_in_code = |index: object::SectionIndex| {
            let section = self.file.section_by_index(index);
            section.is_ok_and(|section| {
                matches!(
                    section.flags(),
                    object::SectionFlags::Elf { sh_flags, .. }
                        if sh_flags & u64::from(elf::SHF_EXECINSTR) != 0
                )
            })
        };
        self.file
            .symbols()
            .filter(move |symbol| {
                symbol.kind() == object::SymbolKind::Unknown
                    && symbol.is_global()
                    && symbol.section_index().is_some_and(is_in_code)
            })
            .filter_map(|symbol| Symbol::of(&symbol))
    }

    /// What each thread has a copy of, if there is anything.
    pub fn thread_local_segment(&self) -> Option<ThreadLocalSegment> {
        let endian = self.file.endian();
        let headers = self.file.elf_program_headers().iter();
        let mut of_threads = headers.filter(|header| header.p_type(endian) == elf::PT_TLS);
        of_threads.next().map(|header| ThreadLocalSegment {
            vaddr: header.p_vaddr(endian),
            memory_size: header.p_memsz(endian),
            align: header.p_align(endian),
        })
    }

    /// Thread-local variables of `.symtab`.
    pub fn thread_locals(&self) -> impl Iterator<Item = Symbol<'data>> + '_ {
        self.file
            .symbols()
            .filter(|symbol| !symbol.is_undefined() && symbol.kind() == object::SymbolKind::Tls)
            .filter_map(|symbol| Symbol::of(&symbol))
    }

    /// Pointers in the data: where each is, and what it points to, both virtual addresses. From the
    /// relocations that the loader applies, and, as those may be packed (`.relr.dyn`) or not needed (a
    /// program that is not position-independent), from the words of the data itself.
    pub fn pointers(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let words = [".data.rel.ro", ".rodata", ".got"]
            .into_iter()
            .flat_map(|name| {
                let section = self.file.section_by_name(name);
                let start = section.as_ref().map_or(0, |section| section.address());
                let bytes = section
                    .and_then(|section| section.data().ok())
                    .unwrap_or(&[]);
                let words = bytes.as_chunks::<8>().0.iter();
                words
                    .enumerate()
                    .map(move |(n, word)| {
                        (start.wrapping_add(8 * n as u64), u64::from_le_bytes(*word))
                    })
                    .filter(|(_, target)| self.is_code(*target))
            });
        let relocations = self.file.dynamic_relocations().into_iter().flatten();
        words.chain(relocations.filter_map(|(place, relocation)| {
            let target = u64::try_from(relocation.addend()).ok()?;
            let relative = relocation.target() == object::RelocationTarget::Absolute;
            (relative && self.is_code(target)).then_some((place, target))
        }))
    }

    fn is_code(&self, vaddr: u64) -> bool {
        self.segments.iter().any(|segment| {
            segment.executable
                && vaddr
                    .checked_sub(segment.vaddr)
                    .is_some_and(|into| into < segment.file_size)
        })
    }

    /// Where the byte at virtual address `vaddr` is in the file.
    pub fn file_offset(&self, vaddr: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let into = vaddr.checked_sub(segment.vaddr)?;
            (into < segment.file_size)
                .then(|| segment.file_offset.checked_add(into))
                .flatten()
        })
    }

    /// Which virtual address the byte at `file_offset` is loaded to.
    pub fn vaddr(&self, file_offset: u64) -> Option<u64> {
        Segment::vaddr(&self.segments, file_offset)
    }

    /// At most `len` bytes from virtual address `vaddr` on; empty when the file has none there.
    pub fn bytes_at(&self, vaddr: u64, len: usize) -> &'data [u8] {
        let from = self
            .file_offset(vaddr)
            .and_then(|offset| usize::try_from(offset).ok())
            .and_then(|offset| self.data.get(offset..));
        match from {
            Some(bytes) => &bytes[..bytes.len().min(len)],
            None => &[],
        }
    }

    /// Virtual address of a section.
    pub fn section_address(&self, name: &str) -> Option<u64> {
        Some(self.file.section_by_name(name)?.address())
    }

    /// The search table of the unwind information that is loaded with the code (`PT_GNU_EH_FRAME`): its virtual
    /// address and its bytes.
    pub fn eh_frame_header(&self) -> Option<(u64, &'data [u8])> {
        let endian = self.file.endian();
        let header = self
            .file
            .elf_program_headers()
            .iter()
            .find(|header| header.p_type(endian) == elf::PT_GNU_EH_FRAME)?;
        let bytes = header.data(endian, self.data).ok()?;
        Some((header.p_vaddr(endian), bytes))
    }

    /// The contents of a section, inflated where they are compressed; empty when there is none.
    pub fn section(&self, name: &str) -> Result<Cow<'data, [u8]>, ElfError> {
        let Some(section) = self.file.section_by_name(name) else {
            return Ok(Cow::Borrowed(&[]));
        };
        let compressed = section.compressed_data().map_err(ElfError::Malformed)?;
        let limit = (compressed.data.len() as u64)
            .saturating_mul(INFLATION_LIMIT)
            .min(SECTION_LIMIT);
        if compressed.uncompressed_size > limit
            && compressed.format != object::CompressionFormat::None
        {
            return Err(ElfError::TooLarge {
                section: name.to_owned(),
                size: compressed.uncompressed_size,
            });
        }
        match compressed.format {
            object::CompressionFormat::Zstandard => {
                inflate_zstd(compressed.data, compressed.uncompressed_size)
                    .map(Cow::Owned)
                    .ok_or_else(|| ElfError::BadCompression(name.to_owned()))
            }
            _ => compressed.decompress().map_err(ElfError::Malformed),
        }
    }

    /// The compiler's own words from `.comment`, e.g. `rustc version 1.95.0 (59807616e 2026-04-14)`.
    pub fn rustc_version(&self) -> Option<String> {
        let comment = self.section(".comment").ok()?;
        comment
            .split(|&byte| byte == 0)
            .filter_map(|text| std::str::from_utf8(text).ok())
            .find(|text| text.starts_with("rustc version"))
            .map(|text| text.chars().take(100).collect())
    }

    /// Which versions of `crates` are in the binary, from the source paths in its panic messages
    /// (`…/tokio-1.49.0/src/…`), which survive stripping. For messages only: a crate that can't
    /// panic, or paths that were remapped, leave nothing.
    pub fn crate_versions(&self, crates: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let Ok(rodata) = self.section(".rodata") else {
            return found;
        };
        let rodata = &rodata[..rodata.len().min(VERSION_SCAN_LIMIT)];
        for (at, _) in rodata.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let rest = &rodata[at + 1..];
            for name in crates {
                let version = rest
                    .strip_prefix(name.as_bytes())
                    .and_then(|rest| rest.strip_prefix(b"-"))
                    .and_then(version_prefix);
                if let Some(version) = version {
                    found
                        .entry((*name).to_owned())
                        .or_default()
                        .insert(version.to_owned());
                }
            }
        }
        found
    }

    /// File name and CRC-32 of the debug file that `.gnu_debuglink` names. A name only: one with a path in
    /// it is somebody playing tricks.
    pub fn debug_link(&self) -> Option<(OsString, u32)> {
        let (name, crc) = self.file.gnu_debuglink().ok().flatten()?;
        let usable = !name.is_empty() && !name.contains(&b'/') && name != b".." && name != b".";
        usable.then(|| (OsStr::from_bytes(name).to_owned(), crc))
    }
}

/// `object` would inflate all that is in there, and look only then whether it is as much as the header claims.
fn inflate_zstd(mut data: &[u8], size: u64) -> Option<Vec<u8>> {
    let mut inflated = Vec::new();
    inflated
        .try_reserve_exact(usize::try_from(size).ok()?)
        .ok()?;
    while !data.is_empty() {
        // One more than there may be, so that a frame with the right number of bytes is read to its end.
        let left = size.checked_sub(inflated.len() as u64)?.saturating_add(1);
        let mut frame = StreamingDecoder::new(&mut data).ok()?.take(left);
        frame.read_to_end(&mut inflated).ok()?;
    }
    (inflated.len() as u64 == size).then_some(inflated)
}

/// `1.49.0` of `1.49.0/src/…`: a digit first, a slash after, nothing else that a version can't have.
fn version_prefix(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().take(48).position(|&byte| byte == b'/')?;
    let version = std::str::from_utf8(&bytes[..end]).ok()?;
    let well_formed = version.starts_with(|c: char| c.is_ascii_digit())
        && version
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-'));
    well_formed.then_some(version)
}

fn hex(bytes: &[u8]) -> String {
    // 20 bytes for SHA-1, 16 for MD5 or a UUID; nobody's linker writes more than 64.
    bytes.iter().take(64).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test binary itself is a real ELF file: addresses and offsets are inverse to each other,
    /// and the bytes at a function's address are in the file at its offset.
    #[test]
    fn addresses_and_offsets_of_this_test_binary_agree() {
        let bytes = std::fs::read("/proc/self/exe").expect("the test binary is readable");
        let elf = Elf::parse(&bytes).expect("the test binary is an ELF file");
        assert!(!elf.is_stripped());
        assert!(elf.has_dwarf());
        let symbol = elf
            .symbols()
            .find(|symbol| symbol.demangled().ends_with("elf::demangle"))
            .expect("the function under test is in the binary");
        let offset = elf.file_offset(symbol.vaddr).expect("code is in the file");
        assert_eq!(elf.vaddr(offset), Some(symbol.vaddr));
        assert_eq!(
            elf.bytes_at(symbol.vaddr, 8),
            &bytes[offset as usize..][..8]
        );
        assert!(elf.rustc_version().is_some());
    }

    /// Cutting or corrupting a file anywhere gives an error or fewer symbols, never a panic.
    #[test]
    fn damaged_files_do_not_panic() {
        let mut bytes = std::fs::read("/proc/self/exe").expect("the test binary is readable");
        bytes.truncate(1 << 20);
        for cut in (0..2048).step_by(7).chain([1 << 12, 1 << 16, 1 << 20]) {
            read_all(&bytes[..cut.min(bytes.len())]);
        }
        let mut seed = 0x9e37_79b9_u64;
        for _ in 0..300 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut damaged = bytes.clone();
            for hit in 0..8 {
                let at = (seed >> (hit * 4)) as usize % 1024;
                damaged[at] = (seed >> 24) as u8;
            }
            read_all(&damaged);
        }
    }

    fn read_all(bytes: &[u8]) {
        if let Ok(elf) = Elf::parse(bytes) {
            let _ = elf.symbols().take(1000).count();
            let _ = elf.crate_versions(&["tokio"]);
            let _ = elf.bytes_at(u64::MAX, 16);
            let _ = elf.section(".debug_info");
            let _ = elf.debug_link();
        }
    }

    /// What is inflated ends where the header says, also when there is more.
    #[test]
    fn compressed_data_that_lies_about_its_size() {
        // A frame of 128 KiB of zeros: magic, descriptor and window, then one block of one repeated byte, the last.
        let block = (0x2_0000u32 << 3) | 0b011;
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
        frame.extend_from_slice(&block.to_le_bytes()[..3]);
        frame.push(0);
        let size = 0x2_0000;
        let inflated = inflate_zstd(&frame, size).expect("it is well formed");
        assert!(inflated.len() as u64 == size && inflated.iter().all(|byte| *byte == 0));
        let two = frame.repeat(2);
        assert_eq!(
            inflate_zstd(&two, 2 * size).map(|it| it.len()),
            Some(0x4_0000)
        );
        for lie in [0, 1, size - 1, size + 1] {
            assert_eq!(inflate_zstd(&frame, lie), None);
            assert_eq!(inflate_zstd(&two, size + lie), None);
        }
        assert_eq!(inflate_zstd(&frame[..8], size), None);
        assert_eq!(inflate_zstd(b"no frame", 8), None);
    }

    /// Versions are taken from panic paths only where they look like one.
    #[test]
    fn version_strings() {
        assert_eq!(version_prefix(b"1.49.0/src/runtime"), Some("1.49.0"));
        assert_eq!(
            version_prefix(b"0.12.5-rc.1+meta/src"),
            Some("0.12.5-rc.1+meta")
        );
        assert_eq!(version_prefix(b"util-0.7.17/src"), None);
        assert_eq!(version_prefix(b"1.49.0"), None);
        assert_eq!(version_prefix(b""), None);
    }

    /// Both mangling schemes lose their hash; C names stay.
    #[test]
    fn names_lose_their_hash() {
        assert_eq!(
            demangle("_ZN11parking_lot9raw_mutex8RawMutex9lock_slow17h0123456789abcdefE"),
            "parking_lot::raw_mutex::RawMutex::lock_slow"
        );
        assert_eq!(demangle("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(
            demangle("sha256_block_data_order_avx2"),
            "sha256_block_data_order_avx2"
        );
    }
}
