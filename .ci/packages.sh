# Sourced by bench/run, tests/run and .ci/run: what the build needs of the system, and how to get it.
# shellcheck shell=bash
#
# Needed: a C compiler and C library headers (the linker), pkg-config, hwloc 2 with its headers.
# Missing packages are named before they are installed. Installing needs root or sudo; with neither,
# the command to run by hand is printed and the script ends with 1.

# Prints the missing Debian packages, one a line.
missing_packages() {
    command -v cc >/dev/null || echo gcc
    links_c || echo libc6-dev
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --atleast-version=2.0 hwloc 2>/dev/null || echo libhwloc-dev
}

# True if a C program can be linked: without crt1.o there is a compiler and still no linker.
links_c() {
    local scratch code=0
    command -v cc >/dev/null || return 1
    scratch=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$scratch/probe.c"
    cc -o "$scratch/probe" "$scratch/probe.c" 2>/dev/null || code=1
    rm -rf -- "$scratch"
    return "$code"
}

# Runs a command as root: directly, through sudo without a password, or through sudo with one.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# True if as_root can work here.
can_be_root() {
    [ "$(id -u)" -eq 0 ] && return 0
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null || [ -t 0 ]
}

# Installs what is missing, or says what to install and ends the script.
require_packages() {
    local -a missing
    mapfile -t missing < <(missing_packages)
    [ "${#missing[@]}" -eq 0 ] && return 0
    echo "missing system packages: ${missing[*]}" >&2
    if ! command -v apt-get >/dev/null; then
        echo "error: no apt-get here; install what your system calls: ${missing[*]}" >&2
        exit 1
    fi
    local by_hand="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    if ! can_be_root; then
        echo "error: installing needs root, and sudo is not usable here; run as root:" >&2
        echo "  $by_hand" >&2
        exit 1
    fi
    echo "about to run as root: $by_hand" >&2
    as_root apt-get update >&2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}" >&2
    mapfile -t missing < <(missing_packages)
    if [ "${#missing[@]}" -ne 0 ]; then
        echo "error: still missing after the installation: ${missing[*]}" >&2
        exit 1
    fi
}

# Finds cargo, also where rustup puts it when the shell was not restarted.
require_rust() {
    command -v cargo >/dev/null && return 0
    if [ -x "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
        return 0
    fi
    echo "error: cargo not found; install Rust from https://rustup.rs and run this again" >&2
    exit 1
}
