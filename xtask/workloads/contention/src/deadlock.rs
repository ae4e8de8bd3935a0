//! Threads that wait for each other for ever: each takes one lock, and then wants the one that the other has.
//!
//! They are never joined: the program ends without them. Each says on stdout which lock it has, which one it is
//! about to wait for, and when.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::truth;

/// How the threads meet when each has its first lock.
type Meeting = Arc<Barrier>;

/// Two accounts with a lock each, on the heap, and the function that takes both. The locks are taken in the order
/// in which they are named, which is two orders.
macro_rules! accounts {
    ($module:ident, $lock:ty, $first:ident, $second:ident $(, $unwrap:ident)?) => {
        pub mod $module {
            use super::{Arc, Meeting, say};

            pub struct Accounts {
                checking: $lock,
                savings: $lock,
            }

            impl Accounts {
                pub fn new() -> Arc<Self> {
                    Arc::new(Self {
                        checking: <$lock>::new(1),
                        savings: <$lock>::new(1),
                    })
                }

                pub fn save(&self, meeting: &Meeting) {
                    transfer(&self.checking, &self.savings, meeting);
                }

                pub fn spend(&self, meeting: &Meeting) {
                    transfer(&self.savings, &self.checking, meeting);
                }
            }

            #[inline(never)]
            fn transfer(from: &$lock, to: &$lock, meeting: &Meeting) {
                let _source = from.$first()$(.$unwrap())?;
                meeting.wait();
                say(std::ptr::from_ref(from).addr(), std::ptr::from_ref(to).addr());
                let _target = to.$second()$(.$unwrap())?;
            }
        }
    };
}

accounts!(mutexes, parking_lot::Mutex<u64>, lock, lock);
accounts!(rwlocks, parking_lot::RwLock<u64>, read, write);
accounts!(std_mutexes, std::sync::Mutex<u64>, lock, lock, unwrap);
accounts!(std_rwlocks, std::sync::RwLock<u64>, write, read, unwrap);

/// The same with locks whose addresses are constants of the code: no thread keeps a pointer to the one it has.
mod statics {
    use super::{Meeting, say};

    static CHECKING: parking_lot::Mutex<u64> = parking_lot::Mutex::new(1);
    static SAVINGS: parking_lot::Mutex<u64> = parking_lot::Mutex::new(1);

    fn address(lock: &'static parking_lot::Mutex<u64>) -> usize {
        std::ptr::from_ref(lock).addr()
    }

    #[inline(never)]
    pub fn save(meeting: &Meeting) {
        let mut checking = CHECKING.lock();
        meeting.wait();
        say(address(&CHECKING), address(&SAVINGS));
        let mut savings = SAVINGS.lock();
        (*checking, *savings) = (*checking - 1, *savings + 1);
    }

    #[inline(never)]
    pub fn spend(meeting: &Meeting) {
        let mut savings = SAVINGS.lock();
        meeting.wait();
        say(address(&SAVINGS), address(&CHECKING));
        let mut checking = CHECKING.lock();
        (*checking, *savings) = (*checking + 1, *savings - 1);
    }
}

/// Which kind of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Mutexes,
    RwLocks,
    StdMutexes,
    StdRwLocks,
    Statics,
}

/// Starts two threads that are stuck from then on.
pub fn start(kind: Kind, after: Duration) {
    macro_rules! pair {
        ($module:ident) => {{
            let accounts = $module::Accounts::new();
            let theirs = Arc::clone(&accounts);
            start_pair(
                after,
                move |meeting| accounts.save(meeting),
                move |meeting| theirs.spend(meeting),
            );
        }};
    }
    match kind {
        Kind::Mutexes => pair!(mutexes),
        Kind::RwLocks => pair!(rwlocks),
        Kind::StdMutexes => pair!(std_mutexes),
        Kind::StdRwLocks => pair!(std_rwlocks),
        Kind::Statics => start_pair(after, statics::save, statics::spend),
    }
}

fn start_pair(
    after: Duration,
    ab: impl FnOnce(&Meeting) + Send + 'static,
    ba: impl FnOnce(&Meeting) + Send + 'static,
) {
    let meeting = Arc::new(Barrier::new(2));
    start_one("deadlock-ab", after, Arc::clone(&meeting), ab);
    start_one("deadlock-ba", after, meeting, ba);
}

fn start_one(
    name: &str,
    after: Duration,
    meeting: Meeting,
    body: impl FnOnce(&Meeting) + Send + 'static,
) {
    let thread = thread::Builder::new().name(name.to_owned());
    thread
        .spawn(move || {
            thread::sleep(after);
            body(&meeting);
        })
        .expect("a thread can be started");
}

/// What is about to happen.
fn say(has: usize, wants: usize) {
    println!(
        "stuck thread={} tid={} has={has:#x} wants={wants:#x} since_ns={}",
        thread::current().name().unwrap_or_default(),
        rustix::thread::gettid().as_raw_nonzero(),
        truth::now()
    );
}
