//! The stack of a thread that waits for a lock goes in; the type of what the lock protects comes out.
//!
//! A raw lock does not know its type. The methods around it do, inlined as they are, where debug information
//! has their type arguments: `lock<parking_lot::raw_mutex::RawMutex, app::Sessions>`.

use std::collections::BTreeMap;

use super::NamedFrame;
use super::stacks::Stacks;
use crate::event::{Nanos, StackId};
use crate::target::names::arguments;

/// Types that the stacks of a lock's waiters tell, with the time behind each. It is one, unless the lock's
/// memory was used again for another lock.
#[derive(Default)]
pub struct ProtectedTypes(BTreeMap<String, Nanos>);

impl ProtectedTypes {
    /// Adds what the stack of a wait tells.
    pub fn add(&mut self, stacks: &Stacks, stack: Option<StackId>, time: Nanos) {
        let Some(stack) = stacks.get(stack) else {
            return;
        };
        // Innermost first: a lock's method is called by code that may itself be a lock's, of another type.
        let told = stack.of_poll(None).iter().find_map(|frame| of_frame(frame));
        if let Some(told) = told {
            *self.0.entry(told.to_owned()).or_default() += time;
        }
    }

    /// The type with the most time.
    pub fn heaviest(self) -> Option<String> {
        let heaviest = self
            .0
            .into_iter()
            .reduce(|most, one| if one.1 > most.1 { one } else { most });
        heaviest.map(|(name, _)| name)
    }
}

/// The type that a frame tells, if it is of a method of a lock or its guard in lock_api: all of these have the raw
/// lock as their first argument, and what is protected as the next; a reentrant lock has the way to tell threads
/// apart between these.
fn of_frame(frame: &NamedFrame) -> Option<&str> {
    let path = frame.function.trim_start_matches('<');
    let of_lock = path.strip_prefix("lock_api::")?;
    let place = if of_lock.starts_with("remutex::") {
        2
    } else {
        1
    };
    let generics = frame.generics.as_deref()?;
    let mut all = arguments(generics);
    let raw = all.next()?;
    (raw.contains("::raw_") || raw.contains("::Raw"))
        .then(|| all.nth(place - 1))
        .flatten()
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
        let told =
            |function, generics| of_frame(&frame(function, Some(generics))).map(str::to_owned);
        assert_eq!(
            told("lock_api::mutex::Mutex<R,T>::lock", mutex).as_deref(),
            Some("tokio::runtime::scheduler::inject::synced::Synced")
        );
        assert_eq!(
            told("<lock_api::rwlock::RwLock<_, _>>::read", rwlock).as_deref(),
            Some(
                "std::collections::hash::map::HashMap<u64, app::Session, std::hash::random::RandomState>"
            )
        );
        assert_eq!(
            told(
                "lock_api::remutex::ReentrantMutex<R,G,T>::lock",
                "parking_lot::raw_mutex::RawMutex, parking_lot::remutex::RawThreadId, app::Log"
            )
            .as_deref(),
            Some("app::Log")
        );
        for (function, generics) in [
            ("app::lock", mutex),
            ("lock_api::mutex::Mutex<R,T>::lock", "app::Session"),
            (
                "lock_api::mutex::Mutex<R,T>::lock",
                "parking_lot::raw_mutex::RawMutex",
            ),
            ("lock_api::mutex::Mutex<R,T>::lock", ""),
        ] {
            assert_eq!(told(function, generics), None, "{function} {generics}");
        }
        assert_eq!(
            of_frame(&frame("lock_api::mutex::Mutex<R,T>::lock", None)),
            None
        );
    }
}
