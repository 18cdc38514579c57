#!/usr/bin/env bash
# The test suite, stage by stage; called by `run.sh test` from the top of the tree with BIN and TARGET set.
# Every stage has a budget, after which it is ended and counts as failed. The last line is the sum.
set -uo pipefail
: "${BIN:?called by run.sh}" "${TARGET:?called by run.sh}"

ALL=no FILTER=
for word in "$@"; do
    case $word in
    --all) ALL=yes ;;
    -*) printf 'usage: ./run.sh test [--all] [FILTER]\n' >&2; exit 2 ;;
    *) FILTER=$word ;;
    esac
done

LOGS=$(mktemp -d /tmp/axltest.XXXXXX)
chmod 755 "$LOGS"
# Tests that find the machine unable to do their work write a line here and return.
export AXOLOTL_SKIPS=$LOGS/skips
: >"$AXOLOTL_SKIPS"
chmod 666 "$AXOLOTL_SKIPS"
PASSED=0 FAILED=0 SKIPPED=0 BROKEN=()
# Suites that start real processes, and so want the machine for themselves and run twice: as the
# caller and, when that is root, as an ordinary user.
PROCESS_SUITES=()
PURE_SUITES=()
for file in tests/tests/*.rs; do
    suite=$(basename "$file" .rs)
    # Guests, CPython's tests and what is built anew have stages of their own.
    case $suite in guests | cpython | tcp_mutants) continue ;; esac
    if grep -qw 'Group' "$file"; then PROCESS_SUITES+=("$suite"); else PURE_SUITES+=("$suite"); fi
done
# Nobody's uid: no name, no home, no privilege.
ORDINARY=61347

head_line() { printf '\n== %s (budget %d:%02d)\n' "$1" $(($2 / 60)) $(($2 % 60)); }

# check|tests NAME BUDGET_SECONDS COMMAND…: a check counts as one; tests count themselves.
run() {
    local kind=$1 name=$2 budget=$3 begin=$SECONDS status=0 log passed failed ignored
    shift 3
    log=$LOGS/$(tr -c 'a-z0-9\n' - <<<"$name").log
    head_line "$name" "$budget"
    timeout --kill-after=10 "$budget" "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    ((status == 124 || status == 137)) && printf '%s: over its budget\n' "$name"
    if [[ $kind == tests ]]; then
        read -r passed failed ignored < <(awk '/^test result:/ { p += $4; f += $6; i += $8 } END { print p+0, f+0, i+0 }' "$log")
        PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed)) SKIPPED=$((SKIPPED + ignored))
        ((status != 0 && failed == 0)) && FAILED=$((FAILED + 1))
    elif ((status == 0)); then
        PASSED=$((PASSED + 1))
    else
        FAILED=$((FAILED + 1))
    fi
    ((status == 0)) || BROKEN+=("$name")
    printf '== %s: %s after %d s\n' "$name" "$( ((status == 0)) && echo ok || echo FAILED)" $((SECONDS - begin))
    return "$status"
}

# What this machine could do but does not: a failure where CI asks for everything.
leave_out() { # name, reason
    printf '\n== %s: SKIPPED: %s\n' "$1" "$2"
    if [[ ${CI:-} == true ]]; then FAILED=$((FAILED + 1)) BROKEN+=("$1"); else SKIPPED=$((SKIPPED + 1)); fi
}

finish() {
    local late
    late=$(wc -l <"$AXOLOTL_SKIPS")
    # A test that skipped itself was counted as passed by its runner.
    PASSED=$((PASSED - late)) SKIPPED=$((SKIPPED + late))
    if ((late)); then printf '\nskipped:\n'; sed 's/^/  /' "$AXOLOTL_SKIPS"; fi
    if ((FAILED)); then printf '\nfailed: %s\nlogs: %s\n' "${BROKEN[*]}" "$LOGS"; else rm -rf "$LOGS"; fi
    printf '\n%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
    exit $((FAILED ? 1 : 0))
}

dependencies() {
    if ! command -v cargo-deny >/dev/null; then
        if [[ $ALL == yes || ${CI:-} == true ]]; then
            run check 'install cargo-deny' 600 cargo install --locked --quiet cargo-deny || return
        else
            leave_out dependencies 'cargo-deny is not installed (cargo install --locked cargo-deny, or test --all)'
            return
        fi
    fi
    # Also those of other systems: they stand in the lock file.
    cargo fetch --locked --quiet
    run check dependencies 60 cargo deny --offline --log-level warn check --hide-inclusion-graph bans licenses sources
    # The advisories are a repository of their own, which not every machine can reach.
    if [[ -d ${CARGO_HOME:-$HOME/.cargo}/advisory-db ]] || timeout 20 cargo deny fetch db >/dev/null 2>&1; then
        run check advisories 60 cargo deny --log-level warn check advisories
    else
        printf '\n== advisories: SKIPPED: the advisory database can not be fetched from here\n'
        SKIPPED=$((SKIPPED + 1))
    fi
}

# Copies what the process suites and the demo need to where an ordinary user can run it.
ordinary_copy() {
    local place=$1 suite exe
    mkdir -p "$place/examples"
    find "$BIN" -maxdepth 1 -type f -executable -exec cp -t "$place" {} +
    cp -r "$BIN/include" "$BIN/netclient.pc" "$BIN/libnetclient.a" "$place"
    find "$BIN/examples" -maxdepth 1 -type f -executable ! -name '*-*' -exec cp -t "$place/examples" {} +
    for suite in "${PROCESS_SUITES[@]}"; do
        exe=$(cargo test --release --locked -p tests --test "$suite" --no-run 2>&1 | sed -n 's/.*(\(.*\))$/\1/p' | tail -1)
        cp "$exe" "$place/suite-$suite"
    done
    chmod -R a+rX "$place"
}

second_run() {
    local place=$LOGS/ordinary suite
    if ((EUID != 0)); then
        printf '\n== as an ordinary user: this was one\n'
        return
    fi
    ordinary_copy "$place"
    install -d -o $ORDINARY -g $ORDINARY "$place/home"
    # Where only root may open /dev/net/tun, the ordinary user gets a node of its own, seen by nobody
    # else: a mount namespace that ends with the command.
    # shellcheck disable=SC2016  # the inner shell expands it
    local tun='mknod "$0/tun" c 10 200 && chmod 666 "$0/tun" && mount --bind "$0/tun" /dev/net/tun; rm -f "$0/tun"; exec "$@"'
    local -a ordinary=(
        unshare --mount bash -c "$tun" "$place"
        env -C "$place/home" setpriv "--reuid=$ORDINARY" "--regid=$ORDINARY" --clear-groups --no-new-privs
        env -i PATH="$PATH" HOME="$place/home" CI="${CI:-}" AXOLOTL_SKIPS="$AXOLOTL_SKIPS"
        AXOLOTL_EXEC_WAY=seccomp AXOLOTL_BIN="$place" AXOLOTL_PROGRAMS="${AXOLOTL_PROGRAMS:-}" LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}" RUST_BACKTRACE=1
    )
    for suite in "${PROCESS_SUITES[@]}"; do
        run tests "$suite as an ordinary user" 480 "${ordinary[@]}" "$place/suite-$suite" --test-threads=1 --nocapture
    done
    run check 'demo as an ordinary user' 240 "${ordinary[@]}" "$place/demo"
    run check 'demo over a wire as an ordinary user' 240 "${ordinary[@]}" "$place/demo" 1 wire
    rm -rf "$place"
}

# One NIC model each under QEMU. What that needs is fetched and packed before, in a stage of its own.
guests() {
    local status=0
    head_line 'guest image' 900
    timeout --kill-after=10 900 tests/vm/prepare.sh || status=$?
    case $status in
    0) run tests guests 420 cargo test --release --locked -p tests --test guests --no-fail-fast -- --test-threads=1 --nocapture ;;
    5) leave_out guests 'no guest can be had here, see above' ;;
    *) FAILED=$((FAILED + 1)) BROKEN+=('guest image') ;;
    esac
}

trap finish INT TERM
if [[ $FILTER ]]; then
    run check build 900 ./run.sh build || finish
    run tests "unit tests: $FILTER" 900 cargo test --locked --workspace --exclude tests --no-fail-fast "$FILTER"
    run tests "suites: $FILTER" 1200 cargo test --release --locked -p tests --no-fail-fast "$FILTER" -- --test-threads=1
    [[ $FILTER == demo ]] && run check demo 240 "$BIN/demo"
    finish
fi

run check format 60 cargo fmt --all --check
run check lint 600 cargo clippy --workspace --all-targets --locked -- -D warnings
command -v shellcheck >/dev/null && run check scripts 30 shellcheck run.sh tests/suite.sh tests/coverage.sh .ci/run
dependencies
run check build 900 ./run.sh build || finish
run tests 'unit tests' 900 cargo test --locked --workspace --exclude tests --no-fail-fast
run tests 'unit tests with tokio' 300 cargo test --locked -p libnetclient --features tokio --test tasks
run tests 'unit tests of the harness' 300 cargo test --release --locked -p tests --lib --bins --no-fail-fast
run tests 'rings under loom' 420 env RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR="$TARGET/loom" \
    cargo test --release --locked -p proto --test 'loom_*'
# A thousand simulated lives, ten thousand with --all.
if [[ $ALL == yes ]]; then export AXOLOTL_EVERY=1 AXOLOTL_SEEDS=10000 AXOLOTL_STORM_SHARD_KILLS=1000; fi
for suite in "${PURE_SUITES[@]}"; do
    run tests "$suite" 600 cargo test --release --locked -p tests --test "$suite" --no-fail-fast -- --nocapture
done
for suite in "${PROCESS_SUITES[@]}"; do
    run tests "$suite" 480 cargo test --release --locked -p tests --test "$suite" --no-fail-fast -- --test-threads=1 --nocapture
done
# Emulated guests stand still by themselves now and then: of the long run only.
if [[ $ALL == yes ]]; then guests; fi
# Takes minutes, for those tests wait a lot.
if [[ $ALL == yes ]]; then
    run tests cpython 1200 cargo test --release --locked -p tests --test cpython -- --nocapture
    run tests 'mutants of TCP' 1200 cargo test --release --locked -p tests --test tcp_mutants -- --nocapture
fi
run check demo 240 "$BIN/demo"
second_run
finish
