// HyperDHT (Holepunch's Kademlia, on dht-rpc and udx), driven through its immutablePut and immutableGet.
//
// Installed with `npm ci` in this folder. Measures put and get of fresh 64-byte immutable values through random nodes
// of one process on loopback, and gets per second with some in flight; see ../run for all peers.

const { randomBytes, randomInt } = require('crypto')
const { createSocket } = require('dgram')
const { readFileSync } = require('fs')
const { parseArgs } = require('util')

const GET_BOUND = 5000
const KEYS = 200
const WANTED = 20 // nodes known to each: its k

const since = (then) => Number(process.hrtime.bigint() - then) / 1e6
const now = () => process.hrtime.bigint()
const log = (...words) => console.error(...words)
const rssKb = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1])

function emit(fields) {
  process.stdout.write(JSON.stringify(fields) + '\n', () => process.exit(0))
}

function percentiles(ms) {
  const sorted = ms.sort((a, b) => a - b)
  const rank = (q) => (sorted.length ? Number(sorted[Math.ceil(q * sorted.length) - 1].toFixed(3)) : null)
  return { p50: rank(0.5), p99: rank(0.99) }
}

let DHT, peer
try {
  peer = 'hyperdht ' + require('hyperdht/package.json').version
  DHT = require('hyperdht')
} catch (error) {
  emit({ peer: peer || 'hyperdht', missing_why: `${error.code || error.message}: cd tests/peers/hyperdht && npm ci` })
}

/** A port that was free a moment ago: the first node must be told its own, or it never becomes persistent. */
function freePort() {
  const socket = createSocket('udp4')
  return new Promise((resolve) => {
    socket.bind(0, '127.0.0.1', () => {
      const { port } = socket.address()
      socket.close(() => resolve(port))
    })
  })
}

async function start(count) {
  // Persistent from the first moment, no congestion window.
  const host = '127.0.0.1'
  const options = { host, ephemeral: false, firewalled: false, maxWindow: 1e6, downHintsRateLimit: -1 }
  const port = await freePort()
  const nodes = [DHT.bootstrapper(port, host, options)]
  await nodes[0].fullyBootstrapped()
  while (nodes.length < count) {
    // A range of ports, as port 0 means the default one.
    nodes.push(new DHT({ ...options, port: [0, 0], bootstrap: [{ host, port }] }))
    await nodes.at(-1).fullyBootstrapped()
  }
  const wanted = Math.min(count - 1, WANTED)
  const lonely = (node) => node.toArray().length < wanted
  for (const begun = now(); nodes.some(lonely) && since(begun) < 60_000;) {
    // All of them: a node that has just become persistent must ask for something to be known.
    for (const node of nodes) await node.findNode(randomBytes(32)).finished()
  }
  log('nodes known:', nodes.map((node) => node.toArray().length).sort((a, b) => a - b).join(' '))
  return nodes
}

async function put(node, value) {
  try {
    return (await node.immutablePut(value)).hash
  } catch {
    return null
  }
}

/** Whether the value came, and was the right one, before the bound. */
async function get(node, key, value) {
  if (key === null) return false
  let timer
  const bound = new Promise((resolve) => { timer = setTimeout(resolve, GET_BOUND, null) })
  const got = await Promise.race([node.immutableGet(key).catch(() => null), bound])
  clearTimeout(timer)
  return got !== null && value.equals(got.value)
}

const any = (list) => list[randomInt(list.length)]

async function throughput(nodes, seconds, inflight) {
  const items = []
  for (let i = 0; i < KEYS; i++) {
    const value = randomBytes(64)
    items.push({ key: await put(any(nodes), value), value })
  }
  let good = 0
  let lost = 0
  let over = false
  const begun = now()
  const worker = async () => {
    while (since(begun) < seconds * 1000) {
      const { key, value } = any(items)
      const right = await get(any(nodes), key, value)
      if (over) return
      if (right) good++
      else lost++
    }
  }
  const end = new Promise((resolve) => setTimeout(resolve, seconds * 1000))
  const workers = Promise.all(Array.from({ length: inflight }, worker))
  await Promise.race([end, workers])
  over = true
  return [good / (since(begun) / 1000), lost]
}

async function main() {
  const number = (fallback) => ({ type: 'string', default: String(fallback) })
  const options = { nodes: number(50), pairs: number(200), seconds: number(3), inflight: number(32) }
  const { values } = parseArgs({ options })
  const [count, pairs, seconds, inflight] = Object.keys(options).map((name) => Number(values[name]))
  const before = rssKb()
  let began = now()
  const nodes = await start(count)
  const startup = since(began)
  const puts = []
  const gets = []
  let refused = 0
  for (let i = 0; i < pairs; i++) {
    const one = randomInt(count)
    const other = (one + 1 + randomInt(count - 1)) % count
    const value = randomBytes(64)
    began = now()
    const key = await put(nodes[one], value)
    puts.push(since(began))
    if (key === null) refused++
    began = now()
    if (await get(nodes[other], key, value)) gets.push(since(began))
  }
  const [rate, lost] = await throughput(nodes, seconds, inflight)
  emit({
    peer, nodes: count, startup_s: Number((startup / 1000).toFixed(3)), put_ms: percentiles(puts),
    get_ms: percentiles(gets), found: gets.length, missing: pairs - gets.length, put_failed: refused,
    gets_per_s: Math.round(rate), throughput_missing: lost, kb_per_node: Math.round((rssKb() - before) / count),
    note: 'immutable values (BLAKE2b of the value is the key) over UDP, k is 20; all nodes and the driver in one ' +
      'thread of Node.js'
  })
}

if (DHT) main()
