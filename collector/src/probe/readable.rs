//! Waiting until a file descriptor can be read.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that stays open, and the same, as long as its owner lives.
pub trait Stable: AsRawFd {}

impl Stable for OwnedFd {}

/// It owns its map's descriptor.
impl Stable for RingBuf<MapData> {}

/// Something to wait for. Needs a running Tokio runtime.
pub struct Readable<T: Stable>(AsyncFd<T>);

impl<T: Stable> Readable<T> {
    /// Watches it.
    pub fn new(owner: T) -> io::Result<Readable<T>> {
        // SAFETY: `Stable` promises that the descriptor stays open and the same while `owner` lives.
        let watched = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
        Ok(Readable(watched?))
    }

    /// Waits until it can be read.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.0.readable_mut().await?.clear_ready();
        Ok(())
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}
