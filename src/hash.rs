//! Hashes: a seeded hash for tables whose keys strangers choose, and SHA-256 of bytes that are all available at once.
//! The `sha2` crate does the compression. The padding of short messages (FIPS 180-4, section 5.1.1) is our own, because
//! it is most of the work when a hasher must be ready for more input: a PING and its PONG take half as many
//! instructions besides the compression. Keeps no state.

use std::hash::{DefaultHasher, Hasher};

use sha2::digest::generic_array::GenericArray;
use sha2::{Digest, Sha256, compress256};

/// Bytes of a digest.
pub const DIGEST: usize = 32;

const BLOCK: usize = 64;
/// Bytes that padding takes at least: the bit that ends the message, and its length.
const PADDING: usize = 9;
/// The initial state (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// SipHash of what `feed` writes, prefixed by a secret `seed`, so that nobody can choose keys that collide.
pub fn seeded(seed: u64, feed: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    feed(&mut hasher);
    hasher.finish()
}

/// The SHA-256 of `bytes`.
#[inline]
pub fn sha256(bytes: &[u8]) -> [u8; DIGEST] {
    if bytes.len() <= BLOCK - PADDING {
        padded::<1>(bytes)
    } else if bytes.len() <= 2 * BLOCK - PADDING {
        padded::<2>(bytes)
    } else {
        Sha256::digest(bytes).into()
    }
}

/// The SHA-256 of bytes that fit `BLOCKS` blocks together with their padding.
#[inline]
fn padded<const BLOCKS: usize>(bytes: &[u8]) -> [u8; DIGEST] {
    let mut blocks = [GenericArray::from([0; BLOCK]); BLOCKS];
    let (first, second) = bytes.split_at(bytes.len().min(BLOCK));
    blocks[0][..first.len()].copy_from_slice(first);
    blocks[BLOCKS - 1][..second.len()].copy_from_slice(second);
    blocks[bytes.len() / BLOCK][bytes.len() % BLOCK] = 0x80;
    let bits = (bytes.len() as u64) * 8;
    blocks[BLOCKS - 1][BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
    let mut state = INITIAL;
    compress256(&mut state, &blocks);
    let mut digest = [0; DIGEST];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_crate_at_every_length_that_is_padded_here() {
        let bytes: Vec<u8> = (0..300u32).map(|n| (n * 7 + 3) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(sha256(&bytes[..len]), <[u8; DIGEST]>::from(Sha256::digest(&bytes[..len])), "{len} bytes");
        }
    }
}
