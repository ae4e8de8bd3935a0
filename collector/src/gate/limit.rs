//! A limit as a person writes it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::event::Nanos;

/// What is possible, for those who wrote something else.
const POSSIBLE: &str = "poll>DURATION, wait>DURATION, hold>DURATION, held-across-await, \
                        held-across-await=any, lock-wait-total>DURATION, stuck";

/// What may not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A poll that takes longer, without its time in the run queue.
    Poll(Nanos),
    /// One wait for a lock that takes longer.
    Wait(Nanos),
    /// A lock that is held for longer.
    Hold(Nanos),
    /// A parking_lot or std lock, held across an await.
    HeldAcrossAwait {
        /// Tokio's locks, which are made for that, too.
        any: bool,
    },
    /// All waits for locks of one process together take longer.
    LockWaitTotal(Nanos),
    /// A poll or a lock wait that did not end.
    Stuck,
}

impl Limit {
    /// Nothing shorter can break it; None where nothing of it has an event of its own.
    pub fn shortest(self) -> Option<Nanos> {
        match self {
            Limit::Poll(longest) | Limit::Hold(longest) => Some(longest),
            // From the sums, which have everything; of the locks that block threads, those across an await have events
            // whatever they last.
            Limit::Wait(_)
            | Limit::HeldAcrossAwait { .. }
            | Limit::LockWaitTotal(_)
            | Limit::Stuck => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, most) = match self {
            Limit::Poll(most) => ("poll", most),
            Limit::Wait(most) => ("wait", most),
            Limit::Hold(most) => ("hold", most),
            Limit::HeldAcrossAwait { any: false } => return f.write_str("held-across-await"),
            Limit::HeldAcrossAwait { any: true } => return f.write_str("held-across-await=any"),
            Limit::LockWaitTotal(most) => ("lock-wait-total", most),
            Limit::Stuck => return f.write_str("stuck"),
        };
        let most = humantime::format_duration(Duration::from_nanos(most.0));
        write!(f, "{what}>{most}")
    }
}

/// Why it is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// There is no such thing.
    #[error("there is no limit {0:?}; possible are {POSSIBLE}")]
    Unknown(String),
    /// It takes a duration.
    #[error("{0} takes a duration: {0}>5ms")]
    NoDuration(&'static str),
    /// It takes none.
    #[error("{0} takes no duration")]
    Duration(&'static str),
    /// It takes another one.
    #[error("{text:?} is no duration: {why}")]
    BadDuration {
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Limit, LimitError> {
        let (what, most) = match text.split_once('>') {
            Some((what, most)) => (what.trim(), Some(most.trim())),
            None => (text.trim(), None),
        };
        match what {
            "poll" => longest("poll", most).map(Limit::Poll),
            "wait" => longest("wait", most).map(Limit::Wait),
            "hold" => longest("hold", most).map(Limit::Hold),
            "held-across-await" => {
                without("held-across-await", most).map(|()| Limit::HeldAcrossAwait { any: false })
            }
            "held-across-await=any" => without("held-across-await=any", most)
                .map(|()| Limit::HeldAcrossAwait { any: true }),
            "lock-wait-total" => longest("lock-wait-total", most).map(Limit::LockWaitTotal),
            "stuck" => without("stuck", most).map(|()| Limit::Stuck),
            _ => Err(LimitError::Unknown(text.to_owned())),
        }
    }
}

fn longest(what: &'static str, most: Option<&str>) -> Result<Nanos, LimitError> {
    let text = most.ok_or(LimitError::NoDuration(what))?;
    let bad = |why: String| LimitError::BadDuration {
        text: text.to_owned(),
        why,
    };
    let duration: Duration =
        humantime::parse_duration(text).map_err(|error| bad(error.to_string()))?;
    let ns = u64::try_from(duration.as_nanos());
    ns.map(Nanos).map_err(|_| bad("it is too long".to_owned()))
}

fn without(what: &'static str, most: Option<&str>) -> Result<(), LimitError> {
    match most {
        None => Ok(()),
        Some(_) => Err(LimitError::Duration(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can be written, and how it is shown again.
    #[test]
    fn limits_are_read() {
        let ms = |ms: u64| Nanos(ms * 1_000_000);
        let read = [
            ("poll>5ms", Limit::Poll(ms(5)), "poll>5ms"),
            ("poll > 1s", Limit::Poll(ms(1000)), "poll>1s"),
            ("wait>250us", Limit::Wait(Nanos(250_000)), "wait>250us"),
            (
                "lock-wait-total>2s",
                Limit::LockWaitTotal(ms(2000)),
                "lock-wait-total>2s",
            ),
            ("hold>5ms", Limit::Hold(ms(5)), "hold>5ms"),
            (
                "held-across-await",
                Limit::HeldAcrossAwait { any: false },
                "held-across-await",
            ),
            (
                "held-across-await=any",
                Limit::HeldAcrossAwait { any: true },
                "held-across-await=any",
            ),
            ("stuck", Limit::Stuck, "stuck"),
        ];
        for (text, limit, shown) in read {
            assert_eq!(text.parse(), Ok(limit));
            assert_eq!(limit.to_string(), shown);
        }
    }

    /// What can't be, and what is said about it.
    #[test]
    fn others_are_refused() {
        let said = |text: &str| text.parse::<Limit>().expect_err("it is none").to_string();
        assert!(said("polls>5ms").contains("possible are poll>DURATION"));
        assert!(said("").contains("possible are"));
        assert_eq!(said("poll"), "poll takes a duration: poll>5ms");
        assert_eq!(said("stuck>1s"), "stuck takes no duration");
        assert!(said("held-across-await>5ms").contains("no duration"));
        assert!(said("held-across-await=all").contains("possible are"));
        assert!(said("poll>5").contains("\"5\" is no duration"));
        assert!(said("poll>").contains("no duration"));
        assert!(said("poll>99999999999y").contains("no duration"));
    }
}
