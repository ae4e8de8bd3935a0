//! Which lock a thread waits for: the futex that it sleeps on and its memory go in, the lock's address comes out, if
//! the lock itself agrees.

use super::StuckOperation;
use super::memory::Memory;
use crate::event::LockAddr;

/// The lock, if one is found whose state says that somebody is parked on it.
pub fn find(operation: StuckOperation, futex: u64, memory: &mut Memory) -> Option<LockAddr> {
    let lock = match operation {
        StuckOperation::StdMutex => std_mutex(futex, memory),
        StuckOperation::StdRead => std_rwlock(futex, STD_READERS_WAITING, memory),
        // Writers wait on the second word: the first one counts.
        StuckOperation::StdWrite => std_rwlock(futex.wrapping_sub(4), STD_WRITERS_WAITING, memory),
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

fn parking_lot(operation: StuckOperation, futex: u64, memory: &mut Memory) -> Option<u64> {
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
fn lock_of_key(operation: StuckOperation, key: u64) -> u64 {
    match operation {
        StuckOperation::Mutex => key,
        _ => key & !1,
    }
}

/// Whether parking_lot's lock says that it is locked and that somebody is parked on this key: the bits are those of
/// its `raw_mutex.rs` and `raw_rwlock.rs`.
fn is_waited_for(operation: StuckOperation, key: u64, lock: u64, memory: &mut Memory) -> bool {
    const LOCKED_AND_PARKED: u8 = 0b11;
    const PARKED: u64 = 0b0001;
    const WRITER_PARKED: u64 = 0b0010;
    const UPGRADABLE: u64 = 0b0100;
    const WRITER: u64 = 0b1000;
    const READERS: u64 = !0b1111;
    if operation == StuckOperation::Mutex {
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
