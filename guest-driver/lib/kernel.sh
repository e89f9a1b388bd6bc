# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Debian's Linux 6.12 for building a module and for booting a guest: headers,
# kernel image, and the few files of the source that the series is about.
# Fetched once into the project's cache; nothing is installed.  For
# guest-driver/build and guest-driver/check.
#
#   . guest-driver/lib/kernel.sh
#   kernel_get          sets kernel_release, kernel_build (to make modules
#                       with), kernel_source and kernel_root (the image)
#   kernel_module DIR   builds DIR/drivers/block/virtio_blk.c there

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib/apt.sh
. "$here/../scripts/lib/apt.sh"

kernel_series=6.12
kernel_cache=$PROJECT_CACHE/linux-$kernel_series
# The layout of the cache, and what is kept of the source
kernel_layout=1
kernel_files=(
    drivers/block/virtio_blk.c
    include/uapi/linux/virtio_blk.h
    scripts/checkpatch.pl
    scripts/spelling.txt
    scripts/const_structs.checkpatch
)

say() {
    echo "guest-driver: $*"
}

die() {
    echo "guest-driver: $*" >&2
    exit 1
}

# kernel_suite: the suite whose 6.12 was built with this release's compiler.
kernel_suite() {
    case $(apt_codename) in
    bookworm) echo bookworm-backports ;;
    *) echo trixie ;;
    esac
}

# kernel_find SUITE: sets version and release to the newest source package of
# the suite and the release of its cloud kernel.
kernel_find() {
    local suite=$1 p
    version=$(apt_in "$suite" apt-cache show --no-all-versions \
                     "linux-source-$kernel_series" |
              sed -n 's/^Version: //p')
    [ -n "$version" ] || die "$suite has no linux-source-$kernel_series"
    release=
    for p in $(apt_in "$suite" apt-cache pkgnames \
                      "linux-headers-$kernel_series" |
               grep -- '-cloud-amd64$'); do
        if apt_in "$suite" apt-cache show "$p" |
           grep -xF "Version: $version" > /dev/null; then
            release=${p#linux-headers-}
        fi
    done
    [ -n "$release" ] ||
        die "$suite has no cloud kernel of version $version"
}

# kernel_fetch DIR: fills DIR.  A subshell, for its working directory.
kernel_fetch() (
    set -e
    suite=$(kernel_suite)
    kernel_find "$suite"
    abi=${release%-cloud-amd64}

    mkdir -p "$1/deb" "$1/root"
    cd "$1"
    image=linux-image-$release
    # grep reads to the end, or apt-cache would be killed
    apt_in "$suite" apt-cache pkgnames "$image" |
        grep -xF "$image" > /dev/null || image+=-unsigned
    say "fetching Linux $release: source, headers, image (200 MB, once)"
    (cd deb
     apt_in "$suite" apt-get -q=2 download \
         "linux-source-$kernel_series=$version" "$image=$version" \
         "linux-headers-$release=$version" \
         "linux-headers-$abi-common=$version" "linux-kbuild-$abi=$version")

    say "unpacking it (half a minute, once)"
    for deb in deb/*.deb; do
        case $deb in
        */linux-source-*)
            dpkg --fsys-tarfile "$deb" |
                tar -xO "./usr/src/linux-source-$kernel_series.tar.xz" |
                tar -xJ --strip-components=1 --one-top-level=source \
                    "${kernel_files[@]/#/linux-source-$kernel_series/}"
            ;;
        *)
            dpkg -x "$deb" root
            ;;
        esac
    done
    rm -r deb
    # Only good for type information, for which pahole would be needed
    rm -f "root/usr/src/linux-headers-$release/vmlinux"
    echo "$release" > release
)

# Sets kernel_release, kernel_build, kernel_source and kernel_root; fetches
# them if they are not in the cache.
kernel_get() {
    local dir=$kernel_cache/$kernel_layout
    mkdir -p "$kernel_cache"
    exec {kernel_lock}> "$kernel_cache/lock"
    flock "$kernel_lock"
    if [ ! -e "$dir/release" ]; then
        rm -rf "$dir" "$dir.new"
        # Not in a condition, where bash forgets about set -e
        kernel_fetch "$dir.new"
        mv "$dir.new" "$dir"
    fi
    kernel_release=$(< "$dir/release")
    kernel_source=$dir/source
    kernel_root=$dir/root
    kernel_build=$kernel_root/usr/src/linux-headers-$kernel_release
    # The package includes from /usr/src, where these headers are not
    local makefile
    makefile="include $kernel_root/usr/src/linux-headers-${kernel_release%-cloud-amd64}-common/Makefile"
    if [ "$(< "$kernel_build/Makefile")" != "$makefile" ]; then
        echo "$makefile" > "$kernel_build/Makefile"
    fi
    exec {kernel_lock}>&-
}

# kernel_module DIR [MAKE-ARGUMENT...]: builds DIR/virtio_blk.ko from
# DIR/drivers/block/virtio_blk.c, with DIR's own uapi header in front of that
# of the headers package.  Any warning is an error.
kernel_module() {
    local dir=$1
    shift
    cat > "$dir/Kbuild" <<'EOF'
obj-m := virtio_blk.o
virtio_blk-y := drivers/block/virtio_blk.o
LINUXINCLUDE := -I$(src)/include/uapi $(LINUXINCLUDE)
EOF
    env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u KBUILD_OUTPUT -u ARCH \
        make -C "$kernel_build" M="$dir" W=1 KCFLAGS=-Werror "$@" modules
}
