//! Names of bootstrap nodes, which one short-lived thread at a time resolves outside the loop, because getaddrinfo
//! blocks. Warns about a name that does not resolve, and tries it again. Never opens a socket.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use mio::{Registry, Token, Waker};

use crate::dialect::Dialect;
use crate::limits::{BOOTSTRAPS, RESOLVE_RETRY_MS};
use crate::time::Time;

type Name = (Dialect, String);
type Resolved = (Name, io::Result<Vec<SocketAddr>>);

/// The names that have not been resolved.
pub(super) struct Names {
    waiting: Vec<Name>,
    /// The dialects of the names that a thread is resolving.
    running: Vec<Dialect>,
    retry_at: Option<Time>,
    resolved: Arc<Mutex<Vec<Resolved>>>,
    waker: Arc<Waker>,
}

impl Names {
    pub fn new(registry: &Registry, token: Token) -> io::Result<Names> {
        let waker = Arc::new(Waker::new(registry, token)?);
        Ok(Names { waiting: Vec::new(), running: Vec::new(), retry_at: None, resolved: Arc::default(), waker })
    }

    /// Adds `host:port` to the names to resolve. Warns and ignores it if its dialect has too many.
    pub fn add(&mut self, dialect: Dialect, name: &str) {
        let waiting = self.waiting.iter().map(|name| name.0);
        if waiting.chain(self.running.iter().copied()).filter(|other| *other == dialect).count() >= BOOTSTRAPS {
            log::warn!("bootstrap_not_taken dialect={} name={name} limit={BOOTSTRAPS}", dialect.name());
            return;
        }
        self.waiting.push((dialect, name.to_string()));
        self.retry_at = Some(Time::ZERO);
    }

    /// When [`Names::retry`] has something to do.
    pub fn retry_at(&self) -> Option<Time> {
        // While a thread is running, its waker wakes the loop.
        self.retry_at.filter(|_| self.running.is_empty())
    }

    /// Starts to resolve the waiting names, if it is time and no thread is running.
    pub fn retry(&mut self, now: Time) {
        if self.retry_at().is_none_or(|at| now < at) {
            return;
        }
        self.retry_at = None;
        let names = std::mem::take(&mut self.waiting);
        self.running = names.iter().map(|name| name.0).collect();
        let (resolved, waker, again) = (self.resolved.clone(), self.waker.clone(), names.clone());
        let resolve = move || {
            for name in names {
                let addrs = name.1.to_socket_addrs().map(Iterator::collect);
                resolved.lock().unwrap_or_else(PoisonError::into_inner).push((name, addrs));
                // Fails only if the loop is gone.
                let _ = waker.wake();
            }
        };
        if let Err(e) = std::thread::Builder::new().name("names".into()).spawn(resolve) {
            log::warn!("resolver_not_started error={e}");
            (self.running, self.waiting) = (Vec::new(), again);
            self.retry_at = Some(now.after(RESOLVE_RETRY_MS));
        }
    }

    /// The addresses resolved since the last call, and how many names did not resolve.
    pub fn take_resolved(&mut self, now: Time) -> (Vec<(Dialect, SocketAddr)>, usize) {
        let mut known = Vec::new();
        let before = self.waiting.len();
        let resolved = std::mem::take(&mut *self.resolved.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, addrs) in resolved {
            if let Some(at) = self.running.iter().position(|dialect| *dialect == name.0) {
                self.running.swap_remove(at);
            }
            match addrs {
                Ok(addrs) if !addrs.is_empty() => {
                    known.extend(addrs.into_iter().map(|addr| (name.0, crate::contact::canonical(addr))));
                }
                Ok(_) => self.retry_later(name, "no address", now),
                Err(e) => self.retry_later(name, &e.to_string(), now),
            }
        }
        (known, self.waiting.len() - before)
    }

    fn retry_later(&mut self, name: Name, why: &str, now: Time) {
        log::warn!("bootstrap_unresolved name={} error={why:?} retry_ms={RESOLVE_RETRY_MS}", name.1);
        self.waiting.push(name);
        self.retry_at = Some(now.after(RESOLVE_RETRY_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the names of all dialects shared one limit, so that those of the second dialect were ignored.
    #[test]
    fn each_dialect_may_have_as_many_names_as_a_node_keeps() {
        let poll = mio::Poll::new().unwrap();
        let mut names = Names::new(poll.registry(), Token(0)).unwrap();
        for _ in 0..=BOOTSTRAPS {
            names.add(Dialect::Sealed, "localhost:1");
            names.add(Dialect::Hyperdht, "localhost:1");
        }
        assert_eq!(names.waiting.len(), 2 * BOOTSTRAPS);
        names.retry(Time::ZERO);
        names.add(Dialect::Sealed, "localhost:2");
        assert_eq!((names.waiting.len(), names.running.len()), (0, 2 * BOOTSTRAPS), "those being resolved count");
    }
}
