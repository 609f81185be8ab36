# Shared by the scripts: what they need, where they build, and mounts that are taken away at the end.
# Source it: . "$(dirname "$0")/lib.sh"
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${MMHFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmhfs}
# Outside the tree, and with ccache: RocksDB's C++ is compiled once, not once per checkout.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
export CCACHE_DIR=${CCACHE_DIR:-$CACHE/ccache} CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-4G}

say() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Installs from Debian what is missing, when run by root; else says what to install.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    [[ $(id -u) -eq 0 ]] || die "please install: ${missing[*]}"
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
        apt-get update -q >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
    }
}

# bindgen (for RocksDB) needs libclang and, at the same version, clang's own headers.
need_build_tools() {
    have dpkg-query || return 0
    local version
    version=$(dpkg-query -W -f '${Package}\n' 'libclang1-[0-9]*' 2>/dev/null | sed -n 's/^libclang1-\([0-9]*\).*/\1/p' | sort -n | tail -1 || true)
    if [[ -z $version ]]; then
        version=$(apt-cache depends libclang1 2>/dev/null | sed -n 's/.*libclang1-\([0-9]*\).*/\1/p' | head -1 || true)
    fi
    if [[ -z $version ]]; then
        case $(. /etc/os-release && echo "${VERSION_ID:-}") in
            11*) version=11 ;;
            12*) version=14 ;;
            *) version=19 ;;
        esac
    fi
    need_packages gcc g++ make pkg-config ccache "libclang1-$version" "libclang-common-$version-dev"
}

need_run_tools() {
    have dpkg-query || return 0
    need_packages fuse3 acl attr rsync sqlite3 strace git python3
}

use_ccache() {
    if have ccache; then
        export CXX="${CXX:-ccache g++}" CC="${CC:-ccache gcc}"
    fi
}

# Builds the program and sets MMHFS; with MMHFS set, that program is used as it is.
build_release() {
    [[ -z ${MMHFS:-} ]] || return 0
    use_ccache
    say "building"
    (cd "$ROOT" && cargo build --release --locked)
    MMHFS=$CARGO_TARGET_DIR/release/mmhfs
    export MMHFS
}

# A scratch directory that goes away at the end with every mount in it. Sets WORK.
make_work() {
    local base=${MMHFS_WORK:-${TMPDIR:-/var/tmp}}
    WORK=$(mktemp -d "$base/mmhfs-${0##*/}.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT TERM
}

clean_up() {
    local status=$? point
    set +e
    # mountinfo has one mount per line, the newest last.
    while read -r point; do
        timeout 60 "$MMHFS" -q umount "$point" 2>/dev/null || umount -f -l "$point" 2>/dev/null || fusermount3 -uz "$point" 2>/dev/null
    done < <(awk -v work="$WORK/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | tac)
    if [[ $status -ne 0 && -n ${KEEP:-} ]]; then
        echo "kept: $WORK" >&2
    else
        chmod -R u+rwX "$WORK" 2>/dev/null
        rm -rf --one-file-system "$WORK"
    fi
    exit "$status"
}

# The modules beside a Python script leave no compiled copies in the tree.
export PYTHONDONTWRITEBYTECODE=1

# Builds the library that lets system calls of the program fail or be its last (crash/faultio.c).
build_faultio() {
    ${CC:-gcc} -O2 -Wall -Wextra -shared -fPIC -o "$WORK/faultio.so" "$ROOT/scripts/crash/faultio.c" -ldl
}

# Prints the comment at the head of the script and ends it.
usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
}

# The pid of the process that serves a store.
daemon_of() {
    sed -n 's/.*pid \([0-9]*\).*/\1/p' "$1/lock" | head -1
}

bytes_of() { du -s -B1 --apparent-size "$1" | cut -f1; }
# What a store takes on its disk.
stored_of() { du -s -B1 "$1" | cut -f1; }
human() { numfmt --to=iec-i --suffix=B "$1"; }
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f s", b - a }'; }
now() { date +%s.%N; }
