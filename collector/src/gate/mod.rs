//! What a program may not do to its runtime: limits, and a report's breaches of them. What enters: the limits as
//! a person writes them, and a report. What leaves: one sentence and one place for each breach.
//!
//! A gate that fails for what the machine did is switched off within a week. So a limit is broken only by what is
//! proven: a poll counts without the time in which its thread could have run and got no CPU, and a number that
//! is known only to be at most so much counts as nothing.
#![forbid(unsafe_code)]

mod breaches;
mod limit;

pub use breaches::{Breach, breaches};
pub use limit::{Limit, LimitError};
