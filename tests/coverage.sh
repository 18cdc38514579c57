#!/usr/bin/env bash
# Which lines of TCP the packet scripts run; called by `run.sh coverage [FILE…]` with TARGET set. Without a file, a
# table of all of them and the sum; of a file under netd/src/tcp, the lines that none runs.
set -euo pipefail
: "${TARGET:?called by run.sh}"
sysroot=$(rustc --print sysroot) host=$(rustc -vV | sed -n 's/^host: //p')
tools=$sysroot/lib/rustlib/$host/bin
[[ -x $tools/llvm-cov && -x $tools/llvm-profdata ]] ||
    { printf 'coverage: no llvm-cov of this compiler. Remedy: rustup component add llvm-tools\n' >&2; exit 5; }
export CARGO_TARGET_DIR=$TARGET/coverage RUSTFLAGS=-Cinstrument-coverage
raw=$(mktemp -d /tmp/axlcov.XXXXXX)
trap 'rm -rf "$raw"' EXIT
built=$(LLVM_PROFILE_FILE=$raw/built-%p.raw cargo test --release --locked -p tests --test scripts --no-run 2>&1) ||
    { printf '%s\n' "$built" >&2; exit 1; }
scripts=$(sed -n 's/.*(\(.*\))$/\1/p' <<<"$built" | tail -1)
rm -f "$raw"/*
(cd tests && LLVM_PROFILE_FILE=$raw/ran-%p.raw "$scripts" the_stack_speaks >&2)
"$tools/llvm-profdata" merge -sparse "$raw"/ran-*.raw -o "$raw/all"
if (($#)); then
    for file in "$@"; do
        "$tools/llvm-cov" show "$scripts" "-instr-profile=$raw/all" --show-instantiations=false --sources "netd/src/tcp/$file" |
            awk -F'|' -v file="$file" '$2 ~ /^ *0$/ { print file ":" $1 + 0 ":" substr($0, index($0, $3)) }'
    done
    exit
fi
"$tools/llvm-cov" export -format=lcov "$scripts" "-instr-profile=$raw/all" netd/src/tcp |
    awk -F: '
        $1 == "SF" { file = $2; sub(/.*netd\/src\/tcp\//, "", file) }
        $1 == "LF" { lines[file] = $2; all += $2 }
        $1 == "LH" { run[file] = $2; hit += $2 }
        END {
            for (file in lines) printf "%5.1f %%  %4d of %4d  %s\n", 100 * run[file] / lines[file], run[file], lines[file], file | "sort -n"
            close("sort -n")
            printf "%5.1f %%  %4d of %4d  lines of netd/src/tcp are run by packet scripts\n", 100 * hit / all, hit, all
        }'
