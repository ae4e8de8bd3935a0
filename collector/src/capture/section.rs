//! The layout of a capture file.
//!
//! ```text
//!   file     := magic[8] version:u32 section*
//!   section  := kind:u32 length:u32 checksum:u32 payload[length]
//!   RECORDS  := (length:u32 record[length])*        ring buffer records, verbatim
//!   LOCK_WAITS := (LockWaitKey LockWaitTotals)*     as in `wire`
//!   PAIRS    := (PairKey Totals)*                    as in `wire`
//!   HOLDS    := (HoldKey Totals)*                    as in `wire`
//!   STACKS   := (key:u64 frames:u32 outcome:u32 address:u64*)*
//!   COUNTERS := u64*                                 by index
//!   THREADS  := Thread*                              as in `wire`
//!   all others are JSON
//! ```
//!
//! Numbers are little-endian. The checksum is CRC-32 (IEEE 802.3) over kind, length and payload. Sections
//! of one kind may come more than once: later ones add to a list and replace a single value. `META` comes
//! first, `END` last; a file without its `END` was cut off, and all that stands before the cut counts.
//! Unknown kinds are passed over, so that a reader can be older than the writer as long as `version`
//! agrees.

/// The first byte is no text, and the line ends are where a transfer as text would mend them.
pub const MAGIC: [u8; 8] = *b"\x89HOLDUP\n";

/// Version of the layout above.
pub const VERSION: u32 = 1;

/// Magic and version.
pub const FILE_HEADER: usize = MAGIC.len() + 4;

/// Kind, length, checksum.
pub const SECTION_HEADER: usize = 12;

/// No writer makes longer sections; a reader that finds one has found damage.
pub const MOST_SECTION_BYTES: u32 = 64 << 20;

/// No recording makes a longer file: ten million long polls are about this much.
pub const MOST_FILE_BYTES: u64 = 1 << 30;

pub const META: u32 = 1;
pub const RECORDS: u32 = 2;
pub const PROBES: u32 = 3;
pub const POLL_SITES: u32 = 4;
pub const RETURN_SITES: u32 = 5;
pub const LOCK_WAITS: u32 = 6;
pub const STACKS: u32 = 7;
pub const COUNTERS: u32 = 8;
pub const THREADS: u32 = 9;
pub const SYMBOLS: u32 = 10;
pub const END: u32 = 11;
pub const PAIRS: u32 = 12;
pub const HOLDS: u32 = 13;
pub const STUCK: u32 = 14;
pub const RUNTIME_THREADS: u32 = 15;

/// The checksum of a section.
pub fn checksum(kind: u32, payload: &[u8]) -> u32 {
    let length = payload.len() as u32;
    let mut crc = !0;
    crc = update(crc, &kind.to_le_bytes());
    crc = update(crc, &length.to_le_bytes());
    crc = update(crc, payload);
    !crc
}

fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8)
    })
}

/// What each byte does to the remainder.
const TABLE: [u32; 256] = {
    /// The polynomial of IEEE 802.3, bits reversed.
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                POLYNOMIAL ^ (crc >> 1)
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value that every description of this CRC gives.
    #[test]
    fn crc_of_the_nine_digits() {
        assert_eq!(!update(!0, b"123456789"), 0xcbf4_3926);
    }
}
