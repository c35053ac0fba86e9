# Helpers for scripts that need a toolchain other than the host's; sourced, never run. They are packages of Debian,
# unpacked under target/cross: nothing is installed, and whoever may run apt-get may run this.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cross=$repo/target/cross
# The oldest rustc that dayfly builds with, and Debian's stable release that has it: there it only gets security updates.
oldest_rust=1.85
release_of_rust=trixie

# Runs "$@", a need_ function; where it fails, says that WHAT is skipped and exits 0, or 69 with DAYFLY_CI=1.
# need WHAT COMMAND...
need() {
    local what=$1
    shift
    "$@" && return
    echo "SKIPPED: $what"
    [ -z "${DAYFLY_CI:-}" ] || exit 69
    exit 0
}

# Makes $cross/bin/cargo and $cross/bin/rustc, with the source of the standard library.
need_oldest_rust() {
    [ ! -e "$cross/rust/complete" ] || return 0
    echo "unpacking Debian's rustc $oldest_rust under target/cross: 250 MB to fetch, once" >&2
    # With the libraries that they run with, but not the C compiler that they link with, which is the host's.
    unpack rust "$release_of_rust" '-vE ^(gcc|cpp|binutils|libbinutils|libc6-dev|libc-dev|libcc1|libgcc-.*-dev|linux-libc|rpcsvc)' \
        "libstd-rust-$oldest_rust" rustc libstd-rust-dev cargo rust-src || return
    local loader name
    loader=$(find "$cross/rust/usr/lib" -name 'ld-linux*.so*' | head -n 1)
    mkdir -p "$cross/bin"
    for name in rustc rustdoc cargo; do
        printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' \
            "$loader" "$(dirname "$loader")" "$cross/rust/usr/bin/$name" >"$cross/bin/$name"
        chmod +x "$cross/bin/$name"
    done
    if ! "$cross/bin/rustc" --version | grep -q "^rustc $oldest_rust"; then
        echo "Debian's rustc $oldest_rust does not run here" >&2
        return 69
    fi
    : >"$cross/rust/complete"
}

# Makes $arm_gcc, which links for 32-bit ARM, and $qemu_arm, which runs what it links.
need_arm() {
    if [ ! -e "$cross/arm/complete" ]; then
        echo "unpacking Debian's linker and emulator for ARM under target/cross: 95 MB to fetch, once" >&2
        # Those of the host's own release, as they run with the host's libraries.
        unpack arm "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" '-E ^(binutils-arm|gcc-.*arm|libc.*cross|libgcc.*cross|qemu)' \
            gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user-static || return
        : >"$cross/arm/complete"
    fi
    mkdir -p "$cross/bin"
    arm_gcc=$cross/bin/arm-gcc
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' \
        "$(dirname "$(find "$cross/arm/usr/lib" -name 'libbfd-*.so')")" "$cross/arm/usr/bin/arm-linux-gnueabihf-gcc" >"$arm_gcc"
    chmod +x "$arm_gcc"
    qemu_arm=$(find "$cross/arm/usr/bin" -name 'qemu-arm-static' -o -name 'qemu-arm' | sort | tail -n 1)
}

# unpack FOLDER RELEASE FILTER PACKAGE...: unpacks these packages of Debian's RELEASE and all that they depend on, as far
# as grep FILTER lets their names through, under target/cross/FOLDER. Returns 69, having said why, where that can't be.
# DEBIAN_MIRROR names a mirror; without it, the one that apt knows is used.
unpack() {
    local folder=$cross/$1 release=$2 filter=$3 mirror=${DEBIAN_MIRROR:-} apt=$cross/apt
    shift 3
    command -v apt-get dpkg-deb >/dev/null || { echo "this host has no apt" >&2; return 69; }
    [ -n "$mirror" ] || mirror=$(debian_mirror)
    if [ -z "$mirror" ] && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >&2
        mirror=$(debian_mirror)
    fi
    [ -n "$mirror" ] || { echo "apt knows no mirror of Debian" >&2; return 69; }
    rm -rf "$folder" "$apt"
    mkdir -p "$folder" "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architectures { "$(dpkg --print-architecture)"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
    APT_CONFIG=$apt/apt.conf fetch "$apt/archives" "$@" && unpack_all "$apt/archives" "$folder"
    local failed=$?
    rm -rf "$apt"
    [ $failed = 0 ] || { echo "could not be fetched: $*" >&2; return 69; }
}

fetch() { # FOLDER PACKAGE...
    local folder=$1 uris names
    shift
    apt-get update -qq >&2 || return
    uris=$(apt-get install --print-uris -qq --no-install-recommends "$@") || return
    # shellcheck disable=SC2086 # the filter is words
    names=$(awk '{ sub(/_.*/, "", $2); print $2 }' <<<"$uris" | grep $filter) || return
    # shellcheck disable=SC2086 # the names are words
    (cd "$folder" && apt-get download -qq $names >&2)
}

unpack_all() { # FROM TO
    local package
    for package in "$1"/*.deb; do dpkg-deb -x "$package" "$2" || return; done
}

debian_mirror() {
    apt-get indextargets --format '$(ORIGIN) $(SUITE) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }'
}

# cargo_oldest ARGS...: cargo with the oldest rustc, into target/cross/build. With -Zbuild-std the std of a target is
# built from its source, as Debian has no compiled one for most; what that needs is pinned by a Cargo.lock of its own.
cargo_oldest() {
    env -u CARGO -u RUSTUP_TOOLCHAIN RUSTC_BOOTSTRAP=1 RUSTC="$cross/bin/rustc" RUSTDOC="$cross/bin/rustdoc" \
        CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$cross/build" "$cross/bin/cargo" "$@"
}
