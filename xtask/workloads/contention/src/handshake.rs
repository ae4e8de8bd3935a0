//! The crypto that a server does in its handshakes, on the runtime's own threads.

use std::hint::black_box;
use std::time::Duration;

use aes_gcm::aead::{Aead as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce};
use argon2::{Algorithm, Argon2, Params, Version};
use sha2::{Digest as _, Sha512};

use crate::truth;

/// What the key is derived with.
#[derive(Clone, Copy, Debug)]
pub enum Suite {
    Sha2,
    Blake3,
    Argon2,
    AesGcm,
}

impl Suite {
    pub fn any(rng: &mut fastrand::Rng) -> Self {
        [Self::Sha2, Self::Blake3, Self::Argon2, Self::AesGcm][rng.usize(0..4)]
    }
}

/// Burns the CPU with real crypto for as long as told: in steps well under a millisecond, until the time is up.
pub fn derive_session_key(suite: Suite, duration: Duration) -> [u8; 32] {
    let deadline_ns = truth::now() + duration.as_nanos() as u64;
    let mut key = [7u8; 32];
    while truth::now() < deadline_ns {
        key = match suite {
            Suite::Sha2 => stretch_with_sha2(&key),
            Suite::Blake3 => stretch_with_blake3(&key),
            Suite::Argon2 => stretch_with_argon2(&key),
            Suite::AesGcm => seal_with_aes_gcm(&key),
        };
    }
    black_box(key)
}

fn stretch_with_sha2(key: &[u8; 32]) -> [u8; 32] {
    let mut block = [0u8; 64];
    block[..32].copy_from_slice(key);
    for _ in 0..64 {
        block = Sha512::digest(block).into();
    }
    half(&block)
}

fn stretch_with_blake3(key: &[u8; 32]) -> [u8; 32] {
    let mut output = [0u8; 16 * 1024];
    let mut reader = blake3::Hasher::new_keyed(key)
        .update(b"session key")
        .finalize_xof();
    reader.fill(&mut output);
    half(&output)
}

fn stretch_with_argon2(key: &[u8; 32]) -> [u8; 32] {
    let params =
        Params::new(64, 1, 1, Some(32)).expect("64 KiB, one pass, one lane are valid parameters");
    let mut output = [0u8; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(key, b"salt of the house", &mut output)
        .expect("the salt is long enough");
    output
}

fn seal_with_aes_gcm(key: &[u8; 32]) -> [u8; 32] {
    let sealed = Aes256Gcm::new(key.into())
        .encrypt(Nonce::from_slice(&[0; 12]), [0u8; 32 * 1024].as_slice())
        .expect("32 KiB are not too long for AES-GCM");
    half(&sealed)
}

fn half(bytes: &[u8]) -> [u8; 32] {
    let mut half = [0; 32];
    half.copy_from_slice(&bytes[bytes.len() - 32..]);
    half
}
