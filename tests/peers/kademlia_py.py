"""The PyPI package kademlia (bmuller's, on rpcudp and asyncio), driven through Server.set and Server.get.

Installed with `pip install kademlia==2.2.3`. Measures put and get of fresh 64-byte values through random servers of one
process on loopback, and gets per second with some in flight; see `run` for all peers.
"""

import asyncio
import importlib.metadata
import os
import random
import time

import bench

try:
    PEER = "kademlia " + importlib.metadata.version("kademlia")
    from kademlia.network import Server
    from kademlia.node import Node
    from kademlia.crawling import NodeSpiderCrawl
except ImportError as error:
    bench.missing("kademlia", f"{error}: pip install kademlia==2.2.3")

WANTED = 20  # nodes known to each: its k


def known(server):
    return sum(len(bucket.nodes) for bucket in server.protocol.router.buckets)


async def start(count):
    """Servers that know each other through the first; then each looks random keys up until it knows enough others."""
    servers = []
    for _ in range(count):
        server = Server()
        await server.listen(0, interface="127.0.0.1")
        if servers:
            await server.bootstrap([servers[0].transport.get_extra_info("sockname")])
        servers.append(server)
    end = time.perf_counter() + 60
    wanted = min(count - 1, WANTED)
    while (lonely := [each for each in servers if known(each) < wanted]) and time.perf_counter() < end:
        for each in lonely:
            key = Node(os.urandom(20))
            near = each.protocol.router.find_neighbors(key)
            await NodeSpiderCrawl(each.protocol, key, near, each.ksize, each.alpha).find()
    bench.log("nodes known:", sorted(known(each) for each in servers))
    return servers


async def get(server, key):
    try:
        return await asyncio.wait_for(server.get(key), bench.GET_BOUND)
    except asyncio.TimeoutError:
        return None


async def throughput(servers, seconds, inflight):
    values = [bench.fresh() for _ in range(bench.KEYS)]
    for value in values:
        await random.choice(servers).set(value[:20], value)
    counts = {True: 0, False: 0}
    begun = time.perf_counter()

    async def worker():
        while time.perf_counter() - begun < seconds:
            value = random.choice(values)
            counts[await get(random.choice(servers), value[:20]) == value] += 1

    workers = [asyncio.ensure_future(worker()) for _ in range(inflight)]
    await asyncio.wait(workers, timeout=seconds)
    rate, lost = counts[True] / (time.perf_counter() - begun), counts[False]
    for each in workers:
        each.cancel()
    return rate, lost


async def main():
    args = bench.options()
    before, began = bench.rss_kb(), time.perf_counter()
    servers = await start(args.nodes)
    startup = time.perf_counter() - began
    puts, gets, refused = [], [], 0
    for _ in range(args.pairs):
        one, other = random.sample(servers, 2)
        value = bench.fresh()
        began = time.perf_counter()
        refused += not await one.set(value[:20], value)
        puts.append(time.perf_counter() - began)
        began = time.perf_counter()
        if await get(other, value[:20]) == value:
            gets.append(time.perf_counter() - began)
    rate, lost = await throughput(servers, args.seconds, args.inflight)
    bench.emit(
        peer=PEER, nodes=args.nodes, startup_s=round(startup, 3), put_ms=bench.percentiles(puts),
        get_ms=bench.percentiles(gets), found=len(gets), missing=args.pairs - len(gets), put_failed=refused,
        gets_per_s=round(rate), throughput_missing=lost, kb_per_node=round((bench.rss_kb() - before) / args.nodes),
        note="unsigned values over UDP, k is 20; all nodes and the driver in one thread of asyncio; a get stores the "
        "value at one more node before it returns",
    )
    os._exit(0)


asyncio.run(main())
