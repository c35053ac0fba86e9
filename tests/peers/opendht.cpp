// OpenDHT (Jami's Kademlia), driven through dht::DhtRunner.
//
// Installed with `apt install libopendht-dev g++ pkg-config`, compiled with `make -C tests/peers opendht`. Measures put
// and get of fresh 64-byte values through random nodes of one process on loopback, and gets per second with some in
// flight; see `run` for all peers.

#include <opendht.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <fstream>
#include <mutex>
#include <random>
#include <string>
#include <thread>

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;
using Bytes = std::vector<uint8_t>;

constexpr Seconds GET_BOUND {5};
constexpr size_t KEYS = 200;
constexpr unsigned WANTED = 16; // nodes known to each: twice its k

static std::mt19937_64 dice {std::random_device {}()};

static size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(dice); }

static double since(Clock::time_point then) { return Seconds(Clock::now() - then).count(); }

static long rss_kb()
{
    std::ifstream status("/proc/self/status");
    std::string word;
    long kb = 0;
    while (status >> word && word != "VmRSS:") {}
    status >> kb;
    return kb;
}

static std::string percentiles(std::vector<double> seconds)
{
    if (seconds.empty())
        return R"({"p50":null,"p99":null})";
    std::sort(seconds.begin(), seconds.end());
    auto rank = [&](double q) { return seconds[size_t(std::ceil(q * seconds.size())) - 1] * 1000; };
    char text[80];
    snprintf(text, sizeof text, R"({"p50":%.3f,"p99":%.3f})", rank(.5), rank(.99));
    return text;
}

/// Operations that ended, in the order in which they did; callbacks of any node push, the driver alone waits.
struct Ended {
    std::mutex mutex;
    std::condition_variable some;
    std::deque<std::pair<size_t, bool>> queue;

    void push(size_t serial, bool good)
    {
        std::lock_guard<std::mutex> lock(mutex);
        queue.emplace_back(serial, good);
        some.notify_one();
    }
    /// The next, or false after the bound.
    bool pop(std::pair<size_t, bool>& into, Seconds bound)
    {
        std::unique_lock<std::mutex> lock(mutex);
        if (!some.wait_for(lock, bound, [&] { return !queue.empty(); }))
            return false;
        into = queue.front();
        queue.pop_front();
        return true;
    }
};

struct Item {
    dht::InfoHash key;
    Bytes value;
};

struct Bench {
    std::deque<dht::DhtRunner> nodes;
    std::shared_ptr<Ended> ended = std::make_shared<Ended>();
    size_t serial = 0;

    /// Starts a get; it ends good with the first value that is right, and not good when the search ends without.
    void get(size_t node, const Item& item)
    {
        auto settled = std::make_shared<std::atomic_bool>(false);
        auto settle = [settled, ended = ended, n = ++serial](bool good) {
            if (!settled->exchange(true))
                ended->push(n, good);
        };
        dht::GetCallbackSimple each = [settle, want = item.value](const std::shared_ptr<dht::Value>& value) {
            if (value->data != want)
                return true;
            settle(true);
            return false;
        };
        nodes[node].get(item.key, each, dht::DoneCallbackSimple([settle](bool) { settle(false); }));
    }
    void put(size_t node, const Item& item)
    {
        auto done = [ended = ended, n = ++serial](bool stored) { ended->push(n, stored); };
        nodes[node].put(item.key, dht::Value(item.value.data(), item.value.size()), dht::DoneCallbackSimple(done));
    }
    /// Waits for the operation begun last.
    bool last(Seconds bound)
    {
        std::pair<size_t, bool> one;
        for (auto begun = Clock::now(); since(begun) < bound.count();)
            if (ended->pop(one, bound - Seconds(since(begun))) && one.first == serial)
                return one.second;
        return false;
    }
    unsigned known(size_t node) const
    {
        auto stats = nodes[node].getNodesStats(AF_INET);
        return stats.good_nodes + stats.dubious_nodes;
    }
};

static Item fresh()
{
    Bytes value(64);
    for (auto& byte : value)
        byte = uint8_t(dice());
    return {dht::InfoHash::get(value), value};
}

/// Nodes that know each other through the first; then each looks random keys up until it knows enough others. No more
/// than that: every key looked up stays in its node as a search, and slows it.
static void start(Bench& bench, size_t count)
{
    dht::DhtRunner::Config config;
    auto& limits = config.dht_config.node_config;
    limits.max_req_per_sec = limits.max_peer_req_per_sec = limits.max_searches = -1;
    limits.max_store_size = limits.max_store_keys = -1;
    limits.public_stable = true;
    config.bind4 = dht::SockAddr::resolve("127.0.0.1", "0").front();
    for (size_t i = 0; i < count; i++) {
        bench.nodes.emplace_back();
        bench.nodes[i].run(config, {});
        if (i > 0)
            bench.nodes[i].bootstrap(bench.nodes[0].getBound());
    }
    auto wanted = std::min(unsigned(count) - 1, WANTED);
    auto lonely = [&](size_t i) { return bench.known(i) < wanted; };
    for (auto begun = Clock::now(); since(begun) < 60;) {
        bool all = true;
        for (size_t i = 0; i < count; i++)
            if (lonely(i)) {
                all = false;
                bench.get(i, {dht::InfoHash::getRandom(), {}});
                bench.last(Seconds(.1));
            }
        if (all)
            break;
    }
    for (size_t i = 0; i < count; i++)
        fprintf(stderr, "%u ", bench.known(i));
    fprintf(stderr, "nodes known\n");
}

/// Gets per second, and how many were lost.
static std::pair<double, size_t> throughput(Bench& bench, double seconds, size_t inflight)
{
    std::vector<Item> items;
    for (size_t i = 0; i < KEYS; i++) {
        items.push_back(fresh());
        bench.put(below(bench.nodes.size()), items.back());
        bench.last(GET_BOUND);
    }
    std::deque<std::pair<size_t, Clock::time_point>> flying; // in the order of their start
    size_t good = 0, lost = 0;
    auto begun = Clock::now();
    while (since(begun) < seconds) {
        while (flying.size() < inflight) {
            bench.get(below(bench.nodes.size()), items[below(KEYS)]);
            flying.emplace_back(bench.serial, Clock::now());
        }
        std::pair<size_t, bool> one;
        if (bench.ended->pop(one, Seconds(.1))) {
            auto at = std::find_if(flying.begin(), flying.end(), [&](auto& each) { return each.first == one.first; });
            if (at != flying.end()) {
                flying.erase(at);
                (one.second ? good : lost)++;
            }
        }
        while (!flying.empty() && since(flying.front().second) > GET_BOUND.count()) {
            flying.pop_front();
            lost++;
        }
    }
    return {good / since(begun), lost};
}

int main(int argc, char** argv)
{
    size_t count = 50, pairs = 200, inflight = 32;
    double seconds = 3;
    for (int i = 1; i + 1 < argc; i += 2) {
        std::string name = argv[i], value = argv[i + 1];
        if (name == "--nodes") count = std::stoul(value);
        if (name == "--pairs") pairs = std::stoul(value);
        if (name == "--seconds") seconds = std::stod(value);
        if (name == "--inflight") inflight = std::stoul(value);
    }
    auto before = rss_kb();
    auto began = Clock::now();
    Bench bench;
    start(bench, count);
    auto startup = since(began);
    std::vector<double> puts, gets;
    size_t refused = 0;
    for (size_t i = 0; i < pairs; i++) {
        auto one = below(count), other = (one + 1 + below(count - 1)) % count;
        auto item = fresh();
        began = Clock::now();
        bench.put(one, item);
        refused += !bench.last(GET_BOUND);
        puts.push_back(since(began));
        began = Clock::now();
        bench.get(other, item);
        if (bench.last(GET_BOUND))
            gets.push_back(since(began));
    }
    auto [rate, lost] = throughput(bench, seconds, inflight);
    printf(R"({"peer":"opendht %s","nodes":%zu,"startup_s":%.3f,"put_ms":%s,"get_ms":%s,"found":%zu,"missing":%zu,)"
           R"("put_failed":%zu,"gets_per_s":%.0f,"throughput_missing":%zu,"kb_per_node":%ld,"note":"unsigned values )"
           R"(over UDP; two threads per node, driver blocking on native callbacks, a get stops at the first value; )"
           R"(rate limits off"})" "\n",
           dht::version(), count, startup, percentiles(puts).c_str(), percentiles(gets).c_str(), gets.size(),
           pairs - gets.size(), refused, rate, lost, (rss_kb() - before) / long(count));
    fflush(stdout);
    _exit(0); // joining 100 threads takes seconds and says nothing
}
