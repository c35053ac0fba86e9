"""What the Python drivers in this folder share: the options, the percentiles, the memory and the one line of JSON."""

import argparse
import json
import math
import os
import sys

GET_BOUND = 5.0
KEYS = 200


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--inflight", type=int, default=32)
    return parser.parse_args()


def fresh():
    return os.urandom(64)


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def rss_kb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def percentiles(seconds):
    """p50 and p99, in milliseconds, by nearest rank; None of nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return {"p50": None, "p99": None}
    return {f"p{q}": round(ordered[math.ceil(q / 100 * len(ordered)) - 1] * 1000, 3) for q in (50, 99)}


def emit(**fields):
    """The one line; what the library wrote at exit must not follow it."""
    print(json.dumps(fields, separators=(",", ":")), flush=True)


def missing(peer, why):
    emit(peer=peer, missing_why=why)
    sys.exit(0)
