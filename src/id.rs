//! Identifiers and the XOR metric between them. Knows nothing of addresses, messages or time.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::hash::sha256;

/// Bits of an [`Id`].
pub const ID_BITS: usize = 256;

/// The XOR metric of ids of any length, which is all that a routing table knows of ids (Kademlia paper, section 2.1).
pub trait Metric: Copy + Eq + Ord + fmt::Debug {
    /// The number of bits of an id.
    const BITS: usize;

    /// The number of leading bits that this id shares with `other`: 0 to [`Metric::BITS`].
    fn common_prefix(&self, other: &Self) -> usize;

    /// The first eight bytes of the XOR distance to `other`, as a big-endian number. Shorter ids are padded with zeros
    /// at the end.
    fn leading_distance(&self, other: &Self) -> u64;

    /// Compares the distances of `a` and `b` to this id: `Less` if `a` is nearer.
    fn compare(&self, a: &Self, b: &Self) -> Ordering;

    /// Bit `index`, counted from the most significant one. May panic if `index` is not below [`Metric::BITS`].
    fn bit(&self, index: usize) -> bool;

    /// The same id with bit `index` flipped. May panic if `index` is not below [`Metric::BITS`].
    #[must_use]
    fn with_bit_flipped(self, index: usize) -> Self;
}

/// A node id or a key: 32 bytes, compared by XOR distance (Kademlia paper, section 2.1).
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub [u8; 32]);

/// The XOR of two ids, ordered as a 256-bit big-endian number.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Distance([u64; 4]);

impl Id {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Id {
        Id(sha256(bytes))
    }

    /// The SHA-256 of the concatenation of `parts`.
    pub fn hash_of(parts: &[&[u8]]) -> Id {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Id(hasher.finalize().into())
    }

    /// The id with these 32 bytes; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Id> {
        bytes.try_into().ok().map(Id)
    }

    /// The XOR distance to `other`.
    pub fn distance(&self, other: &Id) -> Distance {
        let (a, b) = (self.words(), other.words());
        Distance([a[0] ^ b[0], a[1] ^ b[1], a[2] ^ b[2], a[3] ^ b[3]])
    }

    /// The bits from `64 * I` on, as a number. Written out so that it always compiles to one load.
    #[inline(always)]
    fn word<const I: usize>(&self) -> u64 {
        let b = &self.0;
        let at = I * 8;
        u64::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3], b[at + 4], b[at + 5], b[at + 6], b[at + 7]])
    }

    #[inline(always)]
    fn words(&self) -> [u64; 4] {
        [self.word::<0>(), self.word::<1>(), self.word::<2>(), self.word::<3>()]
    }
}

impl Metric for Id {
    const BITS: usize = ID_BITS;

    fn common_prefix(&self, other: &Id) -> usize {
        self.distance(other).leading_zeros()
    }

    fn leading_distance(&self, other: &Id) -> u64 {
        self.word::<0>() ^ other.word::<0>()
    }

    /// Rarely looks at more than eight bytes.
    fn compare(&self, a: &Id, b: &Id) -> Ordering {
        match self.leading_distance(a).cmp(&self.leading_distance(b)) {
            Ordering::Equal => self.distance(a).cmp(&self.distance(b)),
            order => order,
        }
    }

    fn bit(&self, index: usize) -> bool {
        self.0[index / 8] & (0x80 >> (index % 8)) != 0
    }

    fn with_bit_flipped(mut self, index: usize) -> Id {
        self.0[index / 8] ^= 0x80 >> (index % 8);
        self
    }
}

impl Distance {
    /// The number of leading zero bits; 256 for the distance of an id to itself.
    pub fn leading_zeros(&self) -> usize {
        let mut zeros = 0;
        for word in self.0 {
            zeros += word.leading_zeros() as usize;
            if word != 0 {
                break;
            }
        }
        zeros
    }
}

/// Lower-case hexadecimal of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|&b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// The bytes that pairs of hexadecimal digits of either case spell; `None` for an odd number of digits or any other
/// character.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits?;
    if digits.len() % 2 != 0 {
        return None;
    }
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0[..4]))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnId;

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Id, NotAnId> {
        from_hex(text).and_then(|bytes| Id::from_slice(&bytes)).ok_or(NotAnId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distance_orders_as_a_big_endian_number() {
        let zero = Id::default();
        let mut low = [0; 32];
        low[31] = 255;
        let mut high = [0; 32];
        high[0] = 1;
        assert!(zero.distance(&Id(low)) < zero.distance(&Id(high)));
        assert_eq!(zero.common_prefix(&Id(high)), 7);
        assert_eq!(zero.common_prefix(&zero), ID_BITS);
    }

    #[test]
    fn hex_is_read_in_either_case_and_only_whole() {
        assert_eq!(from_hex("00fF"), Some(vec![0, 255]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("0g"), None);
        assert_eq!("00".parse::<Id>(), Err(NotAnId));
    }

    proptest! {
        #[test]
        fn prefix_and_bits_agree_with_the_distance(a: [u8; 32], c: [u8; 32], flip in 0usize..256) {
            let a = Id(a);
            let b = a.with_bit_flipped(flip);
            prop_assert_eq!(a.common_prefix(&b), flip);
            prop_assert_ne!(a.bit(flip), b.bit(flip));
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(Id(c).compare(&a, &b), a.distance(&Id(c)).cmp(&b.distance(&Id(c))));
            prop_assert_eq!(Id(c).compare(&a, &a), Ordering::Equal);
            prop_assert_eq!(a.to_string().parse::<Id>(), Ok(a));
        }
    }
}
