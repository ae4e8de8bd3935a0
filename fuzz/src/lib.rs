//! What several fuzz targets need: ELF files made of sections that the fuzzer chooses. A fuzzer that had to keep
//! every offset of a file right by itself would seldom get to what is inside.

/// Bytes of a section header, of an ELF header and of a program header.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// Cuts `data` into pieces, each behind its length in two bytes; the last piece is what is left.
pub fn pieces(mut data: &[u8], count: usize) -> Vec<&[u8]> {
    let mut pieces = Vec::with_capacity(count);
    while pieces.len() < count {
        let Some((length, rest)) = data.split_first_chunk::<2>() else {
            break;
        };
        let last = pieces.len() + 1 == count;
        let length = match last {
            true => rest.len(),
            false => usize::from(u16::from_le_bytes(*length)).min(rest.len()),
        };
        let (piece, rest) = rest.split_at(length);
        pieces.push(piece);
        data = rest;
    }
    pieces
}

/// A 64-bit little-endian x86-64 file with these sections. All of it is mapped, at its offset, as code.
pub fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut names = vec![0];
    let mut headers = vec![[0; HEADER]];
    let mut file = vec![0; HEADER + PROGRAM_HEADER];
    for (name, contents) in sections {
        headers.push(section_header(names.len(), file.len(), contents.len()));
        names.extend(name.bytes().chain([0]));
        file.extend_from_slice(contents);
    }
    headers.push(section_header(
        names.len(),
        file.len(),
        names.len() + NAMES.len() + 1,
    ));
    names.extend(NAMES.bytes().chain([0]));
    file.extend_from_slice(&names);
    let (headers_at, length) = (file.len(), file.len() + headers.len() * HEADER);
    file.extend(headers.as_flattened());
    let (elf_header, rest) = file.split_at_mut(HEADER);
    elf_header[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(elf_header, 16, &[3, 0, 62, 0, 1, 0, 0, 0]); // ET_DYN, EM_X86_64, EV_CURRENT
    put(elf_header, 32, &(HEADER as u64).to_le_bytes()); // e_phoff
    put(elf_header, 40, &(headers_at as u64).to_le_bytes()); // e_shoff
    let sizes = [
        HEADER,
        PROGRAM_HEADER,
        1,
        HEADER,
        headers.len(),
        headers.len() - 1,
    ];
    for (at, size) in sizes.into_iter().enumerate() {
        put(elf_header, 52 + 2 * at, &(size as u16).to_le_bytes());
    }
    put(rest, 0, &[1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, PF_R | PF_X
    for field in [32, 40] {
        put(rest, field, &(length as u64).to_le_bytes()); // p_filesz, p_memsz
    }
    file
}

/// The section of the sections' names.
const NAMES: &str = ".shstrtab";

fn section_header(name: usize, offset: usize, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    put(&mut header, 0, &(name as u32).to_le_bytes());
    put(&mut header, 4, &[1]); // SHT_PROGBITS
    put(&mut header, 16, &(offset as u64).to_le_bytes()); // sh_addr
    put(&mut header, 24, &(offset as u64).to_le_bytes()); // sh_offset
    put(&mut header, 32, &(length as u64).to_le_bytes()); // sh_size
    put(&mut header, 48, &[1]); // sh_addralign
    header
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
