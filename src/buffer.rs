//! The inbox and the outbox of a connection, and the pool that provides their memory. An idle connection holds no
//! memory: an empty inbox and an empty outbox are one null pointer each. Never allocates for bytes that have not
//! arrived: a length that a stranger claims allocates nothing.

use crate::limits::{BUFFER_LARGE, BUFFER_MIDDLE, BUFFER_SMALL, POOLED_BYTES};
use crate::time::Time;

/// The sizes of inboxes, in bytes. An inbox that is full is replaced by one of the next size, so that it holds at most a
/// few times what has come.
const SIZES: [usize; 3] = [BUFFER_SMALL, BUFFER_MIDDLE, BUFFER_LARGE];

/// The index of the smallest of [`SIZES`] that is at least `bytes`, or else of the largest.
fn which_of(bytes: usize) -> usize {
    usize::from(bytes > BUFFER_SMALL) + usize::from(bytes > BUFFER_MIDDLE)
}

/// Free buffers, kept for reuse: inboxes of each size, and outboxes.
#[derive(Debug, Default)]
#[allow(
    clippy::vec_box,
    reason = "boxes are passed on whole: an idle connection holds a pointer, and no buffer is moved"
)]
pub struct BufferPool {
    inboxes: [Vec<Box<Received>>; SIZES.len()],
    outboxes: Vec<Box<Queued>>,
    /// Total capacity of the kept outboxes, in bytes.
    outbox_bytes: usize,
}

impl BufferPool {
    /// The smallest inbox of at least `least` bytes, or else the largest one.
    #[inline]
    fn take(&mut self, least: usize) -> Box<Received> {
        let which = which_of(least);
        let fresh = || Box::new(Received { bytes: vec![0; SIZES[which]].into(), head: 0, tail: 0 });
        self.inboxes[which].pop().unwrap_or_else(fresh)
    }

    /// Takes `buffer` back. Frees it if the pool holds enough.
    fn put_back(&mut self, mut buffer: Box<Received>) {
        let size = buffer.bytes.len();
        let kept = &mut self.inboxes[which_of(size)];
        if (kept.len() + 1) * size <= POOLED_BYTES {
            (buffer.head, buffer.tail) = (0, 0);
            kept.push(buffer);
        }
    }

    fn take_outbox(&mut self) -> Box<Queued> {
        let Some(outbox) = self.outboxes.pop() else {
            return Box::new(Queued { bytes: Vec::with_capacity(BUFFER_SMALL), ..Queued::default() });
        };
        self.outbox_bytes -= outbox.bytes.capacity();
        outbox
    }

    fn put_back_outbox(&mut self, mut outbox: Box<Queued>) {
        let capacity = outbox.bytes.capacity();
        if self.outbox_bytes + capacity <= POOLED_BYTES {
            outbox.bytes.clear();
            *outbox = Queued { bytes: std::mem::take(&mut outbox.bytes), ..Queued::default() };
            self.outbox_bytes += capacity;
            self.outboxes.push(outbox);
        }
    }

    /// Bytes of memory that the pool holds: at most [`POOLED_BYTES`] each for inboxes of each size, and for outboxes.
    /// For tests.
    pub fn bytes(&self) -> usize {
        let inboxes = self.inboxes.iter().zip(SIZES).map(|(kept, size)| kept.len() * size);
        inboxes.sum::<usize>() + self.outbox_bytes
    }
}

/// Bytes that have arrived and have not been handled.
#[derive(Debug, Default)]
pub struct Inbox(Option<Box<Received>>);

/// A read buffer. The bytes from `head` to `tail` have not been handled.
#[derive(Debug)]
struct Received {
    bytes: Box<[u8]>,
    head: u32,
    tail: u32,
}

impl Received {
    fn is_empty(&self) -> bool {
        self.head == self.tail
    }
}

impl Inbox {
    /// The bytes that have not been handled.
    pub fn unread(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |received| &received.bytes[received.head as usize..received.tail as usize])
    }

    /// Whether all bytes have been handled.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|received| received.is_empty())
    }

    /// Bytes of memory that the inbox holds.
    pub fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |received| received.bytes.len())
    }

    /// Whether the largest buffer is full of unhandled bytes, so that [`Inbox::space`] returns `None`.
    pub fn is_full(&self) -> bool {
        self.unread().len() >= BUFFER_LARGE
    }

    /// Space to read into, never empty. `None` if the largest buffer is full of unhandled bytes.
    pub fn space(&mut self, pool: &mut BufferPool) -> Option<&mut [u8]> {
        let received = self.0.get_or_insert_with(|| pool.take(BUFFER_SMALL));
        let (head, tail) = (received.head as usize, received.tail as usize);
        if tail == received.bytes.len() {
            if head > 0 {
                received.bytes.copy_within(head..tail, 0);
            } else if tail < BUFFER_LARGE {
                let mut larger = pool.take(tail + 1);
                larger.bytes[..tail].copy_from_slice(&received.bytes);
                pool.put_back(std::mem::replace(received, larger));
            } else {
                return None;
            }
            (received.head, received.tail) = (0, (tail - head) as u32);
        }
        Some(&mut received.bytes[received.tail as usize..])
    }

    /// The caller filled the first `n` bytes of [`Inbox::space`].
    pub fn filled(&mut self, n: usize) {
        if let Some(received) = &mut self.0 {
            received.tail = (received.tail as usize).saturating_add(n).min(received.bytes.len()) as u32;
        }
    }

    /// The first `n` bytes of [`Inbox::unread`] have been handled, or all if there are fewer. Returns how many there
    /// were.
    pub fn consume(&mut self, n: usize) -> usize {
        let Some(received) = &mut self.0 else {
            return 0;
        };
        let before = received.head;
        received.head = (received.head as usize).saturating_add(n).min(received.tail as usize) as u32;
        (received.head - before) as usize
    }

    /// Returns the memory to the pool if no unhandled bytes are left. If few are left, they move to a small buffer, so
    /// that nobody holds a large one with a few bytes.
    pub fn release(&mut self, pool: &mut BufferPool) {
        if let Some(empty) = self.0.take_if(|received| received.is_empty()) {
            pool.put_back(empty);
        } else if self.capacity() > BUFFER_SMALL && self.unread().len() <= BUFFER_SMALL / 2 {
            self.shrink(pool);
        }
    }

    /// Moves what is left to a small buffer.
    #[inline(never)]
    fn shrink(&mut self, pool: &mut BufferPool) {
        let left = self.unread().len();
        let mut smaller = pool.take(BUFFER_SMALL);
        smaller.bytes[..left].copy_from_slice(self.unread());
        smaller.tail = left as u32;
        self.0.replace(smaller).into_iter().for_each(|larger| pool.put_back(larger));
    }
}

/// Bytes that wait to be written, and how many of them belong to answers; the others belong to our own requests.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Queued>>);

/// The content of an outbox that is not empty.
#[derive(Debug, Default)]
struct Queued {
    bytes: Vec<u8>,
    head: u32,
    answer_bytes: u32,
    /// The index in `bytes` at which the last answer ends.
    answers_end: u32,
    /// The socket has not taken all bytes.
    is_stuck: bool,
    /// When the outbox last stopped being empty, shrank, or became stuck.
    moved_at: Time,
}

impl Queued {
    fn len(&self) -> usize {
        self.bytes.len() - self.head as usize
    }
}

impl Outbox {
    /// The bytes to write.
    pub fn unwritten(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |queued| &queued.bytes[queued.head as usize..])
    }

    /// The number of bytes to write.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queued| queued.len())
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes of memory that the outbox holds.
    pub fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |queued| queued.bytes.capacity())
    }

    /// Queued bytes of answers. Slightly too high while requests are queued between answers.
    pub fn answer_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queued| queued.answer_bytes as usize)
    }

    /// Since when the socket has made no progress; `None` if it has taken all that was offered.
    pub fn stuck_since(&self) -> Option<Time> {
        self.0.as_ref().filter(|queued| queued.is_stuck).map(|queued| queued.moved_at)
    }

    /// Appends the answers that `encode` writes.
    pub fn answers(&mut self, pool: &mut BufferPool, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.append(pool, now, true, encode);
    }

    /// Appends our own requests that `encode` writes.
    pub fn requests(&mut self, pool: &mut BufferPool, now: Time, encode: impl FnOnce(&mut Vec<u8>)) {
        self.append(pool, now, false, encode);
    }

    fn append(&mut self, pool: &mut BufferPool, now: Time, are_answers: bool, encode: impl FnOnce(&mut Vec<u8>)) {
        let queued = self.0.get_or_insert_with(|| {
            let mut fresh = pool.take_outbox();
            fresh.moved_at = now;
            fresh
        });
        let before = queued.bytes.len();
        encode(&mut queued.bytes);
        if are_answers {
            queued.answer_bytes += (queued.bytes.len() - before) as u32;
            queued.answers_end = queued.bytes.len() as u32;
        }
        if queued.len() == 0 {
            self.clear(pool);
        }
    }

    /// The first `n` bytes of [`Outbox::unwritten`] were written; 0 if the socket took none.
    pub fn written(&mut self, n: usize, pool: &mut BufferPool, now: Time) {
        let Some(queued) = &mut self.0 else {
            return;
        };
        queued.head = (queued.head as usize).saturating_add(n).min(queued.bytes.len()) as u32;
        if queued.len() == 0 {
            return self.clear(pool);
        }
        if n > 0 || !queued.is_stuck {
            queued.moved_at = now;
        }
        queued.is_stuck = true;
        queued.answer_bytes = queued.answer_bytes.min(queued.answers_end.saturating_sub(queued.head));
        if queued.head as usize >= queued.bytes.len() / 2 {
            queued.bytes.drain(..queued.head as usize);
            queued.answers_end = queued.answers_end.saturating_sub(queued.head);
            queued.head = 0;
        }
    }

    /// Discards all bytes and returns the memory to the pool.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        if let Some(queued) = self.0.take() {
            pool.put_back_outbox(queued);
        }
    }
}

const _: () = assert!(size_of::<Inbox>() == size_of::<usize>() && size_of::<Outbox>() == size_of::<usize>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FRAME_MAX;

    #[test]
    fn an_inbox_grows_with_what_came_and_gives_its_memory_back() {
        let (mut pool, mut inbox) = (BufferPool::default(), Inbox::default());
        let mut sent = 0u8;
        while inbox.unread().len() < FRAME_MAX {
            let space = inbox.space(&mut pool).expect("the largest frame fits");
            let n = space.len().min(1_000);
            space[..n].fill(sent);
            inbox.filled(n);
            assert!(inbox.capacity() <= BUFFER_SMALL || inbox.capacity() <= 5 * inbox.unread().len());
            sent = sent.wrapping_add(1);
        }
        assert_eq!((inbox.unread()[999], inbox.unread()[1_000], inbox.capacity()), (0, 1, BUFFER_LARGE));
        inbox.consume(FRAME_MAX - BUFFER_SMALL);
        assert!(!inbox.space(&mut pool).unwrap().is_empty());
        inbox.consume(inbox.unread().len() - BUFFER_SMALL / 2 - 1);
        inbox.release(&mut pool);
        assert_eq!((inbox.capacity(), pool.inboxes.each_ref().map(Vec::len)), (BUFFER_LARGE, [1, 1, 0]));
        inbox.consume(1);
        let left = inbox.unread().to_vec();
        inbox.release(&mut pool);
        assert_eq!((inbox.capacity(), inbox.unread()), (BUFFER_SMALL, &left[..]), "a few bytes hold no large buffer");
        inbox.consume(usize::MAX);
        inbox.release(&mut pool);
        assert_eq!((inbox.capacity(), pool.inboxes.each_ref().map(Vec::len)), (0, [1, 1, 1]));
    }

    #[test]
    fn an_outbox_is_stuck_from_the_first_write_that_leaves_something_over() {
        let (mut pool, mut outbox) = (BufferPool::default(), Outbox::default());
        outbox.answers(&mut pool, Time::ZERO, |_| ());
        assert_eq!((outbox.capacity(), pool.outboxes.len()), (0, 1), "nothing to say takes no memory");
        outbox.answers(&mut pool, Time::from_ms(1), |out| out.extend_from_slice(&[1; 30]));
        assert_eq!(outbox.stuck_since(), None, "nobody has tried yet");
        outbox.written(0, &mut pool, Time::from_ms(5));
        assert_eq!(outbox.stuck_since(), Some(Time::from_ms(5)));
        outbox.written(0, &mut pool, Time::from_ms(7));
        assert_eq!(outbox.stuck_since(), Some(Time::from_ms(5)), "trying is no progress");
        outbox.written(10, &mut pool, Time::from_ms(8));
        assert_eq!(outbox.stuck_since(), Some(Time::from_ms(8)));
        outbox.written(20, &mut pool, Time::from_ms(9));
        assert!(outbox.stuck_since().is_none() && outbox.is_empty());
    }

    #[test]
    fn an_outbox_counts_answers_and_not_the_requests_behind_them() {
        let (mut pool, mut outbox) = (BufferPool::default(), Outbox::default());
        outbox.answers(&mut pool, Time::ZERO, |out| out.extend_from_slice(&[1; 30]));
        outbox.requests(&mut pool, Time::ZERO, |out| out.extend_from_slice(&[2; 50]));
        assert_eq!((outbox.len(), outbox.answer_bytes()), (80, 30));
        outbox.written(25, &mut pool, Time::from_ms(3));
        assert_eq!((outbox.len(), outbox.answer_bytes(), outbox.stuck_since()), (55, 5, Some(Time::from_ms(3))));
        outbox.requests(&mut pool, Time::ZERO, |out| out.extend_from_slice(&[3; 500]));
        outbox.written(40, &mut pool, Time::from_ms(4));
        assert_eq!((outbox.answer_bytes(), outbox.unwritten()[14], outbox.unwritten()[15]), (0, 2, 3));
        outbox.answers(&mut pool, Time::from_ms(4), |out| out.extend_from_slice(&[4; 10]));
        assert_eq!(outbox.answer_bytes(), 10);
        outbox.written(525, &mut pool, Time::from_ms(5));
        assert_eq!((outbox.is_empty(), outbox.capacity(), outbox.answer_bytes()), (true, 0, 0));
    }

    /// Regression: with 80 KiB of an incomplete frame there was no space left, and reading 0 bytes was taken for the
    /// peer's FIN.
    #[test]
    fn a_full_inbox_has_no_space_instead_of_an_empty_one() {
        let (mut pool, mut inbox) = (BufferPool::default(), Inbox::default());
        while let Some(n) = inbox.space(&mut pool).map(|space| space.len()) {
            assert!(n > 0);
            inbox.filled(n);
        }
        assert_eq!(inbox.unread().len(), BUFFER_LARGE);
        inbox.consume(1);
        assert_eq!(inbox.space(&mut pool).map(|space| space.len()), Some(1));
    }

    /// Regression: the pool kept 64 buffers of each kind, ten megabytes, for as long as the process ran.
    #[test]
    fn after_a_burst_the_pool_keeps_little() {
        let mut pool = BufferPool::default();
        let mut connections: Vec<(Inbox, Outbox)> = (0..1_000).map(|_| Default::default()).collect();
        for (n, (inbox, outbox)) in connections.iter_mut().enumerate() {
            while inbox.unread().len() < (n % 2) * FRAME_MAX + 1 {
                let space = inbox.space(&mut pool).unwrap().len();
                inbox.filled(space);
            }
            outbox.answers(&mut pool, Time::ZERO, |out| out.resize(1 + (n % 2) * FRAME_MAX, 0));
        }
        for (inbox, outbox) in &mut connections {
            inbox.consume(usize::MAX);
            inbox.release(&mut pool);
            outbox.clear(&mut pool);
        }
        assert!((POOLED_BYTES..=4 * POOLED_BYTES).contains(&pool.bytes()), "{}", pool.bytes());
    }
}
