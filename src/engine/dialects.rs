//! The byte-stream dialects that this build speaks. The only file of the engine that names one: a new dialect is an entry
//! of `for_each_dialect`. Decides nothing; it only dispatches, by `match` without `_`.

use std::net::SocketAddr;

use crate::dialect::sealed::service::Requester;
use crate::dialect::sealed::{self};
use crate::dialect::stream::{Close, CloseReason, Context, Listener, Service, Session as _, Verdict};
#[cfg(feature = "toy")]
use crate::dialect::toy;
use crate::dialect::{Dialect, Operations, Shared};
use crate::engine::Engine;
use crate::time::Time;

/// The list of dialects: `for_each_dialect!(m! args)` calls `m!` with `args` and with an entry for each. An entry says:
/// in which builds; its variant of [`Session`] and [`Dialect`]; its field of [`Services`] and [`Settings`]; its service;
/// and in braces its session as a connection keeps it (boxed, so that connections stay small; sealed's is small itself),
/// what a person may set of it, and its listeners.
macro_rules! for_each_dialect {
    ($do:ident! $args:tt) => {
        $do! { $args
            #[cfg(all())] Sealed sealed sealed::service::Service, {
                sealed::session::Session<Requester>, sealed::settings::ServiceSettings,
                Listener::Sealed(_) | Listener::Api(_)
            }
            #[cfg(feature = "toy")] Toy toy toy::Service, {
                Box<toy::Session>, toy::Settings, Listener::Toy(_)
            }
        }
    };
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

/// A service whose place in the engine is known: what [`Engine::service`] and the operations are generic over.
pub trait InEngine: Operations {
    /// The engine's.
    fn of(engine: &Engine) -> &Self;
    /// The engine's, to be changed; it is polled afterwards.
    fn of_mut(engine: &mut Engine) -> (&mut Self, &mut Shared);
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

/// The types that hold something of each dialect, and whatever needs a dialect's names.
macro_rules! define {
    (() $(
        #[$cfg:meta] $variant:ident $field:ident $service:ty, { $session:ty, $settings:ty, $listeners:pat }
    )*) => {
        /// The session of any dialect.
        #[derive(Debug)]
        pub enum Session { $(
            #[doc = concat!("Of the dialect `", stringify!($field), "`.")]
            #[$cfg] $variant($session),
        )* }

        /// What a person may set of the dialects.
        #[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
        pub struct Settings { $(
            #[doc = concat!("Of the dialect `", stringify!($field), "`.")]
            #[$cfg] pub $field: $settings,
        )* }

        /// One service per dialect.
        #[derive(Debug)]
        pub struct Services {
            /// Services that were called since they were polled, a bit each.
            touched: u8,
            /// The first of their deadlines; kept, because each turn of the loop asks for it.
            due: Option<Time>,
            $(#[$cfg] $field: $service,)*
        }

        /// The dialects in the order of the list.
        enum Number { $(#[$cfg] $variant,)* }

        /// The bits of all services.
        const ALL: u8 = (1 << [$(#[$cfg] Number::$variant,)*].len()) - 1;

        $(#[$cfg] impl StreamDialect for $service {
            const BIT: u8 = 1 << Number::$variant as u8;

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
                Session::$variant(session.into())
            }

            fn listener(number: u16) -> Listener {
                Listener::$variant(number)
            }
        })*

        impl Session {
            /// How long a connection for a single request may take, in milliseconds.
            pub(super) fn single_ms(&self) -> u64 {
                match self { $(#[$cfg] Session::$variant(_) => <$service>::SINGLE_MS,)* }
            }
        }

        impl Services {
            pub(super) fn new(settings: Settings, seed: u64) -> Services {
                Services { touched: ALL, due: None, $(#[$cfg] $field: <$service>::new(settings.$field, seed),)* }
            }

            /// A session for a connection that `listener` accepts.
            pub(super) fn accepted(&mut self, listener: Listener) -> Session {
                match listener { $(#[$cfg] $listeners => Session::$variant(self.$field.accepted(listener).into()),)* }
            }

            /// Whether who connects to this listener is known by the address it comes from.
            pub(super) fn knows_by_address(listener: Listener) -> bool {
                let is_known = match listener { $(#[$cfg] $listeners => <$service>::KNOWN_BY_ADDRESS,)* };
                is_known && Services::is_for_nodes(listener)
            }

            fn first_deadline(&self) -> Option<Time> {
                let first = None;
                $(#[$cfg] let first = Time::earliest(first, self.$field.next_deadline());)*
                first
            }

            pub(super) fn on_timeout(&mut self, shared: &mut Shared, now: Time) {
                self.touched = ALL;
                $(#[$cfg] self.$field.on_timeout(shared, now);)*
            }

            pub(super) fn report(&self, lines: &mut Vec<String>) {
                $(#[$cfg] self.$field.report(lines);)*
            }

            pub(super) fn check_invariants(&self) {
                $(#[$cfg] self.$field.check_invariants();)*
            }

            /// Lets the nodes of `dialect` bootstrap from `addr`; whether one took it, `None` where this is no stream
            /// dialect of this build.
            pub(super) fn add_bootstrap(&mut self, dialect: Dialect, addr: SocketAddr, now: Time) -> Option<bool> {
                self.touched = ALL;
                match dialect {
                    $(#[$cfg] Dialect::$variant => Some(self.$field.add_bootstrap(addr, now)),)*
                    _ => None,
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
                    $(#[$cfg] if self.services.touched & <$service>::BIT != 0 {
                        self.pump::<$service>(now);
                    })*
                }
                self.services.due = self.services.first_deadline();
            }
        }
    };
}

for_each_dialect!(define!());

/// Does the same with the session of whichever dialect.
macro_rules! each {
    ($($args:tt)*) => { for_each_dialect!(each_session! ($($args)*)) };
}

macro_rules! each_session {
    (
        ($of:expr, $session:ident => $do:expr)
        $(#[$cfg:meta] $variant:ident $field:ident $service:ty, $rest:tt)*
    ) => {
        match $of { $(#[$cfg] Session::$variant($session) => $do,)* }
    };
}

/// Has the service of whichever dialect do something with its session.
macro_rules! at_service {
    ($($args:tt)*) => { for_each_dialect!(each_service! ($($args)*)) };
}

macro_rules! each_service {
    (
        ($services:expr, $of:expr, |$of_dialect:ident, $session:ident| $do:expr)
        $(#[$cfg:meta] $variant:ident $field:ident $service:ty, $rest:tt)*
    ) => {
        match $of { $(
            #[$cfg] Session::$variant($session) => {
                $services.touched |= <$service>::BIT;
                let $of_dialect = &mut $services.$field;
                $do
            }
        )* }
    };
}

/// What the dialect of `$listener` says to a connection that is refused.
macro_rules! refusal_of {
    (
        ($listener:expr)
        $(#[$cfg:meta] $variant:ident $field:ident $service:ty, { $session:ty, $settings:ty, $listeners:pat })*
    ) => {
        match $listener { $(#[$cfg] $listeners => <$service>::refusal($listener),)* }
    };
}

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
}

/// What [`Service`] does with a session, for whichever dialect.
impl Services {
    /// Whether other nodes connect to this listener: they must speak first, and are the first to go while they do not.
    pub(super) fn is_for_nodes(listener: Listener) -> bool {
        !matches!(listener, Listener::Api(_))
    }

    /// What to say to a connection that is refused.
    pub(super) fn refusal(listener: Listener) -> Vec<u8> {
        for_each_dialect!(refusal_of!(listener))
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
}

impl Engine {
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
