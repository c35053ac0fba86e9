//! Every bound of the program, with the reason for its value. Holds numbers only; what people may need to change is a
//! flag whose default stands here.

// ---- Kademlia ----

/// Contacts in a bucket, contacts in an answer, nodes a lookup must hear from (Kademlia paper: k).
pub const K: usize = 20;
/// The largest `--k`: a NODE answer of this dialect is looked at no further than 20 entries.
pub const K_MAX: usize = 20;
/// Requests a lookup keeps in flight (paper: alpha).
pub const ALPHA: usize = 3;
/// The largest `--alpha`.
pub const ALPHA_MAX: usize = 16;
/// Disjoint paths of a lookup when nothing went wrong yet; more costs requests and finds nothing better among the
/// honest.
pub const PATHS: usize = 1;
/// Disjoint paths of the second try after a miss (S/Kademlia, section 4.4).
pub const PATHS_ON_RETRY: usize = 8;
/// The largest `--paths`.
pub const PATHS_MAX: usize = 16;
/// Requests of a lookup on one path: 20 living contacts are found among 60 % dead ones with room to spare, and an
/// endless trail of ever closer liars ends.
pub const LOOKUP_BUDGET: usize = 80;
/// Requests of a lookup over several paths, all together: those that are led astray fill their horizon long before.
pub const LOOKUP_BUDGET_ALL_PATHS: usize = 240;
/// Nearest candidates that must have been heard on each of several paths before it ends, however many paths there are.
pub const PATH_HORIZON: usize = 4;
/// Lookups that a GET may take; those after the first use [`PATHS_ON_RETRY`] and ask nobody again.
pub const GET_TRIES: usize = 3;
/// Time that a lookup of a job must have at least to be worth its requests.
pub const LOOKUP_LEAST_MS: u64 = 500;
/// A PUT looks for this many more living nodes than are to hold the value, so that the closest are among them.
pub const SPARE_HOLDERS: usize = 5;
/// A PUT that has not found its holders by then takes the closest it knows to be alive.
pub const PUT_LOOKUP_MS: u64 = 2_600;
/// Most requests of one lookup in flight, those past their short timeout included.
pub const LOOKUP_IN_FLIGHT: usize = 24;
/// Contacts per bucket that wait for one of its own to fail.
pub const REPLACEMENT_CACHE: usize = 4;
/// How often one connection's peer is looked at as a candidate: looking costs a hash.
pub const CANDIDATE_MS: u64 = 5_000;
/// A bucket's range is divided into 2 to this many parts, each of which gets its share of the places: hops of a lookup
/// at 10,000 nodes that joined one after the other went from 2.98 to 2.68 (`make sim`).
pub const BUCKET_PARTS_BITS: usize = 3;
/// The last buckets, not divided: their ranges hold so few nodes that every one counts.
pub const UNDIVIDED_BUCKETS: usize = 4;
/// Contacts of one /24 (v6: /64) in a bucket and on one path of a lookup: one owner must not fill it.
pub const NETWORK_PER_BUCKET: usize = 2;
/// Contacts of one /24 (v6: /64) in the whole table.
pub const NETWORK_PER_TABLE: usize = 10;
/// Failures in a row after which a contact leaves the table even if nobody waits for its place.
pub const CONTACT_FAILURES: u8 = 2;
/// A bucket in which no lookup ended for this long is refreshed. Values live 10 s, so this only keeps contacts fresh.
pub const BUCKET_REFRESH_MS: u64 = 600_000;
/// How soon after a join a node asks its neighbours about itself again, for those that joined at the same moment; the
/// pause grows by the factor.
pub const NEIGHBOURS_REFRESH_MS: u64 = 1_000;
/// By how much the pause grows.
pub const NEIGHBOURS_REFRESH_FACTOR: u64 = 4;
/// The longest pause: neighbours decide who holds a value, so newcomers among them must be known soon.
pub const NEIGHBOURS_REFRESH_MAX_MS: u64 = 30_000;
/// One in so many of these asks a bootstrap too, though the table is not small: two networks that lost each other find
/// together again within minutes.
pub const ISLAND_ODDS: u32 = 10;
/// Buckets that are refreshed at once after a join: more would open dozens of connections in a moment.
pub const REFRESHES: usize = 3;
/// How often the overlay looks for stale buckets and silent contacts.
pub const UPKEEP_MS: u64 = 10_000;
/// A contact that has not answered for this long is asked again by the upkeep.
pub const CONTACT_STALE_MS: u64 = 60_000;
/// Silent contacts asked per upkeep: with 10 s between, a table of 180 is walked in ten minutes.
pub const UPKEEP_PROBES: usize = 3;
/// First pause before bootstrapping again; doubled each time, with jitter.
pub const BOOTSTRAP_RETRY_MS: u64 = 1_000;
/// The longest pause between two tries to bootstrap.
pub const BOOTSTRAP_RETRY_MAX_MS: u64 = 60_000;
/// How often the pause is doubled at most: enough to reach the longest.
pub const BOOTSTRAP_DOUBLINGS: u32 = 6;
/// Bootstrap addresses that are looked at.
pub const BOOTSTRAPS: usize = 64;
/// How long a contact that was only heard of is listed before it is asked whether it is there; a lookup is likely to do
/// so earlier (docs/protocol-hyperdht.md, section 7).
pub const CONFIRM_MS: u64 = 5_000;
/// Entries that were only heard of, in the whole table: as many as are asked within two of those.
pub const UNCONFIRMED: usize = 64;
/// Entries of a full bucket that are asked when somebody new is heard of (docs/protocol-hyperdht.md, section 7).
pub const CHALLENGED: usize = 3;
/// ... if they have been silent for this long (the npm peer has 15 s, the Go port 15 or 30:
/// docs/protocol-hyperdht.md, section 7; that is 3 packets a second of an idle node more).
pub const CHALLENGE_AFTER_MS: u64 = CONTACT_STALE_MS;
/// Delay before the first self-reachability check from an anonymous port; doubles up to five times.
pub const REACHABILITY_CHECK_MS: u64 = 300;
/// How often that delay doubles.
pub const REACHABILITY_DOUBLINGS: usize = 5;
/// Contacts used for that check, round-robin.
pub const REACHABILITY_CONTACTS: usize = 3;
/// Candidates being probed at once (docs/protocol-sealed.md, "Who is who").
pub const PROBES: usize = 32;
/// How long a failed probe is remembered (docs/protocol-sealed.md, "Who is who").
pub const PROBE_MEMORY_MS: u64 = 60_000;
/// Failed probes that are remembered; the oldest is forgotten first.
pub const PROBE_MEMORY: usize = 1_024;

// ---- Requests ----

/// Least short timeout of a request, after which its lookup widens (not 250 ms and 3 round trips: with 20 % of contacts
/// dead these find a value sooner, for a tenth more requests; `make sim` shows it; docs/architecture.md, decision 11).
pub const SHORT_TIMEOUT_MIN_MS: u64 = 150;
/// The short timeout is this many smoothed round trips.
pub const SHORT_TIMEOUT_ROUND_TRIPS: u64 = 2;
/// Long timeout of a request, after which the contact has failed.
pub const LONG_TIMEOUT_MS: u64 = 2_000;
/// A dial that has not connected by then has failed; a little above the long timeout, so that requests fail first.
pub const DIAL_TIMEOUT_MS: u64 = 3_000;
/// A coordinated PUT or a GET has this long in all (docs/protocol-sealed.md, "Storing and finding").
pub const JOB_MS: u64 = 4_000;
/// What a job leaves for sending its answer, so that a client sees it within [`JOB_MS`].
pub const JOB_MARGIN_MS: u64 = 200;
/// Operations of local users in one dialect, those included whose last event has not been pulled: as many as the jobs of
/// one node.
pub const OPERATIONS: usize = JOBS;
/// Jobs of one node at once: of hyperdht, a few KB each. A PUT holds one value; what GETs hold together is bounded by
/// [`TALLY_BYTES`].
pub const JOBS: usize = 1_024;
/// Values that all GETs in progress compare, in bytes; those beyond it don't count.
pub const TALLY_BYTES: usize = 32 * 1024 * 1024;

// ---- The sealed dialect and its API ----

/// Largest frame: its size is a u16.
pub const FRAME_MAX: usize = 65_535;
/// Largest value: what a PUT can carry (docs/protocol-sealed.md, "Messages").
pub const VALUE_MAX: usize = 65_463;
/// Longest lifetime; a ttl of 0 asks for it (seed 001: "less than 10 seconds").
pub const LIFETIME_MAX_MS: u64 = 10_000;
/// Holders of a value by default: "very little replication" (seed 001).
pub const REPLICATION: usize = 3;
/// Most holders a PUT may ask for.
pub const REPLICATION_MAX: usize = 20;
/// Entries of a NODE that are looked at.
pub const NODE_ENTRIES: usize = 20;
/// Entries of a NODE above which its sender gets a strike.
pub const NODE_ENTRIES_STRIKE: usize = 128;
/// Bytes of text in an ERROR of ours.
pub const ERROR_TEXT: usize = 256;
/// Answers owed on one connection at once that take a job; requests beyond wait unstarted.
pub const OWED_JOBS: usize = 64;
/// Answers queued behind an owed one on a connection, past which it is not read.
pub const OWED_ANSWERS: usize = 1_024;
/// Bytes of answers and unstarted requests queued behind an owed answer, past which the connection is not read: room
/// for all that an honest peer has outstanding, so that its answers to us can always be read.
pub const OWED_BYTES: usize = ASKED_BYTES + 2 * FRAME_MAX;
/// What each owed answer takes beside its frame: an entry, a key, a place in a queue (measured, each with its own key) ...
pub const OWED_ANSWER_BYTES: usize = 165;
/// ... and what they take together, even if there is only one: lists begin with room for several (measured).
pub const OWED_ANSWERS_BYTES: usize = 600;
/// Our own requests outstanding on one connection, past which that contact is busy.
pub const ASKED: usize = 128;
/// Bytes of our own requests outstanding on one connection, past which that contact is busy.
pub const ASKED_BYTES: usize = 512 * 1024;
/// Strikes on one connection that close it ...
pub const STRIKES: usize = 3;
/// ... if they fall within this time.
pub const STRIKE_WINDOW_MS: u64 = 60_000;
/// Bytes a store holds by default, keys and bookkeeping included (`--store-bytes`).
pub const STORE_BYTES: usize = 64 * 1024 * 1024;
/// The largest `--store-bytes`: 1 TiB; on a 32-bit host, whose processes have 2 to 4 GiB of addresses, 1 GiB.
pub const STORE_BYTES_MAX: usize = 1 << if usize::BITS < 64 { 30 } else { 40 };
/// Values a store holds by default (`--store-entries`).
pub const STORE_ENTRIES: usize = 100_000;
/// What an entry costs beside its value: timer with the key, index, allocation (measured: `make bench`, memory).
pub const STORE_ENTRY_BYTES: usize = 136;
/// Values of this many bytes keep the checksum of the VALUE that carries them once one was asked for: hashing them is
/// most of what serving them takes.
pub const SEAL_KEPT_FROM: usize = 1_024;
/// What a kept checksum costs.
pub const SEAL_KEPT_BYTES: usize = 48;
/// One address other than loopback may fill this fraction of the store: 1/4.
pub const STORE_SOURCE_SHARE: usize = 4;

// ---- The hyperdht dialect ----

/// Events of one operation that wait to be pulled: our own records, an answer to each request of its lookup and to each
/// update, and the end. No operation has more, so none is lost however late they are pulled.
pub const OPERATION_EVENTS: usize = 1 + LOOKUP_BUDGET + K + 1;

/// Largest datagram that is looked at. The largest of the other kinds of node has 1,742 bytes
/// (docs/protocol-hyperdht.md, section 5); users' commands may carry more.
pub const DATAGRAM_BYTES: usize = 8_192;
/// Largest answer of ours, so that it fits one packet of every path (1,500 bytes of Ethernet less what tunnels take).
pub const ANSWER_BYTES: usize = 1_400;
/// Requests of one node in flight; more wait. The others stop at 16; a burst of this many still fits the kernel's
/// buffers.
pub const DATAGRAM_REQUESTS: usize = 128;
/// Requests that wait for that: those of two hundred lookups at once.
pub const DATAGRAM_REQUESTS_WAITING: usize = 4_096;
/// Requests a lookup keeps in flight (docs/protocol-hyperdht.md, section 6: concurrency).
pub const DATAGRAM_ALPHA: usize = 16;
/// A token is valid for one to two of these (docs/protocol-hyperdht.md, section 5).
pub const TOKEN_ROTATION_MS: u64 = 300_000;
/// Bytes of a token of others that are kept and sent back; real ones have 32.
pub const TOKEN_BYTES: usize = 256;
/// How long a record is held; who announces repeats it every 4 to 5 minutes (docs/protocol-hyperdht.md, section 8: 6 to
/// 15 minutes).
pub const RECORD_AGE_MS: u64 = 720_000;
/// Records a node holds (docs/protocol-hyperdht.md, section 8).
pub const RECORDS: usize = 65_536;
/// Records of one key, a sixteenth of all: an answer shows about a hundred of them, and an announcement looks through
/// all.
pub const RECORDS_PER_KEY: usize = 4_096;
/// Records of one address (v6: /64) that is not loopback: a sixteenth, so that one host does not fill the store.
pub const RECORDS_OF_SOURCE: usize = 4_096;
/// Records of one such address under one key.
pub const RECORDS_OF_SOURCE_PER_KEY: usize = 64;
/// A record is announced again after at least this long ...
pub const ANNOUNCE_AGAIN_MS: u64 = 240_000;
/// ... and at most that long (docs/protocol-hyperdht.md, section 8).
pub const ANNOUNCE_AGAIN_MAX_MS: u64 = 300_000;
/// Datagrams per second that one address may have us send to addresses of its choice: a hole punch takes one.
pub const FORWARDS_OF_SOURCE_PER_S: u64 = 10;
/// ... and at once.
pub const FORWARDS_OF_SOURCE_AT_ONCE: u64 = 40;
/// Such datagrams per second in all: less than 40 KB/s of reflection.
pub const FORWARDS_PER_S: u64 = 500;
/// ... and at once.
pub const FORWARDS_AT_ONCE: u64 = 1_000;
/// Addresses whose forwards are counted; while so many have been at it lately, nobody new is served.
pub const FORWARD_SOURCES: usize = 4_096;
/// Datagrams read from one listener per turn: about a millisecond's work, so that the others are not kept waiting.
pub const DATAGRAMS_PER_TURN: usize = 256;
/// What the kernel is asked to hold of arrived datagrams per listener.
pub const DATAGRAM_SOCKET_BYTES: usize = 1024 * 1024;
/// Bytes that wait to be sent at one listener; what comes on top is lost, as datagrams are.
pub const DATAGRAM_OUTBOX_BYTES: usize = 1024 * 1024;
/// Of that, memory that a listener keeps when nothing waits: a few answers.
pub const DATAGRAM_OUTBOX_KEPT_BYTES: usize = 4 * 1024;

// ---- Connections ----

/// Connections in all (`--max-connections`); lowered at start to what the limit of open files leaves.
pub const CONNECTIONS: usize = 16_384;
/// The largest `--max-connections`.
pub const CONNECTIONS_MAX: usize = connections_max(usize::BITS);
/// The largest `--max-connections` where a `usize` has `width` bits. With 64 it is more than any host of ours has open
/// files for. With 32 it is half of the slots that a token of the kernel can name (arena.rs): a connection that was
/// closed keeps its slot until the end of the turn.
pub const fn connections_max(width: u32) -> usize {
    if width < 64 { 32_768 } else { 1_000_000 }
}
/// Inbound connections from one address (v6: /64) that is not loopback.
pub const CONNECTIONS_PER_ADDRESS: usize = 128;
/// Connections to nodes, least recently used out (docs/protocol-sealed.md, "Lifetimes").
pub const NODE_CONNECTIONS: usize = 256;
/// This part of all connections, 1/4, but no more than [`NODE_CONNECTIONS`], is kept free for those we dial.
pub const DIALLED_SHARE: usize = 4;
/// A connection to a node that is idle for this long is closed (docs/protocol-sealed.md, "Lifetimes").
pub const NODE_IDLE_MS: u64 = 60_000;
/// Descriptors kept free for listeners, epoll, signals, the status listener and the spare.
pub const RESERVED_DESCRIPTORS: u64 = 32;
/// Open files of a process that macOS allows at most (OPEN_MAX).
pub const MACOS_OPEN_MAX: u64 = 10_240;
/// A connection to the sealed listener must have sent its first frame by then (docs/faults.md, row 2).
pub const FIRST_FRAME_MS: u64 = 10_000;
/// A frame must be complete this long after its first byte, not counting time in which it is not read (row 1).
pub const FRAME_MS: u64 = 10_000;
/// Answer bytes queued on a connection past which it is not read until it drains.
pub const OUTBOX_SOFT_BYTES: usize = 128 * 1024;
/// Bytes queued on a connection past which it is closed.
pub const OUTBOX_HARD_BYTES: usize = 2 * 1024 * 1024;
/// Without progress on a full outbox, or on requests of ours, for this long: closed (row 18).
pub const STALL_MS: u64 = 30_000;
/// Buffered bytes of all connections, past which the heaviest is closed.
pub const BUFFERED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes read from, and messages handled for, one connection per turn (docs/architecture.md, decision 5).
pub const TURN_BYTES: usize = 64 * 1024;
/// Messages handled for one connection per turn.
pub const TURN_MESSAGES: usize = 64;
/// How long a refused connection may take to read our last words before it is cut off.
pub const LINGER_MS: u64 = 1_000;
/// An address whose connections were closed by strikes this often ...
pub const BAN_AFTER: u8 = 3;
/// ... within this time is refused for as long again.
pub const BAN_MS: u64 = 60_000;
/// Addresses whose offences are remembered; the oldest is forgotten first.
pub const OFFENDERS: usize = 4_096;
/// A dial that found its address pair taken waits this long for the peer's own connection: on a busy host that is still
/// shaking hands when the dial fails already.
pub const YIELD_MS: u64 = 30;
/// A listening-port dial that found its address pair taken is tried again after this long
/// (docs/protocol-sealed.md, "Who is who").
pub const REDIAL_MS: u64 = 1_000;
/// Connections accepted per turn and listener.
pub const ACCEPTS_PER_TURN: usize = 128;
/// Connections the kernel may hold for us: the kernel cuts this to net.core.somaxconn.
pub const BACKLOG: i32 = 4_096;
/// Pause after an accept that failed for want of descriptors or memory (row 21).
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Events taken from the kernel per turn.
pub const EVENTS: usize = 1_024;
/// Listeners of one process: a test network of fifty nodes fits, each with a socket and some 100 KB.
pub const LISTENERS: usize = 64;
/// Pause before a bootstrap name that did not resolve is tried again.
pub const RESOLVE_RETRY_MS: u64 = 10_000;
/// A stopping node flushes for at most this long (row 24).
pub const STOP_MS: u64 = 2_000;

// ---- Buffers ----

/// A connection's first read buffer: a hundred PINGs, or most single messages.
pub const BUFFER_SMALL: usize = 4 * 1024;
/// A read buffer that holds the largest frame and the beginning of the next.
pub const BUFFER_LARGE: usize = 80 * 1024;
/// Bytes of buffers kept for the next connection that needs one, for each of three kinds: 80 small inboxes, 4 large
/// ones, as many outboxes. Each outbox is written right after its inbox is handled, so few are in use at once; what a
/// burst used beyond this goes back to the allocator.
pub const POOLED_BYTES: usize = 320 * 1024;

// ---- Logging and status ----

/// Lines of one kind of fault per window; the rest is counted and summed up in one line.
pub const FAULT_LINES: u32 = 5;
/// The window of [`FAULT_LINES`].
pub const FAULT_WINDOW_MS: u64 = 10_000;
/// Status readers per turn: more than the kernel lets wait.
pub const STATUS_READERS: usize = 8_192;
/// Bytes of a status report that a reader takes; a report has about 2 KB.
pub const REPORT_BYTES: u64 = 64 * 1024;
/// Bytes of a configuration file that are read.
pub const CONFIG_BYTES: u64 = 1024 * 1024;

const _: () = assert!(K <= K_MAX && K_MAX <= NODE_ENTRIES);
const _: () = assert!(NODE_ENTRIES <= NODE_ENTRIES_STRIKE);
const _: () = assert!(VALUE_MAX + 40 + 32 == FRAME_MAX, "the largest PUT is the largest frame");
const _: () = assert!(BUFFER_LARGE > FRAME_MAX && BUFFER_SMALL < BUFFER_LARGE && POOLED_BYTES >= BUFFER_LARGE);
const _: () = assert!(OUTBOX_SOFT_BYTES > FRAME_MAX && OUTBOX_SOFT_BYTES + ASKED_BYTES < OUTBOX_HARD_BYTES);
const _: () = assert!(OWED_BYTES > ASKED_BYTES + FRAME_MAX && OWED_ANSWERS > ASKED && ASKED_BYTES > FRAME_MAX);
const _: () = assert!(BUFFERED_BYTES >= 16 * OUTBOX_HARD_BYTES);
const _: () = assert!(SHORT_TIMEOUT_MIN_MS < LONG_TIMEOUT_MS && LONG_TIMEOUT_MS < DIAL_TIMEOUT_MS);
const _: () = assert!(2 * LONG_TIMEOUT_MS <= JOB_MS);
const _: () = assert!(BOOTSTRAP_RETRY_MS << BOOTSTRAP_DOUBLINGS >= BOOTSTRAP_RETRY_MAX_MS);
const _: () = assert!(LOOKUP_BUDGET >= 2 * K && LOOKUP_BUDGET_ALL_PATHS >= PATHS_MAX * PATH_HORIZON);
const _: () = assert!(PUT_LOOKUP_MS + JOB_MARGIN_MS < JOB_MS && PATHS_MAX <= 16 && TALLY_BYTES >= VALUE_MAX);
const _: () = assert!(REPLICATION <= REPLICATION_MAX && REPLICATION_MAX <= K_MAX);
const _: () = assert!(ALPHA <= ALPHA_MAX && ALPHA_MAX <= LOOKUP_IN_FLIGHT && PATHS_MAX <= LOOKUP_IN_FLIGHT);
const _: () = assert!(NODE_CONNECTIONS < CONNECTIONS && CONNECTIONS <= connections_max(32));
const _: () = assert!(STORE_BYTES + TALLY_BYTES + BUFFERED_BYTES < 1 << 30, "the defaults fit a 32-bit host");
const _: () = assert!(ANSWER_BYTES < DATAGRAM_BYTES && DATAGRAM_BYTES < DATAGRAM_OUTBOX_BYTES);
const _: () = assert!(DATAGRAM_ALPHA <= LOOKUP_IN_FLIGHT && LOOKUP_IN_FLIGHT <= DATAGRAM_REQUESTS);
const _: () = assert!(ANNOUNCE_AGAIN_MAX_MS < RECORD_AGE_MS && DATAGRAM_REQUESTS < 1 << 14);
