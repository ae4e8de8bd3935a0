//! FNV-1a (Fowler, Noll, Vo; draft-eastlake-fnv): a number for some bytes, the same one always and everywhere. Its top bits
//! are the best mixed.

/// The hash of these bytes.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.into_iter().fold(BASIS, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    /// The draft's own test vectors.
    #[test]
    fn known_hashes() {
        assert_eq!(super::hash([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::hash(*b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(super::hash(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
