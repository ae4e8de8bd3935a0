//! The target's memory, read page by page and each page once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::target::Process;

const PAGE: usize = 4096;

/// Pages of one look: 16 MiB. A stack takes two or three.
const MOST_PAGES: usize = 4096;

/// What the target's memory has now.
pub struct Memory {
    file: File,
    /// None for one that can't be read.
    pages: BTreeMap<u64, Option<Box<[u8; PAGE]>>>,
}

impl Memory {
    pub fn of(process: &Process) -> io::Result<Memory> {
        Ok(Memory {
            file: File::open(process.proc_path("mem"))?,
            pages: BTreeMap::new(),
        })
    }

    /// The word at any address.
    pub fn word(&mut self, addr: u64) -> Option<u64> {
        self.bytes(addr).map(u64::from_ne_bytes)
    }

    /// Half a word.
    pub fn half(&mut self, addr: u64) -> Option<u32> {
        self.bytes(addr).map(u32::from_ne_bytes)
    }

    /// A byte.
    pub fn byte(&mut self, addr: u64) -> Option<u8> {
        let [byte] = self.bytes(addr)?;
        Some(byte)
    }

    fn bytes<const N: usize>(&mut self, addr: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (at, byte) in (addr..addr.checked_add(N as u64)?).zip(&mut bytes) {
            let page = self.page(at / PAGE as u64)?;
            *byte = page[(at % PAGE as u64) as usize];
        }
        Some(bytes)
    }

    fn page(&mut self, number: u64) -> Option<&[u8; PAGE]> {
        if !self.pages.contains_key(&number) {
            if self.pages.len() >= MOST_PAGES {
                return None;
            }
            let mut page = Box::new([0; PAGE]);
            let read = self.file.read_exact_at(&mut *page, number * PAGE as u64);
            self.pages.insert(number, read.is_ok().then_some(page));
        }
        self.pages.get(&number)?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;

    /// This test's own memory, across a page's end too; and what is not mapped.
    #[test]
    fn of_this_process() {
        let process = Process::open(Pid(std::process::id())).expect("it is this one");
        let bytes: Vec<u8> = (0..3 * PAGE).map(|n| (n % 251) as u8).collect();
        let at = bytes.as_ptr().addr() as u64;
        let mut memory = Memory::of(&process).expect("one's own can be read");
        for n in [0, 5, 4090, 4096, 8000] {
            let expected = u64::from_ne_bytes(*bytes[n..].first_chunk().expect("there are more"));
            assert_eq!(memory.word(at + n as u64), Some(expected));
            assert_eq!(memory.half(at + n as u64), Some(expected as u32));
            assert_eq!(memory.byte(at + n as u64), Some(expected as u8));
        }
        assert_eq!(memory.word(8), None);
        assert_eq!(memory.word(u64::MAX), None);
    }
}
