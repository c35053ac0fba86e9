//! Every bound of the program, with the reason for its value. Holds only numbers. Where a user may need another value,
//! there is a flag, and its default is here.

// ---- Kademlia ----

/// Kademlia's k: the contacts of a bucket, the contacts of an answer, and the nodes that must answer before a lookup
/// ends (Kademlia paper, section 2.3).
pub const K: usize = 20;
/// The largest `--k`: nobody reads more than the first 20 entries of a NODE ([`NODE_ENTRIES`]).
pub const K_MAX: usize = 20;
/// Requests that a lookup keeps in flight (Kademlia paper: alpha).
pub const ALPHA: usize = 3;
/// The largest `--alpha`.
pub const ALPHA_MAX: usize = 16;
/// Disjoint paths of a lookup that is not a retry. More paths cost more requests, and find nothing better as long as
/// the nodes asked are honest.
pub const PATHS: usize = 1;
/// Disjoint paths of a lookup that is repeated after a miss (S/Kademlia, section 4.4).
pub const PATHS_ON_RETRY: usize = 8;
/// The largest `--paths`.
pub const PATHS_MAX: usize = 16;
/// Requests that a lookup on one path may send. With 60 % of contacts dead, it still finds 20 living ones with requests
/// to spare; and a lookup that liars lead to ever closer liars comes to an end.
pub const LOOKUP_BUDGET: usize = 80;
/// Requests that all paths of a lookup together may send. Paths that are led astray fill their horizon long before.
pub const LOOKUP_BUDGET_ALL_PATHS: usize = 240;
/// A lookup over several paths ends a path only after this many of its nearest candidates have answered, however many
/// paths there are.
pub const PATH_HORIZON: usize = 4;
/// Lookups that a GET may use. Those after the first use [`PATHS_ON_RETRY`] paths and skip the contacts already asked.
pub const GET_TRIES: usize = 3;
/// A lookup of a job must have at least this much time to be worth its requests.
pub const LOOKUP_LEAST_MS: u64 = 500;
/// A PUT looks for this many living nodes beyond its replication, so that the closest nodes are among those found.
pub const SPARE_HOLDERS: usize = 5;
/// After this time a PUT stops looking for holders and uses the closest living nodes it knows.
pub const PUT_LOOKUP_MS: u64 = 2_600;
/// Requests that one lookup may have in flight, including those past their short timeout.
pub const LOOKUP_IN_FLIGHT: usize = 24;
/// Contacts in a bucket's replacement cache (Kademlia paper, section 4.1).
pub const REPLACEMENT_CACHE: usize = 4;
/// The peer of a connection is considered as a candidate for the routing table at most this often, because each time
/// costs a hash.
pub const CANDIDATE_MS: u64 = 5_000;
/// A bucket divides its range into 2 to the power of this many parts, and gives each part a share of its places. In a
/// network of 10,000 nodes that joined one after the other, this reduced the hops of a lookup from 2.98 to 2.68
/// (`make sim`).
pub const BUCKET_PARTS_BITS: usize = 3;
/// The last buckets, which are not divided: their ranges hold so few nodes that each one counts.
pub const UNDIVIDED_BUCKETS: usize = 4;
/// Contacts of one /24 (IPv6: /48, and so of a /56) in a bucket, and on one path of a lookup, so that one owner can't
/// fill either.
pub const NETWORK_PER_BUCKET: usize = 2;
/// Contacts of one /24 (IPv6: /48) in the whole routing table.
pub const NETWORK_PER_TABLE: usize = 10;
/// Entries for which a bucket allocates memory at a time. Most buckets of a table are full or empty.
pub const BUCKET_ENTRIES_AT_ONCE: usize = 10;
/// Failures in a row after which a contact leaves the table even if no other contact waits for its place.
pub const CONTACT_FAILURES: u8 = 2;
/// A bucket is refreshed if no lookup has ended in it for this long. Values live for 10 s, so a refresh only keeps
/// contacts fresh.
pub const BUCKET_REFRESH_MS: u64 = 600_000;
/// After it has joined, a node waits this long before it asks its neighbours about itself again, to find nodes that
/// joined at the same moment. Each following pause is longer by [`NEIGHBOURS_REFRESH_FACTOR`].
pub const NEIGHBOURS_REFRESH_MS: u64 = 1_000;
/// Factor by which each pause between these requests grows.
pub const NEIGHBOURS_REFRESH_FACTOR: u64 = 4;
/// The longest of these pauses. The neighbours of a key hold its value, so a node must soon learn of new neighbours.
pub const NEIGHBOURS_REFRESH_MAX_MS: u64 = 30_000;
/// One in this many of these requests also asks a bootstrap, even if the table is large, so that two networks that lost
/// each other merge again within minutes.
pub const ISLAND_ODDS: u32 = 10;
/// Buckets refreshed at the same time after a join. More would open dozens of connections at once.
pub const REFRESHES: usize = 3;
/// Period at which the overlay looks for stale buckets and silent contacts (its upkeep).
pub const UPKEEP_MS: u64 = 10_000;
/// The upkeep probes a contact that has not answered for this long.
pub const CONTACT_STALE_MS: u64 = 60_000;
/// Silent contacts probed per upkeep. At one upkeep every 10 s, a table of 180 contacts is probed within ten minutes.
pub const UPKEEP_PROBES: usize = 3;
/// First pause before another attempt to bootstrap. It doubles each time, with jitter.
pub const BOOTSTRAP_RETRY_MS: u64 = 1_000;
/// The longest pause between two attempts to bootstrap.
pub const BOOTSTRAP_RETRY_MAX_MS: u64 = 60_000;
/// How many times the pause doubles: enough to reach the longest one.
pub const BOOTSTRAP_DOUBLINGS: u32 = 6;
/// Bootstrap addresses that are used; others are ignored.
pub const BOOTSTRAPS: usize = 64;
/// Unconfirmed contacts, which have only contacted us, that wait for a probe: as many as can be probed within two such
/// periods if none answers. A further one takes the place of one chosen at random, so that a flood keeps out nobody for
/// good, and no longer than it lasts.
pub const UNCONFIRMED: usize = 64;
/// ... and those that have proved their address. They are probed first, and nobody takes their places.
pub const UNCONFIRMED_PROVED: usize = 32;
/// Entries of a full bucket that are probed when a new contact is heard of (docs/protocol-hyperdht.md, section 7).
pub const CHALLENGED: usize = 3;
/// ... but each of them at most once in this time,
pub const CHALLENGE_MS: u64 = 5_000;
/// ... and if they have been silent for this long. (The npm peer waits 15 s, the Go port 15 s or 30 s:
/// docs/protocol-hyperdht.md, section 7. That would cost an idle node 3 more packets per second.)
pub const CHALLENGE_AFTER_MS: u64 = CONTACT_STALE_MS;
/// Delay before the first self-reachability check from an anonymous port; doubles up to five times.
pub const REACHABILITY_CHECK_MS: u64 = 300;
/// How many times that delay doubles.
pub const REACHABILITY_DOUBLINGS: usize = 5;
/// Contacts used for that check, round-robin.
pub const REACHABILITY_CONTACTS: usize = 3;
/// Contacts probed at the same time (docs/protocol-sealed.md, "Who is who").
pub const PROBES: usize = 32;
/// ... and further ones that have proved their address.
pub const PROBES_OF_PROVED: usize = 8;
/// Contacts of one network that are probed or wait for a probe, so that one owner can't take all places.
pub const PROBES_PER_NETWORK: usize = 2;
/// Ports of one address whose probe failed after which no other port of it is probed, either.
pub const PROBE_FAILURES: usize = 2;
/// How long a failed probe is remembered (docs/protocol-sealed.md, "Who is who").
pub const PROBE_MEMORY_MS: u64 = 60_000;
/// Addresses whose failed probes are remembered, and entries whose challenge is. A flood of failures makes us forget
/// early, and costs no more probes than [`PROBES`] at a time.
pub const PROBE_MEMORY: usize = 1_024;

// ---- Requests ----

/// Lower bound of a request's short timeout, after which its lookup asks one more contact. (Not 250 ms and 3 round
/// trips: with 20 % of contacts dead, a lookup finds values sooner with these numbers, for a tenth more requests;
/// `make sim` shows it; docs/architecture.md, decision 11.)
pub const SHORT_TIMEOUT_MIN_MS: u64 = 150;
/// The short timeout in smoothed round-trip times.
pub const SHORT_TIMEOUT_ROUND_TRIPS: u64 = 2;
/// Long timeout of a request, after which it counts as a failure of the contact.
pub const LONG_TIMEOUT_MS: u64 = 2_000;
/// A dial fails if it has not connected after this time. It is a little above the long timeout, so that requests fail
/// first.
pub const DIAL_TIMEOUT_MS: u64 = 3_000;
/// Total time of a coordinated PUT or a GET (docs/protocol-sealed.md, "Storing and finding").
pub const JOB_MS: u64 = 4_000;
/// Time that a job reserves for sending its answer, so that the client receives it within [`JOB_MS`].
pub const JOB_MARGIN_MS: u64 = 200;
/// Operations of local users in one dialect, including those whose last event has not been pulled: as many as one node
/// may have jobs.
pub const OPERATIONS: usize = JOBS;
/// Jobs of one dialect at the same time, shared by source (sources.rs). A hyperdht job takes a few KB; a PUT holds one value; what all GETs hold together
/// is bounded by [`TALLY_BYTES`].
pub const JOBS: usize = 1_024;
/// Bytes of values that all GETs in progress hold for comparison. Values beyond that are not counted.
pub const TALLY_BYTES: usize = 96 * 1024 * 1024;
/// Bytes of them that are kept for the first value of each GET, so that those that hear many leave room for others.
pub const TALLY_FIRST_BYTES: usize = 64 * 1024 * 1024;
/// Answers that a GET remembers, nearest to the key first. Where a network grows fourfold while a value lives, one node
/// in 300 that held it has 20 newcomers before it, and one in 100,000 has 40.
pub const TALLY_ANSWERS: usize = 2 * K;

// ---- The sealed dialect and its API ----

/// Largest frame in bytes: its size field is a u16.
pub const FRAME_MAX: usize = 65_535;
/// Largest value in bytes: what a PUT can carry (docs/protocol-sealed.md, "Messages").
pub const VALUE_MAX: usize = 65_463;
/// Longest lifetime of a value. A ttl of 0 asks for it (seed 001: "less than 10 seconds").
pub const LIFETIME_MAX_MS: u64 = 10_000;
/// Nodes that hold a value by default (seed 001: "very little replication").
pub const REPLICATION: usize = 3;
/// Most holders that a PUT may request.
pub const REPLICATION_MAX: usize = 20;
/// Entries of a NODE that are read; the others are ignored.
pub const NODE_ENTRIES: usize = 20;
/// A NODE with more entries than this is a strike against its sender.
pub const NODE_ENTRIES_STRIKE: usize = 128;
/// Bytes of text in an ERROR that we send.
pub const ERROR_TEXT: usize = 256;
/// Jobs whose answers one connection may be owed at the same time. Further requests wait unstarted.
pub const OWED_JOBS: usize = 64;
/// Answers that may be queued on a connection, the owed ones included. While there are more, the connection is not
/// read.
pub const OWED_ANSWERS: usize = ASKED + 128;
/// Bytes of answers and unstarted requests that may be queued behind an owed answer. While there are more, the
/// connection is not read. There is room for all that an honest peer has outstanding, so that we can always read its
/// answers.
pub const OWED_BYTES: usize = ASKED_BYTES + 2 * FRAME_MAX;
/// Memory of one owed answer besides its frame: an entry, a key, a place in a queue (measured, each with its own key)
/// ...
pub const OWED_ANSWER_BYTES: usize = 165;
/// ... and the memory that the lists take for even one of them, because they start with room for several (measured).
pub const OWED_ANSWERS_BYTES: usize = 600;
/// Requests that we may have outstanding on one connection. Beyond that, the contact is busy. One for each job, so that
/// nobody's lookups keep those of others from a slow contact.
pub const ASKED: usize = JOBS;
/// Bytes of our own requests that may be outstanding on one connection. Beyond that, the contact is busy.
pub const ASKED_BYTES: usize = 512 * 1024;
/// A connection is closed after this many strikes ...
pub const STRIKES: usize = 3;
/// ... within this time.
pub const STRIKE_WINDOW_MS: u64 = 60_000;
/// Bytes that a store holds by default, including keys and bookkeeping (`--store-bytes`).
pub const STORE_BYTES: usize = 64 * 1024 * 1024;
/// The largest `--store-bytes`: 1 TiB; 1 GiB on a 32-bit host, where a process has 2 to 4 GiB of address space.
pub const STORE_BYTES_MAX: usize = 1 << if usize::BITS < 64 { 30 } else { 40 };
/// Values that a store holds by default (`--store-entries`).
pub const STORE_ENTRIES: usize = 100_000;
/// Memory of an entry besides its value: the timer with the key, the index, the allocation (measured: `make bench`,
/// memory).
pub const STORE_ENTRY_BYTES: usize = 136;
/// Values of at least this many bytes keep the checksum of the VALUE that carries them, once somebody has asked for
/// them: hashing is most of the work of serving them.
pub const SEAL_KEPT_FROM: usize = 1_024;
/// Memory of such a checksum.
pub const SEAL_KEPT_BYTES: usize = 48;
/// Where the memory of the process is limited, the store, and the buffers of connections, take by default at most this
/// fraction each: 1/4.
pub const MEMORY_SHARE: usize = 4;
/// Bytes that are read of a file in which the kernel says how much memory there may be; those have less.
pub const KERNEL_FILE_BYTES: usize = 4 * 1024;
/// A value is stored only if this much memory is left besides, for the buffers of those who want to read ...
pub const MEMORY_HEADROOM_BYTES: usize = 1024 * 1024;
/// ... which is looked at each time that this much was stored.
pub const MEMORY_PROBED_EACH_BYTES: usize = 256 * 1024;

// ---- The hyperdht dialect ----

/// Events of one operation that may wait to be pulled: our own records, an answer to each request of its lookup and to
/// each update, and the end. No operation has more, so none is lost however late the user pulls them.
pub const OPERATION_EVENTS: usize = 1 + LOOKUP_BUDGET + K + 1;

/// Largest datagram that is read. The largest one of other implementations has 1,742 bytes
/// (docs/protocol-hyperdht.md, section 5); commands of users may be larger.
pub const DATAGRAM_BYTES: usize = 8_192;
/// Largest answer that we send, so that it fits one packet on every path (1,500 bytes of Ethernet minus what tunnels
/// take).
pub const ANSWER_BYTES: usize = 1_400;
/// An answer to an address that has not proved that it receives there has at most this many times the bytes of its
/// request (as QUIC: RFC 9000, section 8.1), or more while these budgets last:
pub const ANSWER_FACTOR: usize = 3;
/// bytes of such longer answers per second and address (IPv6: /64): twenty answers, enough for the first request of
/// each of the programs behind one NAT;
pub const ANSWER_BYTES_OF_SOURCE_PER_S: u64 = 16 * 1024;
/// and to all such addresses together: what a home's uplink has.
pub const ANSWER_BYTES_PER_S: u64 = 1024 * 1024;
/// Half-life of the count of such bytes, so that what a second allows may come at once.
pub const ANSWER_BYTES_HALF_LIFE_MS: u64 = 500;
/// An address that has proved itself a while ago has this many times as much, and no part in the second budget, for
/// requests that do not prove it again: those may be forged. Enough for 150 lookups per second that ask us.
pub const PROVED_FACTOR: u64 = 8;
/// How long an address that has proved itself counts as such: as long as the token with which it does.
pub const PROVED_MS: u64 = 2 * TOKEN_ROTATION_MS;
/// Addresses that are remembered as such. One that is forgotten early proves itself again.
pub const PROVED_SOURCES: usize = 4_096;
/// Tokens of contacts that a node remembers to prove itself with: those of the contacts that one lookup asks.
pub const TOKENS: usize = 128;
/// Requests that one node has in flight; more wait. Other implementations stop at 16; a burst of this many still fits
/// the kernel's buffers.
pub const DATAGRAM_REQUESTS: usize = 128;
/// Requests that may wait: those of two hundred concurrent lookups.
pub const DATAGRAM_REQUESTS_WAITING: usize = 4_096;
/// Requests that a hyperdht lookup keeps in flight (docs/protocol-hyperdht.md, section 6: concurrency).
pub const DATAGRAM_ALPHA: usize = 16;
/// Period at which the secret of the tokens changes. A token stays valid for one to two periods
/// (docs/protocol-hyperdht.md, section 5).
pub const TOKEN_ROTATION_MS: u64 = 300_000;
/// Largest token of another node that is kept and sent back, in bytes; real ones have 32.
pub const TOKEN_BYTES: usize = 256;
/// How long a record is held. Nodes that announce repeat it every 4 to 5 minutes (docs/protocol-hyperdht.md, section 8:
/// 6 to 15 minutes).
pub const RECORD_AGE_MS: u64 = 720_000;
/// Records that a node holds (docs/protocol-hyperdht.md, section 8).
pub const RECORDS: usize = 65_536;
/// Records of one key, a sixteenth of all: an answer shows about a hundred of them, and an announcement searches all of
/// them.
pub const RECORDS_PER_KEY: usize = 4_096;
/// Records of one address (IPv6: /64) other than loopback under one key.
pub const RECORDS_OF_SOURCE_PER_KEY: usize = 64;
/// We announce a record again after at least this long ...
pub const ANNOUNCE_AGAIN_MS: u64 = 240_000;
/// ... and at most that long (docs/protocol-hyperdht.md, section 8).
pub const ANNOUNCE_AGAIN_MAX_MS: u64 = 300_000;
/// Datagrams per second that one address may have us forward to addresses of its choice. A hole punch takes one.
pub const FORWARDS_OF_SOURCE_PER_S: u64 = 10;
/// ... and in one burst.
pub const FORWARDS_OF_SOURCE_AT_ONCE: u64 = 40;
/// Such datagrams per second in total: less than 40 KB/s of reflection.
pub const FORWARDS_PER_S: u64 = 500;
/// ... and in one burst.
pub const FORWARDS_AT_ONCE: u64 = 2_000;
/// Half-life of the count of forwards: half of a burst is allowed again after this time.
pub const FORWARDS_HALF_LIFE_MS: u64 = 500 * FORWARDS_AT_ONCE / FORWARDS_PER_S;
/// Datagrams read from one listener per turn: about a millisecond of work, so that the other listeners do not wait
/// long.
pub const DATAGRAMS_PER_TURN: usize = 256;
/// Receive buffer that we request from the kernel for each datagram listener, in bytes.
pub const DATAGRAM_SOCKET_BYTES: usize = 1024 * 1024;
/// Bytes that may wait to be sent at one datagram listener. Further datagrams are dropped.
pub const DATAGRAM_OUTBOX_BYTES: usize = 1024 * 1024;
/// Part of that memory which a listener keeps when nothing waits: enough for a few answers.
pub const DATAGRAM_OUTBOX_KEPT_BYTES: usize = 4 * 1024;

// ---- Connections ----

/// Connections in total (`--max-connections`). Lowered at start if the limit of open files allows fewer.
pub const CONNECTIONS: usize = 16_384;
/// The largest `--max-connections`.
pub const CONNECTIONS_MAX: usize = connections_max(usize::BITS);
/// The largest `--max-connections` on a host whose `usize` has `width` bits. With 64 bits, it is more than any of our
/// hosts has open files for. With 32 bits, it is half of the slots that a kernel token can name (arena.rs), because a
/// closed connection keeps its slot until the end of the turn.
pub const fn connections_max(width: u32) -> usize {
    if width < 64 { 32_768 } else { 1_000_000 }
}
/// Inbound connections from one address (IPv6: /64) other than loopback ...
pub const CONNECTIONS_PER_ADDRESS: usize = 128;
/// ... or, if `--max-connections` allows few, this fraction of them: 1/8 ...
pub const CONNECTIONS_SHARE: usize = 8;
/// ... but at least this many.
pub const CONNECTIONS_PER_ADDRESS_LEAST: usize = 4;
/// Connections that are drawn at random when one must be closed for another. With this many, one of a source that holds
/// a tenth of all is among them in 999 cases of 1,000.
pub const EVICTION_CANDIDATES: usize = 64;
/// A connection is closed for another one of an equally heavy source only if it has been idle for this long.
pub const EVICT_IDLE_MS: u64 = 1_000;
/// All connections are searched for the idlest one of an address at most this often.
pub const ADDRESS_SEARCH_MS: u64 = 50;
/// An inbound connection of the peer port is closed after it has been idle for this long.
pub const IDLE_MS: u64 = 600_000;
/// Period of the search for such connections ...
pub const IDLE_SEARCH_MS: u64 = 60_000;
/// ... which looks at this many places at a time, about 100 us.
pub const IDLE_SEARCHED: usize = 4_096;
/// Connections that wait for a job to end are told that there is room for theirs, so many for each job that ends: not
/// all of them can start one.
pub const TOLD_PER_JOB: usize = 4;
/// Connections that may wait for that.
pub const QUEUED: usize = 16_384;
/// A client's PUTs may load each other node with this fraction of what this node's own store holds: 1/4, which is what a
/// store takes from one address. Clients share it by source.
pub const COORDINATED_SHARE: u64 = 4;
/// Each may have this many times the fraction of what is still free that it could have of another resource.
pub const COORDINATED_FACTOR: u64 = 2;
/// Connections that carry our requests to other nodes. The least recently used one is closed first
/// (docs/protocol-sealed.md, "Lifetimes").
pub const NODE_CONNECTIONS: usize = 256;
/// Dials under way at the same time: half of those, so that dials that lead nowhere leave room for connections that
/// stand. If there are more, the oldest one gives way ...
pub const DIALS: usize = NODE_CONNECTIONS / 2;
/// ... but not before it had this much time: a round trip to the other side of the world.
pub const DIAL_LEAST_MS: u64 = 300;
/// The fraction of all connections, 1/4 but at most [`NODE_CONNECTIONS`], that is reserved for connections that we
/// dial.
pub const DIALLED_SHARE: usize = 4;
/// A connection to another node is closed after it has been idle for this long (docs/protocol-sealed.md, "Lifetimes").
pub const NODE_IDLE_MS: u64 = 60_000;
/// File descriptors reserved for listeners, epoll, signals, the status listener, the spare one, and refused connections.
pub const RESERVED_DESCRIPTORS: u64 = 32 + REFUSED as u64;
/// Most open files that macOS allows a process (OPEN_MAX).
pub const MACOS_OPEN_MAX: u64 = 10_240;
/// A connection to the sealed listener must complete its first frame within this time (docs/faults.md, row 2).
pub const FIRST_FRAME_MS: u64 = 10_000;
/// A frame must be complete within this time after its first byte, not counting the time in which we do not read (row
/// 1).
pub const FRAME_MS: u64 = 10_000;
/// Bytes of answers that may be queued on a connection. While there are more, it is not read.
pub const OUTBOX_SOFT_BYTES: usize = 128 * 1024;
/// Bytes that may be queued on a connection. If there are more, it is closed.
pub const OUTBOX_HARD_BYTES: usize = 2 * 1024 * 1024;
/// A connection is closed after this long without progress on a full outbox or on our own requests (row 18).
pub const STALL_MS: u64 = 30_000;
/// Bytes that the buffers of all connections may hold. Beyond that, the heaviest source loses its largest connections
/// ...
pub const BUFFERED_BYTES: usize = 64 * 1024 * 1024;
/// ... until this fraction is left: 3/4, so that a quarter must come in again before all connections are searched again.
pub const BUFFERED_KEPT: (usize, usize) = (3, 4);
/// A peer that has read some of its answers within this time is not the first to be closed for lack of memory.
pub const READ_LATELY_MS: u64 = 1_000;
/// Bytes read from one connection per turn (docs/architecture.md, decision 5).
pub const TURN_BYTES: usize = 64 * 1024;
/// Work done for one connection per turn, in bytes moved and hashed ...
pub const TURN_WORK: u64 = 64 * 1024;
/// ... where each message counts as so many more: 64 of the smallest messages, or one large one, make a turn.
pub const MESSAGE_WORK: u64 = 984;
/// ... and a lookup or a coordinated PUT as this many: it sends dozens of messages.
pub const JOB_WORK: u64 = 16 * 1024;
/// Work after which a turn of the loop is long, about half a millisecond. From then on, each address may have only as
/// much as one connection, and its networks a multiple of that; what more it sent waits for the next turn.
pub const LONG_TURN_WORK: u64 = 8 * TURN_WORK;
/// The kernel asks the peer of a connection that has been silent for this long whether it is still there ...
pub const KEEP_ALIVE_MS: u64 = 60_000;
/// ... again after each of these pauses ...
pub const KEEP_ALIVE_INTERVAL_MS: u64 = 15_000;
/// ... this many times, and then closes the connection: two minutes after the peer vanished.
pub const KEEP_ALIVE_PROBES: u32 = 4;
/// The kernel closes a connection whose peer has not acknowledged what we sent for this long (on Linux). Equal to the
/// time that the probes above take, which it would otherwise cut short.
pub const USER_TIMEOUT_MS: u64 = 120_000;
/// Refused connections that are kept open for a moment, so that their peers can read why.
pub const REFUSED: usize = 16;
/// Bytes that are read from one before it is closed.
pub const REFUSED_READ_BYTES: usize = 4 * 1024;
/// Before we close a refused connection, its peer has this much time to read our last bytes.
pub const LINGER_MS: u64 = 1_000;
/// If strikes closed this many connections of one address ...
pub const PROBATION_AFTER: u8 = 3;
/// ... within this time, the address is on probation for as long again: connections that it opens then are closed at
/// their first fault. The others behind the same NAT are served.
pub const PROBATION_MS: u64 = 60_000;
/// Addresses whose offences are remembered, a power of two; where there is no place for another, an older one is
/// forgotten.
pub const OFFENDERS: usize = 1_024;
/// A dial that found its address pair in use waits this long for the peer's own connection. On a busy host, that
/// connection may still be in its handshake when our dial has already failed.
pub const YIELD_MS: u64 = 30;
/// A connection that was dialled from an ephemeral port, because the address pair was in use, is replaced after this
/// long (docs/protocol-sealed.md, "Who is who").
pub const REDIAL_MS: u64 = 1_000;
/// Connections accepted per turn and listener. Each costs several system calls, for which others wait.
pub const ACCEPTS_PER_TURN: usize = 32;
/// Connections that may wait in the kernel's accept queue; the kernel lowers this to net.core.somaxconn.
pub const BACKLOG: i32 = 4_096;
/// Pause after an accept that failed for lack of descriptors or memory (row 21).
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Events that one turn takes from the kernel.
pub const EVENTS: usize = 1_024;
/// Listeners of one process: enough for a test network of fifty nodes, each with a socket and about 100 KB.
pub const LISTENERS: usize = 64;
/// Pause before we try again to resolve the name of a bootstrap.
pub const RESOLVE_RETRY_MS: u64 = 10_000;
/// A stopping node sends what it owes for at most this long (row 24).
pub const STOP_MS: u64 = 2_000;

// ---- Sources ----

/// At each level of a source (address, network, wider network), the fraction of what is still free of a resource that it
/// may hold: 1/3, 1/2, 1. So one address gets at most a quarter of all, its network a third, its wider network half, and
/// all of them less where several are heavy.
pub const SOURCE_DIVISORS: [u64; 3] = [3, 2, 1];
/// At each level, the multiple of an address's rate limit.
pub const SOURCE_RATE_FACTORS: [u64; 3] = [1, 2, 4];
/// Rows of a sketch that counts by source: an honest source counts as a heavy one only if it shares a counter with heavy
/// ones in every row ...
pub const SOURCE_ROWS: usize = 4;
/// ... of this many counters each: with 126 heavy sources, one in 2,500 does. 86 KB for each resource, so that ten of
/// them stay below a megabyte.
pub const SOURCE_SLOTS: usize = 900;

/// Slots of a table of what is remembered for a while (recent.rs) that are allocated first.
pub const RECENT_SLOTS_AT_FIRST: usize = 16;
/// An entry of such a table stands in one of this many neighbouring slots.
pub const RECENT_WAYS: usize = 2;

// ---- Buffers ----

/// Size of a connection's first read buffer: room for a hundred PINGs, or for most single messages.
pub const BUFFER_SMALL: usize = 4 * 1024;
/// Size of the next read buffer, when that is full.
pub const BUFFER_MIDDLE: usize = 16 * 1024;
/// Size of a read buffer that holds the largest frame and the start of the next one.
pub const BUFFER_LARGE: usize = 80 * 1024;
/// Bytes of buffers that are kept for reuse, for each of four kinds: 80 small inboxes, 20 of the middle size, 4 large
/// ones, as many outboxes.
/// Each outbox is written right after its inbox is handled, so few are in use at the same time. What a burst used
/// beyond this is freed.
pub const POOLED_BYTES: usize = 320 * 1024;

// ---- Timers ----

/// Width of a slot of the timer wheel. Timers fire at most this late.
pub const WHEEL_TICK_MS: u64 = 16;
/// Slots of the timer wheel. One turn of it (16.4 s) is longer than any lifetime or timeout except the idle timeouts.
pub const WHEEL_SLOTS: usize = 1024;

// ---- Logging and status ----

/// Log lines per window for one kind of fault. The rest is counted and summarized in one line.
pub const FAULT_LINES: u32 = 5;
/// The window of [`FAULT_LINES`].
pub const FAULT_WINDOW_MS: u64 = 10_000;
/// Status readers served per turn: more than the kernel lets wait.
pub const STATUS_READERS: usize = 8_192;
/// Largest status report that a reader accepts, in bytes; a report has about 2 KB.
pub const REPORT_BYTES: u64 = 64 * 1024;
/// How long a command waits for the node that it asks (`--timeout`): a little longer than a job may take.
pub const COMMAND_TIMEOUT_MS: u64 = 5_000;
/// Largest configuration file that is read, in bytes.
pub const CONFIG_BYTES: u64 = 1024 * 1024;

const _: () = assert!(16 * SOURCE_ROWS <= 64 && SOURCE_SLOTS <= 1 << 16, "one hash of 64 bits names all counters");
const _: () = assert!(USER_TIMEOUT_MS == KEEP_ALIVE_MS + KEEP_ALIVE_INTERVAL_MS * KEEP_ALIVE_PROBES as u64);
const _: () = assert!(K <= K_MAX && K_MAX <= NODE_ENTRIES);
const _: () = assert!(NODE_ENTRIES <= NODE_ENTRIES_STRIKE);
const _: () = assert!(VALUE_MAX + 40 + 32 == FRAME_MAX, "the largest PUT is the largest frame");
const _: () = assert!(
    BUFFER_LARGE > FRAME_MAX
        && BUFFER_SMALL < BUFFER_MIDDLE
        && BUFFER_MIDDLE < BUFFER_LARGE
        && POOLED_BYTES >= BUFFER_LARGE
);
const _: () = assert!(OUTBOX_SOFT_BYTES > FRAME_MAX && OUTBOX_SOFT_BYTES + ASKED_BYTES < OUTBOX_HARD_BYTES);
const _: () = assert!(OWED_BYTES > ASKED_BYTES + FRAME_MAX && OWED_ANSWERS > ASKED && ASKED_BYTES > FRAME_MAX);
const _: () = assert!(BUFFERED_BYTES >= 16 * OUTBOX_HARD_BYTES);
const _: () = assert!(SHORT_TIMEOUT_MIN_MS < LONG_TIMEOUT_MS && LONG_TIMEOUT_MS < DIAL_TIMEOUT_MS);
const _: () = assert!(2 * LONG_TIMEOUT_MS <= JOB_MS && JOB_MS < COMMAND_TIMEOUT_MS);
const _: () = assert!(BOOTSTRAP_RETRY_MS << BOOTSTRAP_DOUBLINGS >= BOOTSTRAP_RETRY_MAX_MS);
const _: () = assert!(LOOKUP_BUDGET >= 2 * K && LOOKUP_BUDGET_ALL_PATHS >= PATHS_MAX * PATH_HORIZON);
const _: () =
    assert!(PUT_LOOKUP_MS + JOB_MARGIN_MS < JOB_MS && PATHS_MAX <= 16 && TALLY_FIRST_BYTES >= JOBS * VALUE_MAX);
const _: () = assert!(TALLY_ANSWERS >= 2 * REPLICATION_MAX, "the electorate of the largest quorum");
const _: () = assert!(REPLICATION <= REPLICATION_MAX && REPLICATION_MAX <= K_MAX);
const _: () = assert!(ALPHA <= ALPHA_MAX && ALPHA_MAX <= LOOKUP_IN_FLIGHT && PATHS_MAX <= LOOKUP_IN_FLIGHT);
const _: () = assert!(NODE_CONNECTIONS < CONNECTIONS && CONNECTIONS <= connections_max(32));
const _: () = assert!(STORE_BYTES + TALLY_BYTES + BUFFERED_BYTES < 1 << 30, "the defaults fit a 32-bit host");
const _: () = assert!(500 * FORWARDS_OF_SOURCE_AT_ONCE / FORWARDS_OF_SOURCE_PER_S == FORWARDS_HALF_LIFE_MS);
const _: () = assert!(ANSWER_BYTES_OF_SOURCE_PER_S > ANSWER_BYTES as u64, "one answer fits");
const _: () = assert!(ANSWER_BYTES < DATAGRAM_BYTES && DATAGRAM_BYTES < DATAGRAM_OUTBOX_BYTES);
const _: () = assert!(DATAGRAM_ALPHA <= LOOKUP_IN_FLIGHT && LOOKUP_IN_FLIGHT <= DATAGRAM_REQUESTS);
const _: () = assert!(ANNOUNCE_AGAIN_MAX_MS < RECORD_AGE_MS && DATAGRAM_REQUESTS < 1 << 14);
