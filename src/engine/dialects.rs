//! The byte-stream dialects that this build speaks. The only file of the engine that names one: a new dialect adds a
//! variant, a field and an arm, and the compiler lists the places. Decides nothing; it only dispatches.

use std::net::SocketAddr;

use crate::dialect::sealed::service::Requester;
use crate::dialect::sealed::settings::ServiceSettings;
use crate::dialect::sealed::{self};
use crate::dialect::stream::{Close, CloseReason, Context, Listener, Service, Session as _, Verdict};
#[cfg(feature = "toy")]
use crate::dialect::toy;
use crate::dialect::{Dialect, Operations, Shared};
use crate::engine::Engine;
use crate::time::Time;

/// The session of any dialect. All but sealed's are boxed, so that connections stay small.
#[derive(Debug)]
pub enum Session {
    /// Of the sealed dialect or its API.
    Sealed(sealed::session::Session<Requester>),
    /// Of the dialect of the tests.
    #[cfg(feature = "toy")]
    Toy(Box<toy::Session>),
}

/// What a person may set of the dialects.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Of the sealed dialect.
    pub sealed: ServiceSettings,
}

/// One service per dialect.
#[derive(Debug)]
pub struct Services {
    /// Services that were called since they were polled, a bit each.
    touched: u8,
    /// The first of their deadlines; kept, because each turn of the loop asks for it.
    due: Option<Time>,
    sealed: sealed::service::Service,
    #[cfg(feature = "toy")]
    toy: toy::Service,
}

/// A service whose place in the engine is known: what [`Engine::service`] and the operations are generic over.
pub trait InEngine: Operations {
    /// The engine's.
    fn of(engine: &Engine) -> &Self;
    /// The engine's, to be changed; it is polled afterwards.
    fn of_mut(engine: &mut Engine) -> (&mut Self, &mut Shared);
}

/// A byte-stream dialect of this build: where the engine keeps what is its own.
pub trait StreamDialect: Service {
    /// Its bit in the set of services to be polled.
    const BIT: u8;
    /// Its service.
    fn service(services: &Services) -> &Self;
    /// Its service, to be changed.
    fn service_mut(services: &mut Services) -> &mut Self;
    /// Its session, if this is one.
    fn session(session: &mut Session) -> Option<&mut Self::Session>;
    /// Its session as one of any dialect.
    fn wrap(session: Self::Session) -> Session;
    /// Its listener of this number.
    fn listener(number: u16) -> Listener;
}

impl<D: StreamDialect> InEngine for D {
    fn of(engine: &Engine) -> &D {
        D::service(&engine.services)
    }

    fn of_mut(engine: &mut Engine) -> (&mut D, &mut Shared) {
        engine.services.touched |= D::BIT;
        (D::service_mut(&mut engine.services), &mut engine.shared)
    }
}

/// Names a dialect's variant of [`Session`], its field in [`Services`], and what goes between the session and its box.
macro_rules! stream_dialect {
    ($service:ty, $bit:literal, $variant:ident, $field:ident, $boxed:expr) => {
        impl StreamDialect for $service {
            const BIT: u8 = $bit;

            fn service(services: &Services) -> &$service {
                &services.$field
            }

            fn service_mut(services: &mut Services) -> &mut $service {
                &mut services.$field
            }

            fn session(session: &mut Session) -> Option<&mut <$service as Service>::Session> {
                match session {
                    Session::$variant(session) => Some(session),
                    #[allow(unreachable_patterns, reason = "a build may speak one dialect only")]
                    _ => None,
                }
            }

            fn wrap(session: <$service as Service>::Session) -> Session {
                Session::$variant($boxed(session))
            }

            fn listener(number: u16) -> Listener {
                Listener::$variant(number)
            }
        }
    };
}

stream_dialect!(sealed::service::Service, 1, Sealed, sealed, std::convert::identity);
#[cfg(feature = "toy")]
stream_dialect!(toy::Service, 2, Toy, toy, Box::new);

/// Does the same with the session of whichever dialect.
macro_rules! each {
    ($of:expr, $session:ident => $do:expr) => {
        match $of {
            Session::Sealed($session) => $do,
            #[cfg(feature = "toy")]
            Session::Toy($session) => $do,
        }
    };
}

/// Has the service of whichever dialect do something with its session.
macro_rules! at_service {
    ($services:expr, $of:expr, |$service:ident, $session:ident| $do:expr) => {
        match $of {
            Session::Sealed($session) => {
                $services.touched |= <sealed::service::Service as StreamDialect>::BIT;
                let $service = &mut $services.sealed;
                $do
            }
            #[cfg(feature = "toy")]
            Session::Toy($session) => {
                $services.touched |= <toy::Service as StreamDialect>::BIT;
                let $service = &mut $services.toy;
                $do
            }
        }
    };
}

/// Does the same for the service of every dialect.
macro_rules! for_each_service {
    (&mut $services:expr, $service:ident => $do:expr) => {
        for_each_service!([&mut] $services, $service => $do)
    };
    (&$services:expr, $service:ident => $do:expr) => {
        for_each_service!([&] $services, $service => $do)
    };
    ([$($borrow:tt)+] $services:expr, $service:ident => $do:expr) => {{
        let $service = $($borrow)+ $services.sealed;
        $do;
        #[cfg(feature = "toy")]
        {
            let $service = $($borrow)+ $services.toy;
            $do;
        }
    }};
}

/// The bits of all services.
#[cfg(not(feature = "toy"))]
const ALL: u8 = <sealed::service::Service as StreamDialect>::BIT;
#[cfg(feature = "toy")]
const ALL: u8 = <sealed::service::Service as StreamDialect>::BIT | <toy::Service as StreamDialect>::BIT;

/// What [`crate::dialect::stream::Session`] asks, of whichever dialect.
impl Session {
    pub(super) fn is_silent(&self) -> bool {
        each!(self, session => session.is_silent())
    }

    pub(super) fn can_judge(&self, bytes: &[u8]) -> bool {
        each!(self, session => session.can_judge(bytes))
    }

    pub(super) fn is_midway(&self) -> bool {
        each!(self, session => session.is_midway())
    }

    pub(super) fn looks_foreign(&self, bytes: &[u8]) -> bool {
        each!(self, session => session.looks_foreign(bytes))
    }

    pub(super) fn has_room(&self) -> bool {
        each!(self, session => session.has_room())
    }

    pub(super) fn owes(&self) -> bool {
        each!(self, session => session.owes())
    }

    pub(super) fn awaits(&self) -> bool {
        each!(self, session => session.awaits())
    }

    pub(super) fn bytes(&self) -> usize {
        each!(self, session => session.bytes())
    }

    pub(super) fn keeps_alive(&self) -> bool {
        each!(self, session => session.keeps_alive())
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        each!(self, session => session.deadline())
    }

    pub(super) fn drop_pending(&mut self) {
        each!(self, session => session.drop_pending())
    }

    pub(super) fn check_invariants(&self) {
        each!(self, session => session.check_invariants())
    }

    /// How long a connection for a single request may take, in milliseconds.
    pub(super) fn single_ms(&self) -> u64 {
        match self {
            Session::Sealed(_) => sealed::service::Service::SINGLE_MS,
            #[cfg(feature = "toy")]
            Session::Toy(_) => toy::Service::SINGLE_MS,
        }
    }
}

/// What [`Service`] does with a session, for whichever dialect.
impl Services {
    pub(super) fn new(settings: Settings, seed: u64) -> Services {
        Services {
            touched: ALL,
            due: None,
            sealed: sealed::service::Service::new(settings.sealed, seed),
            #[cfg(feature = "toy")]
            toy: toy::Service::default(),
        }
    }

    /// A session for a connection that `listener` accepts.
    pub(super) fn accepted(&mut self, listener: Listener) -> Session {
        match listener {
            Listener::Sealed(_) | Listener::Api(_) => Session::Sealed(self.sealed.accepted(listener)),
            #[cfg(feature = "toy")]
            Listener::Toy(_) => Session::Toy(Box::new(self.toy.accepted(listener))),
        }
    }

    /// Whether other nodes connect to this listener: they must speak first, and are the first to go while they do not.
    pub(super) fn is_for_nodes(listener: Listener) -> bool {
        !matches!(listener, Listener::Api(_))
    }

    /// Whether who connects to this listener is known by the address it comes from.
    pub(super) fn knows_by_address(listener: Listener) -> bool {
        match listener {
            Listener::Sealed(_) => sealed::service::Service::KNOWN_BY_ADDRESS,
            Listener::Api(_) => false,
            #[cfg(feature = "toy")]
            Listener::Toy(_) => toy::Service::KNOWN_BY_ADDRESS,
        }
    }

    pub(super) fn on_open(&mut self, session: &mut Session, cx: &mut Context<'_>, now: Time) {
        at_service!(self, session, |service, session| service.on_open(session, cx, now))
    }

    pub(super) fn on_bytes(&mut self, session: &mut Session, cx: &mut Context<'_>, bytes: &[u8], now: Time) -> Verdict {
        at_service!(self, session, |service, session| service.on_bytes(session, cx, bytes, now))
    }

    pub(super) fn on_writable(&mut self, session: &mut Session, cx: &mut Context<'_>, now: Time) {
        at_service!(self, session, |service, session| service.on_writable(session, cx, now))
    }

    pub(super) fn on_deadline(&mut self, session: &mut Session, cx: &mut Context<'_>, now: Time) -> Option<Close> {
        at_service!(self, session, |service, session| service.on_deadline(session, cx, now))
    }

    pub(super) fn on_shutdown(&mut self, session: &mut Session, cx: &mut Context<'_>, now: Time) {
        at_service!(self, session, |service, session| service.on_shutdown(session, cx, now))
    }

    pub(super) fn on_lost(&mut self, session: &mut Session, cx: &mut Context<'_>, why: CloseReason, now: Time) {
        at_service!(self, session, |service, session| service.on_lost(session, cx, why, now))
    }

    /// When [`Services::on_timeout`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        if self.touched == 0 { self.due } else { self.first_deadline() }
    }

    fn first_deadline(&self) -> Option<Time> {
        let first = self.sealed.next_deadline();
        #[cfg(feature = "toy")]
        let first = first.into_iter().chain(self.toy.next_deadline()).min();
        first
    }

    pub(super) fn on_timeout(&mut self, shared: &mut Shared, now: Time) {
        self.touched = ALL;
        for_each_service!(&mut self, service => service.on_timeout(shared, now));
    }

    pub(super) fn report(&self, lines: &mut Vec<String>) {
        for_each_service!(&self, service => service.report(lines));
    }

    pub(super) fn check_invariants(&self) {
        for_each_service!(&self, service => service.check_invariants());
    }

    /// Lets the nodes of `dialect` bootstrap from `addr`; whether one took it, `None` where this is no stream dialect.
    pub(super) fn add_bootstrap(&mut self, dialect: Dialect, addr: SocketAddr, now: Time) -> Option<bool> {
        self.touched = ALL;
        match dialect {
            Dialect::Sealed => Some(self.sealed.add_bootstrap(addr, now)),
            Dialect::Hyperdht => None,
        }
    }
}

impl Engine {
    /// Does what the services want done until they want nothing more.
    pub(super) fn pump_all(&mut self, now: Time) {
        if self.services.touched == 0 {
            return;
        }
        while self.services.touched != 0 {
            self.pump::<sealed::service::Service>(now);
            #[cfg(feature = "toy")]
            self.pump::<toy::Service>(now);
        }
        self.services.due = self.services.first_deadline();
    }

    /// The service is called: it is to be polled again.
    pub(super) fn touch<D: StreamDialect>(&mut self) {
        self.services.touched |= D::BIT;
    }

    /// Whether a service was called since it was polled; it is polled now.
    pub(super) fn take_touched<D: StreamDialect>(&mut self) -> bool {
        let is_touched = self.services.touched & D::BIT != 0;
        self.services.touched &= !D::BIT;
        is_touched
    }
}
