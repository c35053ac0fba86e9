//! A connection's inbox and outbox, and the pool their memory comes from and goes back to, so that an idle connection
//! holds none. Never grows past what really arrived: a length that a stranger claims allocates nothing.

use crate::limits::{BUFFER_LARGE, BUFFER_SMALL, POOLED_BUFFERS};
use crate::time::Time;

/// Buffers that wait for the next connection that needs one: inboxes of two sizes, and outboxes.
#[derive(Debug, Default)]
pub struct BufferPool {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    outboxes: Vec<Vec<u8>>,
}

impl BufferPool {
    fn take(&mut self, least: usize) -> Box<[u8]> {
        let (shelf, size) =
            if least <= BUFFER_SMALL { (&mut self.small, BUFFER_SMALL) } else { (&mut self.large, BUFFER_LARGE) };
        shelf.pop().unwrap_or_else(|| vec![0; size].into())
    }

    /// Takes `buffer` back; one of an odd size, or one too many, is freed.
    fn give(&mut self, buffer: Box<[u8]>) {
        let shelf = match buffer.len() {
            BUFFER_SMALL => &mut self.small,
            BUFFER_LARGE => &mut self.large,
            _ => return,
        };
        if shelf.len() < POOLED_BUFFERS {
            shelf.push(buffer);
        }
    }
}

/// Bytes that came and are not handled yet.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: Box<[u8]>,
    head: u32,
    tail: u32,
}

impl Inbox {
    /// What is not handled yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.head as usize..self.tail as usize]
    }

    /// Whether everything is handled.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Space to read into, never empty: the largest frame fits the largest buffer.
    pub fn space(&mut self, pool: &mut BufferPool) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = pool.take(BUFFER_SMALL);
        }
        let (head, tail) = (self.head as usize, self.tail as usize);
        if tail == self.buffer.len() {
            if head > 0 {
                self.buffer.copy_within(head..tail, 0);
            } else {
                let mut larger = pool.take(self.buffer.len() + 1);
                larger[..tail].copy_from_slice(&self.buffer);
                pool.give(std::mem::replace(&mut self.buffer, larger));
            }
            (self.head, self.tail) = (0, self.tail - self.head);
        }
        &mut self.buffer[self.tail as usize..]
    }

    /// `n` bytes of [`Inbox::space`] were filled.
    pub fn filled(&mut self, n: usize) {
        self.tail = (self.tail as usize).saturating_add(n).min(self.buffer.len()) as u32;
    }

    /// The first `n` bytes of [`Inbox::unread`] are handled, or all if there are fewer; returns how many they were.
    pub fn consume(&mut self, n: usize) -> usize {
        let before = self.head;
        self.head = (self.head as usize).saturating_add(n).min(self.tail as usize) as u32;
        (self.head - before) as usize
    }

    /// Hands the memory back if nothing is left in it.
    pub fn release(&mut self, pool: &mut BufferPool) {
        if self.is_empty() && !self.buffer.is_empty() {
            (self.head, self.tail) = (0, 0);
            pool.give(std::mem::take(&mut self.buffer));
        }
    }
}

/// Bytes that wait to be written, and how many of them are answers; the others are requests of ours.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    head: u32,
    answer_bytes: u32,
    /// Where in `bytes` the last answer ends.
    answers_end: u32,
    /// The socket would not take all of it.
    is_stuck: bool,
    /// When it last ceased to be empty, shrank, or began to be stuck.
    moved_at: Time,
}

impl Outbox {
    /// What is to be written.
    pub fn unwritten(&self) -> &[u8] {
        &self.bytes[self.head as usize..]
    }

    /// Bytes to be written.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head as usize
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Queued bytes of answers; a little more than the truth while requests stand between them.
    pub fn answer_bytes(&self) -> usize {
        self.answer_bytes as usize
    }

    /// Whether a write left something over.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// When it last ceased to be empty, shrank, or began to be stuck: without progress since then it is stalled.
    pub fn moved_at(&self) -> Time {
        self.moved_at
    }

    /// Lets `encode` append answers.
    pub fn answers(&mut self, pool: &mut BufferPool, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.answer_bytes += self.append(pool, now, encode) as u32;
        self.answers_end = self.bytes.len() as u32;
    }

    /// Lets `encode` append requests of ours.
    pub fn requests(&mut self, pool: &mut BufferPool, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.append(pool, now, encode);
    }

    fn append(&mut self, pool: &mut BufferPool, now: Time, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        if self.is_empty() {
            self.moved_at = now;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = pool.outboxes.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_SMALL));
        }
        let before = self.bytes.len();
        encode(&mut self.bytes);
        let appended = self.bytes.len() - before;
        if self.bytes.is_empty() {
            self.clear(pool);
        }
        appended
    }

    /// The first `n` bytes of [`Outbox::unwritten`] were written; 0 if the socket took none.
    pub fn written(&mut self, n: usize, pool: &mut BufferPool, now: Time) {
        if n > 0 || !self.is_stuck {
            self.moved_at = now;
        }
        self.is_stuck = true;
        self.head = (self.head as usize).saturating_add(n).min(self.bytes.len()) as u32;
        self.answer_bytes = self.answer_bytes.min(self.answers_end.saturating_sub(self.head));
        if self.is_empty() {
            self.clear(pool);
        } else if self.head as usize >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head as usize);
            self.answers_end = self.answers_end.saturating_sub(self.head);
            self.head = 0;
        }
    }

    /// Forgets everything and hands the memory back.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        let mut bytes = std::mem::take(&mut self.bytes);
        *self = Outbox::default();
        if (1..=BUFFER_LARGE).contains(&bytes.capacity()) && pool.outboxes.len() < POOLED_BUFFERS {
            bytes.clear();
            pool.outboxes.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FRAME_MAX;

    #[test]
    fn an_inbox_grows_with_what_came_and_gives_its_memory_back() {
        let (mut pool, mut inbox) = (BufferPool::default(), Inbox::default());
        let mut sent = 0u8;
        while inbox.unread().len() < FRAME_MAX {
            let space = inbox.space(&mut pool);
            let n = space.len().min(1_000);
            space[..n].fill(sent);
            inbox.filled(n);
            assert!(inbox.capacity() <= BUFFER_SMALL || inbox.unread().len() >= BUFFER_SMALL);
            sent = sent.wrapping_add(1);
        }
        assert_eq!((inbox.unread()[999], inbox.unread()[1_000], inbox.capacity()), (0, 1, BUFFER_LARGE));
        inbox.consume(FRAME_MAX);
        assert!(!inbox.space(&mut pool).is_empty());
        inbox.consume(inbox.unread().len());
        inbox.release(&mut pool);
        assert_eq!((inbox.capacity(), pool.small.len(), pool.large.len()), (0, 1, 1));
    }

    #[test]
    fn an_outbox_is_stuck_from_the_first_write_that_leaves_something_over() {
        let (mut pool, mut outbox) = (BufferPool::default(), Outbox::default());
        outbox.answers(&mut pool, Time::ZERO, |_| ());
        assert_eq!((outbox.capacity(), pool.outboxes.len()), (0, 1), "nothing to say takes no memory");
        outbox.answers(&mut pool, Time::from_ms(1), |out| out.extend_from_slice(&[1; 30]));
        assert!(!outbox.is_stuck(), "nobody has tried yet");
        outbox.written(0, &mut pool, Time::from_ms(5));
        assert!(outbox.is_stuck() && outbox.moved_at() == Time::from_ms(5));
        outbox.written(0, &mut pool, Time::from_ms(7));
        assert_eq!(outbox.moved_at(), Time::from_ms(5), "trying is no progress");
        outbox.written(10, &mut pool, Time::from_ms(8));
        assert!(outbox.is_stuck() && outbox.moved_at() == Time::from_ms(8));
        outbox.written(20, &mut pool, Time::from_ms(9));
        assert!(!outbox.is_stuck() && outbox.is_empty());
    }

    #[test]
    fn an_outbox_counts_answers_and_not_the_requests_behind_them() {
        let (mut pool, mut outbox) = (BufferPool::default(), Outbox::default());
        outbox.answers(&mut pool, Time::ZERO, |out| out.extend_from_slice(&[1; 30]));
        outbox.requests(&mut pool, Time::ZERO, |out| out.extend_from_slice(&[2; 50]));
        assert_eq!((outbox.len(), outbox.answer_bytes()), (80, 30));
        outbox.written(25, &mut pool, Time::from_ms(3));
        assert_eq!((outbox.len(), outbox.answer_bytes(), outbox.moved_at()), (55, 5, Time::from_ms(3)));
        outbox.requests(&mut pool, Time::ZERO, |out| out.extend_from_slice(&[3; 500]));
        outbox.written(40, &mut pool, Time::from_ms(4));
        assert_eq!((outbox.answer_bytes(), outbox.unwritten()[14], outbox.unwritten()[15]), (0, 2, 3));
        outbox.answers(&mut pool, Time::from_ms(4), |out| out.extend_from_slice(&[4; 10]));
        assert_eq!(outbox.answer_bytes(), 10);
        outbox.written(525, &mut pool, Time::from_ms(5));
        assert_eq!((outbox.is_empty(), outbox.capacity(), outbox.answer_bytes()), (true, 0, 0));
    }
}
