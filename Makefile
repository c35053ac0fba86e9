# Each target is a line or two that calls cargo or scripts/.

.PHONY: demo test test-armv7 size check check-targets bench bench-network bench-hyperdht bench-micro bench-check figures
.PHONY: sim fuzz soak run build clean

# Five nodes, one value, its life and end: what to run first.
demo:
	@cargo build --release
	@scripts/demo

# Everything that must hold. Some tests start dozens of processes; all stay on loopback and clean up. Those with the npm
# hyperdht say that they are skipped where node.js or npm is missing; DAYFLY_CI=1 makes that a failure.
test:
	cargo test --features sim

# Three nodes as 32-bit ARM programs under qemu-user, on loopback: two minutes to build, five seconds to run. Fetches its
# tools, 350 MB of Debian's packages, into target/cross once, and installs nothing; says that it skips where it can't.
# FLAGS=--unit: the unit tests too, five minutes more.
test-armv7:
	@scripts/test-armv7 $(FLAGS)

# The release binaries against their limits, bare 800 KB and full 2.5 MB; FLAGS=--oldest: as rustc 1.85 makes them, which
# is fetched as by check-targets.
size:
	@scripts/size $(FLAGS)

# dayfly beside a bare echo loop, redis, valkey and memcached: half an hour, into tests/figures/bench. FLAGS=--quick: two
# minutes. What is not installed (apt-get install redis-server memcached) is left out and named.
bench:
	@scripts/bench servers $(FLAGS)

# A network of 50 beside other DHTs (tests/peers says how each is installed): ten minutes.
bench-network:
	@scripts/bench network $(FLAGS)

# hyperdht lookups and memory beside the npm peer, which npm installs: two minutes.
bench-hyperdht:
	@scripts/bench hyperdht $(FLAGS)

# Times of the pure parts: codec, hash, table, store, wheel, engine.
bench-micro:
	@scripts/bench micro $(FLAGS)

# Instructions of the pure parts under valgrind, against the committed counts; fails where one takes 5 % more.
bench-check:
	@scripts/bench-check $(FLAGS)

# What the tests measure, exactly, on the release build.
figures:
	@scripts/figures

# Every simulated figure and plot of the README, into tests/figures: a quarter of an hour.
sim:
	@scripts/sim

# Coverage-guided fuzzing; the bounded form of it is part of `make test`. TARGET=engine RUNS=1000000 for one target.
fuzz:
	@scripts/fuzz $(TARGET) $(RUNS)

# Thirty node processes, twenty of them killed, stopped and started again at random, while values are put and got: nothing
# leaks, nothing is stale, what a living node holds is found. Ten minutes; MINUTES=3 for less.
soak:
	@scripts/soak $(MINUTES)

# Format, lints and docs, warnings as errors, with every feature and without any.
check:
	cargo fmt --check
	cargo clippy --all-targets --no-default-features -- -D warnings
	cargo clippy --no-default-features --features hyperdht -- -D warnings
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features sim -- -D warnings
	cargo fmt --check --manifest-path tests/bench/Cargo.toml
	cargo clippy --manifest-path tests/bench/Cargo.toml --target-dir target/bench --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet --features sim

# Types, with rustc 1.85, for 32-bit ARM and x86, 64-bit ARM, macOS and FreeBSD, with every deployed feature and without
# any. Three minutes on two processors. Fetches that rustc, 250 MB of Debian's packages, into target/cross once, and
# installs nothing; says that it skips where it can't.
check-targets:
	@scripts/check-targets

# One node in the foreground on 127.0.0.1:6500; FLAGS="--listen ..." for more.
run:
	cargo run --release -- $(FLAGS)

build:
	cargo build --release

clean:
	cargo clean
