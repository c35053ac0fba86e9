//! How large an answer may be (docs/protocol-hyperdht.md, section 5). Whoever forges the source of a datagram has its
//! answer sent to somebody else; so an address that has not proved that it receives there gets few bytes more than it
//! sent. Never sends anything itself.

use std::hash::Hasher;
use std::net::IpAddr;

use crate::contact::source;
use crate::hash::seeded;
use crate::limits::{
    ANSWER_BYTES, ANSWER_BYTES_OF_SOURCE_PER_S, ANSWER_BYTES_PER_S, ANSWER_FACTOR, PROVED_FACTOR, PROVED_MS,
    PROVED_SOURCES,
};
use crate::recent::Recent;
use crate::sources::{Rate, Source};
use crate::time::Time;

/// Which addresses have proved that they receive what is sent to them.
#[derive(Debug)]
pub struct Allowance {
    proved: Recent<()>,
    /// Seeds the hashes of addresses; secret.
    seed: u64,
}

/// What an answer may have. Made by [`Allowance::of`] when a request has come, and settled by [`Grant::spend`].
#[derive(Copy, Clone, Debug)]
pub struct Grant {
    /// Bytes that the answer may have.
    pub room: usize,
    /// Bytes of it that count for nothing: those that anybody may have.
    free: usize,
    /// One byte in this many counts.
    factor: u64,
}

impl Allowance {
    /// Nobody has proved anything. `seed` must be secret.
    pub fn new(seed: u64) -> Allowance {
        Allowance { proved: Recent::new(PROVED_SOURCES), seed }
    }

    /// `host` has shown that it receives what is sent to it.
    pub fn prove(&mut self, host: IpAddr, now: Time) {
        if let Some(hash) = self.hash_of(host) {
            self.proved.set(hash, (), now.after(PROVED_MS), now);
        }
    }

    /// What the answer to a request of `request_len` bytes from `host`, which is `source`, may have. `is_proof` says
    /// that the request carries a valid token. (Loopback needs none: nobody forges its addresses from outside.) `sent`
    /// is what all were sent lately.
    pub fn of(
        &self,
        host: IpAddr,
        source: Source,
        is_proof: bool,
        request_len: usize,
        sent: &mut Rate,
        now: Time,
    ) -> Grant {
        let Some(hash) = self.hash_of(host).filter(|_| !is_proof) else {
            return Grant { room: ANSWER_BYTES, free: ANSWER_BYTES, factor: 1 };
        };
        let free = (ANSWER_FACTOR * request_len).min(ANSWER_BYTES);
        // Somebody may have proved this address and somebody else forge it now: there is a limit to that as well.
        let is_known = self.proved.get(hash, now).is_some();
        let (factor, of_all) = if is_known { (PROVED_FACTOR, u64::MAX) } else { (1, ANSWER_BYTES_PER_S) };
        let has_room = sent.has_room(source, ANSWER_BYTES as u64 / factor, ANSWER_BYTES_OF_SOURCE_PER_S, of_all, now);
        Grant { room: if has_room { ANSWER_BYTES } else { free }, free, factor }
    }

    /// The hash of the source of `host`; `None` for loopback.
    fn hash_of(&self, host: IpAddr) -> Option<u64> {
        let source = source(host)?;
        Some(seeded(self.seed, |hasher| match source {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }))
    }
}

impl Grant {
    /// The answer had `len` bytes and goes to `source`.
    pub fn spend(self, source: Source, len: usize, sent: &mut Rate, now: Time) {
        if len > self.free {
            sent.used(now).charge(source, len as u64 / self.factor);
        }
    }

    /// Whether the answer is kept short for lack of proof.
    pub fn is_short(self) -> bool {
        self.room < ANSWER_BYTES
    }
}
