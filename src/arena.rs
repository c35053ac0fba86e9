//! A slab whose keys know when their slot was reused, so that a late event, answer or timer can't hit a stranger.

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

    /// Slot and serial in one number, for tokens of the kernel.
    pub fn to_bits(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }

    /// The key that [`Key::to_bits`] packed.
    pub fn from_bits(bits: u64) -> Key {
        Key { index: bits as u32, serial: (bits >> 32) as u32 }
    }
}

/// Values under keys that are never given twice (until 2^32 insertions later).
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
        // Half of the range, so that a key's bits stay below the tokens that net/ keeps for itself.
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
}
