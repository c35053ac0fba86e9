//! The load loop: connects, keeps requests in flight, reads answers, takes times. One thread and one poll, like the
//! node it measures. Never looks into a message; the [`Workload`] makes and judges them.
//!
//! Closed loop: each connection sends a batch of requests in one write, and the next once all of them are answered, as
//! redis-benchmark does. Open loop: requests are due at an even rate, and their latency counts from when they were due,
//! so that a server that stops answering can't hide it by slowing the load down. In both, what is in flight when the
//! time is up is still waited for, judged and timed.

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

/// Connections being dialled at once: well below any backlog.
const DIALS: usize = 256;
/// Bytes read at once.
const SCRATCH: usize = 256 * 1024;
/// Without any answer for this long, the server is stuck.
const STUCK: Duration = Duration::from_secs(15);
/// How often progress is told.
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
    /// Whom to ask; connections are dealt to them by turns. At least one.
    pub nodes: Vec<SocketAddr>,
    /// Connections in all, at least 1.
    pub connections: usize,
    /// Requests in flight per connection, at least 1.
    pub pipeline: usize,
    /// How long to measure.
    pub until: Until,
    /// Requests per second in all for an open loop; `None` for a closed one.
    pub rate: Option<f64>,
    /// How long to ask before that counts.
    pub warmup: Duration,
}

/// Where a load test is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Moment {
    /// All connections stand.
    Connected,
    /// Measuring begins.
    Began,
    /// It goes on.
    Measuring,
    /// Measuring has ended; what is in flight is still waited for.
    Ended,
}

struct Line {
    stream: TcpStream,
    /// What could not be written yet.
    out: Vec<u8>,
    /// The beginning of an answer.
    partial: Vec<u8>,
    /// With when each was sent, or due.
    asked: VecDeque<(SentRequest, Instant)>,
    is_connected: bool,
    is_broken: bool,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Phase {
    Filling,
    WarmUp(Instant),
    Measuring(Instant),
    /// Nothing more is asked; what was is still to be answered.
    Draining,
}

struct Loop<'a, W: ?Sized> {
    plan: &'a Plan,
    workload: &'a mut W,
    observe: &'a mut dyn FnMut(Moment, &Tally),
    poll: Poll,
    lines: Vec<Line>,
    tally: Tally,
    phase: Phase,
    started: Instant,
    /// Requests asked since the warm-up began, of an open loop.
    due: u64,
    /// When that was.
    due_since: Instant,
    in_flight: usize,
    answered_at: Instant,
    told_at: Instant,
    next_line: usize,
    scratch: Vec<u8>,
}

/// Runs a load test; `observe` hears of every [`Moment`].
///
/// Errors: a connection could not be made, nothing was answered for 15 seconds, all connections broke, or the system
/// refused something.
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
        lines: Vec::with_capacity(plan.connections),
        tally: Tally::default(),
        phase: Phase::Filling,
        started: now,
        due: 0,
        due_since: now,
        in_flight: 0,
        answered_at: now,
        told_at: now,
        next_line: 0,
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
            while self.lines.len() < self.plan.connections.min(connected + DIALS) {
                let to = self.plan.nodes[self.lines.len() % self.plan.nodes.len()];
                let mut stream = socket::dial(None, to)?;
                let token = Token(self.lines.len());
                self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                self.lines.push(Line {
                    stream,
                    out: Vec::new(),
                    partial: Vec::new(),
                    asked: VecDeque::new(),
                    is_connected: false,
                    is_broken: false,
                });
            }
            self.wait(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                let line = &mut self.lines[event.token().0];
                if !line.is_connected {
                    if let Some(e) = line.stream.take_error()? {
                        return Err(e);
                    }
                    line.is_connected = line.stream.peer_addr().is_ok();
                    connected += usize::from(line.is_connected);
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
        self.kick(self.started);
        loop {
            // An open loop waits by asking again and again: the kernel's timeouts are as coarse as a millisecond.
            let is_open = self.plan.rate.is_some() && !matches!(self.phase, Phase::Filling | Phase::Draining);
            self.wait(&mut events, Some(if is_open { Duration::ZERO } else { PROGRESS }))?;
            for event in &events {
                let index = event.token().0;
                if event.is_writable() && !self.lines[index].out.is_empty() {
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
            if self.lines.iter().all(|line| line.is_broken) {
                return Err(io::Error::new(ErrorKind::ConnectionReset, "all connections were closed"));
            }
        }
    }

    /// Moves from phase to phase, sends what is due, tells progress; whether all is done.
    fn advance(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Filling if self.workload.is_ready() && self.in_flight == 0 => {
                self.phase = Phase::WarmUp(now);
                self.due_since = now;
                self.kick(now);
            }
            // What was in flight on a connection that broke is to be asked on others.
            Phase::Filling if self.in_flight == 0 => self.kick(now),
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
                if now.duration_since(self.told_at) >= PROGRESS {
                    self.told_at = now;
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
    fn kick(&mut self, now: Instant) {
        (0..self.lines.len()).for_each(|index| self.batch(index, now));
    }

    /// Sends what an open loop owes by now, on connections by turns, as far as they have room.
    fn send_due(&mut self, now: Instant) {
        let (Some(rate), Phase::WarmUp(_) | Phase::Measuring(_)) = (self.plan.rate, self.phase) else {
            return;
        };
        let mut full = 0;
        while full < self.lines.len() {
            let due_at = self.due_since + Duration::from_secs_f64(self.due as f64 / rate);
            if due_at > now {
                return;
            }
            let index = self.next_line;
            self.next_line = (self.next_line + 1) % self.lines.len();
            if self.lines[index].is_broken || self.lines[index].asked.len() >= self.plan.pipeline {
                full += 1;
                continue;
            }
            full = 0;
            self.due += 1;
            self.ask(index, due_at);
            self.flush(index);
        }
    }

    /// Sends the next batch of a closed loop, or of what must be in place for either.
    fn batch(&mut self, index: usize, now: Instant) {
        let asks = match self.phase {
            Phase::Filling => true,
            Phase::WarmUp(_) | Phase::Measuring(_) => self.plan.rate.is_none(),
            Phase::Draining => false,
        };
        if !asks || self.lines[index].is_broken || !self.lines[index].asked.is_empty() {
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
        let line = &mut self.lines[index];
        let Some(asked) = self.workload.ask(now, &mut line.out) else {
            return false;
        };
        line.asked.push_back((asked, at));
        self.in_flight += 1;
        true
    }

    fn flush(&mut self, index: usize) {
        let line = &mut self.lines[index];
        while !line.out.is_empty() {
            match line.stream.write(&line.out) {
                Ok(n) if n == line.out.len() => line.out.clear(),
                Ok(n) => drop(line.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.broke(index),
            }
        }
    }

    fn read(&mut self, index: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut is_drained = false;
        while !is_drained && !self.lines[index].is_broken {
            let line = &mut self.lines[index];
            let kept = line.partial.len();
            scratch[..kept].copy_from_slice(&line.partial);
            line.partial.clear();
            match line.stream.read(&mut scratch[kept..]) {
                Ok(0) => self.broke(index),
                Ok(n) => {
                    is_drained = n < SCRATCH - kept;
                    self.take(index, &scratch[..kept + n]);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    is_drained = e.kind() == ErrorKind::WouldBlock;
                    self.lines[index].partial.extend_from_slice(&scratch[..kept]);
                }
                Err(_) => self.broke(index),
            }
        }
        self.scratch = scratch;
    }

    /// Takes the answers in `bytes`; what is left over is kept.
    fn take(&mut self, index: usize, mut bytes: &[u8]) {
        let now = Instant::now();
        self.answered_at = now;
        loop {
            let len = match self.workload.answer_len(bytes) {
                Ok(Some(len)) => len,
                Ok(None) => break,
                Err(_) => return self.broke(index),
            };
            let (answer, rest) = bytes.split_at(len);
            bytes = rest;
            let Some((asked, at)) = self.lines[index].asked.pop_front() else {
                return self.broke(index);
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
        let line = &mut self.lines[index];
        line.partial.extend_from_slice(bytes);
        if line.asked.is_empty() {
            self.batch(index, now);
        }
    }

    fn broke(&mut self, index: usize) {
        let line = &mut self.lines[index];
        if !std::mem::replace(&mut line.is_broken, true) {
            let lost = line.asked.len();
            line.asked.clear();
            self.in_flight -= lost;
            self.tally.broken += lost.max(1) as u64;
        }
    }
}
