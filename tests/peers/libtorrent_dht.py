"""libtorrent-rasterbar's DHT (BEP 5 with BEP 44 items), driven through its Python binding.

Installed with `pip install libtorrent==2.1.1`. Measures put and get of fresh 64-byte immutable items through random
sessions of one process on loopback, and gets per second with some in flight; see `run` for all peers.
"""

import collections
import os
import random
import select
import time

import bench

PEER = "libtorrent 2.1.1"
try:
    import libtorrent as lt
except ImportError as error:
    bench.missing(PEER, f"{error}: pip install libtorrent==2.1.1")
PEER = "libtorrent " + lt.version.removesuffix(".0")

WANTED = 16  # nodes known to each: twice its k
HUGE = 100_000_000
SETTINGS = {
    "alert_mask": lt.alert.category_t.dht_notification | lt.alert.category_t.error_notification,
    "alert_queue_size": 100_000,
    "listen_interfaces": "127.0.0.1:0",
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_tcp": False,
    "enable_incoming_tcp": False,
    # No limits that a swarm behind one address would run into. (Ten times the block limit must fit an int.)
    "dht_upload_rate_limit": HUGE,
    "dht_block_ratelimit": 1_000_000,
    "dht_block_timeout": 1,
    "dht_max_dht_items": 100_000,
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False,
    "dht_ignore_dark_internet": False,
    "dht_read_only": False,
    "dht_privacy_lookups": False,
    "dht_aggressive_lookups": True,
}


def wait(session, kind, bound):
    """The next alert of a kind, None after the bound. wait_for_alert blocks in libtorrent, without the GIL."""
    end = time.perf_counter() + bound
    while (left := end - time.perf_counter()) > 0:
        if session.wait_for_alert(max(1, int(left * 1000))):
            for alert in session.pop_alerts():
                if isinstance(alert, kind):
                    return alert
    return None


def start(count):
    """Sessions that know each other through the first; then each looks random keys up until it knows enough others."""
    sessions = []
    for _ in range(count):
        session = lt.session({**SETTINGS, "dht_bootstrap_nodes": ""})
        sessions.append(session)
        while session.listen_port() == 0:
            time.sleep(0.0005)
        # Both ways: a node that asks is pinged back seconds later only, too late for the next to hear of it.
        session.add_dht_node(("127.0.0.1", sessions[0].listen_port()))
        sessions[0].add_dht_node(("127.0.0.1", session.listen_port()))
    end = time.perf_counter() + 60
    wanted = min(count - 1, WANTED)
    while (lonely := [session for session in sessions if known(session) < wanted]) and time.perf_counter() < end:
        for session in lonely:
            get(session, lt.sha1_hash(os.urandom(20)))
    bench.log("nodes known:", sorted(known(session) for session in sessions))
    return sessions


def known(session):
    session.post_dht_stats()
    stats = wait(session, lt.dht_stats_alert, 1)
    return sum(bucket["num_nodes"] for bucket in stats.routing_table) if stats else 0


def put(session, value):
    key = session.dht_put_immutable_item(value)
    alert = wait(session, lt.dht_put_alert, bench.GET_BOUND)
    return key, alert is not None and alert.num_success > 0


def get(session, key):
    session.dht_get_immutable_item(key)
    alert = wait(session, lt.dht_immutable_item_alert, bench.GET_BOUND)
    return alert.item if alert else None


def throughput(sessions, seconds, inflight):
    """One thread sleeps in epoll; each session writes a byte to its pipe when its alert queue stops being empty."""
    items = []
    for _ in range(bench.KEYS):
        value = bench.fresh()
        items.append((put(random.choice(sessions), value)[0], value))
    values = {str(key): value for key, value in items}
    poll, by_pipe = select.epoll(), {}
    for session in sessions:
        reader, writer = os.pipe2(os.O_NONBLOCK)
        session.set_alert_fd(writer)
        session.pop_alerts()
        poll.register(reader, select.EPOLLIN)
        by_pipe[reader] = session
    good, lost, begun = 0, 0, collections.OrderedDict()  # begun: (session, key) -> when its oldest get began
    free = inflight
    start = now = time.perf_counter()
    end = start + seconds
    while now < end:
        while free > 0:
            session, (key, _) = random.choice(sessions), random.choice(items)
            if (session, key) in begun:
                continue
            session.dht_get_immutable_item(key)
            begun[(session, key)] = time.perf_counter()
            free -= 1
        for pipe, _ in poll.poll(0.1):
            os.read(pipe, 4096)
            for alert in by_pipe[pipe].pop_alerts():
                if isinstance(alert, lt.dht_immutable_item_alert) and begun.pop((by_pipe[pipe], alert.target), None):
                    free += 1
                    if alert.item == values[str(alert.target)]:
                        good += 1
                    else:
                        lost += 1
        now = time.perf_counter()
        while begun and now - next(iter(begun.values())) > bench.GET_BOUND:
            begun.popitem(last=False)
            free, lost = free + 1, lost + 1
    for session in sessions:
        session.set_alert_fd(-1)
    return good / (now - start), lost


def main():
    args = bench.options()
    before, began = bench.rss_kb(), time.perf_counter()
    sessions = start(args.nodes)
    startup = time.perf_counter() - began
    puts, gets, found, refused = [], [], 0, 0
    for _ in range(args.pairs):
        one, other = random.sample(sessions, 2)
        value = bench.fresh()
        began = time.perf_counter()
        key, stored = put(one, value)
        puts.append(time.perf_counter() - began)
        refused += not stored
        began = time.perf_counter()
        got = get(other, key)
        if got == value:
            gets.append(time.perf_counter() - began)
            found += 1
    rate, lost = throughput(sessions, args.seconds, args.inflight)
    bench.emit(
        peer=PEER, nodes=args.nodes, startup_s=round(startup, 3), put_ms=bench.percentiles(puts),
        get_ms=bench.percentiles(gets), found=found, missing=args.pairs - found, put_failed=refused,
        gets_per_s=round(rate), throughput_missing=lost, kb_per_node=round((bench.rss_kb() - before) / args.nodes),
        note="BEP 44 immutable items over UDP; one session with its own network thread per node, Python driver "
        "blocking on native alerts; rate and address limits off",
    )
    os._exit(0)  # closing 50 sessions takes seconds and says nothing


main()
