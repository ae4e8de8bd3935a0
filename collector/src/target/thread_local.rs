//! Where a thread-local variable of the main program is: the program goes in; what to add to a thread's pointer comes out.
//!
//! ```text
//!   x86-64     [ segment of the main program ] < thread pointer
//!   aarch64    thread pointer > [ two words ][ segment of the main program ]
//! ```
//!
//! A library's variables are elsewhere, in memory that each thread gets when it first uses them.
#![forbid(unsafe_code)]

use super::elf::{Elf, ElfError, ThreadLocalSegment};
use super::image::Image;

/// Variables that are found at most: several versions of one crate have one each.
const MOST: usize = 16;

/// A thread-local variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadLocal {
    from_thread_pointer: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl ThreadLocal {
    /// Those of the main program whose demangled name is wanted.
    pub fn find(
        program: &Image,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<ThreadLocal>, ElfError> {
        let (code, named) = (program.code()?, program.named()?);
        let Some(segment) = segment_from_thread_pointer(&code) else {
            return Ok(Vec::new());
        };
        let variables = named
            .thread_locals()
            .filter(|symbol| is_wanted(&symbol.demangled()));
        let found = variables.take(MOST).map(|symbol| ThreadLocal {
            from_thread_pointer: segment.wrapping_add(symbol.vaddr),
            size: symbol.size,
        });
        Ok(found.collect())
    }

    /// Address of a thread's own.
    pub fn address(self, thread_pointer: u64) -> u64 {
        thread_pointer.wrapping_add(self.from_thread_pointer)
    }
}

fn segment_from_thread_pointer(code: &Elf<'_>) -> Option<u64> {
    let segment = code.thread_local_segment()?;
    if code.is_x86_64() {
        Some(below(segment))
    } else if code.is_aarch64() {
        Some(above(segment))
    } else {
        None
    }
}

/// Bytes that aligned addresses differ in.
fn mask(segment: ThreadLocalSegment) -> u64 {
    segment.align.max(1).wrapping_sub(1)
}

/// From the thread pointer down to the segment, as linkers reckon it.
fn below(segment: ThreadLocalSegment) -> u64 {
    let end = segment.vaddr.wrapping_add(segment.memory_size);
    let padding = end.wrapping_neg() & mask(segment);
    segment.memory_size.wrapping_add(padding).wrapping_neg()
}

/// From the thread pointer up to the segment: behind two words that are the C library's.
fn above(segment: ThreadLocalSegment) -> u64 {
    const TWO_WORDS: u64 = 16;
    TWO_WORDS.wrapping_add(segment.vaddr.wrapping_sub(TWO_WORDS) & mask(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn segment(vaddr: u64, memory_size: u64, align: u64) -> ThreadLocalSegment {
        ThreadLocalSegment {
            vaddr,
            memory_size,
            align,
        }
    }

    /// The size rounded up, below; two words rounded up, above. A segment that does not begin at a multiple of its
    /// alignment does not do so in memory.
    #[test]
    fn segments_are_next_to_the_thread_pointer() {
        assert_eq!(
            below(segment(0x2e_d270, 0x198, 8)),
            0x198_u64.wrapping_neg()
        );
        assert_eq!(
            below(segment(0x40_0000, 0x198, 64)),
            0x1c0_u64.wrapping_neg()
        );
        assert_eq!(
            below(segment(0x40_0010, 0x198, 64)),
            0x1f0_u64.wrapping_neg() + 0x40
        );
        assert_eq!(above(segment(0x40_0000, 0x198, 8)), 16);
        assert_eq!(above(segment(0x40_0000, 0x198, 64)), 64);
        assert_eq!(above(segment(0x40_0030, 0x198, 64)), 0x30);
        // What no linker writes.
        for align in [0, 3, u64::MAX] {
            let _ = (
                below(segment(u64::MAX, u64::MAX, align)),
                above(segment(0, 0, align)),
            );
        }
    }

    thread_local! {
        static MARKED: [std::cell::Cell<u64>; 2] = const { [const { std::cell::Cell::new(0) }; 2] };
    }

    /// A variable of this test's own.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn of_this_test() {
        let pid = crate::event::Pid(std::process::id());
        let process = crate::target::Process::open(pid).expect("it is this one");
        let search = crate::target::DebugSearch::new(&process, &Default::default());
        let program = Image::new(process.exe(), &process.exe_link().path, &search)
            .expect("it is an ELF file");
        let found = ThreadLocal::find(&program, |name| {
            name.contains("thread_local::tests::MARKED")
        });
        let [variable] = found.expect("it is well formed")[..] else {
            panic!("there is one");
        };
        assert_eq!(variable.size, 16);
        let is_at = MARKED.with(|marked| std::ptr::from_ref(marked).addr() as u64);
        // Wherever this thread's pointer is: all that is below it is as far from it as the variable says.
        let thread_pointer = is_at.wrapping_sub(variable.from_thread_pointer);
        assert_eq!(variable.address(thread_pointer), is_at);
        assert_eq!(
            process.memory(thread_pointer, 8).expect("it is mapped"),
            thread_pointer.to_ne_bytes()
        );
    }
}
