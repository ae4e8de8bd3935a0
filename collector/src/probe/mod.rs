//! Programs into the kernel, probes onto the target, bytes out. What enters: a configuration and file
//! offsets. What leaves: the ring buffer's records and the maps' contents, both as [`wire`] types.
//!
//! The only module that names aya, and with `target::mmap` and `apart` the only one with unsafe code.
//!
//! Everything attached is held by file descriptors of this process and nothing is pinned, so that the
//! kernel removes all of it when holdup ends, however it ends.

mod clock;
mod elements;
mod error;
mod iterator;
mod kernel_types;
mod load;
mod loading;
mod maps;
mod readable;
mod ring;
mod sleepers;
mod syscall;
mod tables;
mod thread_pointers;
mod tree;
mod uprobe_multi;
mod watchdog;

pub use clock::now;
pub use error::ProbeError;
pub use load::{Config, Probed, Probes, UprobePoint, UprobeProgram, grid_ticks};
pub use readable::Readable;
pub use ring::Records;
pub use sleepers::Sleepers;
pub use thread_pointers::ThreadPointers;
pub use tree::{Tree, TreeCounts};
pub use uprobe_multi::is_supported as uprobe_multi_is_supported;

use holdup_probe_ebpf::wire;

/// The programs, as `cargo xtask ebpf` built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!("holdup-probes.bpf.o");
