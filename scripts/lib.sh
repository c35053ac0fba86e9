# Helpers for the scripts beside this file; sourced, never run. Starts nodes, waits for them, ends them by their pids.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dayfly=${DAYFLY:-$repo/target/release/dayfly}
pids=()
work=

# Builds the binary if it is not there, unless DAYFLY names another.
need_dayfly() {
    [ -n "${DAYFLY:-}" ] || (cd "$repo" && cargo build --release --quiet)
    [ -x "$dayfly" ] || { echo "no dayfly at $dayfly" >&2; exit 69; }
}

# A folder for this run's logs; stop_nodes removes it.
need_work() {
    [ -n "$work" ] || work=$(mktemp -d "${TMPDIR:-/tmp}/dayfly.XXXXXX") || return 71
}

# start_node NAME [FLAGS]: starts a node on a free loopback port and waits until it listens.
# Sets node_address, node_api (empty without --api) and node_pid.
start_node() {
    local name=$1 tries
    shift
    need_work || return 71
    RUST_LOG=${RUST_LOG:-warn} "$dayfly" --listen 127.0.0.1:0 "$@" >"$work/$name.out" 2>"$work/$name.err" &
    node_pid=$!
    pids+=("$node_pid")
    for tries in $(seq 500); do
        if grep -q '^listening sealed' "$work/$name.out"; then
            node_address=$(sed -n 's/^listening sealed tcp \([^ ]*\).*/\1/p' "$work/$name.out")
            node_api=$(sed -n 's/^listening api tcp \([^ ]*\).*/\1/p' "$work/$name.out")
            return 0
        fi
        kill -0 "$node_pid" 2>/dev/null || break
        sleep 0.01
    done
    echo "node $name did not start:" >&2
    cat "$work/$name.err" >&2
    return 71
}

# wait_for_contacts N ADDRESS...: waits until each of these nodes knows N others.
wait_for_contacts() {
    local wanted=$1 address tries known
    shift
    for address in "$@"; do
        for tries in $(seq 1000); do
            known=$("$dayfly" status --node "$address" | sed -n 's/^contacts //p')
            [ "${known:-0}" -ge "$wanted" ] && continue 2
            sleep 0.01
        done
        echo "node $address knows only ${known:-0} others, not $wanted" >&2
        return 75
    done
}

# Prints the comment at the head of script $1, which is its manual.
print_manual() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"
}

# Ends the nodes that start_node started, gently, and removes their logs.
stop_nodes() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    pids=()
    [ -z "$work" ] || rm -rf "$work"
    work=
}
