//! Load tests: what is asked, how answers are judged, what is counted. Pure; `net::load` has the sockets and the clock,
//! and drives any [`Workload`], so that other servers can be measured by the same loop (tests/bench).

pub mod sealed;
pub mod tally;

use crate::time::Time;

/// A kind of request.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Is anybody there?
    Ping,
    /// Whom do you know near a key?
    FindNode,
    /// Do you hold a key?
    FindValue,
    /// Hold this.
    Put,
    /// Find a value in the network.
    Get,
}

/// What an answer is judged against.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SentRequest {
    /// The request's kind.
    pub op: Op,
    /// Its nonce, or the number of its key.
    pub number: u32,
    /// It only keeps values alive that others are to find: judged, but not part of the figures.
    pub is_upkeep: bool,
}

/// What an answer is worth.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is right to the byte.
    Good,
    /// The value was not there.
    Missing,
    /// An error with this code.
    Refused(u32),
    /// It is not the answer to what was asked, or its checksum does not match.
    Wrong,
}

/// The stream of answers makes no sense any more.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Garbled;

/// What a load test asks.
pub trait Workload {
    /// Appends the next request to `out`; `None` if nothing may be asked until what was asked is answered.
    fn ask(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SentRequest>;

    /// Whether all is in place that the measured requests need, such as the values they read.
    fn is_ready(&self) -> bool;

    /// Bytes of the answer that `bytes` begin with; `None` while it is not whole.
    ///
    /// Errors: `bytes` can't begin an answer.
    fn answer_len(&self, bytes: &[u8]) -> Result<Option<usize>, Garbled>;

    /// Judges a whole answer.
    fn judge(&mut self, asked: SentRequest, answer: &[u8]) -> Verdict;
}
