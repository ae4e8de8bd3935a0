//! Where in a lock its slow paths work. What enters: a lock. What leaves: the address that the function gets as its
//! first argument which a thread or task goes through when it has to wait: the one that holdup knows the lock by.
//!
//! parking_lot shows its raw lock. std and tokio don't, so it is told by what they do show, and nothing is assumed
//! about how the compiler orders their fields but this: a struct that may end in an unsized field has its other
//! fields in places that do not depend on that last one's type, or `&Mutex<[T; N]>` could not become `&Mutex<[T]>`.
//! What is found for one lock therefore holds for every lock of its kind.
//!
//! Held against the functions themselves: with a uprobe on each of `sys::Mutex::lock_contended`,
//! `sys::RwLock::{read,write}_contended` and `batch_semaphore::Semaphore::add_permits_locked`, every first argument that
//! was counted while all scenarios ran was one of the addresses in the truth, and every lock was among them:
//! `bpftrace -e 'uprobe:PROGRAM:SYMBOL { @[arg0] = count(); }'`.

use std::ops::Deref;
use std::sync::OnceLock;

/// A lock whose waiters can be seen from outside.
pub trait RawAddr {
    /// As holdup calls it.
    const FAMILY: &'static str;
    const TYPE: &'static str;
    /// First argument of the slow paths.
    fn raw_addr(&self) -> usize;
}

impl<T> RawAddr for parking_lot::Mutex<T> {
    const FAMILY: &'static str = "parking_lot";
    const TYPE: &'static str = "mutex";
    fn raw_addr(&self) -> usize {
        // SAFETY: the raw lock is not operated, only its address is taken.
        std::ptr::from_ref(unsafe { self.raw() }) as usize
    }
}

impl<T> RawAddr for parking_lot::RwLock<T> {
    const FAMILY: &'static str = "parking_lot";
    const TYPE: &'static str = "rwlock";
    fn raw_addr(&self) -> usize {
        // SAFETY: the raw lock is not operated, only its address is taken.
        std::ptr::from_ref(unsafe { self.raw() }) as usize
    }
}

/// `sys::Mutex::lock_contended` gets the futex. It is four bytes, the poison flag is one, and there is nothing
/// else in a mutex of `()`: the futex comes first, or else the flag. While the mutex is held, the futex is 1 and the
/// flag is 0, so the first byte tells which it is.
impl<T> RawAddr for std::sync::Mutex<T> {
    const FAMILY: &'static str = "std";
    const TYPE: &'static str = "mutex";
    fn raw_addr(&self) -> usize {
        static OFFSET: OnceLock<usize> = OnceLock::new();
        let offset = OFFSET.get_or_init(|| {
            const { assert!(size_of::<std::sync::Mutex<()>>() == 8) }
            let mutex = std::sync::Mutex::new(());
            let guard = mutex.lock();
            // SAFETY: the first byte belongs to the first field, whichever that is, and nobody else is there to
            // write to it.
            let first = unsafe { std::ptr::from_ref(&mutex).cast::<u8>().read_volatile() };
            drop(guard);
            if first == 1 { 0 } else { 4 }
        });
        std::ptr::from_ref(self) as usize + offset
    }
}

/// `sys::RwLock::{read,write}_contended` get the lock inside. A read guard is two pointers: to that, and to what is
/// protected.
impl<T> RawAddr for std::sync::RwLock<T> {
    const FAMILY: &'static str = "std";
    const TYPE: &'static str = "rwlock";
    fn raw_addr(&self) -> usize {
        static OFFSET: OnceLock<usize> = OnceLock::new();
        let offset = OFFSET.get_or_init(|| {
            let lock = std::sync::RwLock::new(0);
            let guard = lock.read().expect("it was never held");
            lock_of_guard(&guard) - std::ptr::from_ref(&lock) as usize
        });
        std::ptr::from_ref(self) as usize + offset
    }
}

/// In all three of tokio's, the first argument is the `batch_semaphore::Semaphore` within. A `tokio::sync::Semaphore`
/// has nothing else in it, and a mutex of `()` is no larger than one: it begins where they begin.
impl RawAddr for tokio::sync::Semaphore {
    const FAMILY: &'static str = "tokio";
    const TYPE: &'static str = "semaphore";
    fn raw_addr(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl<T> RawAddr for tokio::sync::Mutex<T> {
    const FAMILY: &'static str = "tokio";
    const TYPE: &'static str = "mutex";
    fn raw_addr(&self) -> usize {
        const { assert!(size_of::<tokio::sync::Mutex<()>>() == size_of::<tokio::sync::Semaphore>()) }
        std::ptr::from_ref(self) as usize
    }
}

/// Besides the semaphore, the lock has the number of its readers in it. A read guard is two pointers: to the
/// semaphore, and to what is protected.
impl<T> RawAddr for tokio::sync::RwLock<T> {
    const FAMILY: &'static str = "tokio";
    const TYPE: &'static str = "rwlock";
    #[cfg(not(feature = "console"))]
    fn raw_addr(&self) -> usize {
        static OFFSET: OnceLock<usize> = OnceLock::new();
        let offset = OFFSET.get_or_init(|| {
            let lock = tokio::sync::RwLock::new(0);
            let guard = lock.try_read().expect("it was never held");
            lock_of_guard(&guard) - std::ptr::from_ref(&lock) as usize
        });
        std::ptr::from_ref(self) as usize + offset
    }

    /// console-subscriber's span is in the guard, too. Such a program writes no truth: one address is as good as another.
    #[cfg(feature = "console")]
    fn raw_addr(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

/// Of the two pointers that a guard is, the one that does not point to what is protected.
fn lock_of_guard<G: Deref<Target = u8>>(guard: &G) -> usize {
    const { assert!(size_of::<G>() == size_of::<[usize; 2]>()) }
    // SAFETY: both have that size, and pointers are read as the numbers that they are.
    let pointers: [usize; 2] = unsafe { std::mem::transmute_copy(guard) };
    let protected = std::ptr::from_ref::<u8>(guard) as usize;
    match pointers {
        [lock, other] if other == protected => lock,
        [other, lock] if other == protected => lock,
        _ => panic!("a read guard of another shape than the one that this was written for"),
    }
}
