//! A slab whose keys include a serial number, so that a late event, answer or timer can't reach the value that reuses a
//! slot. Knows nothing about its values or about who holds the keys.

use slab::Slab;

/// Whether so many bytes of memory can be had. An allocation that fails ends the process, so whoever stores what
/// strangers send asks first.
pub fn can_allocate(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Names one value of an [`Arena`]. Once the value is removed, the key finds nothing. Ordered, so that it can be the
/// key of a map.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Key {
    index: u32,
    serial: u32,
}

impl Key {
    /// The slot: a small number that is reused after a removal.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// The serial number, which distinguishes the values that a slot has held.
    pub fn serial(self) -> u32 {
        self.serial
    }

    /// The slot and the serial number in one number, for traces and tables. Not for the kernel: see [`Key::to_token`].
    pub fn to_bits(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }

    /// The key that [`Key::to_bits`] turned into `bits`.
    pub fn from_bits(bits: u64) -> Key {
        Key { index: bits as u32, serial: (bits >> 32) as u32 }
    }

    /// The token that names this value in the kernel's events: the slot, and as many bits of the serial number as fit.
    /// The top bit is clear. `None` if the slot does not fit this host's `usize`.
    pub fn to_token(self) -> Option<usize> {
        NATIVE_TOKENS.pack(self).map(|token| token as usize)
    }

    /// The slot that a token names.
    pub fn slot_of_token(token: usize) -> usize {
        NATIVE_TOKENS.slot(token as u64)
    }

    /// The key of `token`, if it still names the value in its slot. `serial` is the serial number of that value.
    pub fn from_token(token: usize, serial: u32) -> Option<Key> {
        NATIVE_TOKENS.unpack(token as u64, serial)
    }
}

/// How a key is packed into a token, which is a `usize`. From the low end: the slot, the serial number, one clear bit.
#[derive(Copy, Clone, Debug)]
pub struct TokenLayout {
    slot_bits: u32,
    serial_bits: u32,
}

const NATIVE_TOKENS: TokenLayout = TokenLayout::of(usize::BITS);

impl TokenLayout {
    /// The layout on hosts whose `usize` has `width` bits, 32 or 64. A token of 64 bits holds the whole serial number,
    /// one of 32 bits its lowest 15 bits: there, a late event could reach the wrong value if a multiple of 32,768
    /// values came in between.
    pub const fn of(width: u32) -> TokenLayout {
        let slot_bits = if width < 64 { 16 } else { 32 };
        TokenLayout { slot_bits, serial_bits: width - 1 - slot_bits }
    }

    /// The number of slots that a token can name.
    pub const fn slots(self) -> u64 {
        1 << self.slot_bits
    }

    /// How many successive values of one slot a token can distinguish.
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

/// Values under keys that are not reused until 2^31 insertions later.
#[derive(Debug)]
pub struct Arena<T> {
    slots: Slab<(u32, T)>,
    slots_used: usize,
    serial: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { slots: Slab::new(), slots_used: 0, serial: 0 }
    }
}

impl<T> Arena<T> {
    /// The key that the next [`Arena::insert`] will return.
    pub fn vacant_key(&self) -> Key {
        // Half of the range, so that the whole serial number fits a token of 64 bits besides the bit that stays clear.
        Key { index: self.slots.vacant_key() as u32, serial: (self.serial + 1) & (u32::MAX >> 1) }
    }

    /// Stores `value` and returns its key.
    pub fn insert(&mut self, value: T) -> Key {
        let key = self.vacant_key();
        self.serial = key.serial;
        self.slots_used = self.slots_used.max(key.index() + 1);
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

    /// Removes the value of `key` and returns it, unless it was removed before.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slots.remove(key.index()).1)
    }

    /// The number of values stored.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no value is stored.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The number of slots that were ever in use at the same time, and so the end of the range of [`Arena::at`].
    pub fn slots(&self) -> usize {
        self.slots_used
    }

    /// The value in this slot, and its key.
    pub fn at(&self, slot: usize) -> Option<(Key, &T)> {
        self.slots.get(slot).map(|(serial, value)| (Key { index: slot as u32, serial: *serial }, value))
    }

    /// All values, in the order of their slots.
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
                prop_assert!(token < 1 << (width - 1), "tokens with the top bit set are not for connections");
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
