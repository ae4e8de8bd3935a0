//! The contract between holdup's kernel and user side.
//!
//! What enters: nothing. What leaves: the plain-old-data types in [`wire`] that the eBPF programs
//! write and the collector reads. It is separate from the programs so that the collector (and
//! every host-side check) builds with a stable toolchain and without aya-ebpf.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod wire;
