//! Joins events: pure state machines; no I/O, no clock, no strings.
#![forbid(unsafe_code)]
