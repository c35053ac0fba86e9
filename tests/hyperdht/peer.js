// Many npm hyperdht nodes in one process, all on loopback: the real peer of the tests. Runs with --no-deprecation.
//
// One JSON object per line on stdin is a command: {"call": N, "do": COMMAND, ...}. Its answer is one JSON object on
// stdout with the same "call"; "error" is the text of what went wrong. Several may be in flight. What kills the process
// is its last line: {"died": TEXT}. Ids, keys, tokens and values are hex; addresses are "HOST:PORT". Ends with stdin.

const { createSocket } = require('dgram')
const { EventEmitter } = require('events')
const { writeSync } = require('fs')
const { createInterface } = require('readline')

process.on('uncaughtException', (error) => {
  try {
    writeSync(1, JSON.stringify({ died: String(error.stack || error) }) + '\n')
  } finally {
    process.exit(1)
  }
})

const hyperdht = require('hyperdht')
const ipv4 = require('ipv4-peers')
const entries = ipv4.idLength(32)

const nodes = new Map() // by name

const hex = (bytes) => (bytes ? bytes.toString('hex') : null)
const bytes = (text) => (text === undefined || text === null ? null : Buffer.from(text, 'hex'))
const text = ({ host, port }) => `${host}:${port}`
const since = (then) => Number(process.hrtime.bigint() - then) / 1e6

function address (text) {
  const [host, port] = text.split(':')
  return { host, port: Number(port || 0) }
}

function named (name) {
  const node = nodes.get(name)
  if (!node) throw new Error(`no node ${name}`)
  return node
}

// A dgram socket behind a gateway that plays the network. Datagrams to the gateway begin with the six bytes of their
// destination, those from it with the six of their source; 0.0.0.0:0 is the gateway itself.
class Tunnel extends EventEmitter {
  constructor ({ gateway, address: own }) {
    super()
    this.gateway = address(gateway)
    this.own = address(own)
    this.closed = false
    this.attached = false
    this.socket = createSocket('udp4')
    this.socket.on('error', (error) => this.emit('error', error))
    this.socket.on('close', () => this.emit('close'))
    this.socket.on('message', (datagram, from) => this.receive(datagram, from))
  }

  // The port, the host: whatever is asked, the address is the one it was made with.
  bind (...wishes) {
    const done = wishes.find((wish) => typeof wish === 'function')
    if (done) this.once('listening', done)
    this.socket.bind(0, '127.0.0.1', () => {
      this.attach()
      this.timer = setInterval(() => this.attach(), 100)
    })
  }

  attach () {
    this.pass(Buffer.concat([Buffer.alloc(6), Buffer.from('attach'), ipv4.encode([this.own])]))
  }

  pass (datagram) {
    if (!this.closed) this.socket.send(datagram, this.gateway.port, this.gateway.host)
  }

  receive (datagram, from) {
    if (this.closed || from.port !== this.gateway.port || datagram.length < 6) return
    const [host, port] = [datagram.subarray(0, 4).join('.'), datagram.readUInt16BE(4)]
    const payload = datagram.subarray(6)
    if (host !== '0.0.0.0' || port) {
      this.emit('message', payload, { address: host, port, family: 'IPv4', size: payload.length })
    } else if (payload.toString() === 'attached' && !this.attached) {
      this.attached = true
      clearInterval(this.timer)
      this.emit('listening')
    }
  }

  send (buffer, offset, length, port, host) {
    this.pass(Buffer.concat([ipv4.encode([{ host, port }]), buffer.subarray(offset, offset + length)]))
  }

  address () {
    return { address: this.own.host, port: this.own.port, family: 'IPv4' }
  }

  close () {
    if (this.closed) return
    this.closed = true
    clearInterval(this.timer)
    this.socket.close()
  }
}

function bound ({ tunnel, port }) {
  return new Promise((resolve, reject) => {
    const socket = tunnel ? new Tunnel(tunnel) : createSocket('udp4')
    socket.once('error', reject)
    socket.once('listening', () => {
      socket.removeListener('error', reject)
      resolve(socket)
    })
    socket.bind(port || 0, '127.0.0.1')
  })
}

// What a query, or with commits an update, ended with. The results until then stay beside an error.
function ended (error, stream, list) {
  return {
    error: error ? error.message : undefined,
    answered: stream.responses,
    commits: stream.commits,
    results: list.map(({ node, peers, localPeers }) => ({
      node: { id: hex(node.id), address: text(node) },
      peers: peers.map(text),
      local_peers: localPeers.map(text)
    }))
  }
}

function collected (begin) {
  return new Promise((resolve) => {
    const list = []
    const stream = begin((error) => resolve(ended(error, stream, list)))
    stream.on('data', (result) => list.push(result))
  })
}

// `port` 0 and no port are the same to hyperdht. A lookup's localAddress may lack a port.
function options ({ port, localAddress }) {
  const given = { port: port || 0 }
  if (localAddress) given.localAddress = address(localAddress)
  return given
}

const timed = (call) => {
  const then = process.hrtime.bigint()
  return call(() => Number(since(then).toFixed(3)))
}

const commands = {
  async start ({ name, id, bootstrap, ephemeral, port, tunnel }) {
    if (nodes.has(name)) throw new Error(`a node ${name} runs already`)
    const socket = await bound({ tunnel, port })
    const given = { socket, bootstrap: bootstrap || [], ephemeral: !!ephemeral }
    if (id) given.id = bytes(id)
    const node = hyperdht(given)
    nodes.set(name, node)
    await new Promise((resolve) => node.ready(resolve))
    const own = node.address()
    return { id: hex(node.id), address: `${own.address}:${own.port}` }
  },

  // Asks anew for the nodes nearest to itself, which a node does by itself only when it starts.
  bootstrap: ({ name }) => new Promise((resolve) => {
    named(name).bootstrap((error) => resolve({ error: error ? error.message : undefined }))
  }),

  stop: ({ name }) => new Promise((resolve) => {
    const node = named(name)
    nodes.delete(name)
    node.dht.once('close', () => resolve({}))
    node.destroy()
  }),

  lookup: (c) => collected((done) => named(c.name).lookup(bytes(c.key), options(c), done)),

  announce: (c) => collected((done) => named(c.name).announce(bytes(c.key), options(c), done)),

  // Its callback gets one result for each node that answered the commit with an id.
  unannounce: (c) => new Promise((resolve) => {
    named(c.name).unannounce(bytes(c.key), options(c), (error, list) => {
      resolve({ error: error ? error.message : undefined, commits: list ? list.length : 0 })
    })
  }),

  ping: ({ name, host, port }) => timed((ms) => new Promise((resolve, reject) => {
    named(name).ping({ host, port }, (error, seenAs, peer) => {
      if (error) reject(error)
      else resolve({ id: hex(peer.id), address: text(peer), seen_as: text(seenAs), ms: ms() })
    })
  })),

  // Asks `referrer` to have `peer` answer. What answers, from where.
  holepunch: ({ name, peer, referrer }) => timed((ms) => new Promise((resolve, reject) => {
    named(name).holepunch(address(peer), address(referrer), (error, response, from) => {
      if (error) return reject(error)
      const seenAs = response.value && ipv4.decode(response.value)[0]
      resolve({ id: hex(response.id), address: text(from), seen_as: seenAs ? text(seenAs) : null, ms: ms() })
    })
  })),

  // One request to one address: what dht-rpc sends and decodes, without the walk.
  request: ({ name, command, target, value, token, host, port }) => new Promise((resolve, reject) => {
    const { dht } = named(name)
    const request = { command, id: dht._queryId }
    if (target) request.target = bytes(target)
    if (value !== undefined) request.value = bytes(value)
    if (token) request.roundtripToken = bytes(token)
    dht._request(request, { host, port }, false, (error, response, from) => {
      if (error) return reject(error)
      resolve({
        id: hex(response.id),
        address: text(from),
        nodes: response.nodes ? entries.decode(response.nodes).map((n) => ({ id: hex(n.id), address: text(n) })) : null,
        value: hex(response.value),
        token: hex(response.roundtripToken)
      })
    })
  }),

  // A user's command, asked of the nodes nearest to the target, or of `to` alone.
  query: ({ name, command, target, value, to }) => new Promise((resolve) => {
    const { dht } = named(name)
    const given = to ? { nodes: to.map(address) } : {}
    const list = []
    const stream = dht.query({ command, target: bytes(target), value: bytes(value) }, given, (error) => {
      resolve({
        error: error ? error.message : undefined,
        answered: stream.responses,
        results: list.map((r) => ({ node: { id: hex(r.node.id), address: text(r.node) }, value: hex(r.value) })),
        tokens: stream._closest.filter((node) => node.roundtripToken).length
      })
    })
    stream.on('data', (result) => list.push(result))
  }),

  table: ({ name }) => ({ nodes: named(name).dht.toArray().map((n) => ({ id: hex(n.id), address: text(n) })) }),

  // What the node itself holds of a key.
  store: ({ name, key }) => {
    const store = named(name)._store
    const lists = [store._lists[key] || [], store._pLists[key] || []]
    const held = lists.flat().filter((record) => Date.now() - record.age <= store.maxAge)
    const peers = held.map((record) => text(ipv4.decode(record.value.peer)[0]))
    const local = held.map(({ value }) => value.localPeer && Buffer.concat([value.localFilter, value.localPeer]))
    return { peers, local_peers: local.filter(Boolean).map((six) => text(ipv4.decode(six)[0])) }
  },

  // `lookups` of the keys in turn, `parallel` of them in flight.
  async bench ({ name, lookups, parallel, keys }) {
    const node = named(name)
    const latencies = []
    let [next, found, errors] = [0, 0, 0]
    const one = (key) => new Promise((resolve) => {
      const then = process.hrtime.bigint()
      node.lookup(key, (error, list) => {
        latencies.push(since(then))
        if (error) errors++
        else if (list.length) found++
        resolve()
      })
    })
    const targets = keys.map(bytes)
    const then = process.hrtime.bigint()
    await Promise.all(Array.from({ length: parallel || 1 }, async () => {
      while (next < lookups) await one(targets[next++ % targets.length])
    }))
    const seconds = since(then) / 1000
    latencies.sort((a, b) => a - b)
    const rank = (q) => Number(latencies[Math.max(0, Math.ceil(q * latencies.length) - 1)].toFixed(3))
    const percentiles = { p50: rank(0.5), p90: rank(0.9), p99: rank(0.99), max: rank(1) }
    return { seconds, lookups: latencies.length, found, errors, latencies_ms: percentiles }
  },

  memory: () => process.memoryUsage()
}

const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')

createInterface({ input: process.stdin }).on('line', async (line) => {
  let command = {}
  try {
    command = JSON.parse(line)
    if (!Object.hasOwn(commands, command.do)) throw new Error(`no command ${command.do}`)
    say({ call: command.call, ...(await commands[command.do](command)) })
  } catch (error) {
    say({ call: command.call, error: error.message })
  }
}).on('close', () => process.exit(0))
