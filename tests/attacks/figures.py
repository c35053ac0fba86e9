#!/usr/bin/env python3
"""figures.py [NAME...]: what honest clients get before and during each attack, of the binary that DAYFLY names.

Runs the attacks of ATTACKS (default ../shared/reports/attack, as they are) and those of drivers.py, each in a network
namespace of its own, and an honest client beside each: a PING every 20 ms on a connection that it keeps, and a PUT, a
GET of it and a GET of what nobody has every 50 ms on new ones. Prints a table and, below it, what the attacks say of themselves. Needs root, unshare, ip."""
import hashlib, json, os, re, socket, struct, subprocess, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
ATTACKS = os.environ.get('ATTACKS', os.path.join(HERE, '../../../../shared/reports/attack'))
if not os.path.isdir(ATTACKS): ATTACKS = '/work/shared/reports/attack'
V4, V6 = '10.0.0.1:6500', '[2001:db8:ffff::1]:6500'
SETUP = '''ip link set lo up
ip route add local 10.0.0.0/8 dev lo
ip -6 route add local 2001:db8::/32 dev lo
ip link add dark type veth peer name nobody && ip link set dark arp off && ip link set nobody arp off
ip link set dark up && ip link set nobody up && ip route add 10.224.0.0/11 dev dark table local
cd /proc/sys/net; echo 1024 65000 > ipv4/ip_local_port_range; echo 65535 > core/somaxconn; echo 1 > ipv6/ip_nonlocal_bind
echo 65535 > ipv4/tcp_max_syn_backlog; cd "$OLDPWD"; ulimit -n "$(ulimit -Hn)"; exec "$@"'''

# Name: (command, when the quiet time ends, when the attack is under way, when it is over: patterns of its output), and
# what is special about its honest client.
def script(name, *args): return [os.path.join(ATTACKS, name + '.py'), *args]
def driver(name): return [os.path.join(HERE, 'drivers.py'), name]
OWN = ('^attack', '^during', '^end')
SPECS = {
    'A1': (script('rehash', '100'), '^honest client', '^honest client', '^100 connections', {'env': {'RATE': '30000'}, 'delay': 1.5}),
    'A2': (script('fattest_is_honest'), '^before', '^buffered_bytes', '^during', {'large': True}),
    'A3 v4': (script('polite_flood'), '^before', 'connections opened', '^after', {'env': {'HOLD': '8'}}),
    'A3 v6': (script('polite_flood', 'v6'), '^before', 'connections opened', '^after', {'env': {'HOLD': '8'}, 'to': V6}),
    'A4': (driver('a4'), *OWN, {}),
    'A5': (driver('a5'), *OWN, {'get_at': '10.105.0.1:6500', 'size': 3000}),
    'A5 all': (driver('a5all'), *OWN, {'get_at': '10.105.0.1:6500', 'size': 3000}),
    'A6': (script('candidate_starvation'), None, '^probes_failed', '^60 s', {}),
    'A7': (script('unconfirmed_flood', '50'), None, None, None, {}),
    'A8': (script('reflection'), None, None, None, {}),
    'A9 slow': (script('job_starvation', 'slow'), '^before', '^before: PUT', '^attack', {'delay': 1}),
    'A9 lan': (script('job_starvation', 'lan'), '^before', '^before: PUT', '^attack', {'delay': 1}),
    'A10': (driver('a10'), *OWN, {}),
    'A10 control': (driver('a10control'), *OWN, {}),
    'A11': (script('vanished_peers'), None, '^100 clients', '^60 s', {'env': {'MINUTES': '1'}}),
    'A12': (driver('a12'), *OWN, {}),
    'A13': (driver('a13'), *OWN, {'to': V6, 'get_at': '[2001:db8:a105::1]:6500'}),
    'A14': (driver('a14'), *OWN, {}),
    'A15': (driver('a15'), *OWN, {'source': '10.1.0.1'}),
    'A16': (driver('a16'), *OWN, {}),
}
PUT, GET, SUCCESS, FAILURE, PING, PONG, FIND_VALUE, VALUE = 650, 651, 652, 653, 654, 655, 657, 660


def seal(kind, body=b''):
    inner = struct.pack('>H', kind) + body
    return struct.pack('>H', 34 + len(inner)) + inner + hashlib.sha256(inner).digest()

def exactly(s, n):
    b = bytearray()
    while len(b) < n:
        c = s.recv(n - len(b))
        if not c: raise ConnectionError('closed')
        b += c
    return bytes(b)

def receive(s):
    n, = struct.unpack('>H', exactly(s, 2)); r = exactly(s, n - 2)
    return struct.unpack('>H', r[:2])[0], r[2:-32]

def connect(to, source):
    host, port = to.rsplit(':', 1); v6 = '[' in host
    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET); s.settimeout(5)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); s.bind((source, 0)); s.connect((host.strip('[]'), int(port)))
    return s


class Client:
    """Notes of each request when it was sent, what it was, how long it took or why it failed."""
    def __init__(self, to=V4, get_at=None, source=None, large=False, size=20, **_):
        self.to, self.get_at, self.large, self.notes, self.quit, self.n, self.size = to, get_at or to, large, [], False, 0, 60000 if large else size
        v6 = '[' in to
        self.source = lambda n: source or (f'2001:db8:e{n % 250:03x}::1' if v6 else f'10.9.8.{n % 250 + 1}')
        self.threads = [threading.Thread(target=self.every, args=a, daemon=True) for a in ((0.02, self.ping), (0.05, self.put_and_get))]
        self.kept = None
        for t in self.threads: t.start()
    def every(self, pause, do):
        while not self.quit:
            t = time.time(); do(); time.sleep(max(0, pause - (time.time() - t)))
    def note(self, what, do):
        t = time.time()
        try: why = None if do() else 'another answer'
        except (OSError, ConnectionError) as e: why = type(e).__name__
        self.notes.append((t, what, time.time() - t, why)); return why is None
    def ping(self):
        def do():
            self.kept = self.kept or connect(self.to, self.source(249)); self.kept.sendall(seal(PING, b'abcd')); return receive(self.kept)[0] == PONG
        if not self.note('PING', do): self.kept = None
    def put_and_get(self):
        self.n += 1
        value = os.urandom(self.size); key = hashlib.sha256(value).digest()
        def put():
            s = connect(self.to, self.source(self.n)); s.sendall(seal(PUT, struct.pack('>HBB', 10, 3, 0) + key + value)); return receive(s)[0] == SUCCESS
        def get():
            s = connect(self.get_at, self.source(self.n))
            if self.large:
                s.sendall(seal(FIND_VALUE, key) * 8); return all([receive(s) == (VALUE, value) for _ in range(8)])
            s.sendall(seal(GET, key)); k, b = receive(s); return k == SUCCESS and b[32:] == value
        def miss():
            s = connect(self.to, self.source(self.n)); s.sendall(seal(GET, os.urandom(32))); return receive(s)[0] == FAILURE
        if self.note('PUT', put): self.note('GET', get)
        if not self.large: self.note('MISS', miss)
    def figures(self, start, end):
        row = {}
        for what in ('PING', 'PUT', 'GET', 'MISS'):
            of = [n for n in self.notes if n[1] == what and start <= n[0] < end]; ok = sorted(n[2] for n in of if n[3] is None)
            row[what] = dict(asked=len(of), ok=len(ok), p50=ok[len(ok) // 2] if ok else None, p99=ok[min(len(ok) - 1, int(len(ok) * .99))] if ok else None)
        return row


def inside(name):
    command, quiet_ends, starts, ends, special = SPECS[name]
    p = subprocess.Popen([sys.executable, '-u', *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env={**os.environ, **special.get('env', {})})
    lines, at, client, begin = [], {}, None, time.time()
    def read():
        for line in p.stdout:
            lines.append(line.rstrip())
            for what, pattern in (('quiet', quiet_ends), ('start', starts), ('end', ends)):
                if pattern and what not in at and re.search(pattern, line) and (what != 'end' or 'start' in at): at[what] = time.time()
    reader = threading.Thread(target=read, daemon=True); reader.start()
    to = special.get('to', V4)
    while starts and client is None and p.poll() is None and time.time() - begin < 60:
        try: connect(to, '2001:db8:e0ff::1' if '[' in to else '10.9.8.251').close(); client = Client(**special); begin = time.time()
        except OSError: time.sleep(0.02)
    p.wait(); reader.join(2); row = {}
    if client:
        client.quit = True
        if 'start' in at:
            start = at['start'] + special.get('delay', 0)
            row = {'before': client.figures(begin, at.get('quiet', begin)), 'during': client.figures(start, at.get('end', time.time() - 0.5))}
    print(json.dumps({'name': name, 'row': row, 'says': lines}))


def table(results):
    ms = lambda s: '-' if s is None else f'{1000 * s:.1f}'
    part = lambda f: '-' if not f['asked'] else f'{f["ok"]}/{f["asked"]}'
    print('| attack | PING p50 / p99 ms before | during | PINGs answered | PUTs before | during | GETs before | during | of nothing |\n|---|---|---|---|---|---|---|---|---|')
    for r in results:
        b, d = r['row'].get('before'), r['row'].get('during')
        if not d: print(f'| {r["name"]} | - | see below | | | | | | |'); continue
        pings = lambda f: f'{ms(f["PING"]["p50"])} / {ms(f["PING"]["p99"])}'
        print(f'| {r["name"]} | {pings(b)} | {pings(d)} | {part(d["PING"])} | {part(b["PUT"])} | {part(d["PUT"])} | {part(b["GET"])} | {part(d["GET"])} | {part(d["MISS"])} |')
    for r in results: print(f'\n{r["name"]}:', *r['says'], sep='\n    ')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--inside']: inside(sys.argv[2]); sys.exit(0)
    results = []
    for name in sys.argv[1:] or SPECS:
        print(name, file=sys.stderr, flush=True)
        out = subprocess.run(['unshare', '-n', 'bash', '-c', SETUP, 'ns', sys.executable, os.path.abspath(__file__), '--inside', name],
                             stdout=subprocess.PIPE, text=True, env={**os.environ, 'ATTACKS': ATTACKS}).stdout
        try: results.append(json.loads(out.splitlines()[-1]))
        except (IndexError, ValueError): results.append({'name': name, 'row': {}, 'says': ['failed: ' + out[-500:]]})
    table(results)
