//! Every function that gets a probe, by name; a binary's symbols go in, those that were found come out.

use holdup_probe_ebpf::wire;

use super::Family;
use crate::target::binary::Binary;
use crate::target::elf::{ElfError, Symbol};
use crate::target::handoff::{EXIT_RUNTIME, SPAWN_FUNCTIONS};
use crate::target::names::{plain_path, split_arguments};

/// Wanted functions that are kept, far above what any binary has.
const FOUND_LIMIT: usize = 64 << 10;
/// Bytes of their type arguments that are kept in all.
const ARGUMENT_BYTES_LIMIT: usize = 32 << 20;

/// What a function is to holdup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Poll,
    SlowPath {
        operation: u32,
    },
    SlowUnlock {
        operation: u32,
    },
    Acquire,
    DropAcquire,
    ReleasePermits,
    Handoff,
    /// A current-thread runtime's loop parks.
    Park,
    /// It is left.
    LeaveLoop,
    Wake,
    /// A new task comes into its runtime's list.
    Spawn,
}

impl Role {
    /// Which family it belongs to.
    pub fn family(self) -> Family {
        match self {
            Role::Poll => Family::Polls,
            Role::SlowPath { operation } | Role::SlowUnlock { operation } => {
                Family::of_operation(operation)
            }
            Role::Acquire | Role::DropAcquire | Role::ReleasePermits => Family::TokioSync,
            Role::Handoff => Family::BlockInPlace,
            Role::Park | Role::LeaveLoop => Family::BlockOn,
            Role::Wake | Role::Spawn => Family::Wakes,
        }
    }
}

/// A function that gets a probe.
pub struct Wanted {
    /// `plain_path` of its demangled name.
    pub path: &'static str,
    /// Without the crate's and module's names, for people.
    pub short: &'static str,
    /// What it is to holdup.
    pub role: Role,
}

const fn wanted(path: &'static str, short: &'static str, role: Role) -> Wanted {
    Wanted { path, short, role }
}

const fn slow(operation: u32) -> Role {
    Role::SlowPath { operation }
}

const fn unlock(operation: u32) -> Role {
    Role::SlowUnlock { operation }
}

pub(super) const UNLOCK_SHARED_SLOW: &str =
    "parking_lot::raw_rwlock::RawRwLock::unlock_shared_slow";

/// Every function that gets a probe, by name.
pub(super) const WANTED: &[Wanted] = &[
    wanted(
        "tokio::runtime::task::raw::poll",
        "task::raw::poll",
        Role::Poll,
    ),
    wanted(
        "parking_lot::raw_mutex::RawMutex::lock_slow",
        "RawMutex::lock_slow",
        slow(wire::LOCK_MUTEX),
    ),
    wanted(
        "parking_lot::raw_rwlock::RawRwLock::lock_shared_slow",
        "RawRwLock::lock_shared_slow",
        slow(wire::LOCK_RW_SHARED),
    ),
    wanted(
        "parking_lot::raw_rwlock::RawRwLock::lock_exclusive_slow",
        "RawRwLock::lock_exclusive_slow",
        slow(wire::LOCK_RW_EXCLUSIVE),
    ),
    wanted(
        "parking_lot::raw_rwlock::RawRwLock::lock_upgradable_slow",
        "RawRwLock::lock_upgradable_slow",
        slow(wire::LOCK_RW_UPGRADABLE),
    ),
    wanted(
        "parking_lot::raw_rwlock::RawRwLock::upgrade_slow",
        "RawRwLock::upgrade_slow",
        slow(wire::LOCK_RW_UPGRADE),
    ),
    wanted(
        "parking_lot::condvar::Condvar::wait_until_internal",
        "Condvar::wait_until_internal",
        slow(wire::LOCK_CONDVAR),
    ),
    wanted(
        "parking_lot::raw_mutex::RawMutex::unlock_slow",
        "RawMutex::unlock_slow",
        unlock(wire::LOCK_MUTEX),
    ),
    wanted(
        UNLOCK_SHARED_SLOW,
        "RawRwLock::unlock_shared_slow",
        unlock(wire::LOCK_RW_SHARED),
    ),
    wanted(
        "parking_lot::raw_rwlock::RawRwLock::unlock_exclusive_slow",
        "RawRwLock::unlock_exclusive_slow",
        unlock(wire::LOCK_RW_EXCLUSIVE),
    ),
    wanted(
        "parking_lot::raw_rwlock::RawRwLock::unlock_upgradable_slow",
        "RawRwLock::unlock_upgradable_slow",
        unlock(wire::LOCK_RW_UPGRADABLE),
    ),
    // Where std has its futex locks: since 1.81, since 1.74, and before.
    wanted(
        "std::sys::sync::mutex::futex::Mutex::lock_contended",
        "Mutex::lock_contended",
        slow(wire::LOCK_STD_MUTEX),
    ),
    wanted(
        "std::sys::pal::unix::locks::futex_mutex::Mutex::lock_contended",
        "Mutex::lock_contended",
        slow(wire::LOCK_STD_MUTEX),
    ),
    wanted(
        "std::sys::unix::locks::futex_mutex::Mutex::lock_contended",
        "Mutex::lock_contended",
        slow(wire::LOCK_STD_MUTEX),
    ),
    wanted(
        "std::sys::sync::rwlock::futex::RwLock::read_contended",
        "RwLock::read_contended",
        slow(wire::LOCK_STD_READ),
    ),
    wanted(
        "std::sys::pal::unix::locks::futex_rwlock::RwLock::read_contended",
        "RwLock::read_contended",
        slow(wire::LOCK_STD_READ),
    ),
    wanted(
        "std::sys::unix::locks::futex_rwlock::RwLock::read_contended",
        "RwLock::read_contended",
        slow(wire::LOCK_STD_READ),
    ),
    wanted(
        "std::sys::sync::rwlock::futex::RwLock::write_contended",
        "RwLock::write_contended",
        slow(wire::LOCK_STD_WRITE),
    ),
    wanted(
        "std::sys::pal::unix::locks::futex_rwlock::RwLock::write_contended",
        "RwLock::write_contended",
        slow(wire::LOCK_STD_WRITE),
    ),
    wanted(
        "std::sys::unix::locks::futex_rwlock::RwLock::write_contended",
        "RwLock::write_contended",
        slow(wire::LOCK_STD_WRITE),
    ),
    wanted(
        "<tokio::sync::batch_semaphore::Acquire as core::future::future::Future>::poll",
        "Acquire::poll",
        Role::Acquire,
    ),
    wanted(
        "<tokio::sync::batch_semaphore::Acquire as core::ops::drop::Drop>::drop",
        "Acquire::drop",
        Role::DropAcquire,
    ),
    wanted(
        "tokio::sync::batch_semaphore::Semaphore::add_permits_locked",
        "Semaphore::add_permits_locked",
        Role::ReleasePermits,
    ),
    wanted(
        "tokio::runtime::task::waker::wake_by_val",
        "waker::wake_by_val",
        Role::Wake,
    ),
    wanted(
        "tokio::runtime::task::waker::wake_by_ref",
        "waker::wake_by_ref",
        Role::Wake,
    ),
    // Since 1.39; for each kind of runtime one. The names of both ways to mangle.
    wanted(
        "tokio::runtime::task::list::OwnedTasks<S>::bind_inner",
        "OwnedTasks::bind_inner",
        Role::Spawn,
    ),
    wanted(
        "tokio::runtime::task::list::OwnedTasks::bind_inner",
        "OwnedTasks::bind_inner",
        Role::Spawn,
    ),
    wanted(
        "tokio::runtime::scheduler::current_thread::Context::park",
        "Context::park",
        Role::Park,
    ),
    wanted(
        "tokio::runtime::scheduler::current_thread::Context::park_yield",
        "Context::park_yield",
        Role::Park,
    ),
    wanted(
        "<tokio::runtime::scheduler::current_thread::CoreGuard as core::ops::drop::Drop>::drop",
        "CoreGuard::drop",
        Role::LeaveLoop,
    ),
    wanted(SPAWN_FUNCTIONS[0], "Spawner::spawn_task", Role::Handoff),
    wanted(SPAWN_FUNCTIONS[1], "InnerImpl::spawn_task", Role::Handoff),
    wanted(SPAWN_FUNCTIONS[2], "LockedImpl::spawn_task", Role::Handoff),
    wanted(SPAWN_FUNCTIONS[3], "ShardedImpl::spawn_task", Role::Handoff),
    wanted(EXIT_RUNTIME, "exit_runtime", Role::Handoff),
];

/// What a function waits for, by its `plain_path`, if it is a lock's slow path: a `wire::LOCK_` code.
pub fn slow_path_operation(path: &str) -> Option<u32> {
    let wanted = WANTED.iter().find(|wanted| wanted.path == path)?;
    match wanted.role {
        Role::SlowPath { operation } => Some(operation),
        _ => None,
    }
}

/// What every wanted function's mangled name contains one of: looked for before demangling, because a
/// big binary has some 200,000 symbols and demangling one takes a microsecond.
const NEEDLES: [&str; 9] = [
    "3raw4poll",
    "14current_thread",
    "5waker",
    "10bind_inner",
    "_contended",
    "batch_semaphore",
    "11parking_lot",
    "10spawn_task",
    "12exit_runtime",
];

/// A wanted function that was found.
pub struct Found {
    pub wanted: &'static Wanted,
    pub vaddr: u64,
    /// Bytes of its code.
    pub size: u64,
    /// The type arguments, where the name has them (v0 mangling).
    pub arguments: Option<String>,
}

/// Every wanted function of a binary.
pub(super) fn find(binary: &Binary) -> Result<Vec<Found>, ElfError> {
    let named = binary.named()?;
    let mut argument_bytes = 0;
    let found = named
        .symbols()
        .filter(|symbol| NEEDLES.iter().any(|needle| symbol.mangled.contains(needle)))
        .filter_map(|symbol| wanted_symbol(&symbol))
        .take(FOUND_LIMIT)
        .map(|mut found| {
            argument_bytes += found.arguments.as_ref().map_or(0, String::len);
            if argument_bytes > ARGUMENT_BYTES_LIMIT {
                found.arguments = None;
            }
            found
        })
        .collect();
    Ok(found)
}

pub(super) fn wanted_symbol(symbol: &Symbol<'_>) -> Option<Found> {
    let name = symbol.demangled();
    let path = plain_path(&name);
    let wanted = WANTED.iter().find(|wanted| wanted.path == path)?;
    let (_, arguments) = split_arguments(&name);
    Some(Found {
        wanted,
        vaddr: symbol.vaddr,
        size: symbol.size,
        arguments: arguments.map(str::to_owned),
    })
}
