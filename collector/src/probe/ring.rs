//! The ring buffer's records, as they come.

use std::io;

use aya::maps::{MapData, RingBuf};

use super::Readable;

/// The consuming end of the ring buffer.
pub struct Records {
    ring: Readable<RingBuf<MapData>>,
}

impl Records {
    /// Needs a running Tokio runtime.
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Records> {
        Ok(Records {
            ring: Readable::new(ring)?,
        })
    }

    /// Waits until there are records.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.ring.readable().await
    }

    /// Takes the next record, if there is one. The bytes are given to `take`, because they lie in the
    /// ring buffer and their room is free again once it returns.
    pub fn take<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.ring.get_mut().next().map(|record| take(&record))
    }
}
