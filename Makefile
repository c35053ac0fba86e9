# Each target is a line or two that calls cargo or scripts/.

.PHONY: demo test size check figures sim fuzz run build clean

# Five nodes, one value, its life and end: what to run first.
demo:
	@cargo build --release
	@scripts/demo

# Everything that must hold. Some tests start dozens of processes; all stay on loopback and clean up.
test:
	cargo test --features sim

# The release binary against its limit of 700 KB, which holds for the rustc of CI (1.95); Debian's 1.85 makes 740 KB.
size:
	@scripts/size

# What the tests measure, exactly, on the release build.
figures:
	@scripts/figures

# Every simulated figure and plot of the README, into tests/figures: a quarter of an hour.
sim:
	@scripts/sim

# Coverage-guided fuzzing; the bounded form of it is part of `make test`. TARGET=engine RUNS=1000000 for one target.
fuzz:
	@scripts/fuzz $(TARGET) $(RUNS)

# Format, lints and docs, warnings as errors, with the simulator and without.
check:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features sim -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet --features sim

# One node in the foreground on 127.0.0.1:6500; FLAGS="--listen ..." for more.
run:
	cargo run --release -- $(FLAGS)

build:
	cargo build --release

clean:
	cargo clean
