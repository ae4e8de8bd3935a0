//! parking_lot's locks with a name, and macros that take them and write down how long that took.
//!
//! Macros, not methods: the call of `lock` must stand in the function that wants the lock, because
//! that is the call site holdup has to name. A wait is measured only where the lock was not free;
//! then `lock` goes through the slow path, unless the holder leaves in between.

use serde_json::{Value, json};

/// A lock with the name that the truth calls it by.
pub struct Named<L> {
    pub name: &'static str,
    pub lock: L,
}

/// The address that parking_lot's slow paths get as their first argument.
pub trait RawAddr {
    const TYPE: &'static str;
    fn raw_addr(&self) -> usize;
}

impl<T> RawAddr for parking_lot::Mutex<T> {
    const TYPE: &'static str = "mutex";
    fn raw_addr(&self) -> usize {
        // SAFETY: the raw lock is not operated, only its address is taken.
        std::ptr::from_ref(unsafe { self.raw() }) as usize
    }
}

impl<T> RawAddr for parking_lot::RwLock<T> {
    const TYPE: &'static str = "rwlock";
    fn raw_addr(&self) -> usize {
        // SAFETY: the raw lock is not operated, only its address is taken.
        std::ptr::from_ref(unsafe { self.raw() }) as usize
    }
}

impl<L: RawAddr> Named<L> {
    pub fn addr(&self) -> usize {
        self.lock.raw_addr()
    }

    /// The truth's line about this lock.
    pub fn line(&self) -> Value {
        json!({"kind": "lock", "lock": self.name, "type": L::TYPE, "addr": format!("{:#x}", self.addr())})
    }
}

/// Takes a lock: `$attempt` is tried first, `$take` if that fails. For debuggers all of it is one line
/// of the caller.
#[collapse_debuginfo(yes)]
macro_rules! take {
    ($named:expr, $op:literal, $attempt:ident, $take:ident) => {{
        let named = &$named;
        match named.lock.$attempt() {
            Some(guard) => guard,
            None => {
                let wait = $crate::truth::Wait::begin(named.name, $op, named.addr());
                let guard = named.lock.$take();
                wait.end(true);
                guard
            }
        }
    }};
}

/// Takes a mutex.
#[collapse_debuginfo(yes)]
macro_rules! lock {
    ($named:expr) => {
        $crate::locks::take!($named, "mutex", try_lock, lock)
    };
}

/// Takes a mutex unless that lasts longer than the timeout.
#[collapse_debuginfo(yes)]
macro_rules! lock_for {
    ($named:expr, $timeout:expr) => {{
        let named = &$named;
        match named.lock.try_lock() {
            Some(guard) => Some(guard),
            None => {
                let wait = $crate::truth::Wait::begin(named.name, "mutex", named.addr());
                let guard = named.lock.try_lock_for($timeout);
                wait.end(guard.is_some());
                guard
            }
        }
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! read {
    ($named:expr) => {
        $crate::locks::take!($named, "rw_shared", try_read, read)
    };
}

#[collapse_debuginfo(yes)]
macro_rules! write {
    ($named:expr) => {
        $crate::locks::take!($named, "rw_exclusive", try_write, write)
    };
}

#[collapse_debuginfo(yes)]
macro_rules! upgradable_read {
    ($named:expr) => {
        $crate::locks::take!(
            $named,
            "rw_upgradable",
            try_upgradable_read,
            upgradable_read
        )
    };
}

/// Makes an upgradable read guard a write guard.
#[collapse_debuginfo(yes)]
macro_rules! upgrade {
    ($named:expr, $guard:expr) => {{
        let named = &$named;
        match parking_lot::RwLockUpgradableReadGuard::try_upgrade($guard) {
            Ok(guard) => guard,
            Err(guard) => {
                let wait = $crate::truth::Wait::begin(named.name, "rw_upgrade", named.addr());
                let guard = parking_lot::RwLockUpgradableReadGuard::upgrade(guard);
                wait.end(true);
                guard
            }
        }
    }};
}

pub(crate) use {lock, lock_for, read, take, upgradable_read, upgrade, write};
