//! What can be wrong with a datagram. Names only: who counts and logs it is elsewhere, and nothing of it is answered.

use crate::dialect::hyperdht::codec::Fault;
use crate::guard::Counter;

/// Why a datagram, or a part of what it asks for, was refused.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Breach {
    /// It is shorter than a header or longer than a datagram may be.
    Size,
    /// It cannot be decoded, its target is not an id, or it asks for a forward that is not allowed.
    Malformed,
    /// A response to no request of ours.
    UnaskedAnswer,
    /// A response to a request that was sent to somebody else.
    WrongSource,
    /// A response that names far more nodes than anybody needs.
    LongList,
    /// A request with a token that is not valid, or no longer. It is answered as a query.
    BadToken,
    /// A request from an address that has not proved that it receives there, and has had its share of long answers. It
    /// is answered briefly.
    Unproved,
    /// A request to forward more than its source may have forwarded.
    TooManyForwards,
    /// An announcement for which there is no room. It is answered nevertheless.
    RecordsFull,
}

impl From<Fault> for Breach {
    fn from(fault: Fault) -> Breach {
        match fault {
            Fault::Size => Breach::Size,
            Fault::Malformed => Breach::Malformed,
        }
    }
}

impl From<Breach> for Counter {
    fn from(breach: Breach) -> Counter {
        match breach {
            Breach::UnaskedAnswer => Counter::UnaskedAnswers,
            Breach::WrongSource => Counter::WrongSources,
            Breach::LongList => Counter::LongLists,
            Breach::Size => Counter::BadSizes,
            Breach::Malformed => Counter::Malformed,
            Breach::BadToken => Counter::BadTokens,
            Breach::TooManyForwards => Counter::ForwardsRefused,
            Breach::RecordsFull => Counter::RecordsFull,
            Breach::Unproved => Counter::AnswersShrunk,
        }
    }
}
