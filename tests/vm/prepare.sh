#!/usr/bin/env bash
# Fetches what a guest needs into a cache, and packs the daemons into an initramfs. Nothing is installed
# on this machine. Called by `run.sh vm` and by the suite `guests`; prints the directory as its last line.
#
#   prepare.sh           all of it
#   prepare.sh --fetch   only QEMU, kernel and busybox
#
# Exit: 0 ready, 5 it can't be had here (the reason on stderr), 1 failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
CACHE=${AXOLOTL_VM:-${XDG_CACHE_HOME:-$HOME/.cache}/axolotl/vm}
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
TRIPLE=x86_64-unknown-linux-gnu
KERNEL=linux-image-6.12-cloud-amd64
MODULES='virt/lib/irqbypass drivers/vfio/vfio drivers/vfio/vfio_iommu_type1 drivers/vfio/pci/vfio-pci-core drivers/vfio/pci/vfio-pci'

cannot() { printf 'vm: %s\n' "$1" >&2; exit 5; }

[[ $(uname -m) == x86_64 ]] || cannot "guests are x86-64 only, this is $(uname -m)"
command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    cannot 'QEMU 10 and a kernel are fetched by apt-get, which is not here'
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9

# An apt of its own: lists, cache and pins in the cache directory, read-only towards the system.
apt_of_its_own() {
    local apt=$CACHE/apt main security release
    mkdir -p "$apt"/{lists/partial,archives/partial,none}
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [[ $release == bookworm ]] || cannot "the packages are those of Debian bookworm, this is '${release:-unknown}'"
    main=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' 2>/dev/null | head -1)
    security=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm-security' 'Created-By: Packages' 2>/dev/null | head -1)
    [[ $main ]] || main=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -1)
    [[ $security ]] || security=${main%/debian*}/debian-security
    printf 'deb %s bookworm main\ndeb %s bookworm-backports main\ndeb %s bookworm-security main\n' \
        "$main" "$main" "$security" >"$apt/sources.list"
    # Only these come from backports.
    printf 'Package: qemu-system-x86 qemu-system-common qemu-system-data seabios\nPin: release n=bookworm-backports\nPin-Priority: 700\n' \
        >"$apt/preferences"
    printf '%s\n' "Dir::Etc::SourceList \"$apt/sources.list\";" "Dir::Etc::SourceParts \"$apt/none\";" \
        "Dir::Etc::Preferences \"$apt/preferences\";" "Dir::Etc::PreferencesParts \"$apt/none\";" \
        "Dir::State::Lists \"$apt/lists\";" "Dir::Cache \"$apt\";" 'APT::Sandbox::User "root";' \
        'Debug::NoLocking "1";' >"$apt/apt.conf"
    export APT_CONFIG=$apt/apt.conf
}

fetch() {
    local root=$CACHE/root packages kernel
    [[ -e $CACHE/fetched ]] && return
    apt_of_its_own
    printf 'vm: fetching QEMU 10, a kernel and busybox into %s\n' "$CACHE" >&2
    apt-get -qq update >&2 || cannot 'the Debian mirror can not be reached'
    packages=$(apt-get install -s --no-install-recommends qemu-system-x86 2>/dev/null | awk '/^Inst /{print $2}')
    kernel=$(apt-cache depends "$KERNEL" | awk '/Depends: linux-image/{print $2; exit}')
    [[ $packages && $kernel ]] || cannot "no qemu-system-x86 or $KERNEL in the package lists"
    rm -rf "$root" "$CACHE/debs"
    mkdir -p "$root" "$CACHE/debs"
    # shellcheck disable=SC2086  # a list
    (cd "$CACHE/debs" && apt-get -qq download $packages "$kernel" busybox-static >&2) || cannot 'the packages can not be fetched'
    grep -q '^qemu-system-x86_1%3a10' <(ls "$CACHE/debs") || cannot 'bookworm-backports has no QEMU 10'
    for package in "$CACHE"/debs/*.deb; do dpkg -x "$package" "$root"; done
    rm -rf "$CACHE/debs"
    cp "$root"/boot/vmlinuz-* "$CACHE/vmlinuz"
    mkdir -p "$CACHE/modules"
    local module
    for module in $MODULES; do
        xz -dc "$root"/lib/modules/*/kernel/"$module".ko.xz >"$CACHE/modules/$(basename "$module").ko"
    done
    # What the extracted QEMU is called with: its libraries and its firmware.
    cat >"$CACHE/qemu" <<RUN
#!/bin/sh
export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
exec $root/usr/bin/qemu-system-x86_64 -L $root/usr/share/qemu -L $root/usr/share/seabios "\$@"
RUN
    chmod +x "$CACHE/qemu"
    "$CACHE/qemu" --version >/dev/null || cannot 'the fetched QEMU does not start'
    touch "$CACHE/fetched"
}

pack() {
    local tree program
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target $TRIPLE \
        -p nicd -p netd -p sockd -p supervisor -p netctl --bins >&2
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target $TRIPLE \
        -p libnetclient --example nc >&2
    tree=$CACHE/tree
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,axl,modules,proc,sys,dev,tmp,run}
    cp "$(find "$CACHE/root" -path '*/bin/busybox' | head -1)" "$tree/bin/busybox"
    for program in nicd netd sockd supervisor netctl examples/nc; do
        strip --strip-debug -o "$tree/axl/$(basename "$program")" "$TARGET/$TRIPLE/release/$program"
    done
    cp "$CACHE"/modules/*.ko "$tree/modules/"
    cp tests/vm/init "$tree/init"
    chmod +x "$tree/init"
    (cd "$tree" && find . -print | "$tree/bin/busybox" cpio -o -H newc 2>/dev/null) >"$CACHE/initrd.new"
    mv "$CACHE/initrd.new" "$CACHE/initrd"
}

fetch
[[ ${1:-} == --fetch ]] || pack
printf '%s\n' "$CACHE"
