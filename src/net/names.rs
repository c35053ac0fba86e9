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
    running: usize,
    retry_at: Option<Time>,
    resolved: Arc<Mutex<Vec<Resolved>>>,
    waker: Arc<Waker>,
}

impl Names {
    pub fn new(registry: &Registry, token: Token) -> io::Result<Names> {
        let waker = Arc::new(Waker::new(registry, token)?);
        Ok(Names { waiting: Vec::new(), running: 0, retry_at: None, resolved: Arc::default(), waker })
    }

    /// Adds `host:port` to the names to resolve. Warns and ignores it if there are too many.
    pub fn add(&mut self, dialect: Dialect, name: &str) {
        if self.waiting.len() + self.running >= BOOTSTRAPS {
            log::warn!("bootstrap_not_taken dialect={} name={name} limit={BOOTSTRAPS}", dialect.name());
            return;
        }
        self.waiting.push((dialect, name.to_string()));
        self.retry_at = Some(Time::ZERO);
    }

    /// When [`Names::retry`] has something to do.
    pub fn retry_at(&self) -> Option<Time> {
        // While a thread is running, its waker wakes the loop.
        self.retry_at.filter(|_| self.running == 0)
    }

    /// Starts to resolve the waiting names, if it is time and no thread is running.
    pub fn retry(&mut self, now: Time) {
        if self.retry_at().is_none_or(|at| now < at) {
            return;
        }
        self.retry_at = None;
        let names = std::mem::take(&mut self.waiting);
        self.running = names.len();
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
            (self.running, self.waiting) = (0, again);
            self.retry_at = Some(now.after(RESOLVE_RETRY_MS));
        }
    }

    /// The addresses resolved since the last call, and how many names did not resolve.
    pub fn take_resolved(&mut self, now: Time) -> (Vec<(Dialect, SocketAddr)>, usize) {
        let mut known = Vec::new();
        let before = self.waiting.len();
        let resolved = std::mem::take(&mut *self.resolved.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, addrs) in resolved {
            self.running -= 1;
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
