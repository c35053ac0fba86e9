//! Load tests: which requests to send, how to judge the answers, and what to count. Pure: `net::load` has the sockets
//! and the clock, and drives any [`Workload`], so that the same loop can measure other servers (tests/bench).

pub mod sealed;
pub mod tally;

use crate::time::Time;

/// A kind of request.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Ask whether the node is alive.
    Ping,
    /// Ask for the contacts nearest to a key.
    FindNode,
    /// Ask for the value of a key that the node holds.
    FindValue,
    /// Store a value.
    Put,
    /// Find a value in the network.
    Get,
}

/// A request that was sent, against which its answer is judged.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SentRequest {
    /// The kind of request.
    pub op: Op,
    /// Its nonce, or the number of its key.
    pub number: u32,
    /// The request only keeps values alive that other requests read. Its answer is judged, but is not part of the
    /// figures.
    pub is_upkeep: bool,
}

/// The verdict on an answer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every byte is correct.
    Good,
    /// The value was not found.
    Missing,
    /// An error with this code.
    Refused(u32),
    /// It does not answer the request, or its checksum does not match.
    Wrong,
}

/// The bytes can't be a stream of answers.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Garbled;

/// The requests of a load test.
pub trait Workload {
    /// Appends the next request to `out`. `None` if the workload must wait for answers before it sends more.
    fn ask(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SentRequest>;

    /// Whether everything that the measured requests need is in place, for example the values that they read.
    fn is_ready(&self) -> bool;

    /// The length in bytes of the answer at the start of `bytes`; `None` while it is incomplete.
    ///
    /// Errors: `bytes` can't begin an answer.
    fn answer_len(&self, bytes: &[u8]) -> Result<Option<usize>, Garbled>;

    /// Judges a complete answer to `asked`.
    fn judge(&mut self, asked: SentRequest, answer: &[u8]) -> Verdict;
}
