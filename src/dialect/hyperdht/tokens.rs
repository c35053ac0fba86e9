//! Round-trip tokens (docs/protocol-hyperdht.md): a response gives one and an update sends it back, so that no one can
//! store on behalf of an address at which it does not receive. Keeps nothing per requester.

use std::net::IpAddr;

use crate::hash::sha256;
use crate::id::Id;
use crate::limits::TOKEN_ROTATION_MS;
use crate::time::Time;

type Secret = [u8; 32];

/// The secrets that tokens are made from.
#[derive(Clone)]
pub struct Tokens {
    current: Secret,
    /// Tokens made from it are still valid.
    previous: Secret,
    rotate_at: Time,
}

impl std::fmt::Debug for Tokens {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens {{ rotate_at: {:?} }}", self.rotate_at)
    }
}

impl Tokens {
    /// Tokens made from these two secrets, until the first rotation.
    pub fn new(current: Secret, previous: Secret, now: Time) -> Tokens {
        Tokens { current, previous, rotate_at: now.after(TOKEN_ROTATION_MS) }
    }

    /// The token for a node that receives at `host`. As in node.js, it does not depend on the port or the command: a NAT
    /// may change the port between query and update, and an update may name any port anyway.
    pub fn give(&self, host: IpAddr) -> Vec<u8> {
        token(&self.current, host).to_vec()
    }

    /// Whether `token` was given to `host` at most two rotations ago.
    pub fn accept(&self, host: IpAddr, token: &[u8]) -> bool {
        // The token is compared as a whole, and with both secrets, so that the time it takes tells nothing to those who
        // guess.
        let equal = |secret| {
            let right = self::token(secret, host);
            token.len() == right.len() && right.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
        };
        equal(&self.current) | equal(&self.previous)
    }

    /// When [`Tokens::rotate`] has something to do.
    pub fn next_deadline(&self) -> Time {
        self.rotate_at
    }

    /// Replaces the older secret if it is time. The new one is derived from the current one, which no one else knows.
    pub fn rotate(&mut self, now: Time) {
        if self.rotate_at <= now {
            let next = sha256(&[&self.current[..], b"next secret"].concat());
            self.previous = std::mem::replace(&mut self.current, next);
            if now.since(self.rotate_at) >= TOKEN_ROTATION_MS {
                // The clock jumped: the secret that was current is now too old as well.
                self.previous = next;
            }
            self.rotate_at = now.after(TOKEN_ROTATION_MS);
        }
    }
}

/// SHA-256 of the secret and the host as text (vector `token.node_js_2x`).
fn token(secret: &Secret, host: IpAddr) -> [u8; 32] {
    Id::hash_of(&[secret, host.to_string().as_bytes()]).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_for_one_to_two_rotations_and_for_one_host() {
        let mut tokens = Tokens::new([1; 32], [2; 32], Time::ZERO);
        let (host, other) = ([9, 9, 9, 9].into(), [9, 9, 9, 8].into());
        let given = tokens.give(host);
        assert!(tokens.accept(host, &given) && !tokens.accept(other, &given) && !tokens.accept(host, &given[1..]));
        tokens.rotate(Time::from_ms(TOKEN_ROTATION_MS - 1));
        assert_eq!(tokens.give(host), given);
        tokens.rotate(Time::from_ms(TOKEN_ROTATION_MS));
        assert!(tokens.accept(host, &given) && tokens.give(host) != given);
        tokens.rotate(tokens.next_deadline());
        assert!(!tokens.accept(host, &given));
    }

    #[test]
    fn a_token_is_not_valid_after_a_jump_of_the_clock() {
        let mut tokens = Tokens::new([1; 32], [2; 32], Time::ZERO);
        let given = tokens.give([9, 9, 9, 9].into());
        tokens.rotate(Time::from_ms(10 * TOKEN_ROTATION_MS));
        assert!(!tokens.accept([9, 9, 9, 9].into(), &given));
    }
}
