//! The stack of somebody who waits for a lock, or releases it, goes in; which of its family's locks it is and the type
//! of what it protects come out.
//!
//! A raw lock knows neither. The methods around it do, inlined as they are, where debug information
//! has their type arguments: `lock<parking_lot::raw_mutex::RawMutex, app::Sessions>`.

use std::collections::BTreeMap;

use super::stacks::Stacks;
use super::{LockFamily, LockShape, NamedFrame};
use crate::event::{Nanos, StackId};
use crate::target::names::arguments;

/// What one frame tells of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// Which lock it is.
    pub shape: LockShape,
    /// What it protects; for a channel what goes through it.
    pub protects: Option<&'a str>,
}

/// What the stacks of a lock tell, with the time behind each answer. It is one, unless the lock's
/// memory was used again for another lock.
pub struct ToldTypes {
    family: LockFamily,
    protects: BTreeMap<String, Nanos>,
    shapes: BTreeMap<LockShape, Nanos>,
}

impl ToldTypes {
    /// Of a lock of this family: its stacks can lead through locks of others, that keep its own state.
    pub fn new(family: LockFamily) -> ToldTypes {
        ToldTypes {
            family,
            protects: BTreeMap::new(),
            shapes: BTreeMap::new(),
        }
    }

    /// Adds what the stack of a wait or a release tells.
    pub fn add(&mut self, stacks: &Stacks, stack: Option<StackId>, time: Nanos) {
        let Some(stack) = stacks.get(stack) else {
            return;
        };
        // Innermost first: a lock's method is called by code that may itself be a lock's, of another type.
        let mut frames = stack.of_poll(None).iter();
        let told = frames.find_map(|frame| of_frame(frame, self.family));
        let Some(told) = told else {
            return;
        };
        *self.shapes.entry(told.shape).or_default() += time;
        if let Some(protects) = told.protects {
            *self.protects.entry(protects.to_owned()).or_default() += time;
        }
    }

    /// The type with the most time.
    pub fn protects(&self) -> Option<String> {
        heaviest(&self.protects).cloned()
    }

    /// The sort of lock with the most time.
    pub fn shape(&self) -> Option<LockShape> {
        heaviest(&self.shapes).copied()
    }
}

fn heaviest<K: Ord>(times: &BTreeMap<K, Nanos>) -> Option<&K> {
    let heaviest = times
        .iter()
        .reduce(|most, one| if one.1 > most.1 { one } else { most });
    heaviest.map(|(told, _)| told)
}

/// Functions of these paths tell: which lock they belong to, and which of their type arguments it protects.
const TELLING: [(LockFamily, &str, LockShape, Option<usize>); 12] = {
    use LockFamily::{ParkingLot, Std, Tokio};
    use LockShape::{Channel, Mutex, RwLock, Semaphore};
    [
        // All of these have the raw lock in front; a reentrant lock has the way to tell threads apart between.
        (ParkingLot, "lock_api::mutex::", Mutex, Some(1)),
        (ParkingLot, "lock_api::remutex::", Mutex, Some(2)),
        (ParkingLot, "lock_api::rwlock::", RwLock, Some(1)),
        (Std, "std::sync::poison::mutex::", Mutex, Some(0)),
        (Std, "std::sync::poison::rwlock::", RwLock, Some(0)),
        // Before 1.85.
        (Std, "std::sync::mutex::", Mutex, Some(0)),
        (Std, "std::sync::rwlock::", RwLock, Some(0)),
        (Tokio, "tokio::sync::mutex::", Mutex, Some(0)),
        (Tokio, "tokio::sync::rwlock::", RwLock, Some(0)),
        (Tokio, "tokio::sync::semaphore::", Semaphore, None),
        (Tokio, "tokio::sync::mpsc::bounded::", Channel, Some(0)),
        (Tokio, "tokio::sync::mpsc::chan::", Channel, Some(0)),
    ]
};

/// What a frame tells, if it is of a method of a lock of this family or of its guard.
fn of_frame(frame: &NamedFrame, wanted: LockFamily) -> Option<Told<'_>> {
    let path = frame.function.trim_start_matches('<');
    let (_, _, shape, place) = TELLING
        .iter()
        .find(|(family, module, ..)| *family == wanted && path.starts_with(module))?;
    let told = |protects| Told {
        shape: *shape,
        protects,
    };
    let Some(generics) = frame.generics.as_deref() else {
        // Of parking_lot the frame below it, of the lock itself, knows more.
        return (wanted != LockFamily::ParkingLot).then(|| told(None));
    };
    let mut all = arguments(generics);
    if wanted == LockFamily::ParkingLot {
        let raw = arguments(generics).next()?;
        if !raw.contains("::raw_") && !raw.contains("::Raw") {
            return None;
        }
        return all.nth((*place)?).map(|protects| told(Some(protects)));
    }
    let protects = place.and_then(|place| all.nth(place));
    Some(told(protects.filter(|name| !name.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Origin;

    fn frame(function: &str, generics: Option<&str>) -> NamedFrame {
        NamedFrame {
            label: function.to_owned(),
            function: function.to_owned(),
            generics: generics.map(str::to_owned),
            at: None,
            file: None,
            line: None,
            krate: None,
            origin: Origin::Lock,
            inlined: true,
        }
    }

    /// Methods of locks and guards tell, with both ways to write their names; others do not.
    #[test]
    fn frames_that_tell() {
        let mutex = "parking_lot::raw_mutex::RawMutex, \
                     tokio::runtime::scheduler::inject::synced::Synced";
        let rwlock = "parking_lot::raw_rwlock::RawRwLock, \
                      std::collections::hash::map::HashMap<u64, app::Session, std::hash::random::RandomState>";
        for (function, generics, shape, protects) in [
            (
                "lock_api::mutex::Mutex<R,T>::lock",
                Some(mutex),
                LockShape::Mutex,
                Some("tokio::runtime::scheduler::inject::synced::Synced"),
            ),
            (
                "<lock_api::rwlock::RwLock<_, _>>::read",
                Some(rwlock),
                LockShape::RwLock,
                Some(
                    "std::collections::hash::map::HashMap<u64, app::Session, std::hash::random::RandomState>",
                ),
            ),
            (
                "lock_api::remutex::ReentrantMutex<R,G,T>::lock",
                Some(
                    "parking_lot::raw_mutex::RawMutex, parking_lot::remutex::RawThreadId, app::Log",
                ),
                LockShape::Mutex,
                Some("app::Log"),
            ),
            (
                "<std::sync::poison::mutex::Mutex<_>>::lock",
                Some("app::Sessions"),
                LockShape::Mutex,
                Some("app::Sessions"),
            ),
            (
                "std::sync::poison::rwlock::RwLock<T>::write",
                Some("app::Routes"),
                LockShape::RwLock,
                Some("app::Routes"),
            ),
            (
                "tokio::sync::mutex::Mutex<T>::lock::{{closure}}",
                Some("app::Sink<u8, u16>"),
                LockShape::Mutex,
                Some("app::Sink<u8, u16>"),
            ),
            (
                "tokio::sync::rwlock::RwLock<T>::read::{{closure}}",
                None,
                LockShape::RwLock,
                None,
            ),
            (
                "tokio::sync::semaphore::Semaphore::acquire::{{closure}}",
                None,
                LockShape::Semaphore,
                None,
            ),
            (
                "tokio::sync::mpsc::bounded::Sender<T>::send::{{closure}}",
                Some("app::Job"),
                LockShape::Channel,
                Some("app::Job"),
            ),
        ] {
            let frame = frame(function, generics);
            let families = [LockFamily::ParkingLot, LockFamily::Std, LockFamily::Tokio];
            let told: Vec<Told<'_>> = families
                .iter()
                .filter_map(|family| of_frame(&frame, *family))
                .collect();
            assert_eq!(told, [Told { shape, protects }], "{function}");
        }
        for (function, generics) in [
            ("app::lock", Some(mutex)),
            ("lock_api::mutex::Mutex<R,T>::lock", Some("app::Session")),
            (
                "lock_api::mutex::Mutex<R,T>::lock",
                Some("parking_lot::raw_mutex::RawMutex"),
            ),
            ("lock_api::mutex::Mutex<R,T>::lock", Some("")),
            ("lock_api::mutex::Mutex<R,T>::lock", None),
        ] {
            let frame = frame(function, generics);
            assert_eq!(of_frame(&frame, LockFamily::ParkingLot), None, "{function}");
        }
    }
}
