//! A slab whose keys know when their slot was reused, so that a late event, answer or timer can't hit a stranger. Never
//! knows what it holds, or who holds the keys.

use slab::Slab;

/// Names one value of an [`Arena`]; outlives it safely. Ordered, so that it can be a map's key.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Key {
    index: u32,
    serial: u32,
}

impl Key {
    /// The slot: small, dense, and reused after a removal.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Tells the values apart that a slot has held.
    pub fn serial(self) -> u32 {
        self.serial
    }

    /// Slot and serial in one number, for traces and tables. Not for the kernel: see [`Key::to_token`].
    pub fn to_bits(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }

    /// The key that [`Key::to_bits`] packed.
    pub fn from_bits(bits: u64) -> Key {
        Key { index: bits as u32, serial: (bits >> 32) as u32 }
    }

    /// The token by which the kernel names this value in its events: its slot, and as much of its serial as fits beside
    /// it. The top bit is clear. `None` if the host's `usize` is too small for the slot.
    pub fn to_token(self) -> Option<usize> {
        NATIVE_TOKENS.pack(self).map(|token| token as usize)
    }

    /// The slot that a token names.
    pub fn slot_of_token(token: usize) -> usize {
        NATIVE_TOKENS.slot(token as u64)
    }

    /// The key that `token` was made from, if that is still the value in its slot, whose serial is `serial`.
    pub fn from_token(token: usize, serial: u32) -> Option<Key> {
        NATIVE_TOKENS.unpack(token as u64, serial)
    }
}

/// How a key is packed into a token, a `usize`. From the low end: the slot, the serial, one bit that is clear.
#[derive(Copy, Clone, Debug)]
pub struct TokenLayout {
    slot_bits: u32,
    serial_bits: u32,
}

const NATIVE_TOKENS: TokenLayout = TokenLayout::of(usize::BITS);

impl TokenLayout {
    /// Of hosts where a `usize` has `width` bits, 32 or 64. Tokens of 64 bits hold the whole serial, those of 32 bits the
    /// lowest 15: a late event could hit a stranger there, if a multiple of 32,768 values came between.
    pub const fn of(width: u32) -> TokenLayout {
        let slot_bits = if width < 64 { 16 } else { 32 };
        TokenLayout { slot_bits, serial_bits: width - 1 - slot_bits }
    }

    /// Slots that a token can name.
    pub const fn slots(self) -> u64 {
        1 << self.slot_bits
    }

    /// Values, one after the other in the same slot, that a token tells apart.
    pub const fn serials(self) -> u64 {
        1 << self.serial_bits
    }

    fn pack(self, key: Key) -> Option<u64> {
        let (slot, serial) = (u64::from(key.index), u64::from(key.serial) & (self.serials() - 1));
        (slot < self.slots()).then_some(serial << self.slot_bits | slot)
    }

    fn slot(self, token: u64) -> usize {
        (token & (self.slots() - 1)) as usize
    }

    fn unpack(self, token: u64, serial: u32) -> Option<Key> {
        let key = Key { index: self.slot(token) as u32, serial };
        (self.pack(key) == Some(token)).then_some(key)
    }
}

/// Values under keys that are never given twice (until 2^31 insertions later).
#[derive(Debug)]
pub struct Arena<T> {
    slots: Slab<(u32, T)>,
    serial: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { slots: Slab::new(), serial: 0 }
    }
}

impl<T> Arena<T> {
    /// The key that the next [`Arena::insert`] will give.
    pub fn vacant_key(&self) -> Key {
        // Half of the range, so that all of a serial fits a token of 64 bits beside the bit that stays clear.
        Key { index: self.slots.vacant_key() as u32, serial: (self.serial + 1) & (u32::MAX >> 1) }
    }

    /// Stores `value`.
    pub fn insert(&mut self, value: T) -> Key {
        let key = self.vacant_key();
        self.serial = key.serial;
        self.slots.insert((key.serial, value));
        key
    }

    /// The value of `key`, unless it was removed.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.index()).filter(|(serial, _)| *serial == key.serial).map(|(_, value)| value)
    }

    /// The value of `key`, unless it was removed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.index()).filter(|(serial, _)| *serial == key.serial).map(|(_, value)| value)
    }

    /// Takes the value of `key` out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slots.remove(key.index()).1)
    }

    /// Values stored.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All values in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().map(|(index, (serial, value))| (Key { index: index as u32, serial: *serial }, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reused_slot_has_another_key() {
        let mut arena = Arena::default();
        let old = arena.insert('a');
        assert_eq!(arena.remove(old), Some('a'));
        let new = arena.insert('b');
        assert_eq!((old.index(), arena.get(old), arena.get(new)), (new.index(), None, Some(&'b')));
        assert_eq!((arena.remove(old), Key::from_bits(new.to_bits())), (None, new));
    }

    const WIDTHS: [u32; 2] = [32, 64];

    fn key(index: u32, serial: u32) -> Key {
        Key { index, serial: serial & (u32::MAX >> 1) }
    }

    proptest! {
        #[test]
        fn a_token_names_its_key_on_hosts_of_32_and_64_bits(index: u32, serial: u32) {
            for width in WIDTHS {
                let layout = TokenLayout::of(width);
                let key = key((u64::from(index) % layout.slots()) as u32, serial);
                let token = layout.pack(key).unwrap();
                prop_assert!(token < 1 << (width - 1), "the tokens with the top bit are not for connections");
                prop_assert_eq!(layout.slot(token), key.index());
                prop_assert_eq!(layout.unpack(token, key.serial), Some(key));
            }
        }

        #[test]
        fn a_token_is_not_mistaken_for_what_took_the_slot_since(index: u16, serial: u32, later in 1_u32..1 << 15) {
            for width in WIDTHS {
                let layout = TokenLayout::of(width);
                let (old, new) = (key(u32::from(index), serial), key(u32::from(index), serial.wrapping_add(later)));
                let token = layout.pack(old).unwrap();
                prop_assert_eq!(layout.slot(token), new.index());
                prop_assert_eq!(layout.unpack(token, new.serial), None);
            }
        }
    }

    #[test]
    fn a_slot_that_does_not_fit_a_token_gets_none() {
        let (of_32, of_64) = (TokenLayout::of(32), TokenLayout::of(64));
        assert!(of_32.pack(key(65_535, 1)).is_some() && of_32.pack(key(65_536, 1)).is_none());
        assert!(of_64.pack(key(u32::MAX, u32::MAX)).is_some_and(|token| token == u64::MAX >> 1));
    }

    #[test]
    fn tokens_of_this_host_are_of_its_width() {
        let mut arena = Arena::default();
        let old = arena.insert('a');
        let token = old.to_token().unwrap();
        assert_eq!((Key::slot_of_token(token), Key::from_token(token, old.serial())), (old.index(), Some(old)));
        arena.remove(old);
        let new = arena.insert('b');
        assert_eq!((new.index(), Key::from_token(token, new.serial())), (old.index(), None));
    }
}
