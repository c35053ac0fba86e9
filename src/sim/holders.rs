//! Who holds the values of the message level: what the checks are told of the copies, and who could answer a GET, which
//! no node can see. Changes no host.

use crate::dialect::sealed::codec::Message;
use crate::id::Id;
use crate::sim::world::{CLIENT, Event, World};
use crate::time::Time;

/// The number of hosts nearest to a key among which a holder is looked for.
const NEAREST: usize = 1_000;

impl World {
    /// The nearest living host that holds `value` under `key` now, and will for another `ms` milliseconds. Sees what
    /// clients put and honest hosts took.
    pub fn holder(&self, key: &Id, value: &[u8], ms: u64) -> Option<u32> {
        let holds = |host: &&u32| {
            let body = self.hosts[**host as usize].body.as_ref();
            body.is_some_and(|body| body.store.get(key, self.now.after(ms)) == Some(value))
        };
        let living = self.holders.get(key).into_iter().flatten().filter(holds);
        living.min_by_key(|host| self.hosts[**host as usize].contact.id.distance(key)).copied()
    }

    /// The number of living hosts that are nearer to `key` than `host`; `NEAREST` if there are as many or more.
    pub fn living_nearer(&self, key: &Id, host: u32) -> u64 {
        let nearest = self.ring.closest(key, NEAREST, |_| true);
        nearest.iter().position(|near| *near == host).unwrap_or(nearest.len()) as u64
    }

    /// Asks a host that is alive for the value of `key`, as if somebody had asked who can't be dialled.
    pub(super) fn look_at(&mut self, host: u32, key: Id) {
        if self.hosts[host as usize].is_honest() {
            self.reply(host, CLIENT, &Message::FindValue { key }, false);
        }
    }

    /// Tells the checks of a copy that an honest host holds from now on.
    pub(super) fn note_copy(&mut self, host: u32, key: Id, value: &[u8], ttl_s: u16) {
        if let Some(checks) = &mut self.checks {
            let until = checks.stored(host, key, value, ttl_s, self.now);
            self.look_around(host, key, until);
        }
    }

    /// Has a host asked for the value of `key` in the last millisecond of its lifetime and in the first one after.
    fn look_around(&mut self, host: u32, key: Id, until: Time) {
        let last = Time::from_ms(until.as_ms().saturating_sub(1));
        for at in [last, until] {
            self.schedule.add(at, Event::LookAt { host, key });
        }
    }

    /// Tells the checks of the values that an honest host came to hold as the coordinator of their PUTs.
    pub(super) fn look_into(&mut self, number: u32) {
        let host = &self.hosts[number as usize];
        let (Some(checks), Some(body)) = (self.checks.as_mut().filter(|_| !host.lies), &host.body) else {
            return;
        };
        for (key, until) in checks.look_into(number, &body.store, self.now) {
            self.look_around(number, key, until);
        }
    }
}
