//! A report in, bytes out. No computation here.
#![forbid(unsafe_code)]
