//! Locks with a name, and macros that take them and write down how long that took and how long they were held.
//!
//! Macros, not methods: the call of `lock` must stand in the function that wants the lock, because
//! that is the call site holdup has to name. A wait is measured only where the lock was not free;
//! then `lock` goes through the slow path, unless the holder leaves in between. A wait for one of tokio's locks is
//! measured where it took more than one poll.

mod addresses;

use std::ops::{Deref, DerefMut};

use serde_json::{Value, json};

use crate::truth::Hold;

pub use addresses::RawAddr;

/// A lock with the name that the truth calls it by.
pub struct Named<L> {
    pub name: &'static str,
    pub lock: L,
}

impl<L: RawAddr> Named<L> {
    pub fn addr(&self) -> usize {
        self.lock.raw_addr()
    }

    /// The truth's line about this lock.
    pub fn line(&self) -> Value {
        json!({"kind": "lock", "lock": self.name, "family": L::FAMILY, "type": L::TYPE,
            "addr": format!("{:#x}", self.addr())})
    }
}

/// A guard whose hold is written down. The fields' order is the order in which they are dropped: the clock is read
/// right before the lock is released. There is no `Drop` of its own in which the lock would be released:
/// that happens in the function that drops this.
pub struct Held<G> {
    hold: Hold,
    guard: G,
}

impl<G> Held<G> {
    #[inline(always)]
    pub fn new(hold: Hold, guard: G) -> Self {
        Self { hold, guard }
    }

    #[inline(always)]
    pub fn into_parts(self) -> (Hold, G) {
        (self.hold, self.guard)
    }
}

impl<G: Deref> Deref for Held<G> {
    type Target = G::Target;

    #[inline(always)]
    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Held<G> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

/// Takes a lock that threads wait for: `$attempt` gives a guard if it is free, `$take` waits. For debuggers all of it is one line of the
/// caller.
#[collapse_debuginfo(yes)]
macro_rules! take {
    ($named:ident, $op:literal, $attempt:expr, $take:expr) => {
        match $attempt {
            Some(guard) => {
                let hold = $crate::truth::Hold::begin($named.name, $op, $named.addr());
                $crate::locks::Held::new(hold, guard)
            }
            None => {
                let wait = $crate::truth::Wait::begin($named.name, $op, $named.addr());
                let guard = $take;
                $crate::locks::Held::new(wait.acquired(), guard)
            }
        }
    };
}

/// Takes one of parking_lot's mutexes.
#[collapse_debuginfo(yes)]
macro_rules! lock {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::take!(named, "mutex", named.lock.try_lock(), named.lock.lock())
    }};
}

/// Takes one of parking_lot's mutexes unless that lasts longer than the timeout.
#[collapse_debuginfo(yes)]
macro_rules! lock_for {
    ($named:expr, $timeout:expr) => {{
        let named = &$named;
        match named.lock.try_lock() {
            Some(guard) => {
                let hold = $crate::truth::Hold::begin(named.name, "mutex", named.addr());
                Some($crate::locks::Held::new(hold, guard))
            }
            None => {
                let wait = $crate::truth::Wait::begin(named.name, "mutex", named.addr());
                match named.lock.try_lock_for($timeout) {
                    Some(guard) => Some($crate::locks::Held::new(wait.acquired(), guard)),
                    None => {
                        wait.timed_out();
                        None
                    }
                }
            }
        }
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! read {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::take!(named, "rw_shared", named.lock.try_read(), named.lock.read())
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! write {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::take!(
            named,
            "rw_exclusive",
            named.lock.try_write(),
            named.lock.write()
        )
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! upgradable_read {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::take!(
            named,
            "rw_upgradable",
            named.lock.try_upgradable_read(),
            named.lock.upgradable_read()
        )
    }};
}

/// Makes an upgradable read guard a write guard.
#[collapse_debuginfo(yes)]
macro_rules! upgrade {
    ($named:expr, $held:expr) => {{
        let named = &$named;
        let (upgradable, guard) = $held.into_parts();
        let exclusive = match parking_lot::RwLockUpgradableReadGuard::try_upgrade(guard) {
            Ok(guard) => {
                let hold = $crate::truth::Hold::begin(named.name, "rw_upgrade", named.addr());
                (hold, guard)
            }
            Err(guard) => {
                let wait = $crate::truth::Wait::begin(named.name, "rw_upgrade", named.addr());
                let guard = parking_lot::RwLockUpgradableReadGuard::upgrade(guard);
                (wait.acquired(), guard)
            }
        };
        $crate::locks::Held::new(upgradable.upgraded(exclusive.0), exclusive.1)
    }};
}

/// Takes one of std's mutexes. Nobody panics while holding one.
#[collapse_debuginfo(yes)]
macro_rules! std_lock {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::take!(
            named,
            "std_mutex",
            named.lock.try_lock().ok(),
            named.lock.lock().expect("no holder panics")
        )
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! std_read {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::take!(
            named,
            "std_read",
            named.lock.try_read().ok(),
            named.lock.read().expect("no holder panics")
        )
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! std_write {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::take!(
            named,
            "std_write",
            named.lock.try_write().ok(),
            named.lock.write().expect("no holder panics")
        )
    }};
}

/// Acquires one of tokio's locks: `$acquire` awaits it.
#[collapse_debuginfo(yes)]
macro_rules! acquire {
    ($named:ident, $acquire:expr) => {{
        let attempt = $crate::truth::Attempt::begin($named.name, "tokio_acquire", $named.addr());
        let guard = $acquire;
        $crate::locks::Held::new(attempt.acquired(), guard)
    }};
}

/// Takes one of tokio's mutexes, in a task.
#[collapse_debuginfo(yes)]
macro_rules! tokio_lock {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::acquire!(named, named.lock.lock().await)
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! tokio_read {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::acquire!(named, named.lock.read().await)
    }};
}

#[collapse_debuginfo(yes)]
macro_rules! tokio_write {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::acquire!(named, named.lock.write().await)
    }};
}

/// Takes a permit of one of tokio's semaphores, which are never closed.
#[collapse_debuginfo(yes)]
macro_rules! tokio_acquire {
    ($named:expr) => {{
        let named = &$named;
        $crate::locks::acquire!(
            named,
            named.lock.acquire().await.expect("it is never closed")
        )
    }};
}

pub(crate) use {
    acquire, lock, lock_for, read, std_lock, std_read, std_write, take, tokio_acquire, tokio_lock,
    tokio_read, tokio_write, upgradable_read, upgrade, write,
};
