//! The load loop: connects, keeps requests in flight, reads answers, and measures times. One thread and one poll, like
//! the node that it measures. Never looks into a message; the [`Workload`] creates and judges them.
//!
//! Closed loop: each connection sends a batch of requests in one write, and the next batch once all of them are
//! answered, as redis-benchmark does. Open loop: requests are due at a constant rate, and their latency counts from
//! when they were due, so that a server that stops answering can't hide it by slowing the load down. In both, requests
//! that are in flight when the time is up are still awaited, judged and timed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::limits::EVENTS;
use crate::load::tally::Tally;
use crate::load::{SentRequest, Verdict, Workload};
use crate::net::socket;
use crate::time::Time;

/// Connections that are being dialled at the same time: well below any backlog.
const DIALS: usize = 256;
/// Bytes per read.
const SCRATCH: usize = 256 * 1024;
/// A server that has answered nothing for this long is stuck.
const STUCK: Duration = Duration::from_secs(15);
/// Period of the reports on progress.
const PROGRESS: Duration = Duration::from_millis(250);

/// How long to measure.
#[derive(Copy, Clone, Debug)]
pub enum Until {
    /// Until this many requests are answered.
    Answers(u64),
    /// For this long.
    Elapsed(Duration),
}

/// A load test.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes to ask, at least one. Connections are distributed over them in rotation.
    pub nodes: Vec<SocketAddr>,
    /// The total number of connections, at least 1.
    pub connections: usize,
    /// Requests in flight per connection, at least 1.
    pub pipeline: usize,
    /// How long to measure.
    pub until: Until,
    /// The total number of requests per second of an open loop; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long to send requests before the measurement begins.
    pub warmup: Duration,
}

/// A moment in the course of a load test.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Moment {
    /// All connections are established.
    Connected,
    /// The measurement begins.
    Began,
    /// The measurement is in progress.
    Measuring,
    /// The measurement has ended. Requests in flight are still awaited.
    Ended,
}

struct Connection {
    stream: TcpStream,
    /// Bytes that have not been written.
    out: Vec<u8>,
    /// The start of an incomplete answer.
    partial: Vec<u8>,
    /// The requests in flight, each with the time at which it was sent or due.
    pending: VecDeque<(SentRequest, Instant)>,
    is_connected: bool,
    is_broken: bool,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Phase {
    Filling,
    WarmUp(Instant),
    Measuring(Instant),
    /// No more requests are sent; those in flight are still awaited.
    Draining,
}

struct Loop<'a, W: ?Sized> {
    plan: &'a Plan,
    workload: &'a mut W,
    observe: &'a mut dyn FnMut(Moment, &Tally),
    poll: Poll,
    connections: Vec<Connection>,
    tally: Tally,
    phase: Phase,
    started: Instant,
    /// The number of requests that the open loop has sent since the warm-up began.
    due: u64,
    /// When the warm-up began.
    due_since: Instant,
    in_flight: usize,
    answered_at: Instant,
    reported_at: Instant,
    next_connection: usize,
    scratch: Vec<u8>,
}

/// Runs a load test, and calls `observe` at every [`Moment`].
///
/// Errors: a connection could not be established, nothing was answered for 15 seconds, all connections broke, or the
/// operating system returned another error.
pub fn run<W: Workload + ?Sized>(
    plan: &Plan,
    workload: &mut W,
    observe: &mut dyn FnMut(Moment, &Tally),
) -> io::Result<Tally> {
    let now = Instant::now();
    let mut run = Loop {
        plan,
        workload,
        observe,
        poll: Poll::new()?,
        connections: Vec::with_capacity(plan.connections),
        tally: Tally::default(),
        phase: Phase::Filling,
        started: now,
        due: 0,
        due_since: now,
        in_flight: 0,
        answered_at: now,
        reported_at: now,
        next_connection: 0,
        scratch: vec![0; SCRATCH],
    };
    run.connect()?;
    (run.observe)(Moment::Connected, &run.tally);
    run.measure()?;
    Ok(run.tally)
}

impl<W: Workload + ?Sized> Loop<'_, W> {
    fn connect(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut connected = 0;
        let give_up_at = Instant::now() + STUCK;
        while connected < self.plan.connections {
            while self.connections.len() < self.plan.connections.min(connected + DIALS) {
                let to = self.plan.nodes[self.connections.len() % self.plan.nodes.len()];
                let mut stream = socket::dial(None, to)?;
                let token = Token(self.connections.len());
                self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                self.connections.push(Connection {
                    stream,
                    out: Vec::new(),
                    partial: Vec::new(),
                    pending: VecDeque::new(),
                    is_connected: false,
                    is_broken: false,
                });
            }
            self.wait(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                if !connection.is_connected {
                    if let Some(e) = connection.stream.take_error()? {
                        return Err(e);
                    }
                    connection.is_connected = connection.stream.peer_addr().is_ok();
                    connected += usize::from(connection.is_connected);
                }
            }
            if Instant::now() > give_up_at {
                return Err(io::Error::new(ErrorKind::TimedOut, format!("only {connected} connections were made")));
            }
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(e) if e.kind() != ErrorKind::Interrupted => Err(e),
            _ => Ok(()),
        }
    }

    fn measure(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        self.started = Instant::now();
        self.answered_at = self.started;
        self.send_batches(self.started);
        loop {
            // The open loop polls without waiting, because the kernel's timeouts are as coarse as a millisecond.
            let is_open = self.plan.rate.is_some() && !matches!(self.phase, Phase::Filling | Phase::Draining);
            self.wait(&mut events, Some(if is_open { Duration::ZERO } else { PROGRESS }))?;
            for event in &events {
                let index = event.token().0;
                if event.is_writable() && !self.connections[index].out.is_empty() {
                    self.flush(index);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.read(index);
                }
            }
            let now = Instant::now();
            if self.advance(now) {
                return Ok(());
            }
            if now.duration_since(self.answered_at) > STUCK {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer for 15 seconds"));
            }
            if self.connections.iter().all(|connection| connection.is_broken) {
                return Err(io::Error::new(ErrorKind::ConnectionReset, "all connections were closed"));
            }
        }
    }

    /// Moves from phase to phase, sends requests that are due, and reports progress. Returns whether everything is
    /// done.
    fn advance(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Filling if self.workload.is_ready() && self.in_flight == 0 => {
                self.phase = Phase::WarmUp(now);
                self.due_since = now;
                self.send_batches(now);
            }
            // Requests that were in flight on a broken connection are sent again on others.
            Phase::Filling if self.in_flight == 0 => self.send_batches(now),
            Phase::Filling => {}
            Phase::WarmUp(since) if now.duration_since(since) >= self.plan.warmup => {
                self.tally = Tally { failures_before: self.tally.failures(), ..Tally::default() };
                self.phase = Phase::Measuring(now);
                (self.observe)(Moment::Began, &self.tally);
            }
            Phase::WarmUp(_) => {}
            Phase::Measuring(since) => {
                let elapsed = now.duration_since(since);
                self.tally.seconds = elapsed.as_secs_f64();
                if now.duration_since(self.reported_at) >= PROGRESS {
                    self.reported_at = now;
                    (self.observe)(Moment::Measuring, &self.tally);
                }
                let is_done = match self.plan.until {
                    Until::Answers(n) => self.tally.answers() + self.tally.broken >= n,
                    Until::Elapsed(time) => elapsed >= time,
                };
                if is_done {
                    self.phase = Phase::Draining;
                    (self.observe)(Moment::Ended, &self.tally);
                }
            }
            Phase::Draining => return self.in_flight == 0,
        }
        self.send_due(now);
        false
    }

    /// Sends a batch on every connection that has nothing in flight.
    fn send_batches(&mut self, now: Instant) {
        (0..self.connections.len()).for_each(|index| self.send_batch(index, now));
    }

    /// Sends the requests of an open loop that are due by now, on the connections in rotation, as far as they have
    /// room.
    fn send_due(&mut self, now: Instant) {
        let (Some(rate), Phase::WarmUp(_) | Phase::Measuring(_)) = (self.plan.rate, self.phase) else {
            return;
        };
        let mut full = 0;
        while full < self.connections.len() {
            let due_at = self.due_since + Duration::from_secs_f64(self.due as f64 / rate);
            if due_at > now {
                return;
            }
            let index = self.next_connection;
            self.next_connection = (self.next_connection + 1) % self.connections.len();
            if self.connections[index].is_broken || self.connections[index].pending.len() >= self.plan.pipeline {
                full += 1;
                continue;
            }
            full = 0;
            self.due += 1;
            self.ask(index, due_at);
            self.flush(index);
        }
    }

    /// Sends the next batch of a closed loop, or in either loop of the requests that prepare the measurement.
    fn send_batch(&mut self, index: usize, now: Instant) {
        let asks = match self.phase {
            Phase::Filling => true,
            Phase::WarmUp(_) | Phase::Measuring(_) => self.plan.rate.is_none(),
            Phase::Draining => false,
        };
        if !asks || self.connections[index].is_broken || !self.connections[index].pending.is_empty() {
            return;
        }
        for _ in 0..self.plan.pipeline {
            if !self.ask(index, now) {
                break;
            }
        }
        self.flush(index);
    }

    fn ask(&mut self, index: usize, at: Instant) -> bool {
        if self.phase == Phase::Filling && self.workload.is_ready() {
            return false;
        }
        let now = Time::from_ms(at.duration_since(self.started).as_millis() as u64);
        let connection = &mut self.connections[index];
        let Some(asked) = self.workload.ask(now, &mut connection.out) else {
            return false;
        };
        connection.pending.push_back((asked, at));
        self.in_flight += 1;
        true
    }

    fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        while !connection.out.is_empty() {
            match connection.stream.write(&connection.out) {
                Ok(n) if n == connection.out.len() => connection.out.clear(),
                Ok(n) => drop(connection.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.on_broken(index),
            }
        }
    }

    fn read(&mut self, index: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut is_drained = false;
        while !is_drained && !self.connections[index].is_broken {
            let connection = &mut self.connections[index];
            let kept = connection.partial.len();
            scratch[..kept].copy_from_slice(&connection.partial);
            connection.partial.clear();
            match connection.stream.read(&mut scratch[kept..]) {
                Ok(0) => self.on_broken(index),
                Ok(n) => {
                    is_drained = n < SCRATCH - kept;
                    self.take_answers(index, &scratch[..kept + n]);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    is_drained = e.kind() == ErrorKind::WouldBlock;
                    self.connections[index].partial.extend_from_slice(&scratch[..kept]);
                }
                Err(_) => self.on_broken(index),
            }
        }
        self.scratch = scratch;
    }

    /// Judges the answers in `bytes`, and keeps the rest.
    fn take_answers(&mut self, index: usize, mut bytes: &[u8]) {
        let now = Instant::now();
        self.answered_at = now;
        loop {
            let len = match self.workload.answer_len(bytes) {
                Ok(Some(len)) => len,
                Ok(None) => break,
                Err(_) => return self.on_broken(index),
            };
            let (answer, rest) = bytes.split_at(len);
            bytes = rest;
            let Some((asked, at)) = self.connections[index].pending.pop_front() else {
                return self.on_broken(index);
            };
            self.in_flight -= 1;
            let verdict = self.workload.judge(asked, answer);
            if !asked.is_upkeep {
                let is_late = self.phase == Phase::Draining;
                self.tally.late += u64::from(is_late);
                let bytes = if is_late { 0 } else { len };
                self.tally.add(verdict, bytes, now.saturating_duration_since(at).as_nanos() as u64);
            } else if verdict != Verdict::Good {
                self.tally.judged(verdict);
            }
        }
        let connection = &mut self.connections[index];
        connection.partial.extend_from_slice(bytes);
        if connection.pending.is_empty() {
            self.send_batch(index, now);
        }
    }

    fn on_broken(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !std::mem::replace(&mut connection.is_broken, true) {
            let lost = connection.pending.len();
            connection.pending.clear();
            self.in_flight -= lost;
            self.tally.broken += lost.max(1) as u64;
        }
    }
}
