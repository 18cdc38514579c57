#!/usr/bin/env bash
# The one door to Axolotl: build, run, test. `./run.sh help` lists the verbs.
# Exit: 0 ok, 1 failed, 2 usage, 3 not running, 4 already running, 5 requirement missing, 6 bad configuration.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
CALLER_DIR=$OLDPWD
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
BIN=$TARGET/release

say() { printf '%s\n' "$*" >&2; }

usage() {
    cat >&2 <<'TEXT'
usage: ./run.sh VERB [ARGUMENT…]
  build                      release binaries; installs what the build needs, or says the one command that does
  demo [ARGUMENT…]           a download and 64 echoing connections while every process is killed, again and again
  up [OPTION…]               start a group (./run.sh up --help)
  down | status              [--name N]
  restart nicd|netd|sockd    [--name N]: the program as built now takes over, if it fits the running group
  exec [OPTION…] -- CMD…     runs an unmodified program on the stack (./run.sh exec --help)
  test [--all] [FILTER]      the test suite
  bench [--json] [ID…]       measures beside the kernel
  rfc [--untested] [--rfc N] which RFC sections the code cites, which tests show them, what is excepted and why
  coverage [FILE…]           which lines of TCP the packet scripts run; of a file, those that they do not
  vm [MODEL]                 a guest with one NIC that is driven from user space: e1000e, igb, virtio, or all
  doctor                     every missing requirement with its remedy
TEXT
}

# --- requirements -----------------------------------------------------------------------------

# command, Debian package, what for
NEEDS='cc gcc linking
pkg-config pkg-config the C example of the tests
ip iproute2 TAP devices and namespaces
unshare util-linux private namespaces for the demo and the tests
setpriv util-linux the second run of the tests as an ordinary user
curl curl the remote of the demo
strace strace the count of system calls in the tests
python3 python3 an unmodified program of the tests'

missing_packages() {
    local tool package
    while read -r tool package _; do
        command -v "$tool" >/dev/null || printf '%s\n' "$package"
    done <<<"$NEEDS" | sort -u
}

require_tools() {
    local packages
    mapfile -t packages < <(missing_packages)
    if ((${#packages[@]})); then
        if ((EUID == 0)) && command -v apt-get >/dev/null; then
            say "run.sh: installing ${packages[*]}"
            apt-get install -y "${packages[@]}" >&2 || { apt-get update && apt-get install -y "${packages[@]}"; } >&2
        else
            say "run.sh: missing: ${packages[*]}. Remedy: sudo apt-get install -y ${packages[*]}"
            exit 5
        fi
    fi
    if ! command -v cargo >/dev/null; then
        PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
        command -v cargo >/dev/null || { say "run.sh: no cargo. Remedy: install Rust 1.95 or later (rustup.rs)"; exit 5; }
    fi
}

# program, Debian packages: what the tests run unmodified. None is installed: they are unpacked.
PROGRAMS='wget wget
busybox busybox-static
nginx nginx nginx-common
redis-server redis-server redis-tools
iperf3 iperf3 libiperf0 libsctp1
wrk wrk libluajit-5.1-2 libluajit-5.1-common
git git
node nodejs libnode108
caddy caddy
tcpdump tcpdump libpcap0.8 libdbus-1-3'

fetch_programs() {
    local program packages libraries root=$TARGET/programs
    export AXOLOTL_PROGRAMS=$root
    command -v apt-get >/dev/null || return 0
    while read -r program packages; do
        PATH=$PATH:/usr/sbin:$root/usr/bin:$root/usr/sbin:$root/bin command -v "$program" >/dev/null && continue
        say "run.sh: fetching $program"
        mkdir -p "$root/packages"
        # A machine that can't fetch them skips those tests, and says so.
        # shellcheck disable=SC2086  # several packages
        (cd "$root/packages" && apt-get download -q $packages >/dev/null 2>&1) || { say "run.sh: $program can't be fetched"; continue; }
        find "$root/packages" -name '*.deb' -exec dpkg -x {} "$root" \; -delete
    done <<<"$PROGRAMS"
    # Of the group that runs the tests as an ordinary user too.
    [[ ! -d $root ]] || chmod -R a+rX "$root"
    libraries=$root/usr/lib/$(uname -m)-linux-gnu
    [[ ! -d $libraries ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}${LD_LIBRARY_PATH:+:}$libraries
}

# CPython's own tests, of Debian's 3.11, where Python has none beside it.
fetch_cpython_tests() {
    local root=$TARGET/programs package=libpython3.11-testsuite
    export AXOLOTL_PROGRAMS=$root
    if python3 -c 'import test.test_socket' 2>/dev/null || [[ -e $root/usr/lib/python3.11/test/test_socket.py ]]; then return; fi
    say "run.sh: fetching $package"
    mkdir -p "$root/packages"
    # A machine that can't fetch it skips those tests, and says so.
    (cd "$root/packages" && apt-get download -q "$package" >/dev/null 2>&1) || { say "run.sh: $package can't be fetched"; return 0; }
    find "$root/packages" -name '*.deb' -exec dpkg -x {} "$root" \; -delete
    chmod -R a+rX "$root"
}

namespaces_work() {
    if ((EUID == 0)); then unshare -n true 2>/dev/null; else unshare -Urn true 2>/dev/null; fi
}

doctor() {
    local bad=0 tool package reason version
    check() { # what, ok?, remedy
        if [[ $2 == yes ]]; then printf 'ok       %s\n' "$1"; else printf 'MISSING  %s. Remedy: %s\n' "$1" "$3"; bad=1; fi
    }
    while read -r tool package reason; do
        check "$tool ($reason)" "$(command -v "$tool" >/dev/null && echo yes)" "apt-get install -y $package"
    done <<<"$NEEDS"
    version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
    check "cargo 1.95 or later (found ${version:-none})" \
        "$(printf '1.95.0\n%s\n' "${version:-0}" | sort -CV && echo yes)" "rustup toolchain install 1.95"
    check "Linux 6.6 or later (found $(uname -r))" "$(printf '6.6\n%s\n' "$(uname -r)" | sort -CV && echo yes)" \
        "a newer kernel"
    check "/dev/net/tun (TAP; the wire backend does without)" \
        "$([[ -r /dev/net/tun && -w /dev/net/tun ]] && echo yes)" "modprobe tun; chmod 666 /dev/net/tun"
    check "private namespaces (the demo and the TAP tests)" "$(namespaces_work && echo yes)" \
        "sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000, or run as root"
    check "2048 open files or more (found $(ulimit -Hn))" "$([[ $(ulimit -Hn) == unlimited || $(ulimit -Hn) -ge 2048 ]] && echo yes)" \
        "raise nofile in /etc/security/limits.conf"
    check "libpcap (filter expressions of netctl capture; nothing else)" \
        "$(PATH=$PATH:/usr/sbin ldconfig -p 2>/dev/null | grep -qE 'libpcap\.so\.(0\.8|1)' && echo yes)" "apt-get install -y libpcap0.8"
    check "release binaries" "$([[ -x $BIN/supervisor ]] && echo yes)" "./run.sh build"
    return $((bad ? 5 : 0))
}

# --- verbs ------------------------------------------------------------------------------------

build() {
    require_tools
    cargo build --release --locked --workspace --lib --bins --examples "$@"
    # tokio is nobody's default: what uses it is built by itself.
    cargo build --release --locked -p libnetclient --features tokio --example hyper_hello
    # What C programs need beside the library.
    mkdir -p "$BIN/include"
    cp libnetclient/capi/include/netclient.h "$BIN/include/"
    cp libnetclient/capi/netclient.pc "$BIN/"
}

built() {
    [[ -x $BIN/$1 ]] || { say "run.sh: no $BIN/$1. Remedy: ./run.sh build"; exit 5; }
}

# Relative paths in arguments (a config file, a wire) are the caller's, not ours.
from_caller() {
    cd "$CALLER_DIR"
    exec "$@"
}

case ${1:-help} in
build) shift; build "$@" ;;
demo) shift; build; exec "$BIN/demo" "$@" ;;
up | down) built supervisor; from_caller "$BIN/supervisor" "$@" ;;
exec) shift; built netexec; from_caller "$BIN/netexec" "$@" ;;
status | restart) built netctl; from_caller "$BIN/netctl" "$@" ;;
test)
    shift
    require_tools
    fetch_programs
    if [[ " $* " == *" --all "* || " $* " == *" cpython "* ]]; then fetch_cpython_tests; fi
    BIN=$BIN TARGET=$TARGET exec tests/suite.sh "$@"
    ;;
rfc) shift; exec tests/rfc.sh "$@" ;;
coverage) shift; TARGET=$TARGET exec tests/coverage.sh "$@" ;;
bench) shift; build >&2; from_caller "$BIN/bench" "$@" ;;
vm)
    shift
    require_tools
    tests/vm/prepare.sh >/dev/null
    exec cargo test --release --locked -p tests --test guests -- --test-threads=1 --nocapture "$@"
    ;;
doctor) doctor ;;
help | -h | --help) usage; [[ ${1:-} ]] || exit 2 ;;
*) say "run.sh: unknown verb '$1'"; usage; exit 2 ;;
esac
