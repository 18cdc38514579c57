#!/usr/bin/env bash
# Which sections of which RFCs the code obeys, which tests show it, and what is left out and why: a table made
# of the citations themselves. Called by `./run.sh rfc [--untested | --rfc NUMBER]` from the top of the tree.
#
# A section is implemented where product code cites it, tested where a packet script names it (`rfc N §X`) or
# test code cites it, excepted where docs/RFC-EXCEPTIONS.md says so. Exit 1 when an exception names a section
# that code claims to implement, or gives no reason.
set -euo pipefail

untested=no only=
while (($#)); do
    case $1 in
    --untested) untested=yes ;;
    --rfc) only=${2:?a number}; shift ;;
    *) printf 'usage: ./run.sh rfc [--untested] [--rfc NUMBER]\n' >&2; exit 2 ;;
    esac
    shift
done

# Lines of Rust as KIND FILE TEXT: `code` up to a file's `#[cfg(test)]`, `test` behind it and in test folders.
rust_lines() {
    find proto netd nicd sockd libnetclient supervisor tests -name '*.rs' -not -path '*/target/*' -print0 |
        sort -z | xargs -0 awk '
            FNR == 1 { kind = (FILENAME ~ /(^|\/)tests\// || FILENAME ~ /_tests\.rs$/) ? "test" : "code" }
            /^#\[cfg\(test\)\]/ { kind = "test" }
            /RFC [0-9]/ { print kind "\t" FILENAME "\t" $0 }'
}

# Lines of packet scripts: the sections stand by themselves.
script_lines() {
    find tests/scripts -name '*.pkt' -print0 | sort -z |
        xargs -0 awk '/^rfc / { sub(/^rfc /, "RFC "); print "script\t" FILENAME "\t" $0 }'
}

{ rust_lines; script_lines; awk '{ print "except\tdocs/RFC-EXCEPTIONS.md\t" $0 }' docs/RFC-EXCEPTIONS.md; } |
    awk -F'\t' -v untested="$untested" -v only="$only" '
    function note(kind, file, rfc, section, reason,   key) {
        key = sprintf("%05d %s", rfc, section)
        all[key] = 1
        if (kind == "code") code[key] = code[key] (index(code[key], file) ? "" : (code[key] ? " " : "") file)
        if (kind == "test") tests[key]++
        if (kind == "script") scripts[key]++
        if (kind == "except") reasons[key] = reason
    }
    $1 == "except" {
        # | 9293 | 3.8.3 | reason |
        if (split($3, cell, "|") < 4 || cell[2] !~ /^ *[0-9]+ *$/) next
        rfc = cell[2] + 0; section = cell[3]; reason = cell[4]
        gsub(/^ +| +$/, "", section); gsub(/^ +| +$/, "", reason)
        if (reason == "") { printf "RFC %d §%s: no reason is given\n", rfc, section > "/dev/stderr"; bad = 1 }
        note("except", $2, rfc, section, reason)
        next
    }
    {
        rest = $3; rfc = 0
        while (match(rest, /RFC [0-9]+|§[0-9A-Z][0-9A-Za-z]*(\.[0-9]+)*/)) {
            word = substr(rest, RSTART, RLENGTH)
            rest = substr(rest, RSTART + RLENGTH)
            if (word ~ /^RFC/) { rfc = substr(word, 5) + 0; continue }
            if (rfc) { sub(/^§/, "", word); note($1, $2, rfc, word, "") }
        }
    }
    END {
        print "| RFC | section | implemented in | scripts | other tests | excepted because |"
        print "|---|---|---|---|---|---|"
        count = 0
        for (key in all) order[++count] = key
        # Shell sort: mawk has no asort.
        for (gap = int(count / 2); gap > 0; gap = int(gap / 2))
            for (i = gap + 1; i <= count; i++) {
                held = order[i]
                for (j = i; j > gap && order[j - gap] > held; j -= gap) order[j] = order[j - gap]
                order[j] = held
            }
        for (i = 1; i <= count; i++) {
            key = order[i]; split(key, part, " ")
            if (only && part[1] + 0 != only + 0) continue
            shown = scripts[key] + tests[key] > 0
            if (code[key]) { implemented++; if (shown) proven++ }
            if (key in reasons) { excepted++; if (code[key]) both = both "\n  RFC " part[1] + 0 " §" part[2] }
            if (untested == "yes" && (shown || !code[key])) continue
            printf "| %d | %s | %s | %d | %d | %s |\n", part[1], part[2], code[key], scripts[key], tests[key], reasons[key]
        }
        printf "\n%d sections implemented, %d of them named by a test, %d excepted\n", implemented, proven, excepted
        if (both != "") { printf "implemented and excepted at once:%s\n", both > "/dev/stderr"; bad = 1 }
        exit bad
    }'
