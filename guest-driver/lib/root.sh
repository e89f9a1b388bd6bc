# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A private root of a Debian release with its compiler: for the headers of
# kernels whose programs this machine's C library is too old for, and to try out
# what installs things.  Packages are unpacked, their scripts not run.  It lives
# in the project's cache, is entered in a user namespace, and needs no privileges.
#
#   . guest-driver/lib/root.sh        (after scripts/lib/apt.sh)
#   root_get SUITE                    bookworm or trixie; sets root
#   root_enter ROOT [DIR:PLACE]... -- COMMAND...

root_layout=2
root_packages=(
    bash binutils busybox coreutils debianutils diffutils dkms dpkg findutils gawk
    grep initramfs-tools kmod libc-bin make openssl patch perl-base sed sparse tar
    util-linux xz-utils zlib1g zstd
)

# root_fetch SUITE DIR: fills DIR.
root_fetch() (
    set -e
    suite=$1
    mkdir -p "$2"
    dir=$(cd "$2" && pwd)
    gcc=gcc-14
    packages=("${root_packages[@]}" libelf1t64 libssl3t64)
    if [ "$suite" = bookworm ]; then
        gcc=gcc-12
        packages=("${root_packages[@]}" libelf1 libssl3)
    fi
    # As if nothing were installed, so that all that is needed comes
    mkdir -p "$dir/var/lib/dpkg" "$dir/archives/partial"
    : > "$dir/var/lib/dpkg/status"
    apt_in "$suite" apt-get -q=2 -y \
        -o Dir::State::status="$dir/var/lib/dpkg/status" \
        -o Dir::Cache::archives="$dir/archives" \
        -o APT::Install-Recommends=false -o Debug::NoLocking=true \
        --download-only install "$gcc" "${packages[@]}" > /dev/null
    for d in bin sbin lib lib64; do
        mkdir -p "$dir/usr/$d"
        ln -s "usr/$d" "$dir/$d"
    done
    for deb in "$dir"/archives/*.deb; do
        # Some still have files in /bin and /lib
        dpkg-deb --fsys-tarfile "$deb" |
            tar -xC "$dir" --keep-directory-symlink
    done
    rm -r "$dir/archives"
    # What the packages' scripts would have done
    ln -sf bash "$dir/usr/bin/sh"
    ln -sf gawk "$dir/usr/bin/awk"
    ln -sf "$gcc" "$dir/usr/bin/gcc"
    mkdir -p "$dir"/{dev,proc,sys,tmp,work,usr/src}
    echo 'root:x:0:0:root:/root:/bin/sh' > "$dir/etc/passwd"
)

# Sets root; fetches it if it is not in the cache.
root_get() {
    local base=$PROJECT_CACHE/root-$1
    root=$base/$root_layout
    mkdir -p "$base"
    exec {root_lock}> "$base/lock"
    flock "$root_lock"
    if [ ! -e "$root" ]; then
        say "fetching a compiler and its like (100 MB, once)"
        rm -rf "$root.new"
        root_fetch "$1" "$root.new"
        mv "$root.new" "$root"
    fi
    exec {root_lock}>&-
}

# root_enter ROOT [DIR:PLACE]... -- COMMAND...: as root of a user namespace, with
# directories of this machine at places of the root.
root_enter() {
    unshare --map-root-user --mount --pid --fork --kill-child sh -ec '
        root=$1
        shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        while [ "$1" != -- ]; do
            mkdir -p "$root/${1##*:}"
            mount --bind "${1%:*}" "$root/${1##*:}"
            shift
        done
        shift
        exec chroot "$root" /usr/bin/env -i \
            PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ TERM=dumb "$@"' \
        sh "$@"
}
