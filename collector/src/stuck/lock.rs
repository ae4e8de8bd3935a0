//! Which lock a thread waits for: the futex that it sleeps on and its memory go in, the lock's address comes out, if
//! the lock itself agrees.

use super::memory::Memory;
use crate::event::{LockAddr, LockOperation};

/// The lock, if one is found whose state says that somebody is parked on it.
pub fn find(operation: LockOperation, futex: u64, memory: &mut Memory) -> Option<LockAddr> {
    let lock = match operation {
        LockOperation::StdMutex => std_mutex(futex, memory),
        LockOperation::StdRead => std_rwlock(futex, STD_READERS_WAITING, memory),
        // Writers wait on the second word: the first one counts.
        LockOperation::StdWrite => std_rwlock(futex.wrapping_sub(4), STD_WRITERS_WAITING, memory),
        _ => parking_lot(operation, futex, memory),
    };
    lock.map(LockAddr)
}

fn std_mutex(futex: u64, memory: &mut Memory) -> Option<u64> {
    const CONTENDED: u32 = 2;
    (memory.half(futex)? == CONTENDED).then_some(futex)
}

const STD_READERS_WAITING: u32 = 1 << 30;
const STD_WRITERS_WAITING: u32 = 1 << 31;

fn std_rwlock(state: u64, waiting: u32, memory: &mut Memory) -> Option<u64> {
    (memory.half(state)? & waiting != 0).then_some(state)
}

/// A thread of parking_lot's parks on a word of its own, in its `ThreadData`, and there beside it is the key of what
/// it waits for: the lock's address. Its place depends on the compiler. With any that orders fields by alignment it
/// is this one ...
const USUAL_PLACE: i64 = -32;
/// ... and any other of the words around the futex is taken only if no second one looks like it.
const PLACES: [i64; 16] = [
    -64, -56, -48, -40, -32, -24, -16, -8, 0, 8, 16, 24, 32, 40, 48, 56,
];

fn parking_lot(operation: LockOperation, futex: u64, memory: &mut Memory) -> Option<u64> {
    // The futex word is 4 bytes, beside words of 8.
    let base = futex & !7;
    let mut at = |place: i64| {
        let key = memory.word(base.wrapping_add_signed(place))?;
        let lock = lock_of_key(operation, key);
        is_waited_for(operation, key, lock, memory).then_some(lock)
    };
    at(USUAL_PLACE).or_else(|| {
        let mut found: Vec<u64> = PLACES.into_iter().filter_map(at).collect();
        found.dedup();
        match found[..] {
            [lock] => Some(lock),
            _ => None,
        }
    })
}

/// Who has locked an RwLock for writing and waits for its readers to leave has the key behind the lock's address.
fn lock_of_key(operation: LockOperation, key: u64) -> u64 {
    match operation {
        LockOperation::Mutex => key,
        _ => key & !1,
    }
}

/// Whether parking_lot's lock says that it is locked and that somebody is parked on this key: the bits are those of
/// its `raw_mutex.rs` and `raw_rwlock.rs`.
fn is_waited_for(operation: LockOperation, key: u64, lock: u64, memory: &mut Memory) -> bool {
    const LOCKED_AND_PARKED: u8 = 0b11;
    const PARKED: u64 = 0b0001;
    const WRITER_PARKED: u64 = 0b0010;
    const UPGRADABLE: u64 = 0b0100;
    const WRITER: u64 = 0b1000;
    const READERS: u64 = !0b1111;
    if operation == LockOperation::Mutex {
        return memory.byte(lock) == Some(LOCKED_AND_PARKED);
    }
    // A lock of one word is where a word can be.
    let state = if lock & 7 == 0 {
        memory.word(lock).unwrap_or(0)
    } else {
        0
    };
    // A pointer in place of a state would mean billions of readers.
    let has_plausible_readers = state < 1 << 32;
    has_plausible_readers
        && if key == lock {
            state & PARKED != 0 && state & (WRITER | UPGRADABLE | READERS) != 0
        } else {
            state & WRITER_PARKED != 0 && state & READERS != 0
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;
    use crate::target::Process;

    /// What is told of words in this test's own memory, which `words` is filled with given where they are: what they
    /// say depends on their addresses.
    fn found<const N: usize>(
        operation: LockOperation,
        futex_word: usize,
        fill: impl Fn(u64) -> [u64; N],
    ) -> Option<usize> {
        let mut words = Box::new([0_u64; N]);
        let base = words.as_ptr().addr() as u64;
        *words = fill(base);
        // Words that nobody reads need not be written.
        std::hint::black_box(&words);
        let process = Process::open(Pid(std::process::id())).expect("it is this one");
        let mut memory = Memory::of(&process).expect("one's own can be read");
        let futex = base + futex_word as u64 * 8;
        find(operation, futex, &mut memory).map(|lock| (lock.0.wrapping_sub(base) / 8) as usize)
    }

    /// A thread's data from word 8 on, with the key in front, and its futex at word 12; the lock at word 20.
    fn thread_data(base: u64, key: u64, state: u64) -> [u64; 24] {
        let mut words = [0; 24];
        words[8] = base + 20 * 8 + key;
        words[9] = base + 8 * 8;
        words[12] = 1;
        words[20] = state;
        words
    }

    /// A lock that says that it is locked and waited for is the one; one that does not, is none.
    #[test]
    fn parking_lots_locks() {
        use LockOperation::{Mutex, RwExclusive, RwShared, RwUpgrade};
        for (operation, key, state, is_there) in [
            (Mutex, 0, 0b11, true),
            (Mutex, 0, 0b01, false),
            (Mutex, 0, 0b00, false),
            (RwShared, 0, 0b1001, true),
            (RwShared, 0, 0b0001, false),
            (RwExclusive, 0, 0x21, true),
            (RwExclusive, 0, 0x20, false),
            (RwExclusive, 1, 0x1a, true),
            (RwExclusive, 1, 0x0a, false),
            (RwUpgrade, 1, 0x1a, true),
            (RwUpgrade, 1, 0x7f00_0000_001a, false),
        ] {
            let found = found(operation, 12, |base| thread_data(base, key, state));
            assert_eq!(
                found,
                is_there.then_some(20),
                "{operation:?} {key} {state:#x}"
            );
        }
    }

    /// Another compiler may put the key elsewhere: it is found if nothing else looks like one.
    #[test]
    fn keys_at_other_places() {
        let elsewhere = |base: u64, places: &[(usize, u64)]| {
            let mut words = [0; 24];
            for (place, lock) in places {
                words[*place] = base + lock * 8;
            }
            (words[20], words[21]) = (0b11, 0b11);
            words
        };
        let find = |places: &[(usize, u64)]| {
            found(LockOperation::Mutex, 12, |base| elsewhere(base, places))
        };
        assert_eq!(find(&[(13, 20)]), Some(20));
        assert_eq!(find(&[(13, 20), (15, 20)]), Some(20));
        assert_eq!(find(&[(13, 20), (15, 21)]), None);
        assert_eq!(find(&[(8, 20), (15, 21)]), Some(20), "the usual place");
        assert_eq!(find(&[]), None);
    }

    /// std's locks are what their waiters sleep on, or right in front of it.
    #[test]
    fn stds_locks() {
        use LockOperation::{StdMutex, StdRead, StdWrite};
        assert_eq!(found(StdMutex, 1, |_| [0, 2]), Some(1));
        assert_eq!(found(StdMutex, 1, |_| [0, 1]), None);
        assert_eq!(found(StdRead, 1, |_| [0, 0x7fff_ffff]), Some(1));
        assert_eq!(found(StdRead, 1, |_| [0, 0x3fff_ffff]), None);
        // The second half of the first word is what they write to, so the first one is the state.
        let process = Process::open(Pid(std::process::id())).expect("it is this one");
        let mut memory = Memory::of(&process).expect("one's own can be read");
        let lock = Box::new([0x8000_0001_u32, 7]);
        let state = lock.as_ptr().addr() as u64;
        std::hint::black_box(&lock);
        assert_eq!(
            find(StdWrite, state + 4, &mut memory),
            Some(LockAddr(state))
        );
        assert_eq!(find(StdWrite, 4, &mut memory), None);
    }
}
