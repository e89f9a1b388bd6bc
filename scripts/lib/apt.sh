# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A private apt: fetch packages of a Debian suite that this machine does not
# run (QEMU's source of trixie on a Debian 12, say) from the mirror that the
# machine already uses.  Nothing in the system's apt changes: sources, lists
# and cache live in the project's cache directory, everything else (proxies,
# credentials, transport settings) is the system's own.
#
#   . scripts/lib/apt.sh
#   apt_in SUITE apt-get source --download-only qemu/SUITE
#   apt_in SUITE apt-get download linux-image-cloud-amd64
#
# The lists are fetched on the first use and again after APT_MAX_AGE minutes
# (default: a day), so call it only for what is not in the cache yet.
# What is not signed by Debian's archive key is refused.

# Where everything that is fetched lives; shared by all build directories.
PROJECT_CACHE=${PROJECT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qemu-virtio-blk-cancel}

APT_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_codename: the release that this machine runs, e.g. "bookworm".
apt_codename() {
    # shellcheck source=/dev/null
    (. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}")
}

# apt_mirror: the URI of this machine's Debian mirror: that of the entry
# which carries this release's own suite with "main" in it.
apt_mirror() {
    local etc=${APT_ETC:-/etc/apt} f
    for f in "$etc"/sources.list "$etc"/sources.list.d/*.list \
             "$etc"/sources.list.d/*.sources; do
        [ -r "$f" ] || continue
        case $f in
        *.sources) awk '1; END { print "" }' "$f" ;;     # deb822, as it is
        *) sed -nE 's/#.*//; s/^[[:space:]]*deb[[:space:]]+(\[[^]]*\][[:space:]]*)?([^[:space:]]+)[[:space:]]+([^[:space:]]+)[[:space:]]+(.*)/Types: deb\nURIs: \2\nSuites: \3\nComponents: \4\n/p' "$f" ;;
        esac
    done | awk -v suite="$(apt_codename)" '
        function has(list, word,    a, i, n) {
            n = split(list, a)
            for (i = 1; i <= n; i++) {
                sub("/$", "", a[i])
                if (a[i] == word) {
                    return 1
                }
            }
            return 0
        }
        function stanza(    a) {
            if (has(v["suites"], suite) && has(v["types"], "deb") &&
                has(v["components"], "main") && v["enabled"] !~ /^ *no/) {
                split(v["uris"], a)
                sub("/+$", "", a[1])
                print a[1]
                done = 1
                exit
            }
            split("", v)
        }
        /^#/ { next }
        /^[ \t]*$/ { stanza(); next }
        /^[ \t]/ { v[key] = v[key] " " $0; next }
        {
            key = tolower(substr($0, 1, index($0, ":") - 1))
            v[key] = substr($0, index($0, ":") + 1)
        }
        END { if (!done) { stanza() } }'
}

# apt_in SUITE COMMAND [ARG...]: runs apt-get or apt-cache as if SUITE were
# the only one in the machine's sources.
apt_in() {
    local suite=$1 command=$2 dir uri
    shift 2
    dir=$PROJECT_CACHE/apt/$suite
    uri=$(apt_mirror)
    if [ -z "$uri" ]; then
        echo "${0##*/}: no entry for Debian's main archive found in" \
             "/etc/apt/sources.list{,.d/}" >&2
        return 1
    fi
    if [ ! -r "$APT_KEYRING" ]; then
        echo "${0##*/}: $APT_KEYRING is missing:" \
             "install debian-archive-keyring" >&2
        return 1
    fi
    mkdir -p "$dir"/lists/partial "$dir"/cache/archives/partial || return
    printf '%s [signed-by=%s] %s %s main\n' \
        deb "$APT_KEYRING" "$uri" "$suite" \
        deb-src "$APT_KEYRING" "$uri" "$suite" > "$dir/sources.list.new"
    local options=(
        -o Dir::Etc::sourcelist="$dir/sources.list"
        -o Dir::Etc::sourceparts=-
        -o Dir::State::lists="$dir/lists"
        -o Dir::Cache="$dir/cache"
        -o Dir::Cache::archives=archives
        -o Dir::Cache::pkgcache=
        -o Dir::Cache::srcpkgcache=
        -o Acquire::Languages=none
        -o Acquire::AllowInsecureRepositories=false
        -o Acquire::AllowWeakRepositories=false
        -o Acquire::AllowDowngradeToInsecureRepositories=false
        -o APT::Get::AllowUnauthenticated=false
        # root's cache directory need not be readable for the user _apt
        -o APT::Sandbox::User=root
    )
    if ! cmp -s "$dir/sources.list.new" "$dir/sources.list" ||
       [ -z "$(find "$dir/updated" -mmin -"${APT_MAX_AGE:-1440}" \
               2>/dev/null)" ]; then
        mv "$dir/sources.list.new" "$dir/sources.list"
        rm -f "$dir/updated"
        # --error-on=any: a mirror that does not answer is an error, not a
        # warning with old lists in use
        flock "$dir/lock" \
            apt-get "${options[@]}" -q=2 --error-on=any update >&2 || return
        touch "$dir/updated"
    fi
    rm -f "$dir/sources.list.new"
    "$command" "${options[@]}" "$@"
}
